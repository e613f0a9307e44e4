"""Recordings of the live exchanges, through everything the follower does: no false gaps, and the books of others."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest

from collector_trio.continuity.fold import Continuity
from collector_trio.followers.fold import Fold, Naming
from collector_trio.journal.records import Batch, Letter, Note

from ..exchanges.readings import SHARED, Recorded, jsonl, needs_shared, recorded

pytestmark = needs_shared

CONTINUED = {  # over midnight, read as one
    "spot_btcusdt_202304": ["spot_btcusdt_20230405.dat.gz"],
    "spot_btcusdt_202408": ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"],
    "usdm_ethusdt_202407": ["usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"],
    "usdm_btcusdt_202304": ["usdm_btcusdt_20230404.dat.gz", "usdm_btcusdt_20230405.dat.gz"],
    "usdm_btcusdt_20240808": ["usdm_btcusdt_20240808.gz"],
}
SHORT = [
    "BINANCE_2021-04.jsonl.gz",
    "BINANCE_2021-10.jsonl.gz",
    "BINANCE_FUTURES_2021-07.jsonl.gz",
    "BINANCE_US_2021-10.jsonl.gz",
    "BINANCE_TR_2023-04.jsonl.gz",
    "OKEX_2021-07.conn1.jsonl.gz",
    "OKEX_2021-07.conn2.jsonl.gz",
    "OKEX_2021-07.conn3.jsonl.gz",
    "OKX_2022-05.jsonl.gz",
]
LONG = {"usdm_btcusdt_202304", "usdm_btcusdt_20240808"}
OKX_SYMBOLS = {"BTC-USD-22K27": "BTC-USD-220527", "UNI-USD-PERP": "UNI-USD-SWAP"}


@attrs.define
class Recording:
    """What was received, as a journal would have it: session 1 is the socket, each REST answer a session of its own."""

    name: str
    exchange: str
    market: str
    lines: list[Recorded]

    def records(self, without: Iterable[int] = ()) -> Iterator[Batch | Note]:
        """Yield the records, but not the frames with these numbers (which keep them)."""
        left_out = set(without)
        opened = {"session": 1, "exchange": self.exchange, "markets": [self.market], "stream": "recorded/1"}
        yield Note(Letter.OPENED, self.lines[0].received_ns, opened)
        for number, line in enumerate(self.lines, 1):
            symbol = snapshot_of(self.name, line)
            if symbol is not None:
                request = {
                    "session": number + 1, "exchange": self.exchange, "market": self.market, "native_symbol": symbol,
                    "url": line.url or "inline",
                }  # fmt: skip
                yield Note(Letter.REQUEST, line.received_ns, request)
                yield Batch(number, line.received_ns, number + 1, [line.frame])
            elif line.url is None and number not in left_out:
                yield Batch(number, line.received_ns, 1, [line.frame])


def snapshot_of(name: str, line: Recorded) -> str | None:
    """Return whose whole book this line is, if it is one."""
    if line.url is not None:
        return line.url.partition("symbol=")[2].partition("&")[0] if "/depth?" in line.url else None
    if b'"stream"' not in line.frame[:12] and b'"lastUpdateId"' in line.frame[:40]:
        return name.split("_")[1].upper()
    return None


def load(name: str) -> Recording:
    if name in CONTINUED:
        lines = [line for part in CONTINUED[name] for line in recorded(SHARED / "hftbacktest" / part)]
    else:
        lines = list(recorded(SHARED / "cryptofeed" / name))
    futures = name.startswith("usdm") or "FUTURES" in name
    return Recording(name, "okx" if name.startswith("OK") else "binance", "perp" if futures else "spot", lines)


def folded(recording: Recording, without: Iterable[int] = ()) -> tuple[Fold, dict[str, list[dict[str, Any]]]]:
    fold = Fold(Naming(unknown_market=recording.market), continuity=Continuity())
    for record in recording.records(without):
        fold.feed(record)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (table, _, _), found in fold.take().items():
        names = [name for name in found.column_names if name not in ("recv", "ts", "from_ts", "to_ts")]
        rows[table] += found.select(names).to_pylist()
    return fold, rows


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.soak) if n in LONG else n for n in [*CONTINUED, *SHORT]])
def recording(request: pytest.FixtureRequest) -> Recording:
    return load(request.param)


@pytest.fixture(scope="module")
def done(recording: Recording) -> tuple[Fold, dict[str, list[dict[str, Any]]]]:
    return folded(recording)


def test_a_recording_without_holes_has_no_gaps_and_no_duplicates(recording: Recording, done: Any) -> None:
    fold, rows = done
    assert rows["gaps"] == []
    assert fold.counts["duplicate"] == 0
    assert len(rows["trades"]) > 0 or "TR" in recording.name


def test_snapshots_bridge_where_the_facts_say(recording: Recording, done: Any) -> None:
    _, rows = done
    if recording.exchange != "binance":
        pytest.skip("whole books are in-band")
    facts = json.loads((SHARED / "FACTS.json").read_bytes())
    books = facts[CONTINUED.get(recording.name, [recording.name])[0]]["books"]
    for symbol, book in books.items():
        changes = [row for row in rows["book"] if row["symbol"] == symbol]
        synced = [row for row in rows["book_snapshots"] if row["symbol"] == symbol]
        if "rest_snapshot" not in book:
            assert not synced
            continue
        assert book["synchronisable"]
        assert synced, f"{symbol} never synced"
        number = book["rest_snapshot"]["lastUpdateId"]
        reach = number if recording.market == "perp" else number + 1
        first = next((index for index, row in enumerate(changes) if row["last_seq"] >= reach), None)
        assert first == book["first_bridging_diff_index"]
        at = max(row["frame"] for row in changes[: first + 1])
        assert synced[0]["frame"] <= max(at, book["rest_snapshot"]["line"] + 1) + 1, "synced as soon as it could be"


def levels(book: dict[str, Any]) -> tuple[dict[float, float], dict[float, float]]:
    """Read a final book of another program."""
    found = []
    for side in ("bids", "asks"):
        pairs = [(level["price"], level["amount"]) if isinstance(level, dict) else level[:2] for level in book[side]]
        found.append({float(price): float(size) for price, size in pairs})
    return found[0], found[1]


@pytest.mark.parametrize("oracle", ["oracle-tardis", "oracle-cryptofeed"])
def test_books_end_as_other_programs_books_end(recording: Recording, done: Any, oracle: str) -> None:
    fold, _ = done
    path = SHARED / oracle / (recording.name if recording.name in SHORT else f"{recording.name}.jsonl.gz")
    if not path.exists():
        pytest.skip(f"{oracle} has no reading of it")
    finals = [row for row in jsonl(path) if row["type"] == "final_book"]
    assert finals
    for final in finals:
        symbol = OKX_SYMBOLS.get(final["symbol"], final["symbol"])
        if recording.exchange == "binance":
            symbol = symbol.removesuffix("-PERP").replace("-", "")
        slot = fold._books[f"{recording.exchange} {recording.market} {symbol}"]
        assert (slot.book.bids, slot.book.asks) == levels(final)
