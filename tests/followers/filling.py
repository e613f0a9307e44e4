"""Run as a process: store and merge on a disk that has room for one page more at each try; print what happened as JSON.

`python -m tests.followers.filling FOLDER`: FOLDER/data is a small file system of our own. What a disk with room enough
made of the same journal is in FOLDER/reference, and each file on the small one must be the same, at all times.
"""

import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import structlog

from collector_trio.followers import merge as merge_module
from collector_trio.followers import upkeep as upkeep_module
from collector_trio.followers.cursor import load_cursor, lock_cursor
from collector_trio.followers.tables import open_tables
from collector_trio.followers.upkeep import Upkeep
from collector_trio.journal.segments import journal_dir
from tests.small_disk import Ballast

from ..journal.writing import HandClock
from .hours import HOUR_S, HandTime, empty_tmp, hour_folders, same, stored_rows
from .recordings import binance_depth, binance_trade, recording, store

PAGE = os.sysconf("SC_PAGE_SIZE")
SEGMENTS = 4
ROWS = 300


def record(data_dir: Path) -> HandClock:
    """Record some segments of one hour, with rows that do not compress to nothing."""
    draw, clock = random.Random(1), HandClock()
    with recording(data_dir, clock) as recorder:
        session = recorder.open()
        recorder.live(session)
        for n in range(SEGMENTS):
            if n:
                recorder.next_segment()
            now_ms = clock.ns // 10**6
            for row in range(n * ROWS, (n + 1) * ROWS):
                price = f"{draw.random():.8f}"
                recorder.receive(session, binance_trade(row + 1, time_ms=now_ms + row, price=price))
                recorder.receive(session, binance_depth(10 * row + 1, 10 * row + 10, time_ms=now_ms + row))
        recorder.end(session)
    return clock


def published(data_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in data_dir.glob("*/exchange=*/**/*.parquet")}


def main(folder: Path) -> None:
    data_dir, reference = folder / "data", folder / "reference"
    now_s = record(reference).ns / 1e9 + 2 * HOUR_S
    shutil.copytree(journal_dir(reference), journal_dir(data_dir))
    store(reference)
    ballast, told = Ballast(data_dir / "ballast"), Counter[str]()
    with lock_cursor(data_dir), structlog.testing.capture_logs() as events:
        tries = {"store": store_page_by_page(data_dir, published(reference), ballast, told)}
        tries["merge"] = merge_page_by_page(data_dir, stored_rows(reference), ballast, HandTime(now_s))
    ballast.remove()
    assert same(stored_rows(data_dir), stored_rows(reference))
    said = Counter(f"{event['event']}: {event.get('problem', '')}" for event in events)
    sys.stdout.write(json.dumps({"tries": tries, "refused": told, "said": said}))


def store_page_by_page(data_dir: Path, expected: dict[str, bytes], ballast: Ballast, told: Counter[str]) -> int:
    """Store with a page more at each try, now and then as a new process would; return how many tries failed."""
    log, pages = structlog.get_logger(), 0
    tables = open_tables(data_dir, log)
    while load_cursor(data_dir).segment < SEGMENTS:
        ballast.leave(pages * PAGE)
        if pages % 3 == 2:
            tables = open_tables(data_dir, log)
        try:
            tables.store_sealed()
        except OSError as error:  # what `follow` bears
            told[os.strerror(error.errno or 0)] += 1
        found, segment = published(data_dir), load_cursor(data_dir).segment
        assert all(expected[name] == data for name, data in found.items()), f"{pages} pages: a file is not whole"
        behind = {name for name in expected if int(name[-20:-8]) <= segment}
        assert behind <= found.keys(), f"{pages} pages: the cursor is ahead of the files"
        pages += 1
    return told.total()


def merge_page_by_page(data_dir: Path, expected: dict[str, pa.Table], ballast: Ballast, clock: HandTime) -> int:
    """Merge with a page more at each try, in another hour, now and then as a new process would; return how many."""
    upkeep_module.ROOM = 0  # else it would not begin
    pages = 0
    while max(map(len, hour_folders(data_dir).values())) > 1:
        merge_module.CHUNK_BYTES = (4 << 20, 20_000)[pages % 2]  # in memory, and by way of a file
        with Upkeep(data_dir, None, structlog.get_logger(), clock) as upkeep:
            for _ in range(3):
                ballast.leave(pages * PAGE)
                while upkeep.step(SEGMENTS):
                    pass
                empty_tmp(upkeep, clock)
                assert same(stored_rows(data_dir), expected), f"{pages} pages: other rows"
                assert not list((data_dir / "tmp").glob("*")), f"{pages} pages: something is left"
                clock.s += HOUR_S
                pages += 1
    return pages


if __name__ == "__main__":
    main(Path(sys.argv[1]))
