"""An hour's files become one: no row is lost, doubled or altered, whoever reads, and whatever dies in between."""

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from structlog.typing import EventDict

from collector_trio.followers import merge as merge_module
from collector_trio.followers import swap, upkeep
from collector_trio.followers.columns import SCHEMAS, build
from collector_trio.followers.cursor import Checkpoint, Cursor, save_checkpoint
from collector_trio.followers.merge import merge
from collector_trio.followers.publish import publish
from collector_trio.followers.reading import query
from collector_trio.followers.scan import scan
from collector_trio.followers.tables import open_tables
from collector_trio.followers.upkeep import Upkeep
from collector_trio.journal import libc
from collector_trio.tables import TABLES, Kind

from ..journal.writing import HandClock, leave_open, segments
from .hours import (
    HOUR_S,
    LATER_S,
    HandTime,
    empty_tmp,
    hour_folders,
    is_sorted,
    look_after,
    record_hours,
    same,
    stored_rows,
)
from .recordings import binance_trade, record_some, recording, store

ROOT = Path(__file__).parents[2]
HOUR_NS = int(LATER_S) // HOUR_S * HOUR_S * 10**9 - 2 * HOUR_S * 10**9  # 12:00


def made_up(table: str, rows: int, seed: int) -> pa.Table:
    """Return rows of any kind, with nulls where there may be some, many of them alike in the table's order."""
    random_ = random.Random(seed)
    makers: dict[Kind, Callable[[], Any]] = {
        Kind.NAME: lambda: random_.choice(["BTC-USDT", "ETH-USDT", "ÄTH-USDT"]),
        Kind.TEXT: lambda: random_.choice(["", "x" * random_.randrange(50)]),
        Kind.TIME: lambda: HOUR_NS // 1000 + random_.randrange(3600),
        Kind.INT: lambda: random_.randrange(100),
        Kind.FLOAT: random_.random,
        Kind.BOOL: lambda: random_.random() < 0.5,
        Kind.FLOATS: lambda: [random_.random() for _ in range(random_.randrange(5))],
    }
    columns: dict[str, Any] = {"exchange": "okx", "market": "spot"}
    for name, kind in TABLES[table].columns.items():
        if name not in columns:
            nulls = 0.0 if name in ("symbol", "recv", "recv_ns", "segment") else 0.1
            columns[name] = [None if random_.random() < nulls else makers[kind]() for _ in range(rows)]
    return build(table, columns, rows)


def publish_hour(data_dir: Path, table: str, files: int, rows: int) -> Path:
    """Publish an hour of one table; return its folder."""
    for number in range(1, files + 1):
        publish(data_dir, number, {(table, "okx", "spot"): made_up(table, rows, number)}, HOUR_NS)
    [folder] = data_dir.glob(f"{table}/*/*/*/*")
    return folder


@pytest.mark.parametrize("size", [0, 1 << 30], ids=["piece by piece", "at once"])
@pytest.mark.parametrize("table", TABLES)
def test_rows_stay_as_they_were_and_are_sorted(
    tmp_path: Path, table: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "CHUNK_BYTES", size or 1500)
    monkeypatch.setattr(merge_module, "PIECE_BYTES", 300)
    folder = publish_hour(tmp_path, table, files=7, rows=60)
    before = stored_rows(tmp_path)

    steps = len(list(merge(table, folder, tmp_path / "tmp" / "aside")))

    assert hour_folders(tmp_path, table) == {
        str(folder.relative_to(tmp_path)): [f"{table}-000000000001-000000000007.parquet"]
    }
    [path] = folder.iterdir()
    assert is_sorted(path)
    assert pq.read_table(path, partitioning=None).replace_schema_metadata(None).to_pylist() == [
        row for rows in before.values() for row in rows.to_pylist()
    ]
    assert (steps > 3) == (size == 0)
    assert len(list((tmp_path / "tmp" / "aside").iterdir())) == 7


def test_a_merged_file_is_written_as_others_are_and_says_whose_rows_it_holds(tmp_path: Path) -> None:
    folder = publish_hour(tmp_path, "trades", files=3, rows=10)
    one = pq.ParquetFile(next(folder.iterdir()))
    schema, encodings = one.schema_arrow, [one.metadata.row_group(0).column(n).encodings for n in range(17)]

    list(merge("trades", folder, tmp_path / "tmp" / "aside"))

    [path] = folder.iterdir()
    with one, pq.ParquetFile(path) as merged:
        assert merged.schema_arrow == schema == SCHEMAS["trades"]
        group = merged.metadata.row_group(0)
        assert [group.column(n).encodings for n in range(17)] == encodings
        assert {group.column(n).compression for n in range(17)} == {"ZSTD"}
        said = merged.schema_arrow.metadata
    assert json.loads(said[b"collector_trio.segments"]) == [1, 2, 3]
    assert said[b"collector_trio.schema"] == b"1"
    assert said[b"collector_trio.version"] == SCHEMAS["trades"].metadata[b"collector_trio.version"]


def test_row_groups_are_bounded_in_rows_and_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "ROW_GROUP", 2000)
    folder = publish_hour(tmp_path, "trades", files=3, rows=1500)

    list(merge("trades", folder, tmp_path / "tmp" / "one"))
    [path] = folder.iterdir()
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2000, 2000, 500]

    monkeypatch.setattr(merge_module, "GROUP_BYTES", 1)
    list(merge("trades", folder, tmp_path / "tmp" / "two"))
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1024] * 4 + [404]


def test_the_hours_that_are_over_are_merged_and_the_others_are_not(tmp_path: Path) -> None:
    record_hours(tmp_path)
    before = stored_rows(tmp_path)

    look_after(tmp_path)

    folders = hour_folders(tmp_path, "trades")
    assert list(folders.values()) == [
        ["trades-000000000001-000000000006.parquet"], ["trades-000000000007.parquet"],
    ] * 2  # fmt: skip
    assert all(len(names) == 1 for names in hour_folders(tmp_path).values())
    assert same(stored_rows(tmp_path), before)
    assert all(is_sorted(path) for path in tmp_path.glob("*/**/*.parquet"))


@pytest.mark.parametrize("kind", ["by the clock", "a segment of it is written", "a segment of it waits"])
def test_an_hour_that_is_not_over_is_left_alone(tmp_path: Path, kind: str) -> None:
    record_some(tmp_path, 5)
    if kind == "a segment of it is written":
        leave_open(tmp_path)
    store(tmp_path)
    before = hour_folders(tmp_path)
    assert max(map(len, before.values())) >= 4
    if kind == "a segment of it waits":
        save_checkpoint(tmp_path, Checkpoint(Cursor(4, 29)))
    before_one = HandTime(LATER_S // HOUR_S * HOUR_S - HOUR_S - 1)  # 12:59:59

    look_after(tmp_path, clock=before_one if kind == "by the clock" else HandTime())

    assert hour_folders(tmp_path) == before


def test_what_comes_into_a_merged_hour_later_is_merged_into_it(tmp_path: Path) -> None:
    """As when the clock of the machine was set back."""
    record_hours(tmp_path)
    look_after(tmp_path)
    with recording(tmp_path, HandClock()) as recorder:  # 12:38 again
        session = recorder.open()
        recorder.receive(session, binance_trade(100))
        recorder.next_segment()
        recorder.receive(session, binance_trade(101))
    store(tmp_path)
    before = stored_rows(tmp_path)
    assert len(next(iter(hour_folders(tmp_path, "trades").values()))) == 3

    look_after(tmp_path)

    assert next(iter(hour_folders(tmp_path, "trades").values())) == ["trades-000000000001-000000000009.parquet"]
    assert same(stored_rows(tmp_path), before)


# Storing again


@pytest.mark.parametrize("lost", ["cursor", "nothing"])
def test_storing_segments_again_after_the_merge_doubles_nothing(
    tmp_path: Path, lost: str, logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    look_after(tmp_path)
    before, folders = stored_rows(tmp_path), hour_folders(tmp_path)

    if lost == "cursor":
        (tmp_path / "state" / "tables.cursor").unlink()
        assert query(tmp_path, "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades")[1] == [(28, 28)]
        store(tmp_path)
    else:
        tables = open_tables(tmp_path, structlog.get_logger())
        for segment in segments(tmp_path):
            tables.store(segment, segment.number)

    assert hour_folders(tmp_path) == folders
    assert same(stored_rows(tmp_path), before)
    kept = [event["segment"] for event in logged if event["event"] == "stored rows stay: their hour is merged"]
    assert kept == [1, 2, 3, 4, 5, 6]
    assert query(tmp_path, "SELECT count(*) FROM trades")[1] == [(28,)]


def test_a_lost_cursor_hides_no_row_of_a_merged_file_of_which_some_segments_are_gone(tmp_path: Path) -> None:
    record_hours(tmp_path)
    look_after(tmp_path)
    for segment in segments(tmp_path)[:3]:
        segment.path.unlink()
    (tmp_path / "state" / "tables.cursor").unlink()
    counted = "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades"

    assert query(tmp_path, counted)[1] == [(28, 28)]
    store(tmp_path)
    assert query(tmp_path, counted)[1] == [(28, 28)]


def test_a_segment_that_is_not_in_the_merged_file_is_stored_beside_it(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        publish(tmp_path, number, {("trades", "okx", "spot"): made_up("trades", 5, number)}, HOUR_NS)
    [folder] = tmp_path.glob("trades/*/*/*/*")
    list(merge("trades", folder, tmp_path / "tmp" / "aside"))

    assert publish(tmp_path, 3, {("trades", "okx", "spot"): made_up("trades", 5, 3)}, HOUR_NS) == []
    assert publish(tmp_path, 4, {("trades", "okx", "spot"): made_up("trades", 5, 4)}, HOUR_NS) != []

    assert sorted(path.name for path in folder.iterdir()) == [
        "trades-000000000001-000000000004.parquet", "trades-000000000003.parquet",
    ]  # fmt: skip


def test_tables_that_were_copied_without_their_journal_are_read_merged_or_not(tmp_path: Path) -> None:
    record_hours(tmp_path)
    look_after(tmp_path)
    (tmp_path / "journal").rename(tmp_path / "elsewhere")
    (tmp_path / "state").rename(tmp_path / "nowhere")

    assert query(tmp_path, "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades")[1] == [(28, 28)]


def test_a_follower_that_stores_and_merges_between_two_looks_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    clock.advance(19 * 60)
    record_some(tmp_path, 5, clock)
    tables = open_tables(tmp_path, structlog.get_logger())
    tables.store(segments(tmp_path)[0], 1)
    from collector_trio.followers import reading

    listed = reading.segments_behind

    def late(data_dir: Path, segment: int) -> Any:
        monkeypatch.setattr(reading, "segments_behind", listed)
        found = listed(data_dir, segment)
        store(data_dir)
        look_after(data_dir)
        return found

    monkeypatch.setattr(reading, "segments_behind", late)

    assert query(tmp_path, "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades")[1] == [(20, 20)]
    assert any("-000000000001-" in name for names in hour_folders(tmp_path, "trades").values() for name in names)


# What dies, what cannot be, what is damaged


class Died(BaseException):
    pass


STEPS: list[tuple[Any, str]] = [
    (os, "fsync"), (os, "utime"), (Path, "mkdir"), (Path, "unlink"), (pq, "read_metadata"),
    (pq.ParquetWriter, "write_table"), (merge_module, "exchange"), (merge_module, "sync_folder"),
    (upkeep.shutil, "rmtree"),
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_whatever_step_the_follower_dies_at_nothing_is_lost_or_doubled(
    tmp_path: Path, step: tuple[Any, str], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "CHUNK_BYTES", 2000)  # the long way
    record_hours(tmp_path, 3)
    before = stored_rows(tmp_path)
    real = getattr(*step)
    for call in range(1, 100):
        calls = iter(range(1, 1000))

        def dying(*arguments: Any, calls: Any = calls, call: int = call, **options: Any) -> Any:
            is_it = next(calls) == call
            if is_it and not after:
                raise Died
            found = real(*arguments, **options)
            if is_it:
                raise Died
            return found

        clock = HandTime()
        with monkeypatch.context() as patch:
            patch.setattr(*step, dying)
            try:
                log = structlog.get_logger()
                open_tables(tmp_path, log)
                with Upkeep(tmp_path, None, log, clock) as kept:
                    while kept.step(4):
                        pass
                    empty_tmp(kept, clock)
            except Died:
                assert same(stored_rows(tmp_path), before)
                continue
        break
    assert call > 1, "never called"

    look_after(tmp_path)

    assert all(len(names) == 1 for names in hour_folders(tmp_path).values())
    assert same(stored_rows(tmp_path), before)


@pytest.mark.parametrize("number", swap.UNSUPPORTED)
def test_where_folders_cannot_be_swapped_hours_stay_as_they_are_and_that_is_said_once(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    before = hour_folders(tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(swap, "call", refuse)

    look_after(tmp_path)

    assert hour_folders(tmp_path) == before
    [event] = [event for event in logged if event["log_level"] != "info"]
    assert event["event"] == "hours stay as they are: this filesystem cannot swap folders"
    assert os.strerror(number) in event["problem"]


def test_a_c_library_without_the_call_is_a_filesystem_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libc, "_libc", object())

    with pytest.raises(swap.SwapUnsupported) as caught:
        swap.exchange(tmp_path, tmp_path)
    assert caught.value.errno == errno.ENOSYS


def damaged(folder: Path) -> None:
    path = sorted(folder.iterdir())[1]
    path.write_bytes(path.read_bytes()[:-20])


def torn_inside(folder: Path) -> None:
    path = sorted(folder.iterdir())[1]
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 300 + data[304:])


def with_a_note_in_it(folder: Path) -> None:
    (folder / "README").write_text("mine")


def of_a_later_version(folder: Path) -> None:
    path = sorted(folder.iterdir())[1]
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.append_column("later", pa.nulls(len(rows), pa.int64())), path)


def with_a_segment_twice(folder: Path) -> None:
    path = sorted(folder.iterdir())[1]
    (folder / "trades-000000000001-000000000006.parquet").write_bytes(path.read_bytes())


@pytest.mark.parametrize("spoil", [damaged, torn_inside, with_a_note_in_it, of_a_later_version, with_a_segment_twice])
def test_a_folder_that_cannot_be_merged_stays_as_it_is_and_the_others_go_on(
    tmp_path: Path, spoil: Callable[[Path], None], logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    [folder] = tmp_path.glob("trades/exchange=binance/market=spot/*/hour=12")
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    clock = HandTime()
    with Upkeep(tmp_path, None, structlog.get_logger(), clock) as kept:
        for _ in range(3):
            while kept.step(7):
                pass
            clock.s += HOUR_S
        empty_tmp(kept, clock)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    [event] = [event for event in logged if event["log_level"] == "error"]
    assert (event["event"], event["folder"]) == ("hour not merged", str(folder))
    others = {name: names for name, names in hour_folders(tmp_path).items() if not str(folder).endswith(name)}
    assert all(len(names) == 1 for names in others.values())
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_ends_the_merging_until_the_next_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    clock = HandTime()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Upkeep(tmp_path, None, structlog.get_logger(), clock) as kept:
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", full)
            while kept.step(7):
                pass
        assert [event["event"] for event in logged if event["log_level"] == "error"] == ["hours not merged"]
        assert max(map(len, hour_folders(tmp_path).values())) == 6
        assert not kept.step(7)

        clock.s += HOUR_S
        while kept.step(7):
            pass

    assert max(map(len, hour_folders(tmp_path).values())) == 1


def test_an_hour_is_not_merged_where_that_might_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    before = hour_folders(tmp_path)
    monkeypatch.setattr(upkeep, "ROOM", 1 << 60)

    look_after(tmp_path)

    assert hour_folders(tmp_path) == before
    [event] = [event for event in logged if event["log_level"] == "error"]
    assert (event["event"], "bytes of free space" in event["problem"]) == ("hours not merged", True)


def test_what_was_swapped_out_stays_for_those_who_are_listing_it_and_then_goes(tmp_path: Path) -> None:
    record_hours(tmp_path)
    clock = HandTime()
    with Upkeep(tmp_path, None, structlog.get_logger(), clock) as kept:
        while kept.step(7):
            pass
        assert max(len(list(folder.iterdir())) for folder in (tmp_path / "tmp").iterdir()) == 6
        empty_tmp(kept, clock)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_merge_that_is_given_up_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "CHUNK_BYTES", 2000)
    record_hours(tmp_path)
    before = hour_folders(tmp_path)
    with Upkeep(tmp_path, None, structlog.get_logger(), HandTime()) as kept:
        kept.step(7)
        kept.step(7)
        assert list((tmp_path / "tmp").iterdir())

    assert hour_folders(tmp_path) == before
    open_tables(tmp_path, structlog.get_logger())
    assert not (tmp_path / "tmp").exists()


def test_segments_are_stored_between_the_pieces_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "CHUNK_BYTES", 2000)
    record_hours(tmp_path)
    record_some(tmp_path, 8, HandClock(ns=int(LATER_S * 1e9)))
    waiting = iter([segment for segment in segments(tmp_path) if segment.number > 7])
    tables = open_tables(tmp_path, structlog.get_logger())

    def store_next() -> None:
        if (segment := next(waiting, None)) is not None:
            tables.store(segment, segment.number)

    with Upkeep(tmp_path, None, structlog.get_logger(), HandTime()) as kept:
        while kept.step(tables.cursor.segment):
            store_next()

    assert tables.cursor.segment == 15
    assert all(len(names) == 1 for name, names in hour_folders(tmp_path).items() if name.endswith("=12"))


# Readers

MERGE = """
import sys
from pathlib import Path
from shutil import rmtree
from collector_trio.followers.merge import merge
from collector_trio.followers.swap import exchange

data_dir = Path(sys.argv[1])
[folder] = data_dir.glob("trades/*/*/*/*")
for number in range(int(sys.argv[2])):
    aside = data_dir / "tmp" / str(number)
    list(merge("trades", folder, aside))
    exchange(aside, folder)  # and back, to be merged again
    rmtree(data_dir / "tmp" / str(number - 3), ignore_errors=True)
"""


@pytest.mark.parametrize("merges", [20, pytest.param(500, marks=pytest.mark.soak)])
def test_who_reads_all_the_time_never_sees_a_half_doubled_or_missing_row(tmp_path: Path, merges: int) -> None:
    """DuckDB with nothing but a pattern of paths, as any tool would; it may have to ask again."""
    publish_hour(tmp_path, "trades", files=12, rows=20)
    asked = f"SELECT count(*), sum(recv_ns) FROM read_parquet('{tmp_path}/trades/**/*.parquet')"
    with duckdb.connect() as connection:
        expected, found, again = connection.execute(asked).fetchall(), set[Any](), 0
        with subprocess.Popen([sys.executable, "-c", MERGE, str(tmp_path), str(merges)], cwd=ROOT) as worker:
            while worker.poll() is None:
                try:
                    found |= set(connection.execute(asked).fetchall())
                except duckdb.IOException:
                    again += 1
        assert worker.returncode == 0
    assert found == set(expected), f"{again} times a file had vanished"


def test_our_own_readers_look_again_when_an_hour_is_merged_under_them(tmp_path: Path) -> None:
    record_hours(tmp_path)
    frame = scan("trades", tmp_path)
    look_after(tmp_path)

    with pytest.raises(FileNotFoundError):
        frame.collect()
    assert len(scan("trades", tmp_path).collect()) == 28
