"""Tables written by hand, into the files a follower would write: what is in them is known to the row."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from collector_trio.followers.columns import build
from collector_trio.followers.publish import publish
from collector_trio.tables import TABLES, Kind

START = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DELAY = timedelta(milliseconds=40)  # from the exchange to us

Row = Mapping[str, Any]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def write(data_dir: Path, table: str, rows: Sequence[Row], exchange: str = "binance", market: str = "spot") -> None:
    """Write rows as the follower does: one file per minute of receiving. Without `recv` it is `DELAY` after `ts`."""
    numbers = count(1 + len(list(data_dir.glob("**/*.parquet"))))
    minutes: dict[datetime, list[Row]] = {}
    for row in rows:
        recv = row.get("recv") or row["ts"] + DELAY
        minutes.setdefault(recv.replace(second=0, microsecond=0), []).append({**row, "recv": recv})
    for minute, those in sorted(minutes.items()):
        columns: dict[str, Any] = {"exchange": exchange, "market": market}
        columns["recv_ns"] = [us(row["recv"]) * 1000 for row in those]
        for name, kind in TABLES[table].columns.items():
            if name not in columns:
                values = [row.get(name) for row in those]
                columns[name] = [v and us(v) for v in values] if kind is Kind.TIME else values
        publish(
            data_dir, next(numbers), {(table, exchange, market): build(table, columns, len(those))}, us(minute) * 1000
        )


def change(
    seconds: float,
    prev: int | None,
    last: int | None,
    bids: Mapping[float, float] | None = None,
    asks: Mapping[float, float] | None = None,
    *,
    symbol: str = "BTC-USDT",
    **others: Any,
) -> dict[str, Any]:
    """Return one row of `book`."""
    row = {"symbol": symbol, "ts": at(seconds), "frame": int(seconds * 1000), "snapshot": False}
    first = None if prev is None else prev + 1
    return row | {"first_seq": first, "prev_seq": prev, "last_seq": last} | sides(bids or {}, asks or {}) | others


def whole(
    seconds: float,
    last: int | None,
    bids: Mapping[float, float],
    asks: Mapping[float, float] | None = None,
    *,
    symbol: str = "BTC-USDT",
    **others: Any,
) -> dict[str, Any]:
    """Return one row of `book_snapshots`."""
    row = {"symbol": symbol, "ts": at(seconds), "frame": int(seconds * 1000), "last_seq": last}
    return row | sides(bids, asks or {}) | others


def in_band(seconds: float, last: int | None, bids: Mapping[float, float], **others: Any) -> dict[str, Any]:
    """Return a whole book as a row of `book`."""
    return change(seconds, None if last is None else -1, last, bids, **{"snapshot": True} | others)


def gap(seconds: float, state: str, since: float | None, until: float | None, **others: Any) -> dict[str, Any]:
    """Return one row of `gaps`, noted at `seconds`."""
    times = {"from_ts": None if since is None else at(since), "to_ts": None if until is None else at(until)}
    row = {"symbol": "BTC-USDT", "recv": at(seconds), "table": "book", "gap": "a1", "state": state, "cause": "eof"}
    return row | times | others


def sides(bids: Mapping[float, float], asks: Mapping[float, float]) -> dict[str, Any]:
    bids, asks = dict(sorted(bids.items(), reverse=True)), dict(sorted(asks.items()))
    return {
        "bid_price": list(bids),
        "bid_size": list(bids.values()),
        "ask_price": list(asks),
        "ask_size": list(asks.values()),
    }
