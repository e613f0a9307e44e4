"""A segment cut off at any byte, with any byte flipped, with zeros for a tail, empty, replaced by something else: the
recorder starts, the follower stores, the report tells. Only what was hit is lost, and what is lost is in the ledger.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
import structlog
import zstandard

from collector_trio.followers import tables
from collector_trio.followers.cursor import cursor_path, load_cursor
from collector_trio.followers.tables import open_tables
from collector_trio.journal.records import Batch, Letter, read_records
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.journal.report import JournalFound, inspect
from collector_trio.journal.segments import state_dir

from ..followers.recordings import Recorder, binance_trade, okx_book, okx_trade, recording
from .writing import HandClock, segments

SEED = random.Random().randrange(10**6)
Span = tuple[int, int]
Record = tuple[Span, list[tuple[str, str, int]], list[int], Span]  # place, trades, book changes, frames


@attrs.define
class Rows:
    """What the follower would have written, kept in memory: files are not what is tested here, and take most time."""

    found: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)

    def publish(self, data_dir: Path, segment: int, found: dict[Any, pa.Table], ns: int) -> None:
        for (table, _, _), rows in found.items():
            for name, column in zip(rows.column_names, rows.columns, strict=True):
                if pa.types.is_timestamp(column.type):
                    rows = rows.set_column(rows.column_names.index(name), name, column.cast(pa.int64()))
            self.found.setdefault(table, []).extend(rows.to_pylist())

    def ids(self, exchange: str, symbol: str) -> list[int]:
        those = self.found.get("trades", [])
        return [row["id"] for row in those if (row["exchange"], row["symbol"]) == (exchange, symbol)]

    def missing(self, exchange: str, symbol: str) -> list[int]:
        """Return the ids that the ledger calls missing, and see that it says why."""
        last = {row["gap"]: row for row in self.found.get("gaps", []) if row["table"] == "trades"}
        found = []
        for row in last.values():
            if (row["exchange"], row["symbol"]) == (exchange, symbol) and row["state"] in ("open", "lost"):
                assert row["cause"] == "journal damaged", row
                found += range(row["first_missing"], row["last_missing"] + 1)
        return found

    def book_gaps(self) -> list[dict[str, Any]]:
        return [row for row in self.found.get("gaps", []) if row["table"] == "book"]


STREAMS = (("binance", "BTC-USDT"), ("binance", "ETH-USDT"), ("okx", "BTC-USDT"))


@attrs.define
class Scene:
    """Three segments, of which the second is to be damaged. The first is stored; the third goes on where that ends."""

    data_dir: Path
    path: Path
    whole: bytes
    records: list[Record]
    ids: dict[tuple[str, str], int]  # the last id of each instrument
    last_frame: int
    checkpoint: bytes
    rows: Rows = attrs.field(factory=Rows)

    def start(self, damaged: bytes | None) -> JournalFound:
        """Put `damaged` where the second segment was, start a recorder there, and look at it."""
        (state_dir(self.data_dir) / "numbers.json").unlink(missing_ok=True)
        cursor_path(self.data_dir).write_bytes(self.checkpoint)
        for path in self.path.parent.glob("*.damaged"):
            path.unlink()
        if damaged is not None:
            self.path.write_bytes(damaged)
        with lock_data_dir(self.data_dir):
            recovered = recover(self.data_dir)
        assert recovered.numbers.frame == self.last_frame + 1
        return inspect(self.data_dir, 1, 1)

    def store(self, damaged: bytes | None) -> JournalFound:
        """The same, with a follower."""
        found = self.start(damaged)
        self.rows.found.clear()
        open_tables(self.data_dir, structlog.get_logger()).store_sealed()
        assert load_cursor(self.data_dir).segment == 3
        return found

    def expect(self, found: JournalFound, is_hit: Callable[[Span], bool]) -> None:
        """Hold everything against what was hit."""
        lost = self.expect_told(found, is_hit)
        gone = {trade for _, trades, _, _ in lost for trade in trades}
        for exchange, symbol in STREAMS:
            stored, missing = self.rows.ids(exchange, symbol), self.rows.missing(exchange, symbol)
            last = self.ids[exchange, symbol]
            first = min(number for name, of, number in self._in_second() if (name, of) == (exchange, symbol))
            assert sorted(missing) == sorted(n for name, of, n in gone if (name, of) == (exchange, symbol))
            assert sorted(stored + missing) == list(range(first, last + 1))
        changes = [seq for _, _, changes, _ in lost for seq in changes]
        assert bool(self.rows.book_gaps()) == bool(changes)
        assert all(row["cause"] == "journal damaged" for row in self.rows.book_gaps())

    def expect_told(self, found: JournalFound, is_hit: Callable[[Span], bool]) -> list[Record]:
        """Hold the report against what was hit; return it."""
        lost = [record for record in self.records if is_hit(record[0])]
        frames = sorted(n for _, _, _, (start, end) in lost for n in range(start, end))
        told = sorted(n for missing in found.missing for n in range(missing.first, missing.last + 1))
        assert told == frames
        assert found.is_whole == (not lost)
        return lost

    def _in_second(self) -> Iterator[tuple[str, str, int]]:
        for _, trades, _, _ in self.records:
            yield from trades


def feed(recorder: Recorder, sessions: tuple[int, int], state: dict[str, int], batches: int) -> None:
    """Receive trades of three instruments and changes of one book, in batches of all sizes."""
    binance, okx = sessions
    for n in range(batches):
        now_ms = recorder.clock.ns // 10**6
        recorder.clock.advance(0.01)
        frames = []
        for _ in range(1 + n % 3):
            symbol, name = ("BTCUSDT", "btc") if n % 2 else ("ETHUSDT", "eth")
            state[name] += 1
            frames.append(binance_trade(state[name], symbol, now_ms))
        recorder.receive(binance, *frames)
        if n % 3 == 0:
            state["okx"] += 1
            recorder.receive(okx, okx_trade(state["okx"], now_ms))
        if n % 4 == 1:
            state["seq"] += 1
            recorder.receive(okx, okx_book(state["seq"], state["seq"] - 1 or -1, now_ms))
        if n % 5 == 0:
            recorder.journal.note(Letter.TICK, {})


def scene(data_dir: Path, batches: int, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Record three segments, the middle one with so many batches, and store the first."""
    rows = Rows()
    monkeypatch.setattr(tables, "publish", rows.publish)
    state = {"btc": 0, "eth": 0, "okx": 0, "seq": 0}
    with recording(data_dir, HandClock()) as recorder:
        sessions = recorder.open("binance"), recorder.open("okx")
        for size in (6, batches, 6):
            feed(recorder, sessions, state, size)
            recorder.next_segment()
    _, second, third, *behind = segments(data_dir)
    for segment in behind:
        segment.path.unlink()
    data = third.path.read_bytes()
    third.path.rename(third.path.with_name("later"))
    whole = second.path.read_bytes()
    second.path.rename(second.path.with_name("victim"))
    open_tables(data_dir, structlog.get_logger()).store_sealed()
    checkpoint = cursor_path(data_dir).read_bytes()
    second.path.with_name("victim").rename(second.path)
    third.path.with_name("later").rename(third.path)
    last = max(r.first_frame + len(r.frames) - 1 for r in read_records(data) if isinstance(r, Batch))
    names = {("binance", "BTC-USDT"): "btc", ("binance", "ETH-USDT"): "eth", ("okx", "BTC-USDT"): "okx"}
    ids = {key: state[name] for key, name in names.items()}
    made = Scene(data_dir, second.path, whole, list(placed(whole)), ids, last, checkpoint, rows)
    made.expect(made.store(whole), lambda span: False)
    return made


def placed(data: bytes) -> Iterator[Record]:
    """Say where each record is, and what was in it."""
    starts = [0, *(n + 1 for n in range(len(data) - 1) if data[n : n + 2] == b"\n#"), len(data)]
    for (start, end), record in zip(pairwise(starts), read_records(data), strict=True):
        trades, changes, frames = [], [], (0, 0)
        if isinstance(record, Batch):
            frames = record.first_frame, record.first_frame + len(record.frames)
            for frame in record.frames:
                said = tables_of(frame)
                if isinstance(said, int):
                    changes.append(said)
                else:
                    trades.append(said)
        yield (start, end), trades, changes, frames


def tables_of(frame: bytes) -> tuple[str, str, int] | int:
    """Read a frame of ours without the decoders: a trade's exchange, symbol and id, or a book change's number."""
    value = json.loads(frame)
    if "stream" in value:
        return "binance", {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT"}[value["data"]["s"]], value["data"]["a"]
    row = value["data"][0]
    return int(row["seqId"]) if value["arg"]["channel"] == "books" else ("okx", row["instId"], int(row["tradeId"]))


def cut_at(place: Scene, offset: int) -> None:
    place.expect(place.store(place.whole[:offset]), lambda span: span[1] > offset)


def flip_at(place: Scene, offset: int, mask: int) -> None:
    data = bytearray(place.whole)
    data[offset] ^= mask
    place.expect(place.store(bytes(data)), lambda span: span[0] <= offset < span[1])


def zero_from(place: Scene, offset: int) -> None:
    data = place.whole[:offset].ljust(len(place.whole), b"\0")
    place.expect(place.store(data), lambda span: span[1] > offset)


@pytest.mark.parametrize("how", ["cut", "flip", "zero"])
def test_a_segment_damaged_anywhere_loses_what_was_hit_and_the_ledger_says_so(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    place = scene(tmp_path, 20, monkeypatch)
    edges = [offset for span, *_ in place.records for offset in (span[0], span[1] - 1)]
    for offset in sorted({*draw.sample(edges, 20), *draw.sample(range(len(place.whole)), 40), 0}):
        if how == "cut":
            cut_at(place, offset)
        elif how == "zero":
            zero_from(place, offset)
        else:
            flip_at(place, offset, draw.randrange(1, 256))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_every_byte_of_a_small_segment_cut_flipped_and_zeroed(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(part)
    place = scene(tmp_path, 12, monkeypatch)
    for offset in range(part, len(place.whole), 4):
        cut_at(place, offset)
        flip_at(place, offset, draw.randrange(1, 256))
        zero_from(place, offset)


LAST = 64 * 1024


@pytest.mark.soak
@pytest.mark.parametrize("part", range(8))
def test_a_segment_cut_at_every_byte_of_its_last_64_kib(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut within a record it cannot matter where, to a follower: it is asked at the edges of each."""
    place = scene(tmp_path, 230, monkeypatch)
    assert len(place.whole) >= LAST
    edges = {offset + n for span, *_ in place.records for offset in span for n in (-1, 0, 1)}
    for offset in range(len(place.whole) - LAST + part, len(place.whole), 8):
        if offset in edges:
            cut_at(place, offset)
        else:
            found = place.start(place.whole[:offset])
            place.expect_told(found, lambda span, offset=offset: span[1] > offset)


OTHERS = {
    "empty": b"",
    "zeros": b"\0" * 5000,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    "JSON lines": b'{"time":1,"level":"info"}\n' * 200,
    "hashes": b"#\n" * 2000,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_segment_replaced_by_something_else_is_lost_whole_and_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = scene(tmp_path, 12, monkeypatch)
    found = place.store(OTHERS[kind])
    place.expect(found, lambda span: True)
    problem = found.segments[1].problem
    assert problem == ("empty" if kind == "empty" else "not a journal: no record in it")
    assert place.path.read_bytes() == OTHERS[kind]


@pytest.mark.parametrize(
    ("what", "put"),
    [
        ("a folder", Path.mkdir),
        ("a pipe", os.mkfifo),
        ("a link to nothing, or to what is no file", lambda path: path.symlink_to("nowhere")),
    ],
)
def test_what_is_no_file_in_a_segments_place_is_named_and_left_alone(
    what: str, put: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = scene(tmp_path, 12, monkeypatch)
    place.path.unlink()
    put(place.path)
    with structlog.testing.capture_logs() as logs:
        found = place.store(None)
    place.expect(found, lambda span: True)
    assert [(other.name, other.what) for other in found.others] == [(place.path.name, what)]
    [said] = [line for line in logs if line["event"] == "frames are not in the journal"]
    [missing] = found.missing
    assert (said["first_missing"], said["last_missing"]) == (missing.first, missing.last)
    assert [missing.why for missing in found.missing] == ["segment 2 is not there"]


def test_a_packed_segment_that_is_cut_short_is_lost_whole_and_the_ledger_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = scene(tmp_path, 12, monkeypatch)
    packed = place.path.with_name(place.path.name + ".zst")
    packed.write_bytes(zstandard.ZstdCompressor().compress(place.whole)[:-7])
    place.path.unlink()
    found = place.store(None)
    place.expect(found, lambda span: True)
    assert "cut short" in str(found.segments[1].problem)


def test_a_crash_that_tears_the_running_segment_loses_what_was_torn_and_nothing_is_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = scene(tmp_path, 12, monkeypatch)
    shutil.move(place.path, running := place.path.with_suffix(".open"))
    for path in place.path.parent.glob("000000000003-*"):
        path.unlink()
    for span, *_ in place.records:
        running.write_bytes(place.whole[: span[0] + 10])
        (state_dir(tmp_path) / "numbers.json").unlink(missing_ok=True)  # it knows of no later frame than the last seal
        found = inspect(tmp_path, 1, 1)
        assert found.is_whole
        assert found.segments[-1].torn_bytes == 10
