"""Recordings of the live exchanges, through everything the follower does: no false gaps, and the books of others."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from operator import itemgetter
from typing import Any

import attrs
import pytest

from collector_trio.continuity.fold import Continuity
from collector_trio.followers.fold import Fold
from collector_trio.instruments import Naming
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
        """Yield the records, but not the frames with these numbers: as if the exchange had not sent them."""
        left_out, numbers = set(without), count(1)
        opened = {"session": 1, "exchange": self.exchange, "markets": [self.market], "stream": "recorded/1"}
        yield Note(Letter.OPENED, self.lines[0].received_ns, opened)
        for place, line in enumerate(self.lines, 1):
            symbol = snapshot_of(self.name, line)
            if symbol is not None:
                number = next(numbers) if left_out else place
                request = {
                    "session": number + 1, "exchange": self.exchange, "market": self.market, "native_symbol": symbol,
                    "url": line.url or "inline",
                }  # fmt: skip
                yield Note(Letter.REQUEST, line.received_ns, request)
                yield Batch(number, line.received_ns, number + 1, [line.frame])
            elif line.url is None and place not in left_out:
                number = next(numbers) if left_out else place
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


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.soak) if n in LONG else n for n in [*CONTINUED, *SHORT]]
)
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
        book = fold.book(recording.exchange, recording.market, symbol)
        assert (book.bids, book.asks) == levels(final)


# Frames taken out by the test


def removable(recording: Recording, draw: random.Random, count: int, kind: bytes) -> list[int]:
    """Draw frames of one kind, neither among the first nor among the last."""
    numbers = [n for n, line in enumerate(recording.lines, 1) if line.url is None and kind in line.frame[:120]]
    return sorted(draw.sample(numbers[len(numbers) // 4 : -len(numbers) // 8], count))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "kind"), [("spot_btcusdt_202304", b"@trade"), ("BINANCE_FUTURES_2021-07.jsonl.gz", b"@aggT")]
)
def test_a_recording_without_some_trades_has_exactly_those_gaps(name: str, kind: bytes, seed: int) -> None:
    print(f"seed {seed}")
    recording = load(name)
    removed = removable(recording, random.Random(seed), 12, kind)
    key = "t" if kind == b"@trade" else "a"
    data = [json.loads(recording.lines[number - 1].frame)["data"] for number in removed]
    _, rows = folded(recording, removed)
    missing = [
        (gap["symbol"], number)
        for gap in rows["gaps"]
        if gap["table"] == "trades" and gap["state"] == "open"
        for number in range(gap["first_missing"], gap["last_missing"] + 1)
    ]
    assert sorted(missing) == sorted((event["s"], event[key]) for event in data)
    assert {gap["cause"] for gap in rows["gaps"]} == {"skipped"}
    assert sum(gap["missing"] for gap in rows["gaps"]) == len(removed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["spot_btcusdt_202304", "BINANCE_FUTURES_2021-07.jsonl.gz"])
def test_a_recording_without_some_changes_of_a_book_has_a_gap_there_that_no_snapshot_ends(name: str, seed: int) -> None:
    print(f"seed {seed}")
    recording = load(name)
    (removed,) = removable(recording, random.Random(seed), 1, b"@depth")
    change = json.loads(recording.lines[removed - 1].frame)["data"]
    _, rows = folded(recording, [removed])
    (gap,) = rows["gaps"]
    first = change.get("pu", change["U"] - 1) + 1
    assert (gap["table"], gap["symbol"], gap["state"]) == ("book", change["s"], "open")
    assert (gap["first_missing"], gap["last_missing"], gap["missing"]) == (first, change["u"], None)


def test_two_sockets_of_one_stream_are_merged_first_come_first_served_and_nothing_is_doubled() -> None:
    """One lags behind, the other loses frames, says some twice and in the wrong order: together they have all."""
    recording = load("spot_btcusdt_202304")
    frames = [line.frame for line in recording.lines if line.url is None][:6000]
    draw = random.Random(5)
    lying = [(n, frame) for n, frame in enumerate(frames) for _ in range(draw.choice((0, 1, 1, 1, 1, 1, 1, 2)))]
    for index in range(1, len(lying), 50):
        lying[index - 1], lying[index] = lying[index], lying[index - 1]
    lagging = [(n + 40 + draw.randrange(3), frame) for n, frame in enumerate(frames)]
    legs = [(at, 1, frame) for at, frame in lying] + [(at, 2, frame) for at, frame in lagging]
    merged = sorted(legs, key=itemgetter(0))
    fold = Fold(Naming(unknown_market="spot"), continuity=Continuity())
    start = recording.lines[0].received_ns
    for session in (1, 2):
        opened = {"session": session, "exchange": "binance", "markets": ["spot"], "stream": f"recorded/{session}"}
        fold.feed(Note(Letter.OPENED, start, opened))
    for number, (at, session, frame) in enumerate(merged, 1):
        fold.feed(Batch(number, start + at * 1_000_000, session, [frame]))
    tables = {table: found for (table, _, _), found in fold.take().items()}
    alone = Fold(Naming(unknown_market="spot"))
    alone.feed_frames("binance", "spot", frames, None, 1, start)
    truth = {table: found for (table, _, _), found in alone.take().items()}
    for table, key in (("trades", "id"), ("book", "last_seq")):
        assert sorted(tables[table].column(key).to_pylist()) == truth[table].column(key).to_pylist()
    last = {gap["gap"]: gap["state"] for gap in tables["gaps"].select(["gap", "state"]).to_pylist()}
    assert set(last.values()) == {"repaired"}  # before the second socket was heard, nobody was waited for
    assert len(last) < 20
    assert fold.counts["duplicate"] > 2000
