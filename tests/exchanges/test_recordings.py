"""Rows are what the recordings contain, and books built from them are what other programs built."""

import gc
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from .readings import (
    SHARED,
    Book,
    Folded,
    Recorded,
    Row,
    bridged,
    difference,
    fold,
    jsonl,
    needs_shared,
    read_plainly,
    recorded,
    same_number,
)

pytestmark = needs_shared

# Recordings that continue over midnight are read as one, as tardis read them: its reading is named as we name them.
HFTBACKTEST = {
    "spot_btcusdt_202304": ["spot_btcusdt_20230405.dat.gz"],
    "spot_btcusdt_202408": ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"],
    "usdm_btcusdt_202304": ["usdm_btcusdt_20230404.dat.gz", "usdm_btcusdt_20230405.dat.gz"],
    "usdm_btcusdt_20240808": ["usdm_btcusdt_20240808.gz"],
    "usdm_ethusdt_202407": ["usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"],
}
CRYPTOFEED = [
    "BINANCE_2021-04.jsonl.gz",
    "BINANCE_2021-10.jsonl.gz",
    "BINANCE_FUTURES_2021-07.jsonl.gz",
    "BINANCE_TR_2023-04.jsonl.gz",
    "BINANCE_US_2021-10.jsonl.gz",
    "OKEX_2021-07.conn1.jsonl.gz",
    "OKEX_2021-07.conn2.jsonl.gz",
    "OKEX_2021-07.conn3.jsonl.gz",
    "OKX_2022-05.jsonl.gz",
]
# Frames that give no row though their channel is recorded, and why that is right.
NO_ROW = {"heartbeat", "a whole book, not a change of one", "not a market trade: INSURANCE_FUND"}


@attrs.frozen
class Recording:
    name: str
    exchange: str
    lines: list[Recorded]
    folded: Folded

    @property
    def frames(self) -> list[bytes]:
        return [line.frame for line in self.lines if line.url is None]


def load(name: str) -> Recording:
    if name in HFTBACKTEST:
        lines = [line for part in HFTBACKTEST[name] for line in recorded(SHARED / "hftbacktest" / part)]
    else:
        lines = list(recorded(SHARED / "cryptofeed" / name))
    exchange = "okx" if name.startswith("OK") else "binance"
    frames = [line.frame for line in lines if line.url is None]
    return Recording(name, exchange, lines, fold(exchange, frames))


@pytest.fixture(scope="module", autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """Millions of small objects wait to be compared; looking for cycles among them takes a quarter of the time."""
    gc.disable()
    yield
    gc.enable()


def _long(names: Iterable[str]) -> list[Any]:
    """USD-M recordings are long; tests/truth reads one of them every day."""
    soaked = {"usdm_btcusdt_202304", "usdm_btcusdt_20240808", "usdm_ethusdt_202407"}
    return [pytest.param(name, marks=pytest.mark.soak) if name in soaked else name for name in names]


@pytest.fixture(scope="module", params=_long([*HFTBACKTEST, *CRYPTOFEED]))
def recording(request: pytest.FixtureRequest) -> Recording:
    return load(request.param)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SHARED / "FACTS.json").read_bytes())
    return read


def test_every_frame_is_a_row_an_ack_or_of_a_channel_we_do_not_record(recording: Recording) -> None:
    assert recording.folded.counts.total() == len(recording.frames)
    assert recording.folded.rejects == []
    for what, reason in recording.folded.others.values():
        assert (what, reason) == ("control", "ack: subscribe") or (
            what == "ignored" and (reason.startswith("channel not recorded: ") or reason in NO_ROW)
        )


def test_rows_are_what_plain_json_reads(recording: Recording) -> None:
    expected = [
        (number, row)
        for number, frame in enumerate(recording.frames, 1)
        if b'@bookTicker"' not in frame  # two of three frames, and none of them is a row
        for row in read_plainly(recording.exchange, frame)
    ]
    ours: dict[str, Iterator[Row]] = {"trades": iter(recording.folded.trades), "book": iter(recording.folded.book)}
    for number, row in expected:
        found = next(ours[row.table])
        assert found["frame"] == number
        assert difference(found, row) is None
    assert [next(rows, None) for rows in ours.values()] == [None, None]


def test_counts_and_ids_are_those_of_the_facts(recording: Recording, facts: dict[str, Any]) -> None:
    known = [facts[part] for part in HFTBACKTEST.get(recording.name, [recording.name])]
    streams: Counter[str] = Counter()
    for part in known:
        for stream, frames in part["streams"].items():
            kind = stream.partition("@")[2].partition("@")[0] or stream.partition(":")[0]
            streams[kind.partition("_")[0]] += frames
    reasons: Counter[str] = Counter()
    for _, reason in recording.folded.others.values():
        reasons[reason.removeprefix("channel not recorded: ").partition("@")[0]] += 1
    not_market = reasons["not a market trade: INSURANCE_FUND"]
    if recording.exchange == "binance":
        assert len(recording.folded.trades) + not_market == streams["trade"] + streams["aggTrade"]
        assert len(recording.folded.book) == streams["depth"]
        assert (reasons["bookTicker"], reasons["kline"]) == (streams["bookTicker"], streams["kline"])
        assert reasons["markPriceUpdate"] == streams["markPrice"]
    else:
        books = [frames for stream, frames in streams.items() if stream.startswith("books")]
        assert len(recording.folded.book) + reasons["heartbeat"] == sum(books)
        assert len(recording.folded.trades) == streams["trades"]  # these recordings have one trade a frame
        assert (reasons["tickers"], reasons["ack: subscribe"]) == (streams["tickers"], streams["event"])
    for stream, trades in known[0]["trades"].items():
        symbol = stream.partition("@")[0].upper()
        ids = [row["id"] for row in recording.folded.trades if row["symbol"] == symbol]
        assert (ids[0], ids[-1]) == (trades["first"], known[-1]["trades"][stream]["last"])
    for symbol, book in known[0]["books"].items():
        rows = [row for row in recording.folded.book if row["symbol"] == symbol]
        if recording.exchange == "binance":
            assert len(rows) == sum(part["books"][symbol]["diffs"] for part in known)
            assert (rows[0]["first_seq"], rows[0]["last_seq"]) == (book["first"]["U"], book["first"]["u"])
            assert rows[-1]["last_seq"] == known[-1]["books"][symbol]["last_u"]


# All that begin with a snapshot.
@pytest.mark.parametrize("recording", _long(list(HFTBACKTEST)[1:]), indirect=True, scope="module")
def test_over_midnight_books_and_trades_are_those_of_tardis(recording: Recording) -> None:
    (snapshot,) = (json.loads(frame) for frame in recording.frames if b'"stream"' not in frame)
    book = Book()
    book.seed(snapshot)
    futures = recording.name.startswith("usdm")
    for row in bridged(recording.folded.book, snapshot["lastUpdateId"], futures=futures):
        book.apply(row)
    reading = jsonl(SHARED / "oracle-tardis" / f"{recording.name}.jsonl.gz")
    (final,) = (row for row in reading if row["type"] == "final_book")
    assert book.levels() == theirs(final)
    assert [tardis_trade(row) for row in recording.folded.trades] == [
        (row["symbol"], row["id"], row["price"], row["amount"], row["side"], row["timestamp"])
        for row in reading
        if row["type"] == "trade"
    ]


# cryptofeed's own expectations (shared/data/README.md): L2_BOOK callbacks and trades. A Binance snapshot is one
# callback and the changes it already holds are none; an OKX update without levels is one.
@pytest.mark.parametrize(
    ("name", "books", "trades"),
    [
        ("BINANCE_2021-04.jsonl.gz", 600, 24),
        ("BINANCE_2021-10.jsonl.gz", 176, 2),
        ("BINANCE_FUTURES_2021-07.jsonl.gz", 756, 91),
        ("BINANCE_US_2021-10.jsonl.gz", 336, 11),
        ("BINANCE_TR_2023-04.jsonl.gz", 81, 0),
        ("OKX_2022-05.jsonl.gz", 290, 74),
    ],
)
def test_rows_are_as_many_as_the_callbacks_of_cryptofeed(name: str, books: int, trades: int) -> None:
    recording = load(name)
    count = Counter(reason for _, reason in recording.folded.others.values())["heartbeat"]
    if recording.exchange == "binance":
        snapshots = rest_snapshots(recording)
        for symbol, snapshot in snapshots.items():
            rows = [row for row in recording.folded.book if row["symbol"] == symbol]
            count += 1 + len(bridged(rows, snapshot["lastUpdateId"], futures="FUTURES" in name))
    else:
        count += len(recording.folded.book)
    assert (count, len(recording.folded.trades)) == (books, trades)


def rest_snapshots(recording: Recording) -> dict[str, Any]:
    """Return the REST answers with whole books, by symbol."""
    found = {}
    for line in recording.lines:
        if line.url is not None and "/depth?" in line.url:
            symbol = line.url.partition("symbol=")[2].partition("&")[0]
            found[symbol] = json.loads(line.frame)
    return found


# Other programs' final books


def final_books(oracle: str, name: str, spelled: dict[str, str]) -> dict[str, Any]:
    rows = [row for row in jsonl(SHARED / oracle / name) if row["type"] == "final_book"]
    return {spelled.get(row["symbol"], row["symbol"].removesuffix("-PERP").replace("-", "")): row for row in rows}


def theirs(book: Row) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    bids, asks = ([(float(price), float(size)) for price, size in book[side]] for side in ("bids", "asks"))
    return bids, asks


OKX_SYMBOLS = {"BTC-USD-22K27": "BTC-USD-220527", "UNI-USD-PERP": "UNI-USD-SWAP", "BTC-USDT": "BTC-USDT"}


@pytest.mark.parametrize("oracle", ["oracle-cryptofeed", "oracle-tardis"])
@pytest.mark.parametrize("name", [name for name in CRYPTOFEED if name.startswith("BINANCE")])
def test_binance_books_end_as_other_programs_books_end(name: str, oracle: str) -> None:
    recording = load(name)
    snapshots = rest_snapshots(recording)
    expected = final_books(oracle, name, {})
    checkpoints = {
        (row["symbol"].removesuffix("-PERP").replace("-", ""), row["seq"]): row
        for row in jsonl(SHARED / oracle / name)
        if row["type"] == "book_checkpoint"
    }
    assert snapshots.keys() == expected.keys()
    for symbol, snapshot in snapshots.items():
        book = Book()
        book.seed(snapshot)
        rows = [row for row in recording.folded.book if row["symbol"] == symbol]
        for row in bridged(rows, snapshot["lastUpdateId"], futures="FUTURES" in name):
            book.apply(row)
            if checkpoint := checkpoints.pop((symbol, row["last_seq"]), None):
                assert book.levels(10) == theirs(checkpoint)
        assert book.levels() == theirs(expected[symbol])
    assert checkpoints == {}


def tardis_trade(row: Row) -> tuple[Any, ...]:
    return row["symbol"], str(row["id"]), row["price"], row["size"], row["side"], iso(row["ts"])


def iso(micros: int) -> str:
    """Spell a time as JavaScript does."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("name", [name for name in CRYPTOFEED if name.startswith("OK")])
def test_okx_books_and_trades_end_as_other_programs_end(name: str) -> None:
    recording = load(name)
    books: dict[str, Book] = defaultdict(Book)
    seen = set()
    for row in recording.folded.book:
        assert row["snapshot"] or row["symbol"] in seen, "a change before the first snapshot"
        seen.add(row["symbol"])
        books[row["symbol"]].apply(row)
    tardis = [row for row in jsonl(SHARED / "oracle-tardis" / name) if row["type"] in ("trade", "final_book")]
    assert {symbol: book.levels() for symbol, book in books.items()} == {
        row["symbol"]: theirs(row) for row in tardis if row["type"] == "final_book"
    }
    assert [tardis_trade(row) for row in recording.folded.trades] == [
        (row["symbol"], row["id"], row["price"], row["amount"], row["side"], row["timestamp"])
        for row in tardis
        if row["type"] == "trade"
    ]
    if name.startswith("OKX"):
        expected = final_books("oracle-cryptofeed", name, OKX_SYMBOLS)
        assert {symbol: book.levels() for symbol, book in books.items()} == {s: theirs(r) for s, r in expected.items()}


@pytest.mark.parametrize("name", [name for name in CRYPTOFEED if not name.startswith("OKEX")])
def test_trades_are_those_of_cryptofeed(name: str) -> None:
    rows = load(name).folded.trades
    reading = [row for row in jsonl(SHARED / "oracle-cryptofeed" / name) if row["type"] == "trade"]
    assert len(rows) == len(reading)
    for ours, row in zip(rows, reading, strict=True):
        symbol = OKX_SYMBOLS.get(row["symbol"], row["symbol"].removesuffix("-PERP").replace("-", ""))
        assert (ours["symbol"], str(ours["id"]), ours["side"]) == (symbol, row["id"], row["side"])
        assert same_number(ours, "price", row["price"])
        assert same_number(ours, "size", row["amount"])
        assert ours["ts"] == round(row["timestamp"] * 1e6)


# The command


def run_decode(arguments: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "collector_trio", "decode", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)


def printed(output: bytes) -> list[Row]:
    return [json.loads(line) for line in output.splitlines()]


def check_printed(recording: Recording, lines: list[Row], stamped: bool) -> None:
    """Each line of the recording must be printed once or more, in order, as the fold has it."""
    assert sorted({line["line"] for line in lines}) == list(range(1, len(recording.frames) + 1))
    rows = iter(sorted(recording.folded.rows, key=lambda row: row["frame"]))
    received = [line.received_ns for line in recording.lines if line.url is None]
    for line in lines:
        number = line["line"]
        if "table" not in line:
            assert line == {"line": number, **dict([recording.folded.others[number]])}
            continue
        row = next(rows)
        assert line["native_symbol"] == line["symbol"] == row["symbol"]
        assert line["ts"].endswith("Z")
        assert line["recv_ns"] == (received[number - 1] if stamped else None)
        assert (line["session"], line["frame"]) == (None, None)
        assert number == row["frame"]
        for name in line.keys() & row.keys() - {"ts", "recv_ns", "frame"}:
            assert line[name] == row[name]
    assert next(rows, None) is None


def test_the_command_prints_every_line_of_a_file_of_hftbacktest() -> None:
    name = "spot_btcusdt_202304"
    (part,) = HFTBACKTEST[name]
    done = run_decode(["--exchange", "binance", "--market", "spot", str(SHARED / "hftbacktest" / part)])
    assert done.returncode == 0
    assert done.stderr.decode().startswith("symbols are the exchange's own, and contracts are not converted")
    assert done.stderr.count(b"\n") == 1
    check_printed(load(name), printed(done.stdout), stamped=True)


@pytest.mark.parametrize("name", ["BINANCE_2021-04.jsonl.gz", "OKX_2022-05.jsonl.gz"])
def test_the_command_prints_every_frame_of_cryptofeed_from_standard_input(name: str) -> None:
    recording = load(name)
    stdin = b"".join(frame + b"\n" for frame in recording.frames)
    done = run_decode(["--exchange", recording.exchange, "--market", "spot"], stdin)
    assert done.returncode == 0
    check_printed(recording, printed(done.stdout), stamped=False)


def test_the_command_converts_contracts_that_the_exchange_describes(tmp_path: Path) -> None:
    recording = load("OKX_2022-05.jsonl.gz")
    answers = {line.url.partition("instType=")[2]: line.frame for line in recording.lines if line.url is not None}
    described = tmp_path / "swaps.json"
    described.write_bytes(answers["SWAP"])
    frames = [frame for frame in recording.frames if b'"UNI-USD-SWAP"' in frame and b'"trades"' in frame]
    arguments = ["--exchange", "okx", "--market", "perp", "--instruments", str(described)]
    done = run_decode(arguments, b"\n".join(frames))
    assert (done.returncode, done.stderr) == (0, b"")
    (row,) = (line for line in printed(done.stdout) if "table" in line)
    assert (row["market"], row["symbol"], row["native_symbol"]) == ("perp", "UNI-USD", "UNI-USD-SWAP")
    assert row["contracts"] == float(json.loads(frames[row["line"] - 1])["data"][0]["sz"])
    assert row["size"] == pytest.approx(row["contracts"] * 10 / row["price"], rel=1e-14)  # ctVal is 10 USD


def test_the_command_ends_with_1_when_a_frame_is_rejected() -> None:
    stdin = b'\n1672515782136 {"table":"spot/trade","data":[]}\n\npong\n'
    done = run_decode(["--exchange", "okx", "--market", "spot"], stdin)
    assert done.returncode == 1
    assert printed(done.stdout) == [{"line": 2, "reject": "a frame of API v3, not v5"}, {"line": 4, "control": "pong"}]


def test_the_command_says_which_file_cannot_be_read(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes((SHARED / "hftbacktest" / "spot_btcusdt_20240808.gz").read_bytes()[:1000])
    done = run_decode(["--exchange", "binance", "--market", "spot", str(cut)])
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith(f"{cut}: cannot be read: ")
