"""One order book at one instant of exchange time, rebuilt from what was recorded; or why it cannot be.

The latest whole book known by then is the *base*: a row of `book_snapshots`, or a snapshot the exchange sent in-band.
The changes since are applied as they link to one another (a late one may be stored behind its successors), up to the
last one that is not later than the instant. Where an exchange sends no numbers, the frames' order stands in for links.

Three witnesses must agree before a book is given out. The ledger: the instant lies in no stretch that is open or lost.
The links: the next change recorded continues the book, so that nothing is missing in between. The recording itself: it
went on until then, for after its end nobody knows. Any doubt is a `BookUnknown` that says which.
"""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs
import polars as pl

from collector_trio.errors import CollectorError
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookRules
from collector_trio.followers.ledger import Hole, holes
from collector_trio.followers.links import MOST_WAITING, Change, follow
from collector_trio.followers.reading import with_picture
from collector_trio.followers.scan import (
    EVER_US,
    HOUR_US,
    DataDir,
    Moment,
    Recording,
    from_us,
    is_before,
    is_from,
    literal,
    moment_us,
)

# How far around an instant a base is looked for: folders say when rows were received. The second is for recordings
# with longer `snapshot_every`, the third for clocks that were very wrong, and to say what there is instead.
REACHES_US = ((2 * HOUR_US, HOUR_US), (26 * HOUR_US, 25 * HOUR_US), (EVER_US[1], EVER_US[1]))
# So far around base and instant changes are read. The next one behind the instant says that the book stood still until
# then; before the base there may be some that waited for it.
MARGIN_US = 10 * 60_000_000
# A book may be asked for so long after the last row of its market: OKX repeats a quiet book every 60 s.
QUIET_US = 60_000_000

Level = tuple[float, float]  # price, size


class BookUnknown(CollectorError):
    """The book of `symbol` `at` some instant cannot be rebuilt; `why` is for people."""

    def __init__(self, symbol: str, at: datetime, why: str) -> None:
        super().__init__(f"{symbol} at {_text(at)}: {why}")
        self.symbol = symbol
        self.at = at
        self.why = why


@attrs.frozen
class Book:
    """An order book `at` an instant, best levels first.

    `ts` is the exchange time of the last change in it, `last_seq` its number (None where the exchange sends none). Of
    each side only the first `trusted_…` levels are certain: behind them the exchange's snapshot ended, or the channel
    does not say; levels may be missing there, and be there that are gone.
    """

    exchange: str
    market: str
    symbol: str
    at: datetime
    ts: datetime
    last_seq: int | None
    bids: list[Level]
    asks: list[Level]
    trusted_bids: int
    trusted_asks: int


def book_at(
    symbol: str,
    instant: Moment,
    *,
    data_dir: DataDir = "data",
    exchange: str | None = None,
    market: str | None = None,
) -> Book:
    """Rebuild the order book of `symbol` as it was after all changes with `ts <= instant`.

    `instant` is a datetime or an ISO text (UTC where it names no zone) or nanoseconds since the epoch. The running
    segment counts. Raises BookUnknown, and CollectorError where there is no such folder.
    """
    at = moment_us(instant)
    return with_picture(
        Path(data_dir),
        lambda picture: _rebuild(Recording.of(picture), symbol, at, exchange, market),
        tables=("book", "book_snapshots", "gaps"),
    )


@attrs.frozen
class _Asked:
    """One book of one market at one instant, in microseconds since the epoch."""

    recording: Recording
    exchange: str
    market: str
    symbol: str
    at: int

    @property
    def rules(self) -> BookRules:
        return EXCHANGES[self.exchange].book_rules(self.market)

    def rows(self, table: str, received_us: tuple[int, int]) -> pl.LazyFrame:
        """Return the rows of this book, `time` included: the exchange's, or ours where there is none."""
        found = self.recording.rows(table, self.exchange, self.market, received_us)
        received = pl.col("recv").is_between(literal(received_us[0]), literal(received_us[1]))
        return found.filter((pl.col("symbol") == self.symbol) & received).with_columns(time=_TIME)

    def unknown(self, why: str) -> BookUnknown:
        return BookUnknown(f"{self.symbol} ({self.exchange} {self.market})", from_us(self.at), why)


@attrs.frozen
class _Base:
    """A whole book. `time` is the exchange's if `is_exchange_time`, else when it was received."""

    time: int
    is_exchange_time: bool
    recv: int
    frame: int | None
    last_seq: int | None
    bids: dict[float, float]
    asks: dict[float, float]
    bid_bound: float | None
    ask_bound: float | None


_TIME = pl.coalesce("ts", "recv").cast(pl.Int64)
_SIDES = ("bid_price", "bid_size", "ask_price", "ask_size")


def _rebuild(recording: Recording, symbol: str, at: int, exchange: str | None, market: str | None) -> Book:
    places = sorted(
        place
        for place in recording.places("book") | recording.places("book_snapshots")
        if exchange in (None, place[0]) and market in (None, place[1])
    )
    asked = [_Asked(recording, *place, symbol, at) for place in places]
    found = [(one, base) for one in asked if (base := _find_base(one)) is not None]
    if len(found) > 1:
        names = ", ".join(f"{one.exchange} {one.market}" for one, _ in found)
        raise BookUnknown(symbol, from_us(at), f"recorded on {names}: name one of them (exchange, market)")
    if not found:
        raise BookUnknown(symbol, from_us(at), _why_no_base(asked))
    [(one, base)] = found
    _ask_ledger(one)
    return _apply(one, base)


# Bases


def _find_base(asked: _Asked) -> _Base | None:
    """Return the latest whole book that is not later than the instant, None where there is none."""
    for back, ahead in REACHES_US:
        received = (max(EVER_US[0], asked.at - back), min(EVER_US[1], asked.at + ahead))
        heads = [
            _whole(asked, table, received).filter(is_before(asked.at + 1)).select("time", "recv_ns", "frame")
            for table in _tables_of_whole(asked)
        ]
        found = [
            (time, recv_ns, table, frame)
            for table, rows in zip(_tables_of_whole(asked), pl.collect_all(heads), strict=True)
            for time, recv_ns, frame in rows.iter_rows()
        ]
        if found:
            _, recv_ns, table, frame = max(found, key=lambda one: (*one[:3], -1 if one[3] is None else one[3]))
            [row, *_] = (
                _whole(asked, table, received)
                .filter((pl.col("recv_ns") == recv_ns) & pl.col("frame").eq_missing(frame))
                .collect()
                .with_columns(has_ts=pl.col("ts").is_not_null(), recv=pl.col("recv").cast(pl.Int64))
                .drop("ts")
                .to_dicts()
            )
            return _Base(
                row["time"],
                row["has_ts"],
                row["recv"],
                frame,
                row["last_seq"],
                dict(zip(row["bid_price"], row["bid_size"], strict=True)),
                dict(zip(row["ask_price"], row["ask_size"], strict=True)),
                row.get("bid_bound"),
                row.get("ask_bound"),
            )
    return None


def _tables_of_whole(asked: _Asked) -> list[str]:
    """Return the tables that hold whole books. Where they tell of the same one, `book_snapshots` knows its bounds."""
    return ["book", "book_snapshots"] if asked.rules.in_band else ["book_snapshots"]


def _whole(asked: _Asked, table: str, received: tuple[int, int]) -> pl.LazyFrame:
    rows = asked.rows(table, received)
    return rows.filter("snapshot") if table == "book" else rows


def _why_no_base(asked: Sequence[_Asked]) -> str:
    """Say what there is instead."""
    reasons, others = [], []
    for one in asked:
        place = f"{one.exchange} {one.market}"
        wholes = [_whole(one, table, EVER_US).select("time") for table in _tables_of_whole(one)]
        first = pl.concat(wholes).min().collect().item()
        names = one.recording.rows("book", one.exchange, one.market).select("symbol").unique().collect()["symbol"]
        if first is not None:
            reasons.append(f"the first whole book on {place} is of {_at(first)}")
        elif one.symbol in names:
            reasons.append(f"only changes were recorded on {place}, never a whole book")
        else:
            others.append(f"{place} ({', '.join(sorted(names.drop_nulls()))})")
    return "; ".join(reasons) or f"no such order book was recorded; there are {', '.join(others) or 'none'}"


# Witnesses


def _ask_ledger(asked: _Asked) -> None:
    """Raise BookUnknown when the instant lies in a stretch that cannot be trusted."""
    at = from_us(asked.at)
    for hole in _untrusted(asked):
        if (hole.from_ts is None or hole.from_ts <= at) and (hole.to_ts is None or at < hole.to_ts):
            raise asked.unknown(_ledger_says(hole))


def _untrusted(asked: _Asked) -> list[Hole]:
    return [
        hole
        for hole in holes(asked.recording, asked.exchange, asked.market)
        if hole.table == "book" and hole.symbol == asked.symbol and hole.is_missing
    ]


def _ledger_says(hole: Hole) -> str:
    since = "the beginning" if hole.from_ts is None else _text(hole.from_ts)
    until = "on" if hole.to_ts is None else f"to {_text(hole.to_ts)}"
    detail = f": {hole.detail}" if hole.detail else ""
    return f"the gap ledger says that it is not known from {since} {until} ({hole.cause}{detail}; gap {hole.gap})"


def _check_recording(asked: _Asked, last_time: int) -> None:
    """Raise BookUnknown when the recording of this market ended before the instant."""
    received = (asked.at - MARGIN_US, asked.at + MARGIN_US)
    recv = asked.recording.rows("book", asked.exchange, asked.market, received).select(pl.col("recv").cast(pl.Int64))
    latest = max(recv.max().collect().item() or EVER_US[0], last_time)
    if latest + QUIET_US < asked.at:
        raise asked.unknown(f"nothing was recorded after {_at(latest)}")


# Changes


def _apply(asked: _Asked, base: _Base) -> Book:
    rows, changes = _load_changes(asked, base)
    if base.last_seq is None:
        chosen = _follow_frames(asked, base, changes)
    else:
        chosen = _follow_links(asked, base, base.last_seq, changes)
    for change in chosen:
        bid_prices, bid_sizes, ask_prices, ask_sizes = rows[change.row]
        _change_side(base.bids, bid_prices, bid_sizes)
        _change_side(base.asks, ask_prices, ask_sizes)
    last = chosen[-1] if chosen else None
    if last is None and not base.is_exchange_time:
        raise asked.unknown("no whole book was known by then: the first has no exchange time, and no change follows it")
    bids, asks = sorted(base.bids.items(), reverse=True), sorted(base.asks.items())
    return Book(
        asked.exchange,
        asked.market,
        asked.symbol,
        from_us(asked.at),
        from_us(last.time if last is not None else base.time),
        last.last if last is not None else base.last_seq,
        bids,
        asks,
        _trusted([base.bid_bound is None or price >= base.bid_bound for price, _ in bids], asked.rules),
        _trusted([base.ask_bound is None or price <= base.ask_bound for price, _ in asks], asked.rules),
    )


def _change_side(side: dict[float, float], prices: Sequence[float], sizes: Sequence[float]) -> None:
    for price, size in zip(prices, sizes, strict=True):
        if size:
            side[price] = size
        else:
            side.pop(price, None)


def _trusted(within: list[bool], rules: BookRules) -> int:
    """Count the levels that are certain: as many as the channel keeps, wherever they are now; else those in bounds."""
    return sum(within) if rules.depth is None else min(len(within), rules.depth)


def _load_changes(asked: _Asked, base: _Base) -> tuple[list[tuple[Any, ...]], list[Change]]:
    """Return the levels of the changes up to the instant, and the links of these and of those soon after it."""
    skew = base.recv - base.time  # how late the exchange's news are here; more than seconds if our clock was wrong
    received = (max(EVER_US[0], base.recv - MARGIN_US), min(EVER_US[1], asked.at + MARGIN_US + max(0, skew)))
    is_later = is_from(asked.at + 1)
    rows = asked.rows("book", received).filter(~pl.col("snapshot") | is_later)
    last_seq = pl.col("last_seq")
    if base.last_seq is None:
        rows = rows.filter(pl.col("frame") > base.frame) if base.frame is not None else rows
    elif not asked.rules.resets:
        rows = rows.filter(last_seq.is_null() | (last_seq > base.last_seq))
    elif base.is_exchange_time:
        rows = rows.filter(is_from(base.time))
    elif base.frame is not None:
        rows = rows.filter(pl.col("frame") > base.frame)
    # An in-band snapshot continues the book if it has the number the book is at: nothing was missed.
    prev_seq = pl.when("snapshot").then("last_seq").otherwise("prev_seq")
    link = ("time", "frame", prev_seq.alias("prev_seq"), "last_seq")
    known = rows.filter(is_before(asked.at + 1)).select(*link, *_SIDES).collect()
    later = rows.filter(is_later & is_before(asked.at + MARGIN_US)).select(link)
    links = pl.concat([known.drop(_SIDES), later.sort("time", "frame").head(MOST_WAITING).collect()])
    changes = [Change(time, frame, prev, last, row) for row, (time, frame, prev, last) in enumerate(links.iter_rows())]
    return known.select(_SIDES).rows(), changes


def _follow_links(asked: _Asked, base: _Base, tip: int, changes: Sequence[Change]) -> list[Change]:
    """Return the changes that lead from the base, with number `tip`, to the instant."""
    path = follow(asked.rules, tip, base.time if base.is_exchange_time else None, changes, asked.at)
    time = path.applied[-1].time if path.applied else base.time
    if path.unlinked is not None:
        reached = f"{_at(time)} (number {path.tip})"
        raise asked.unknown(f"changes are missing between {reached} and {_at(path.unlinked.time)}")
    if not path.is_continued:
        _check_recording(asked, time)
    return path.applied


def _follow_frames(asked: _Asked, base: _Base, changes: Sequence[Change]) -> list[Change]:
    """Return the changes that lead from the base to the instant, in the order in which they came."""
    for hole in _untrusted(asked):
        ended_us = None if hole.to_ts is None else moment_us(hole.to_ts)
        began_us = EVER_US[0] if hole.from_ts is None else moment_us(hole.from_ts)
        if began_us <= asked.at and (ended_us is None or ended_us > base.time):
            raise asked.unknown(f"no whole book was known after this: {_ledger_says(hole)}")
    chosen = sorted((change for change in changes if change.time <= asked.at), key=attrgetter("frame"))
    if len(chosen) == len(changes):
        _check_recording(asked, chosen[-1].time if chosen else base.time)
    return chosen


def _at(us: int) -> str:
    return _text(from_us(us))


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
