"""The exact rules by which a link follows, and by which a snapshot is bridged.

Spot: `U <= L + 1 <= u`, with `prev = U - 1`. Futures: `pu <= L <= u`, with `prev = pu`. OKX: `prev = prevSeqId`.
"""

import pytest

from collector_trio.continuity.chain import LONGEST_RUN, REMEMBERED, Answer, Chain, Verdict

NEXT, SEEN, LATE, AHEAD, BROKEN, EPOCH = Verdict


def spot() -> Chain:
    return Chain(overlap=True, resets=False)


def futures() -> Chain:
    return Chain(overlap=False, resets=False)


def okx(*, at: int = 100) -> Chain:
    chain = Chain(overlap=False, resets=True)
    chain.take_whole(at)
    return chain


def applied(chain: Chain) -> list[int]:
    """Return the own numbers of what is to be applied, and empty the list as its owner would."""
    links, chain.apply = chain.apply, []
    return [last for _, last in links]


# Snapshots by REST


@pytest.mark.parametrize(
    ("number", "answer", "follows"),
    [
        (98, Answer.TOO_OLD, []),  # L < U - 1: a hole
        (99, Answer.SYNCED, [105, 110]),  # L == U - 1: the chain is intact
        (100, Answer.SYNCED, [105, 110]),  # U <= L + 1 <= u
        (104, Answer.SYNCED, [105, 110]),
        (105, Answer.SYNCED, [110]),  # L == u: this one is in it
        (107, Answer.SYNCED, [110]),
        (110, Answer.SYNCED, []),  # equal to the tip
        (111, Answer.WAITS, []),
    ],
)
def test_a_spot_snapshot_syncs_where_its_number_lies_on_the_run(
    number: int, answer: Answer, follows: list[int]
) -> None:
    chain = spot()
    chain.take(99, 105)  # U = 100, u = 105
    chain.take(105, 110)
    assert chain.take_snapshot(number) is answer
    assert applied(chain) == follows
    assert chain.synced is (answer is Answer.SYNCED)


@pytest.mark.parametrize(
    ("number", "answer", "follows"),
    [
        (89, Answer.TOO_OLD, []),  # pu > L
        (90, Answer.SYNCED, [105, 110]),  # pu == L
        (95, Answer.SYNCED, [105, 110]),  # pu < L < U
        (102, Answer.SYNCED, [105, 110]),  # U <= L <= u
        (105, Answer.SYNCED, [110]),  # u == L
        (110, Answer.SYNCED, []),
        (111, Answer.WAITS, []),
    ],
)
def test_a_futures_snapshot_syncs_where_its_number_lies_on_the_run(
    number: int, answer: Answer, follows: list[int]
) -> None:
    chain = futures()
    chain.take(90, 105)  # pu = 90, U = 100, u = 105
    chain.take(105, 110)
    assert chain.take_snapshot(number) is answer
    assert applied(chain) == follows


@pytest.mark.parametrize("chain", [spot(), futures()])
def test_a_snapshot_ahead_of_everything_waits_for_the_changes_up_to_it(chain: Chain) -> None:
    chain.take(99, 105)
    assert chain.take_snapshot(112) is Answer.WAITS
    assert chain.take(105, 110) is NEXT
    assert (applied(chain), chain.synced) == ([], False)
    assert chain.take(110, 115) is NEXT
    assert (applied(chain), chain.synced) == ([115], True)
    assert chain.take_snapshot(116) is Answer.NOT_NEEDED


@pytest.mark.parametrize("chain", [spot(), futures()])
def test_a_snapshot_before_the_first_change_waits_for_it(chain: Chain) -> None:
    assert chain.take_snapshot(102) is Answer.WAITS
    assert chain.take(99, 105) is NEXT
    assert (applied(chain), chain.synced) == ([105], True)


@pytest.mark.parametrize("chain", [spot(), futures()])
def test_a_snapshot_that_waits_is_of_no_use_when_a_break_lies_behind_it(chain: Chain) -> None:
    chain.take(99, 105)
    chain.take_snapshot(107)
    assert chain.take(109, 115) is BROKEN
    assert (chain.snapshot, chain.synced) == (None, False)


@pytest.mark.parametrize("number", [109, 112])
@pytest.mark.parametrize("chain", [spot, futures])
def test_a_snapshot_that_waits_bridges_a_break_before_it(chain: type[Chain], number: int) -> None:
    broken = chain()
    broken.take(99, 105)
    broken.take_snapshot(number)
    assert broken.take(109, 115) is BROKEN
    assert (applied(broken), broken.synced) == ([115], True)


def test_an_old_snapshot_is_asked_again_and_the_changes_stay() -> None:
    chain = spot()
    chain.take(99, 105)
    assert chain.take_snapshot(-1) is Answer.TOO_OLD
    chain.take(105, 110)
    assert chain.take_snapshot(103) is Answer.SYNCED
    assert applied(chain) == [105, 110]


# Links


def test_an_overlapping_change_is_taken_whole_on_spot() -> None:
    chain = spot()
    chain.take_snapshot(105)
    chain.take(99, 105)
    assert chain.take(102, 108) is NEXT
    assert applied(chain) == [108]
    assert chain.tip == 108


def test_overlapping_changes_bridge_a_snapshot() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take(102, 108)
    assert chain.take_snapshot(104) is Answer.SYNCED
    assert applied(chain) == [105, 108]


def test_an_overlapping_change_breaks_a_futures_book() -> None:
    chain = futures()
    chain.take_snapshot(105)
    chain.take(99, 105)
    assert chain.take(102, 108) is BROKEN


@pytest.mark.parametrize("chain", [spot(), futures()])
def test_what_ends_at_or_before_the_tip_was_seen(chain: Chain) -> None:
    chain.take(99, 105)
    chain.take_snapshot(105)
    assert [chain.take(99, 105), chain.take(90, 95), chain.take(95, 99)] == [SEEN] * 3
    assert chain.synced


def test_a_number_may_go_down_as_long_as_it_chains() -> None:
    chain = okx(at=100)
    assert chain.take(100, 7) is NEXT
    assert chain.take(7, 12) is NEXT
    assert (chain.tip, chain.synced, applied(chain)) == (12, True, [7, 12])


def test_a_number_that_goes_down_without_a_link_breaks_the_book() -> None:
    chain = okx(at=100)
    assert chain.take(3, 7) is BROKEN
    assert not chain.synced


def test_what_is_remembered_was_seen_though_numbers_went_down_since() -> None:
    chain = okx(at=100)
    chain.take(100, 150)
    chain.take(150, 7)
    assert [chain.take(100, 150), chain.take(150, 7)] == [SEEN] * 2


def test_memory_is_bounded_and_holds_the_last_half_minute() -> None:
    chain = okx(at=0)
    for number in range(10_000):
        chain.take(number, number + 1)
    assert REMEMBERED <= len(chain.recent) <= 2 * REMEMBERED
    assert chain.take(10_000 - REMEMBERED, 10_001 - REMEMBERED) is SEEN


def test_a_run_that_no_snapshot_comes_for_is_bounded() -> None:
    chain = spot()
    for number in range(3 * LONGEST_RUN):
        assert chain.take(number, number + 1) is NEXT
    assert len(chain.run) <= LONGEST_RUN
    assert chain.take_snapshot(3 * LONGEST_RUN - 5) is Answer.SYNCED
    assert applied(chain) == list(range(3 * LONGEST_RUN - 4, 3 * LONGEST_RUN + 1))


# Gaps


@pytest.mark.parametrize("chain", [spot(), futures()])
def test_late_links_that_close_the_gap_make_the_book_whole_again(chain: Chain) -> None:
    chain.take(99, 105)
    chain.take_snapshot(105)
    assert chain.take(115, 120) is BROKEN
    assert chain.take(110, 115) is LATE
    assert (chain.synced, applied(chain)) == (False, [])
    assert chain.take(105, 110) is LATE
    assert (chain.synced, applied(chain)) == (True, [110, 115, 120])


def test_late_links_make_the_book_whole_though_a_snapshot_waits() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take_snapshot(105)
    chain.take(110, 115)
    assert chain.take_snapshot(117) is Answer.WAITS
    assert chain.take(105, 110) is LATE
    assert (chain.synced, chain.snapshot, applied(chain)) == (True, None, [110, 115])


def test_the_changes_before_a_gap_are_of_use_again_when_it_closes_before_the_first_snapshot() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take(110, 115)
    assert chain.take_snapshot(103) is Answer.TOO_OLD
    chain.take(105, 110)
    assert chain.take_snapshot(103) is Answer.SYNCED
    assert applied(chain) == [105, 110, 115]


def test_two_gaps_are_closed_when_both_are() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(105)
    for link in [(110, 115), (120, 125)]:
        assert chain.take(*link) is BROKEN
    assert chain.take(110, 115) is SEEN
    assert chain.take(115, 120) is LATE
    assert not chain.synced
    assert chain.take(105, 110) is LATE
    assert (chain.synced, applied(chain)) == (True, [110, 115, 120, 125])


def test_late_changes_may_overlap_each_other_and_both_ends_of_the_gap() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take_snapshot(105)
    chain.take(115, 120)
    assert [chain.take(103, 110), chain.take(108, 116)] == [LATE, LATE]
    assert (chain.synced, applied(chain)) == (True, [110, 116, 120])


def test_a_link_ahead_that_another_one_covers_is_seen_when_it_comes_again() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take(110, 115)
    assert chain.take(120, 121, wait=True) is AHEAD
    assert chain.take(119, 125, wait=True) is AHEAD
    chain.give_up()
    assert (chain.tip, chain.is_pending) == (125, False)
    assert chain.take(130, 140) is BROKEN
    assert chain.take(120, 121) is SEEN


def test_a_late_link_is_late_once() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take(115, 120)
    assert [chain.take(110, 115), chain.take(110, 115)] == [LATE, SEEN]


def test_links_ahead_follow_once_what_was_missing_has_come() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(105)
    assert chain.take(115, 120, wait=True) is AHEAD
    assert chain.take(110, 115, wait=True) is AHEAD
    assert chain.take(110, 115, wait=True) is SEEN
    assert chain.take(105, 110, wait=True) is NEXT
    assert (chain.synced, chain.tip, applied(chain)) == (True, 120, [110, 115, 120])
    assert not chain.is_pending


def test_a_change_of_the_run_that_reaches_back_into_the_gap_is_seen_when_it_comes_again() -> None:
    chain = spot()
    chain.take(99, 105)
    chain.take(110, 115)
    assert chain.take(108, 120) is NEXT
    assert chain.take(108, 120) is SEEN


def test_a_late_link_is_remembered_where_numbers_may_go_down() -> None:
    chain = okx(at=100)
    chain.take(120, 130)
    assert chain.take(100, 120, late=True) is LATE
    assert chain.synced
    assert chain.take(100, 120) is SEEN


def test_everything_that_may_be_applied_yet_is_kept_and_nothing_else() -> None:
    chain = futures()
    links = [(90, 100), (110, 120), (130, 140)]
    for link in links:
        chain.take(*link)
    chain.take(102, 105)
    chain.take(150, 160, wait=True)
    assert chain.kept == {*links, (102, 105), (150, 160)}
    chain.take_snapshot(140)
    assert chain.kept == {(150, 160)}


def test_giving_up_breaks_the_book_at_the_first_gap_and_leaves_what_waits_behind_the_next() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(105)
    for link in [(130, 135), (115, 120), (110, 115)]:
        chain.take(*link, wait=True)
    assert chain.give_up()
    assert (chain.run_prev, chain.tip, chain.is_pending) == (110, 120, True)
    assert chain.give_up()
    assert (chain.run_prev, chain.tip, chain.is_pending) == (130, 135, False)


def test_an_unreadable_change_spoils_the_book_until_a_snapshot_behind_it() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(105)
    chain.take(105, 110)
    applied(chain)
    chain.spoil(105)  # the link to 110
    assert not chain.synced
    assert chain.take_snapshot(105) is Answer.TOO_OLD
    assert chain.take(105, 110) is SEEN
    assert chain.take(110, 115) is NEXT
    assert chain.take_snapshot(110) is Answer.SYNCED
    assert applied(chain) == [115]


def test_an_unreadable_change_behind_a_gap_makes_it_impossible_to_close() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(105)
    chain.take(110, 115)
    chain.spoil(115)
    assert chain.take(110, 115) is SEEN
    assert chain.take(105, 110) is LATE
    assert (chain.synced, chain.good) == (False, 105)


def test_an_unreadable_change_leaves_nothing_to_apply_and_no_snapshot_to_wait_for() -> None:
    chain = futures()
    chain.take(99, 105)
    chain.take_snapshot(99)
    assert chain.apply
    chain.spoil(99)
    assert applied(chain) == []
    chain.take_snapshot(120)
    chain.spoil(99)
    assert chain.snapshot is None


# Snapshots on the socket


def test_a_snapshot_at_the_tip_or_at_a_number_that_is_remembered_was_seen() -> None:
    chain = okx(at=100)
    chain.take(100, 110)
    chain.take(110, 120)
    assert [chain.take_whole(120), chain.take_whole(110)] == [SEEN] * 2
    assert chain.tip == 120


def test_a_snapshot_that_nobody_asked_for_is_a_new_epoch() -> None:
    chain = okx(at=100)
    assert chain.take_whole(7) is EPOCH
    assert (chain.tip, chain.synced) == (7, True)
    assert chain.take(7, 12) is NEXT


def test_a_snapshot_on_the_run_of_a_broken_book_is_followed_by_what_came_behind_it() -> None:
    chain = okx(at=100)
    for link in [(120, 130), (130, 140), (140, 150)]:
        chain.take(*link)
    assert chain.take_whole(130) is EPOCH
    assert (chain.tip, applied(chain)) == (150, [140, 150])


def test_a_snapshot_among_late_links_is_followed_by_them_and_by_what_came_behind() -> None:
    chain = okx(at=100)
    chain.take(130, 140)
    assert chain.take(120, 130, late=True) is LATE
    assert chain.take_whole(120) is EPOCH
    assert (chain.tip, applied(chain)) == (140, [130, 140])


def test_the_gap_behind_a_snapshot_may_hold_changes_that_came_before_it() -> None:
    chain = okx(at=100)
    chain.take(120, 130)
    chain.take_whole(140, alone=False)
    assert chain.take(100, 120, late=True) is LATE
    assert chain.is_pending
    assert chain.take(130, 140, late=True) is LATE
    assert not chain.is_pending


def test_links_ahead_of_a_snapshot_go_on_waiting_and_those_before_it_are_late() -> None:
    chain = okx(at=100)
    for link in [(110, 120), (140, 150)]:
        chain.take(*link, link[1], wait=True)
    assert chain.take_whole(130, 130, alone=False) is EPOCH
    assert chain.take(110, 120, late=True) is SEEN
    assert chain.take(130, 140) is NEXT
    assert chain.tip == 150
    assert chain.take(140, 150) is SEEN
    chain.take(100, 110, late=True)
    assert chain.take(120, 130, late=True) is LATE
    assert not chain.is_pending


def test_a_snapshot_that_is_older_than_a_synced_book_was_seen() -> None:
    chain = okx(at=100)
    assert chain.take_whole(93, old=True, alone=False) is SEEN
    assert chain.take(93, 95, old=True) is SEEN
    assert chain.take(100, 110) is NEXT


def test_what_others_bring_of_before_a_snapshot_is_late_and_closes_the_gap_behind_it() -> None:
    chain = okx(at=100)
    chain.take_whole(130, alone=False)
    assert (chain.synced, chain.is_pending) == (True, True)
    assert chain.take(130, 140) is NEXT
    applied(chain)
    assert chain.take(100, 120, old=True, late=True) is LATE
    assert chain.is_pending
    assert chain.take(120, 130, old=True, late=True) is LATE
    assert (chain.synced, chain.is_pending, applied(chain)) == (True, False, [])


def test_the_change_that_led_to_a_snapshot_at_the_tip_is_late() -> None:
    chain = okx(at=100)
    chain.take_whole(130, alone=False)
    assert chain.take(100, 130) is LATE
    assert not chain.is_pending
    assert chain.take(100, 130) is SEEN


def test_the_change_that_led_to_the_first_snapshot_was_before_it() -> None:
    chain = okx(at=100)
    assert chain.take(90, 100) is SEEN
    assert chain.synced
