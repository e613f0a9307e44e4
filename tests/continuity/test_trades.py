"""Trades of one instrument, by one or several sessions: which are new, and what the ledger says is missing."""

import pytest
from hypothesis import strategies as st

from collector_trio.continuity.coverage import MOST_HOLES, REACH_BELOW
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import Cause, State, gap_id
from collector_trio.continuity.tracks import PATIENCE_NS

from .soak import tried
from .tape import SECOND, A, B, C, Tape


def test_a_hole_of_the_only_session_is_open_at_once() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(A, 5)
    assert tape.ledger() == [("open", 2, 4)]
    row = tape.rows[0]
    assert (row.missing, row.from_ns, row.to_ns) == (3, 1, 5)
    assert row.gap == gap_id("trades", "binance", "spot", "BTC-USDT", 2)


def test_a_hole_is_not_in_the_ledger_while_another_session_may_fill_it() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 1)
    tape.take(A, 4)
    assert tape.ledger() == []
    assert tape.take(B, 2)
    assert tape.take(B, 3)
    assert not tape.take(B, 4)
    assert tape.ledger() == []
    assert not tape.track.is_pending


def test_a_hole_is_open_once_every_other_session_has_passed_it() -> None:
    tape = Tape()
    for session in (A, B, C):
        tape.take(session, 1)
    tape.take(A, 4)
    tape.take(B, 3)
    assert tape.ledger() == []
    tape.take(C, 4)
    assert tape.ledger() == [("open", 2, 2)]


def test_a_session_passes_a_hole_with_the_next_trade_too() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 1)
    tape.take(A, 3)
    assert tape.take(B, 4)
    assert tape.ledger() == [("open", 2, 2)]


def test_a_session_that_fills_the_middle_of_a_hole_is_waited_for_above_and_not_below() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 1)
    tape.take(A, 10)
    tape.take(B, 5)
    assert tape.ledger() == [("open", 2, 4)]
    tape.take(B, 6, 9)
    assert tape.ledger() == []


def test_a_hole_is_open_once_every_other_session_has_ended() -> None:
    tape = Tape()
    for session in (A, B, C):
        tape.take(session, 1)
    tape.take(A, 4)
    tape.end(B)
    assert tape.ledger() == []
    tape.end(C)
    assert tape.ledger() == [("open", 2, 3)]


def test_a_hole_is_open_after_two_seconds_of_ticks() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 1)
    tape.take(A, 4)
    tape.tick(PATIENCE_NS / SECOND - 0.001)
    assert tape.ledger() == []
    tape.tick(0.001)
    assert tape.ledger() == [("open", 2, 3)]


def test_a_hole_is_open_when_the_collector_stops_or_has_died() -> None:
    for end in (Continuity.process_stopped, Continuity.process_started):
        tape = Tape()
        tape.take(A, 1)
        tape.take(B, 1)
        tape.take(A, 4)
        end(tape.fold)
        assert tape.ledger() == [("open", 2, 3)]


def test_a_session_that_has_brought_nothing_of_the_instrument_is_not_waited_for() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.end(B)
    tape.take(A, 3)
    assert tape.ledger() == [("open", 2, 2)]


def test_what_comes_late_repairs_its_part_and_leaves_the_rest_open() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(A, 10)
    assert tape.ledger() == [("open", 2, 9)]
    assert tape.take(A, 5, 6)
    assert tape.ledger() == [("repaired", 5, 6), ("open", 2, 4), ("open", 7, 9)]
    assert tape.take(A, 2, 4)
    assert tape.ledger() == [("repaired", 2, 4)]
    assert tape.take(A, 7, 9)
    assert tape.ledger() == [("repaired", 7, 9)]
    assert tape.in_ledger() == set()


def test_a_late_trade_below_the_first_is_new_and_leaves_a_hole() -> None:
    tape = Tape()
    tape.take(A, 10)
    assert tape.take(A, 7)
    assert tape.ledger() == [("open", 8, 9)]


def test_ten_trades_in_one_millisecond_are_ten() -> None:
    tape = Tape()
    track, ns = tape.track, 1_700_000_000_000_000_000
    kept = [track.take(A, id_, id_, ns, frame, ns + 5, None) for frame, id_ in enumerate(range(100, 110), 1)]
    assert kept == [True] * 10
    assert track.state == (100, 109, ())
    assert not any(track.take(B, id_, id_, ns, 20, ns + 9, None) for id_ in range(100, 110))


# Why something is missing


def test_a_hole_in_the_midst_of_a_session_was_left_out_by_the_exchange() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(A, 3)
    assert tape.cause() is Cause.SKIPPED


def test_a_hole_after_the_end_of_a_session_is_because_of_it() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.end(A)
    tape.take(B, 3)
    assert tape.cause() is Cause.DISCONNECT
    assert tape.rows[-1].detail == "session 1: silent: no data for 30 s"


def test_that_nothing_ran_outweighs_the_session_ends_that_recovery_writes_before_and_after() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 1)
    tape.end(A)
    tape.fold.process_started()
    tape.end(B)
    tape.take(C, 3)
    assert tape.cause() is Cause.PROCESS_DOWN


def test_a_full_disk_outweighs_the_session_that_ended_because_of_it() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.fold.refused(0, 3 * SECOND)
    tape.end(A)
    tape.take(B, 3)
    assert tape.cause() is Cause.BACKPRESSURE
    assert tape.rows[-1].detail == "nothing was accepted for 3.0 s"


def test_a_full_disk_explains_what_is_missing_behind_what_lay_in_the_buffers() -> None:
    """While nothing is read, the exchange goes on until the buffers are full, and drops us then."""
    tape = Tape()
    tape.take(A, 1)
    tape.fold.refused(2, 30)
    tape.take(A, 2)
    tape.take(A, 3)
    tape.end(A)
    tape.take(B, 40)
    assert tape.cause() is Cause.BACKPRESSURE
    tape.take(B, 50)
    assert tape.cause() is Cause.SKIPPED


def test_that_nothing_ran_explains_more_than_that_the_disk_was_full() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.fold.refused(2, 30)
    tape.take(A, 2)
    tape.fold.process_started()
    tape.take(B, 40)
    assert tape.cause() is Cause.PROCESS_DOWN


def test_of_what_a_heavier_cause_outweighs_the_first_is_told_and_no_more() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.end(A)
    for _ in range(3):
        tape.fold.refused(0, 3 * SECOND)
    tape.take(B, 40)
    assert tape.cause() is Cause.BACKPRESSURE
    earlier = "after disconnect: session 1: silent: no data for 30 s"
    assert tape.rows[-1].detail == f"nothing was accepted for 3.0 s; {earlier}"
    tape.end(B)
    tape.fold.refused(0, 3 * SECOND)
    for _ in range(3):
        tape.fold.process_started()
    tape.take(C, 80)
    assert tape.cause() is Cause.PROCESS_DOWN
    assert tape.rows[-1].detail == "after disconnect: session 2: silent: no data for 30 s"


def test_a_frame_that_could_not_be_used_explains_what_is_missing_where_it_was() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.reject(A)
    tape.take(A, 3)
    assert tape.cause() is Cause.REJECT
    assert tape.rows[-1].detail == "frame 2: no JSON"


def test_a_frame_of_another_session_explains_nothing() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.reject(B)
    tape.take(A, 3)
    assert tape.cause() is Cause.SKIPPED


@pytest.mark.parametrize("what", ["end", "refused", "started", "reject"])
def test_once_the_next_trade_has_followed_nothing_is_explained_any_more(what: str) -> None:
    tape = Tape()
    tape.take(A, 1)
    if what == "end":
        tape.end(A)
    elif what == "refused":
        tape.fold.refused(0, 1)
    elif what == "started":
        tape.fold.process_started()
    else:
        tape.reject(A)
    tape.take(A, 2)
    tape.take(A, 4)
    assert tape.cause() is Cause.SKIPPED


def test_a_backfill_does_not_hide_why_the_next_trade_does_not_follow() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(A, 3)
    tape.fold.process_started()
    assert tape.take(B, 2)
    tape.take(B, 6)
    assert tape.ledger() == [("open", 4, 5)]
    assert tape.rows[-1].cause is Cause.PROCESS_DOWN


def test_a_hole_is_because_of_the_session_that_was_waited_for_when_that_one_ends() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 3)
    tape.end(A)
    assert tape.cause() is Cause.DISCONNECT


def test_a_hole_that_was_waited_for_when_the_collector_died_is_because_of_that() -> None:
    tape = Tape()
    tape.take(A, 1)
    tape.take(B, 3)
    tape.fold.process_started()
    assert tape.cause() is Cause.PROCESS_DOWN


# Beyond what is remembered


def test_a_hole_that_is_forgotten_before_it_was_looked_at_is_in_the_ledger_all_the_same() -> None:
    tape = Tape()
    tape.take(B, 0)
    for id_ in range(0, 2 * MOST_HOLES + 5, 2):
        tape.take(A, id_)
    tape.end(B)
    assert tape.in_ledger() == set(range(1, 2 * MOST_HOLES + 4, 2))
    tape.take(A, 2 * MOST_HOLES + 6)
    assert tape.in_ledger() == set(range(1, 2 * MOST_HOLES + 6, 2))


def test_holes_stay_open_when_the_exchange_counts_from_the_beginning_again() -> None:
    tape = Tape()
    start = 10 * REACH_BELOW
    tape.take(A, start)
    tape.take(A, start + 3)
    tape.ledger()
    tape.take(A, 5)
    tape.take(A, 6)
    assert tape.in_ledger() == {start + 1, start + 2}


# Any sequence

Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.just("skip"), st.integers(1, 3), st.integers(1, 4)),
        st.tuples(st.just("again"), st.integers(1, 3), st.integers(0, 12)),
        st.tuples(st.sampled_from(["end", "tick", "look", "start", "stop"]), st.integers(1, 3), st.just(0)),
    ),
    max_size=60,
)


@tried(150, STEPS)
def test_after_any_sequence_the_ledger_says_exactly_what_is_missing(steps: list[Step]) -> None:
    """Sessions 1 to 3 read one tape at their own pace from where they like, skip, repeat, and look back."""
    tape, seen, at = Tape(), set[int](), {1: 20, 2: 20, 3: 20}
    for what, session, number in steps:
        if what == "skip":
            at[session] += number
        elif what == "next" or (what == "again" and seen):
            first = at[session] if what == "next" else max(0, at[session] - number)
            ids = set(range(first, first + min(number, 3) + 1))
            at[session] = max(at[session], max(ids) + 1)
            assert tape.take(session, min(ids), max(ids)) == bool(ids - seen)
            seen |= ids
        elif what == "end":
            tape.end(session)
        elif what == "tick":
            tape.tick()
        elif what == "start":
            tape.fold.process_started()
        elif what == "stop":
            tape.fold.process_stopped()
        else:
            lacking = set(range(min(seen), max(seen))) - seen if seen else set()
            assert tape.in_ledger() <= lacking
            assert tape.track.is_pending or tape.in_ledger() == lacking
            assert tape.fold.missing["trades"] == len(tape.in_ledger())
    tape.fold.process_stopped()
    assert tape.in_ledger() == (set(range(min(seen), max(seen))) - seen if seen else set())
    assert not tape.track.is_pending
    states = {row.gap: [other.state for other in tape.rows if other.gap == row.gap] for row in tape.rows}
    assert all(rows[0] is State.OPEN or rows == [State.REPAIRED] for rows in states.values())
    for row in tape.rows:
        assert row.gap == gap_id("trades", "binance", "spot", "BTC-USDT", row.first_missing or 0)


@tried(80, st.lists(st.sampled_from(["lag", "lie", "drop", "double", "swap"]), max_size=80), st.integers(0, 12))
def test_a_lagging_and_a_lying_session_together_bring_every_trade_once(faults: list[str], lag: int) -> None:
    """A brings everything, at most `lag` behind; B drops, doubles and swaps. So nothing is missing, ever."""
    tape, new, behind, truth = Tape(), list[int](), list[int](), len(faults) + 1
    tape.take(A, 0)
    tape.take(B, 0)
    for id_, fault in enumerate(faults, 1):
        lying = {"drop": [], "double": [id_, id_], "swap": [id_ + 1, id_]}.get(fault, [id_])
        new += [lie for lie in lying if lie <= len(faults) and tape.take(B, lie)]
        behind.append(id_)
        while len(behind) > (lag if fault == "lag" else lag // 2):
            new += [late for late in [behind.pop(0)] if tape.take(A, late)]
        tape.ledger()
    new += [late for late in behind if tape.take(A, late)]
    assert sorted(new) == list(range(1, truth))
    assert tape.ledger() == []
    assert tape.rows == []
