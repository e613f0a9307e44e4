"""Which ids were seen, held against a plain set of them."""

from hypothesis import strategies as st

from collector_trio.continuity.coverage import MOST_HOLES, REACH_BELOW, Coverage

from .soak import tried

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda it: (it[0], it[0] + it[1])), max_size=40)
SINGLES = st.lists(st.integers(0, 40).map(lambda id_: (id_, id_)), max_size=60)


def holes(coverage: Coverage) -> list[tuple[int, int]]:
    return [(hole.first, hole.last) for hole in coverage.holes]


def missing(seen: set[int]) -> list[tuple[int, int]]:
    """Return the stretches that are not in `seen`, between its ends."""
    found: list[tuple[int, int]] = []
    for id_ in range(min(seen), max(seen) + 1):
        if id_ in seen:
            continue
        if found and found[-1][1] == id_ - 1:
            found[-1] = (found[-1][0], id_)
        else:
            found.append((id_, id_))
    return found


@tried(150, RANGES | SINGLES, st.sampled_from([0, 10**12]))
def test_new_is_what_was_not_in_the_set_and_holes_are_what_it_lacks(items: list[tuple[int, int]], base: int) -> None:
    coverage, seen = Coverage(), set[int]()
    for first, last in items:
        ids = set(range(base + first, base + last + 1))
        assert coverage.take(base + first, base + last, base + last) == bool(ids - seen)
        seen |= ids
        assert (coverage.start, coverage.mark) == (min(seen), max(seen))
        assert holes(coverage) == missing(seen)


@tried(60, RANGES)
def test_the_times_of_a_hole_are_those_of_its_neighbours(items: list[tuple[int, int]]) -> None:
    coverage = Coverage()
    for number, (first, last) in enumerate(items):
        coverage.take(first, last, number)
    for hole in coverage.holes:
        before = [n for n, (first, last) in enumerate(items) if first <= hole.first - 1 <= last]
        behind = [n for n, (first, last) in enumerate(items) if first <= hole.last + 1 <= last]
        assert hole.from_ns in before
        assert hole.to_ns in behind


def test_the_first_id_may_be_zero() -> None:
    coverage = Coverage()
    assert coverage.take(0, 0, 5)
    assert not coverage.take(0, 0, 5)
    assert coverage.take(1, 1, 6)
    assert holes(coverage) == []


def test_an_id_far_below_the_first_begins_anew_and_the_holes_are_left_as_they_are() -> None:
    coverage = Coverage()
    coverage.take(10 * REACH_BELOW, 10 * REACH_BELOW, 1)
    coverage.take(10 * REACH_BELOW + 5, 10 * REACH_BELOW + 5, 2)
    assert coverage.take(1, 1, 3)
    assert coverage.take(2, 2, 4)
    assert holes(coverage) == []
    assert [hole.missing for hole in coverage.forgotten] == [4]


def test_more_holes_than_are_remembered_cost_the_oldest_and_what_comes_for_it_later_was_seen() -> None:
    coverage = Coverage()
    for id_ in range(0, 2 * MOST_HOLES + 5, 2):
        coverage.take(id_, id_, id_)
    assert len(coverage.holes) == MOST_HOLES
    assert [(hole.first, hole.last) for hole in coverage.forgotten] == [(1, 1), (3, 3)]
    assert not coverage.take(3, 3, 0)
    assert not coverage.take(0, 0, 0)
    assert not coverage.take(2, 4, 0)
    assert coverage.take(5, 5, 0)
    assert coverage.take(2 * MOST_HOLES + 4, 2 * MOST_HOLES + 5, 0)


def test_what_comes_for_a_forgotten_hole_does_not_begin_anew_however_far_below_it_is() -> None:
    coverage = Coverage()
    coverage.take(0, 0, 0)
    for id_ in range(3 * REACH_BELOW, 3 * REACH_BELOW + 2 * MOST_HOLES + 1, 2):
        coverage.take(id_, id_, id_)
    assert coverage.forgotten
    mark = coverage.mark
    assert not coverage.take(REACH_BELOW, REACH_BELOW, 1)
    assert coverage.mark == mark
    assert len(coverage.holes) == MOST_HOLES
