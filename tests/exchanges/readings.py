"""What the tests of decoding share: recordings, our rows of them, and an independent reading by plain `json.loads`."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold
from collector_trio.instruments import Instrument, Naming

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason=f"the recordings are not here: {SHARED}")

Row = dict[str, Any]
SIDES = {"bids": ("bid_price", "bid_size"), "asks": ("ask_price", "ask_size")}


@attrs.frozen
class Recorded:
    """One line of a recording: what was received when, from a WebSocket or (with its URL) from REST."""

    received_ns: int
    frame: bytes
    url: str | None = None


def jsonl(path: Path) -> list[Any]:
    """Read JSON lines, packed or not."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines() if line]


def recorded(path: Path) -> Iterator[Recorded]:
    """Read a recording of hftbacktest (`<time> <frame>`) or of cryptofeed (JSON lines)."""
    if path.parent.name == "hftbacktest":
        unit = 1000 if path.suffixes[-2:] == [".dat", ".gz"] else 1
        for line in gzip.decompress(path.read_bytes()).splitlines():
            stamp, _, frame = line.partition(b" ")
            yield Recorded(int(stamp) * unit, frame)
        return
    for row in jsonl(path):
        if row["kind"] == "ws_recv":
            yield Recorded(row["ts_ns"], row["frame"].encode())
        elif row["kind"] == "http_get":
            yield Recorded(row["ts_ns"], row["frame"].encode(), row["url"])


@attrs.frozen
class Folded:
    """What became of some frames: counts per class, why a frame (by number, from 1) gave no row, and the rows."""

    counts: Counter[str]
    others: Mapping[int, tuple[str, str]]
    trades: Sequence[Row]
    book: Sequence[Row]
    rejects: Sequence[Row]

    @property
    def rows(self) -> list[Row]:
        """All rows of market data."""
        return [*self.trades, *self.book]

    @property
    def only(self) -> tuple[str, str]:
        """Class and reason of the one frame."""
        ((_, other),) = self.others.items()
        return other


def fold(
    exchange: str, frames: Iterable[bytes], instruments: Iterable[Instrument] = (), *, market: str = "spot"
) -> Folded:
    """Decode `frames` to the end, columns included; all `instruments` count as some of `market`."""
    others = {}

    def classified(number: int, what: str, reason: str) -> None:
        if what != "row":
            others[number] = what, str(reason)

    naming = Naming(unknown_market=market)
    naming.add(attrs.evolve(instrument, market=market) for instrument in instruments)
    folding = Fold(naming, classified)
    folding.feed_frames(exchange, market, list(frames), None, 1, 0)
    tables: dict[str, list[Row]] = {"trades": [], "book": [], "rejects": []}
    for (table, _, _), rows in folding.take().items():
        names = [name for name in rows.column_names if name != "recv"]
        columns = [rows.column(name).cast("int64") if name == "ts" else rows.column(name) for name in names]
        values = zip(*(column.to_pylist() for column in columns), strict=True)
        tables[table] += [dict(zip(names, row, strict=True)) for row in values]
    return Folded(+folding.counts, others, tables["trades"], tables["book"], tables["rejects"])


# Our numbers


def same_number(row: Row, name: str, text: str) -> bool:
    """Tell whether the row holds exactly the decimal `text`: as float64, or as text in `exact`."""
    if row["exact"] is not None and name in (exact := json.loads(row["exact"])):
        return Decimal(exact[name]) == Decimal(text)
    return _same(row[name], text)


def same_levels(row: Row, side: str, levels: Sequence[Sequence[str]]) -> bool:
    """Tell whether one side of the row holds exactly `levels`, in their order."""
    exact = {} if row["exact"] is None else json.loads(row["exact"])
    for column, name in enumerate(SIDES[side]):
        texts = [level[column] for level in levels]
        if name in exact:
            if list(map(Decimal, exact[name])) != list(map(Decimal, texts)):
                return False
        elif len(row[name]) != len(texts) or not all(map(_same, row[name], texts)):
            return False
    return True


def _same(value: float, text: str) -> bool:
    """Compare as decimals; of up to 15 digits float64 keeps each, so equal floats are equal decimals."""
    return value == float(text) and (len(text) <= 15 or Decimal(repr(value)) == Decimal(text))


# The independent reading


@attrs.frozen
class Expected:
    """One row as plain `json.loads` sees it: whose, and the values by our columns' names, numbers as their text."""

    table: str
    native_symbol: str
    values: Row
    levels: Mapping[str, Sequence[Sequence[str]]]


def read_plainly(exchange: str, frame: bytes) -> list[Expected]:
    """Say which rows a frame of a recorded channel holds; none for all other frames."""
    message = json.loads(frame)
    return list((_read_binance if exchange == "binance" else _read_okx)(message))


def _read_binance(message: Row) -> Iterator[Expected]:
    data = message.get("data", message)
    match data.get("e") if isinstance(data, dict) else None:
        case "trade" if data.get("X", "MARKET") == "MARKET":
            yield _trade(data["s"], data["t"], data["p"], data["q"], not data["m"], data["T"], None, None)
        case "aggTrade":
            yield _trade(data["s"], data["a"], data["p"], data["q"], not data["m"], data["T"], data["f"], data["l"])
        case "depthUpdate":
            values = {"ts": data["E"] * 1000, "first_seq": data["U"], "last_seq": data["u"], "snapshot": False}
            values["prev_seq"] = data.get("pu", data["U"] - 1)
            yield Expected("book", data["s"], values, {"bids": data["b"], "asks": data["a"]})


def _read_okx(message: Row) -> Iterator[Expected]:
    channel = message.get("arg", {}).get("channel", "")
    for data in message.get("data", ()):
        if channel in ("trades", "trades-all"):
            last = int(data["tradeId"])
            first = last - int(data["count"]) + 1 if "count" in data else None
            buy = {"buy": True, "sell": False}[data["side"]]
            time = int(data["ts"])
            end = None if first is None else last
            yield _trade(data["instId"], last, data["px"], data["sz"], buy, time, first, end)
        elif channel in ("books", "books-l2-tbt"):
            snapshot = {"snapshot": True, "update": False}[message["action"]]
            if snapshot or data["bids"] or data["asks"]:
                values = {"ts": int(data["ts"]) * 1000, "first_seq": None, "snapshot": snapshot}
                values |= {"last_seq": data.get("seqId"), "prev_seq": data.get("prevSeqId")}
                levels = {"bids": data["bids"], "asks": data["asks"]}
                yield Expected("book", message["arg"]["instId"], values, levels)


def _trade(
    symbol: str, number: int, price: str, size: str, buy: bool, time_ms: int, first: int | None, last: int | None
) -> Expected:
    values = {"id": number, "price": price, "size": size, "side": "buy" if buy else "sell", "ts": time_ms * 1000}
    return Expected("trades", symbol, values | {"first_id": first, "last_id": last}, {})


def difference(row: Row, expected: Expected) -> str | None:
    """Say where our row is not what is expected, None if nowhere."""
    if row["symbol"] != expected.native_symbol:
        return f"symbol {row['symbol']} is not {expected.native_symbol}"
    for name, value in expected.values.items():
        numeric = name in ("price", "size")
        if not (same_number(row, name, value) if numeric else row[name] == value):
            return f"{name} {row[name]!r} is not {value!r}"
    for side, levels in expected.levels.items():
        if not same_levels(row, side, levels):
            return f"{side} are not {levels}"
    return None


# Books


@attrs.define
class Book:
    """A book built from rows: sizes by price."""

    bids: dict[float, float] = attrs.field(factory=dict)
    asks: dict[float, float] = attrs.field(factory=dict)

    def seed(self, answer: Mapping[str, Any]) -> None:
        """Become what a REST snapshot says."""
        self.bids = {float(price): float(size) for price, size in answer["bids"]}
        self.asks = {float(price): float(size) for price, size in answer["asks"]}

    def apply(self, row: Row) -> None:
        """Take one row of the table `book`."""
        if row["snapshot"]:
            self.bids, self.asks = {}, {}
        for side, name in ((self.bids, "bids"), (self.asks, "asks")):
            price, size = SIDES[name]
            for level, amount in zip(row[price], row[size], strict=True):
                if amount:
                    side[level] = amount
                else:
                    side.pop(level, None)

    def levels(self, depth: int | None = None) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Return both sides, best first."""
        return sorted(self.bids.items(), reverse=True)[:depth], sorted(self.asks.items())[:depth]


def bridged(rows: Iterable[Row], last_update_id: int, *, futures: bool) -> list[Row]:
    """Return the changes that lead on from a REST snapshot (protocols.md 1.5 and 2.5); they must bridge and chain."""
    kept = [row for row in rows if row["last_seq"] >= last_update_id + (0 if futures else 1)]
    if kept:
        first = kept[0]
        assert first["prev_seq"] <= last_update_id <= first["last_seq"], "the snapshot and the changes do not meet"
    for before, after in pairwise(kept):
        assert after["prev_seq"] == before["last_seq"], f"{before['last_seq']} is not followed by {after['prev_seq']}"
    return kept


def okx_instruments(recording: Path) -> list[Instrument]:
    """Return what OKX itself said of its instruments when cryptofeed recorded."""
    found: dict[str, Instrument] = {}
    for line in recorded(recording):
        if line.url is not None and "public/instruments" in line.url:
            listed = EXCHANGES["okx"].parse_instruments("spot", line.frame)
            found |= {instrument.native_symbol: instrument for instrument in listed}
    return list(found.values())
