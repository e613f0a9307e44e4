"""The follower, all of it: journal text → records → rows, gaps and books → Parquet files, segment after segment."""

import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

import attrs
import cattrs
import pyarrow as pa
from made_up import KINDS, NS, Market

from collector_trio.followers.fold import Fold
from collector_trio.followers.publish import publish
from collector_trio.followers.tables import new_fold
from collector_trio.garbage import spare_collections
from collector_trio.instruments import Instrument
from collector_trio.journal.records import Batch, Letter, encode_batch, encode_note, read_records

SESSION, ANSWER = 1, 1_000_000  # session numbers: of the socket, and of the first REST answer
RECORDINGS = Path(__file__).parents[1].parent / "shared" / "data" / "hftbacktest"
SEGMENT_NS = 60_000_000_000

spare_collections()  # as the follower does
pa.set_cpu_count(1)


@attrs.define
class Cost:
    """What messages cost the follower, and `json.loads` (which keeps nothing) of the same frames."""

    messages: int = 0
    reads: int = 0
    levels: int = 0
    segments: list[tuple[float, float]] = attrs.field(factory=list)  # µs a message: the follower, json.loads
    rows: int = 0
    stored_bytes: int = 0

    @property
    def us(self) -> float:
        """CPU microseconds per message, of the best segment."""
        return min(us for us, _ in self.segments)

    @property
    def whole_us(self) -> tuple[float, float]:
        """CPU microseconds per message over all segments: the follower, `json.loads`."""
        follower, loads = zip(*self.segments, strict=True)
        return fmean(follower), fmean(loads)

    @property
    def json_us(self) -> float:
        """Those of `json.loads`."""
        return min(us for _, us in self.segments)


@attrs.define
class Run:
    """A follower at work in `folder`, measured as to one table. Both are timed on each segment: speed varies."""

    table: str
    folder: Path
    fold: Fold = attrs.field(factory=new_fold)
    cost: Cost = attrs.field(factory=Cost)
    _segments: int = 0

    def open(self, market: str, natives: Mapping[str, str]) -> None:
        """Say what a journal says before the first frame; `natives` are symbols by native symbol."""
        instruments = [
            Instrument("binance", market, symbol, native, symbol[:3], symbol[4:], "TRADING", True, "0.01", "0.00001")
            for native, symbol in natives.items()
        ]
        listed = {"exchange": "binance", "market": market, "valid_from_ns": NS}
        opened = {"session": SESSION, "exchange": "binance", "markets": [market], "stream": "bench/1"}
        self._feed(
            encode_note(Letter.INSTRUMENTS, NS, listed | {"instruments": cattrs.unstructure(instruments)})
            + encode_note(Letter.OPENED, NS, opened)
        )

    def answer(self, market: str, native: str, number: int, ns: int, book: bytes) -> None:
        """Let REST give a whole book."""
        request = {"session": ANSWER + number, "exchange": "binance", "market": market, "native_symbol": native}
        self._feed(
            encode_note(Letter.REQUEST, ns, request | {"url": "bench"})
            + b"".join(encode_batch(Batch(number, ns, ANSWER + number, [book])))
        )

    def _feed(self, text: bytes) -> None:
        for record in read_records(text):
            self.fold.feed(record)

    def segment(self, batches: Sequence[Batch]) -> None:
        """Fold and publish one segment."""
        text = b"".join(part for batch in batches for part in encode_batch(batch))
        self._segments += 1
        start = time.process_time()
        for batch in batches:
            for frame in batch.frames:
                json.loads(frame)
        json_s = time.process_time() - start
        start = time.process_time()
        self.fold.begin()
        self._feed(text)
        self.fold.note_segment(self._segments)
        tables = self.fold.take()
        publish(self.folder, self._segments, tables, NS)
        follower_s, messages = time.process_time() - start, sum(len(batch.frames) for batch in batches)
        self.cost.segments.append((follower_s / messages * 1e6, json_s / messages * 1e6))
        self.cost.reads += len(batches)
        self.cost.messages += messages
        for (table, _, _), rows in tables.items():
            if table == self.table:
                self.cost.rows += len(rows)
                if table == "book":
                    sides = (rows.column(name) for name in ("bid_price", "ask_price"))
                    self.cost.levels += sum(len(chunk.flatten()) for side in sides for chunk in side.chunks)

    def measured(self) -> Cost:
        """Return what all of it cost."""
        self.cost.stored_bytes = sum(path.stat().st_size for path in self.folder.glob(f"{self.table}/**/*.parquet"))
        return self.cost


def made_up(kind: str, messages: int, segments: int, batch: int) -> Cost:
    """Measure over made-up frames of a kind, one synced book, `batch` frames to a read."""
    table = "trades" if kind == "trades" else "book"
    with tempfile.TemporaryDirectory() as folder:
        run, market, first = Run(table, Path(folder)), Market(levels=KINDS[kind]), 1
        run.open("spot", {"BTCUSDT": "BTC-USDT"})
        run.answer("spot", "BTCUSDT", 0, NS, market.snapshot())
        for _ in range(segments):
            count = messages // segments
            frames = market.made(kind, count)
            numbers = range(first, first + count, batch)
            batches = [Batch(n, NS + n * 1000, SESSION, frames[n - first : n - first + batch]) for n in numbers]
            first += count
            run.segment(batches)
        assert table == "trades" or run.fold.book("binance", "spot", "BTCUSDT").bids, "the book is kept"
        assert run.cost.rows == messages
        return run.measured()


def recorded(table: str, on_end: Callable[[Fold], None] = lambda fold: None) -> Cost:
    """Measure over frames recorded from the live exchange; other channels' frames are left out. `on_end` is shown the
    fold when all was fed.
    """
    kind = b"@trade" if table == "trades" else b"@depth"
    with tempfile.TemporaryDirectory() as folder:
        run, first = Run(table, Path(folder)), 1
        for market in ("spot", "perp"):
            run.open(market, {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT"})
            for path in sorted(RECORDINGS.glob("spot*" if market == "spot" else "usdm*")):
                batches: list[Batch] = []
                for ns, lines in groupby(_lines(path), lambda line: line[0] // 1_000_000 * 1_000_000):
                    frames = []
                    for _, frame in lines:
                        if kind in frame[:40]:
                            frames.append(frame)
                        elif table == "book" and (native := _whole_book(path, frame)):
                            run.answer(market, native, first, ns, frame)
                    if batches and ns - batches[0].received_ns > SEGMENT_NS:
                        run.segment(batches)
                        batches = []
                    if frames:
                        batches.append(Batch(first, ns, SESSION, frames))
                        first += len(frames)
                run.segment(batches)
        on_end(run.fold)
        return run.measured()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    unit = 1000 if path.name.endswith(".dat.gz") else 1
    for line in gzip.decompress(path.read_bytes()).splitlines():
        stamp, _, frame = line.partition(b" ")
        yield int(stamp) * unit, frame


def _whole_book(path: Path, frame: bytes) -> str | None:
    found = re.match(r"[a-z]+_([a-z]+)_", path.name)
    return found[1].upper() if found and b'"lastUpdateId"' in frame[:40] else None
