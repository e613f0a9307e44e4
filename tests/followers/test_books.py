"""`book_at`: the book a plain fold gives, or the reason why there is none."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collector_trio.errors import CollectorError
from collector_trio.followers import reading
from collector_trio.followers.books import Book, BookUnknown, book_at

from ..journal.writing import START_NS, leave_open
from .recordings import okx_book, recording, store
from .written import DELAY, START, at, change, gap, in_band, us, whole, write

Sides = tuple[dict[float, float], dict[float, float]]


def book(data_dir: Path, seconds: float, symbol: str = "BTC-USDT", **place: str) -> Book:
    return book_at(symbol, at(seconds), data_dir=data_dir, **place)


def why(data_dir: Path, seconds: float, symbol: str = "BTC-USDT", **place: str) -> str:
    with pytest.raises(BookUnknown) as unknown:
        book(data_dir, seconds, symbol, **place)
    assert unknown.value.at == at(seconds)
    return unknown.value.why


# The same as a plain fold


class Venue:
    """Publishes a random book; knows it at every instant."""

    def __init__(self, seed: int, exchange: str, market: str) -> None:
        self.random = random.Random(seed)
        self.exchange, self.market = exchange, market
        self.truth: list[tuple[datetime, Sides, int]] = []
        self.changes: list[dict[str, Any]] = []
        self.wholes: list[dict[str, Any]] = []
        self._bids: dict[float, float] = {}
        self._asks: dict[float, float] = {}
        self._seq = 1_000
        self._seconds = 1500.0  # the run goes over a full hour

    def run(self, changes: int) -> None:
        self._move(30)
        self._whole()
        for _ in range(changes):
            self._seconds += self.random.choice([0.001, 0.1, 0.1, 3.0])
            self._change()
            if self.random.random() < 0.02:
                self._whole()

    def _move(self, levels: int) -> Sides:
        moved: Sides = ({}, {})
        for _ in range(levels):
            side = self.random.randrange(2)
            price = round(100 + (1, -1)[side] * -self.random.randrange(1, 60) / 10, 1)
            size = self.random.choice([0.0, 0.0, 1.5, 2.25, round(self.random.random(), 6)])
            moved[side][price] = size
            kept = (self._bids, self._asks)[side]
            if size:
                kept[price] = size
            else:
                kept.pop(price, None)
        return moved

    def _change(self) -> None:
        prev = self._seq
        quiet = self.exchange == "okx" and self.random.random() < 0.05
        self._seq += 0 if quiet else self.random.randrange(1, 50)
        if self.exchange == "okx" and self.random.random() < 0.02 and not quiet:
            self._seq = prev - self.random.randrange(5, 500)  # maintenance
        if (self.exchange, self.market) == ("binance", "spot") and self.random.random() < 0.1:
            prev -= 1  # an overlap, legal on spot
        row = change(self._seconds, prev, self._seq, *self._move(0 if quiet else self.random.randrange(1, 8)))
        late = timedelta(seconds=self.random.choice([0, 0, 0, 0, 2.5]))  # a session that is behind
        self.changes.append(row | {"recv": row["ts"] + DELAY + late, "frame": row["frame"] + late.seconds * 1000})
        self.truth.append((row["ts"], (dict(self._bids), dict(self._asks)), self._seq))

    def _whole(self) -> None:
        if self.exchange == "okx" and self.random.random() < 0.5:
            row = change(self._seconds, -1, self._seq, self._bids, self._asks, snapshot=True)
            self.changes.append(row)
        else:
            self.wholes.append(whole(self._seconds, self._seq, self._bids, self._asks))
        self.truth.append((at(self._seconds), (dict(self._bids), dict(self._asks)), self._seq))

    def write(self, data_dir: Path) -> None:
        self.random.shuffle(self.changes)
        write(data_dir, "book", self.changes, self.exchange, self.market)
        write(data_dir, "book_snapshots", self.wholes, self.exchange, self.market)


@pytest.mark.parametrize("place", [("binance", "spot"), ("binance", "perp"), ("okx", "spot")], ids=" ".join)
@pytest.mark.parametrize("seed", range(3))
def test_a_book_is_what_a_plain_fold_of_its_changes_gives(tmp_path: Path, place: tuple[str, str], seed: int) -> None:
    venue = Venue(seed, *place)
    venue.run(400)
    venue.write(tmp_path)
    first, last = venue.truth[0][0], venue.truth[-1][0]

    for _ in range(15):
        instant = first + timedelta(microseconds=venue.random.randrange((last - first) // timedelta(microseconds=1)))
        instant = venue.random.choice([instant, venue.random.choice(venue.truth)[0]])  # also the instant of a change
        found = book_at("BTC-USDT", instant, data_dir=tmp_path)
        ts, (bids, asks), seq = next(one for one in reversed(venue.truth) if one[0] <= instant)
        assert (found.exchange, found.market, found.symbol, found.at) == (*place, "BTC-USDT", instant)
        assert found.bids == sorted(bids.items(), reverse=True)
        assert found.asks == sorted(asks.items())
        assert (found.ts, found.last_seq) == (ts, seq)
        assert (found.trusted_bids, found.trusted_asks) == (len(bids), len(asks))


# Links


def test_a_change_at_the_instant_is_in_it_and_one_behind_it_is_not(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}, {11: 1})])
    write(tmp_path, "book", [change(1, 10, 11, {9: 2}), change(2, 11, 12, {9: 3})])

    assert book(tmp_path, 1).bids == [(9, 2)]
    assert book(tmp_path, 1.999999).bids == [(9, 2)]
    assert book(tmp_path, 2).bids == [(9, 3)]
    assert book(tmp_path, 0).bids == [(9, 1)]


def test_of_two_whole_books_the_later_one_counts(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}), whole(5, 20, {7: 7})])

    assert book(tmp_path, 4).bids == [(9, 1)]
    assert book(tmp_path, 5).bids == [(7, 7)]


def test_a_change_stored_late_is_applied_in_its_place(tmp_path: Path) -> None:
    late = change(1, 10, 11, {9: 2, 8: 1}) | {"recv": at(3.9), "frame": 3900}
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(2, 11, 12, {9: 3}), change(3, 12, 13, {8: 0}), late])

    assert book(tmp_path, 3).bids == [(9, 3)]


def test_links_decide_where_times_and_frames_do_not(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    changes = [
        change(2, 12, 13, {9: 3}, frame=1),
        change(2, 10, 11, {9: 9}, frame=3),
        change(2, 11, 12, {9: 2}, frame=2),
    ]
    write(tmp_path, "book", [*changes, change(5, 13, 14, {9: 5}), change(4, 14, 15, {9: 6})])

    assert book(tmp_path, 2).bids == [(9, 3)]
    assert book(tmp_path, 4).bids == [(9, 3)]  # what happened at 4 s came after what happened at 5 s
    assert book(tmp_path, 5).bids == [(9, 6)]


def test_changes_of_the_same_instant_as_the_whole_book_are_in_it(tmp_path: Path) -> None:
    write(tmp_path, "book", [change(1, 10, 11, {9: 2}), change(1, 11, 12, {9: 3}), change(2, 12, 14, {8: 1})], "okx")
    write(tmp_path, "book_snapshots", [whole(1, 12, {9: 3})], "okx")

    assert book(tmp_path, 1).bids == [(9, 3)]
    assert book(tmp_path, 2).bids == [(9, 3), (8, 1)]


def test_the_first_change_after_a_whole_book_may_begin_before_it(tmp_path: Path) -> None:
    """On Binance the answer of REST lies within a change; on futures only then (`pu <= L <= u`)."""
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})], "binance", "perp")
    write(tmp_path, "book", [change(1, 8, 12, {9: 2}), change(2, 12, 14, {9: 3})], "binance", "perp")

    assert book(tmp_path, 1.5).bids == [(9, 2)]
    assert book(tmp_path, 2).bids == [(9, 3)]


def test_changes_that_waited_for_the_whole_book_are_applied_though_they_came_before_it(tmp_path: Path) -> None:
    """And those that the whole book has in it already are not."""
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}, ts=None, recv=at(2), frame=None)])
    write(tmp_path, "book", [change(0.5, 8, 9, {9: 5}), change(1, 9, 11, {8: 2}), change(1.5, 11, 12, {7: 3})])

    found = book(tmp_path, 2)

    assert (found.bids, found.ts, found.last_seq) == ([(9, 1), (8, 2), (7, 3)], at(1.5), 12)


def test_a_whole_book_of_an_unknown_time_needs_a_change_behind_it(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}, ts=None, recv=at(2))])
    write(tmp_path, "book", [change(3, 10, 11, {8: 2})])

    assert why(tmp_path, 2.5) == (
        "no whole book was known by then: the first has no exchange time, and no change follows it"
    )
    assert book(tmp_path, 3).bids == [(9, 1), (8, 2)]


def test_overlaps_continue_a_book_only_where_the_exchange_makes_them(tmp_path: Path) -> None:
    changes = [change(1, 10, 12, {9: 2}), change(2, 11, 14, {9: 3})]
    for market in ("spot", "perp"):
        write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})], "binance", market)
        write(tmp_path, "book", changes, "binance", market)

    assert book(tmp_path, 2, market="spot").bids == [(9, 3)]
    assert "changes are missing" in why(tmp_path, 2, market="perp")


def test_numbers_that_go_down_are_followed_as_far_as_they_link(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 900, {9: 1})], "okx")
    write(tmp_path, "book", [change(1, 900, 5, {9: 2}), change(2, 5, 8, {8: 1}), change(2.5, 8, 8)], "okx")

    found = book(tmp_path, 3)

    assert (found.bids, found.last_seq, found.ts) == ([(9, 2), (8, 1)], 8, at(2.5))


def test_a_snapshot_in_band_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, "book", [in_band(0, 10, {9: 1}), change(1, 10, 12, {8: 1}), in_band(2, 20, {7: 1})], "okx")
    write(tmp_path, "book", [change(3, 20, 21, {6: 1})], "okx")

    assert book(tmp_path, 0.5).bids == [(9, 1)]
    assert book(tmp_path, 3).bids == [(7, 1), (6, 1)]


def test_changes_without_a_time_count_from_when_they_were_received(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(n, 9 + n, 10 + n, {9: 1 + n}, ts=None, recv=at(n)) for n in (1, 2, 3)])

    found = book(tmp_path, 2.5)

    assert (found.bids, found.ts) == ([(9, 3)], at(2))


def test_without_numbers_the_order_of_frames_counts(tmp_path: Path) -> None:
    rows = [in_band(0, None, {9: 1}), *(change(n, None, None, {9: 1 + n, 8 - n: 1}) for n in (1, 2, 3))]
    write(tmp_path, "book", rows, "okx")

    found = book(tmp_path, 2.5)

    assert (found.bids, found.last_seq, found.ts) == ([(9, 3), (7, 1), (6, 1)], None, at(2))


# How deep


def test_behind_the_bounds_of_the_whole_book_nothing_is_certain(tmp_path: Path) -> None:
    bids, asks = {9: 1, 8: 1, 7: 1, 6: 1}, {11: 1, 12: 1, 13: 1}
    write(tmp_path, "book_snapshots", [whole(0, 10, bids, asks, bid_bound=7.0, ask_bound=12.0)])
    write(tmp_path, "book", [change(1, 10, 11, {9.5: 1, 8: 0}, {11: 0})])

    before, after = book(tmp_path, 0), book(tmp_path, 1)

    assert (before.trusted_bids, before.trusted_asks) == (3, 2)
    assert (after.trusted_bids, after.trusted_asks) == (3, 1)
    assert len(after.bids) == 4


def test_behind_the_levels_that_the_channel_keeps_nothing_is_certain(tmp_path: Path) -> None:
    write(tmp_path, "book", [in_band(0, 10, dict.fromkeys(range(1, 401), 1.0))], "okx")
    write(tmp_path, "book", [change(1, 10, 11, {500.0: 1.0, 501.0: 1.0})], "okx")

    found = book(tmp_path, 1)

    assert (len(found.bids), found.trusted_bids, found.trusted_asks) == (402, 400, 0)


# The ledger


@pytest.fixture
def gapped(tmp_path: Path) -> Path:
    """A book from 0 to 9 s that the ledger does not trust from 3 to 5 s."""
    write(tmp_path, "book_snapshots", [whole(0, 0, {9: 1})])
    write(tmp_path, "book", [change(n, n - 1, n, {9: n}) for n in range(1, 10)])
    write(tmp_path, "gaps", [gap(5, "open", 3, 5)])
    return tmp_path


def test_what_the_ledger_does_not_trust_is_no_book(gapped: Path) -> None:
    assert why(gapped, 4) == (
        "the gap ledger says that it is not known from 2026-11-23T12:30:03Z to 2026-11-23T12:30:05Z (eof; gap a1)"
    )
    assert "gap ledger" in why(gapped, 3)
    assert book(gapped, 2.9).bids == [(9, 2)]
    assert book(gapped, 5).bids == [(9, 5)]


@pytest.mark.parametrize(("state", "known"), [("lost", False), ("repaired", True), ("benign", True), ("open", False)])
def test_the_last_state_of_a_gap_counts(gapped: Path, state: str, known: bool) -> None:
    write(gapped, "gaps", [gap(5, state, 3, 5, detail="by REST")])

    if known:
        assert book(gapped, 4).bids == [(9, 4)]
    else:
        assert "gap ledger" in why(gapped, 4)


def test_a_gap_without_an_end_goes_on(gapped: Path) -> None:
    write(gapped, "gaps", [gap(8, "open", 8, None, gap="a2", detail="[reset] by peer")])

    assert why(gapped, 9) == (
        "the gap ledger says that it is not known from 2026-11-23T12:30:08Z on (eof: [reset] by peer; gap a2)"
    )
    assert book(gapped, 7.5).bids == [(9, 7)]


def test_gaps_of_others_say_nothing(gapped: Path) -> None:
    write(
        gapped, "gaps", [gap(9, "open", 6, None, gap="a3", table="trades"), gap(9, "open", 6, None, symbol="ETH-USDT")]
    )
    write(gapped, "gaps", [gap(9, "open", 6, None)], "okx")

    assert book(gapped, 7).bids == [(9, 7)]


def test_without_numbers_a_gap_lasts_until_the_next_whole_book(tmp_path: Path) -> None:
    write(tmp_path, "book", [in_band(0, None, {9: 1}), change(1, None, None, {8: 1}), in_band(6, None, {7: 1})], "okx")
    write(tmp_path, "gaps", [gap(3, "lost", 2, 3)], "okx")

    assert "no whole book was known after this: the gap ledger says" in why(tmp_path, 4)
    assert book(tmp_path, 1.5).bids == [(9, 1), (8, 1)]
    assert book(tmp_path, 6).bids == [(7, 1)]


# Why not


def test_a_missing_change_is_told_though_the_ledger_is_silent(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}), whole(9, 30, {9: 1})])
    write(tmp_path, "book", [change(1, 10, 11, {9: 2}), change(4, 19, 20, {9: 3}), change(5, 20, 21)])

    missing = "changes are missing between 2026-11-23T12:30:01Z (number 11) and 2026-11-23T12:30:04Z"
    assert why(tmp_path, 6) == missing
    assert why(tmp_path, 4) == missing
    assert why(tmp_path, 2) == missing  # it may have been before or after
    assert book(tmp_path, 0.5).bids == [(9, 1)]
    assert book(tmp_path, 9).bids == [(9, 1)]


def test_a_snapshot_behind_the_instant_says_whether_anything_was_missed_before_it(tmp_path: Path) -> None:
    for symbol, number in (("BTC-USDT", 11), ("ETH-USDT", 15)):
        rows = [in_band(0, 10, {9: 1}), change(1, 10, 11, {9: 2}), in_band(5, number, {7: 1})]
        write(tmp_path, "book", [row | {"symbol": symbol} for row in rows], "okx")

    assert book(tmp_path, 3).bids == [(9, 2)]
    assert "changes are missing" in why(tmp_path, 3, "ETH-USDT")
    assert book(tmp_path, 0, "ETH-USDT").bids == [(9, 1)]


def test_two_whole_books_of_different_numbers_say_nothing_of_the_time_between_them(tmp_path: Path) -> None:
    write(tmp_path, "book", [in_band(0, 10, {9: 1}), in_band(5, 15, {7: 1})], "okx")

    assert why(tmp_path, 3) == ("changes are missing between 2026-11-23T12:30:00Z (number 10) and 2026-11-23T12:30:05Z")


def test_what_was_applied_already_is_not_missed_where_it_was_stored_again(tmp_path: Path) -> None:
    """A quiet book repeated behind its successor, and a change within one that began before it."""
    write(tmp_path, "book", [in_band(0, 10, {9: 1}), change(1, 10, 11, {8: 1}), change(2, 10, 10)], "okx")
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(1, 10, 14, {8: 1}), change(2, 11, 12, {8: 5}), change(3, 14, 15)])

    assert book(tmp_path, 3, exchange="okx").bids == [(9, 1), (8, 1)]
    assert book(tmp_path, 3, exchange="binance").bids == [(9, 1), (8, 1)]


def test_what_comes_before_the_first_whole_book_is_not_known(tmp_path: Path) -> None:
    write(tmp_path, "book", [change(0, 8, 9, {9: 1}), change(1, 9, 10, {9: 1})])
    write(tmp_path, "book", [change(0, 8, 9, symbol="ETH-USDT")])
    write(tmp_path, "book_snapshots", [whole(2, 10, {9: 1})])

    assert why(tmp_path, 1) == "the first whole book on binance spot is of 2026-11-23T12:30:02Z"
    assert why(tmp_path, 2, "ETH-USDT") == "only changes were recorded on binance spot, never a whole book"


def test_after_the_end_of_the_recording_nothing_is_known(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(1, 10, 11)])

    assert book(tmp_path, 30).ts == at(1)
    assert why(tmp_path, 62) == "nothing was recorded after 2026-11-23T12:30:01.040000Z"
    assert "nothing was recorded after" in why(tmp_path, 10**6)


def test_a_quiet_book_is_known_while_others_of_its_market_move(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(3000, 1, 2, symbol="ETH-USDT")])

    assert book(tmp_path, 2990).bids == [(9, 1)]


def test_a_symbol_that_was_not_recorded_is_told_with_those_that_were(tmp_path: Path) -> None:
    write(tmp_path, "book", [change(0, 8, 9), change(1, 8, 9, symbol="ETH-USDT")])
    write(tmp_path, "book", [in_band(0, 8, {1: 1}, symbol="SOL-USDT")], "okx")

    reason = "no such order book was recorded; there are "
    assert why(tmp_path, 1, "BTC-EUR") == f"{reason}binance spot (BTC-USDT, ETH-USDT), okx spot (SOL-USDT)"
    assert why(tmp_path, 1, exchange="okx") == f"{reason}okx spot (SOL-USDT)"
    assert why(tmp_path, 1, exchange="deribit") == f"{reason}none"


def test_of_several_books_one_must_be_named(tmp_path: Path) -> None:
    for place in (("binance", "spot"), ("binance", "perp"), ("okx", "spot")):
        write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})], *place)

    assert why(tmp_path, 1) == "recorded on binance perp, binance spot, okx spot: name one of them (exchange, market)"
    assert "binance perp, binance spot: name" in why(tmp_path, 1, exchange="binance")
    assert book(tmp_path, 1, market="perp").market == "perp"
    assert book(tmp_path, 1, exchange="okx").exchange == "okx"


def test_an_error_names_the_book_and_the_instant(tmp_path: Path) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])

    with pytest.raises(BookUnknown, match=r"^BTC-USDT \(binance spot\) at 2026-11-23T13:30:00Z: nothing was recorded"):
        book(tmp_path, 3600)


def test_nothing_recorded_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    assert why(tmp_path, 0) == "no such order book was recorded; there are none"
    with pytest.raises(CollectorError, match="nowhere: no such folder"):
        book(tmp_path / "nowhere", 0)


# Where rows are


def test_whole_books_of_long_ago_are_found(tmp_path: Path) -> None:
    """And when our clock was wrong by days."""
    hours = 3600
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    write(tmp_path, "book", [change(hours * n, 9 + n, 10 + n, {9: 1 + n}) for n in range(1, 60)])
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}, recv=at(-80 * hours))], "okx")
    write(tmp_path, "book", [change(1, 10, 11, {9: 2}, recv=at(1 - 80 * hours))], "okx")
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1}, recv=at(80 * hours))], "binance", "perp")
    write(tmp_path, "book", [change(900, 10, 11, {9: 2}, recv=at(900 + 80 * hours))], "binance", "perp")

    assert book(tmp_path, 5.5 * hours, exchange="binance", market="spot").bids == [(9, 6)]
    assert book(tmp_path, 59 * hours, exchange="binance", market="spot").bids == [(9, 60)]
    assert book(tmp_path, 900, market="perp").bids == [(9, 2)]
    assert book(tmp_path, 1, exchange="okx").bids == [(9, 2)]


def test_the_running_segment_counts(tmp_path: Path) -> None:
    seconds = START_NS // 10**9
    with recording(tmp_path) as recorder:
        session = recorder.open("okx")
        recorder.receive(session, okx_book(10, -1), okx_book(11, 10, START_NS // 10**6 + 500))
        recorder.next_segment()
        recorder.receive(session, okx_book(12, 11, START_NS // 10**6 + 1500))
        store(tmp_path)

        found = book_at("BTC-USDT", (seconds + 2) * 10**9, data_dir=tmp_path)

    assert (found.last_seq, found.bids, found.asks) == (12, [(7.5, 2.0)], [(7.6, 1.0)])
    assert us(found.ts) == START_NS // 1000 + 1_500_000
    leave_open(tmp_path)
    assert book_at("BTC-USDT", (seconds + 2) * 10**9, data_dir=tmp_path) == found


def test_a_file_that_vanishes_makes_it_look_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])
    real, looks = reading.look, []

    def looking(*asked: Any) -> reading.Picture:
        picture = real(*asked)
        looks.append(1)
        if len(looks) == 1:
            [path] = tmp_path.glob("book_snapshots/**/*.parquet")
            path.rename(path.with_name("book_snapshots-000000000001-000000000009.parquet"))
        return picture

    monkeypatch.setattr(reading, "look", looking)

    assert book(tmp_path, 1).bids == [(9, 1)]
    assert len(looks) == 2


@pytest.mark.parametrize(
    "instant",
    [
        START,
        START.replace(tzinfo=None),
        "2026-11-23T12:30",
        "2026-11-23T12:30:00Z",
        "2026-11-23T13:30:00+01:00",
        us(START) * 1000 + 999,
    ],
)
def test_an_instant_is_a_time_a_text_or_nanoseconds(tmp_path: Path, instant: Any) -> None:
    write(tmp_path, "book_snapshots", [whole(0, 10, {9: 1})])

    assert book_at("BTC-USDT", instant, data_dir=str(tmp_path)).at == START


def test_a_text_that_is_no_time_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match=r"'soon' is not a time such as 2026-11-23"):
        book_at("BTC-USDT", "soon", data_dir=tmp_path)
