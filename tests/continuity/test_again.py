"""An exchange that counts from anew (a new engine, a relisting, a testnet wiped): nothing of it is taken for old."""

import pytest

from collector_trio.continuity.chain import Answer, Chain, Verdict
from collector_trio.continuity.ledger import State
from collector_trio.continuity.tracks import AGAIN_NS, BookTrack, TradeTrack

S = 10**9


def book(*, overlap: bool) -> BookTrack:
    track = BookTrack("binance", "spot", "BTC-USDT", "BTCUSDT", chain=Chain(overlap=overlap, resets=False))
    track.take(1, 1000, 1010, 100 * S, 1, 100 * S, None)
    track.take_snapshot(1010)
    assert list(track.changes()) == []
    return track


@pytest.mark.parametrize("overlap", [True, False], ids=["spot", "futures"])
@pytest.mark.parametrize("ended", [True, False], ids=["after a reconnect", "in the midst of a session"])
def test_a_book_whose_numbers_begin_again_is_broken_and_synced_by_its_next_snapshot(overlap: bool, ended: bool) -> None:
    track = book(overlap=overlap)
    if ended:
        track.leave(1)
    verdicts = [track.take(2 if ended else 1, n, n + 1, 101 * S + n, 2 + n, 101 * S + n, None) for n in range(50)]
    assert verdicts == [Verdict.BROKEN] + [Verdict.NEXT] * 49
    assert track.wants_snapshot
    assert track.take_snapshot(20) is Answer.SYNCED
    (gap,) = track.changes()
    assert (gap.state, gap.first_missing, gap.last_missing, gap.from_ns) == (State.LOST, 1011, None, 100 * S)
    assert track.chain.tip == 50


def test_with_two_sessions_numbers_begin_again_only_when_no_clock_explains_it() -> None:
    track = book(overlap=True)
    track.take(2, 1000, 1010, 100 * S, 2, 100 * S, None)
    track.take(1, 1010, 1020, 101 * S, 3, 101 * S, None)
    assert track.take(2, 1010, 1020, 103 * S, 4, 103 * S, None) is Verdict.SEEN  # the other server pushed it later
    assert track.take(2, 0, 5, 101 * S + AGAIN_NS + 1, 5, 110 * S, None) is Verdict.BROKEN


def test_a_change_said_again_later_is_a_duplicate() -> None:
    track = book(overlap=True)
    for n in range(1010, 1100):
        track.take(1, n, n + 1, 100 * S + n, n, 100 * S + n, None)
    assert track.take(1, 1015, 1016, 100 * S + 1015, 2000, 200 * S, None) is Verdict.SEEN
    assert track.chain.synced


def test_trades_whose_numbers_begin_again_are_new_wherever_they_begin() -> None:
    track = TradeTrack("binance", "spot", "BTC-USDT", "BTCUSDT")
    for n in (1, 2, 3, 5, 90_000):
        track.take(1, n, n, 100 * S + n, n, 100 * S, None)
    opened = list(track.changes())
    assert [(gap.first_missing, gap.last_missing) for gap in opened] == [(4, 4), (6, 89_999)]
    later = 200 * S
    assert [track.take(1, n, n, later + n, 10 + n, later, None) for n in (1, 2, 2, 3)] == [True, True, False, True]
    (lost,) = track.changes()  # what was missing before is missing still, and how much more is not known
    assert (lost.state, lost.first_missing, lost.last_missing, lost.missing) == (State.LOST, 90_001, None, None)
    assert (lost.from_ns, lost.to_ns) == (100 * S + 90_000, later + 1)
    assert track.state == (1, 3, ())


def test_a_trade_said_again_much_later_is_a_duplicate() -> None:
    track = TradeTrack("binance", "spot", "BTC-USDT", "BTCUSDT")
    assert [track.take(1, n, n, 100 * S + n, n, n, None) for n in (7, 8, 9, 7)] == [True, True, True, False]
    assert track.take(1, 8, 8, 100 * S + 8, 50, 900 * S, None) is False
