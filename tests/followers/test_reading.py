"""The views of `sql`: every row that was accepted, once, whatever a follower and a recorder do meanwhile."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import structlog

from collector_trio.errors import CollectorError
from collector_trio.followers import reading, tables
from collector_trio.followers.cursor import Cursor
from collector_trio.followers.reading import fetch, look, query, with_views
from collector_trio.tables import TABLES
from tests.journal.writing import tidy

from ..journal.writing import leave_open, segments
from .recordings import binance_trade, record_some, recording, store

ROOT = Path(__file__).parents[2]
COUNT = "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades"


def count(data_dir: Path) -> tuple[int, int]:
    """Return how many trades there are, and how many different ones."""
    _, [(all_, different)] = query(data_dir, COUNT)
    return all_, different


def test_rows_are_there_before_any_follower_stored_them(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    leave_open(tmp_path)

    assert count(tmp_path) == (12, 12)


def test_rows_of_the_running_segment_are_there_as_soon_as_they_are_accepted(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        for trade in range(1, 4):
            recorder.receive(session, binance_trade(trade))
            assert count(tmp_path) == (trade, trade)


def test_a_record_that_is_just_being_written_is_not_there_yet(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    path = leave_open(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])

    assert count(tmp_path) == (8, 8)  # what is torn is the last note


def test_stored_and_unstored_rows_are_one_table(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    whole = query(tmp_path, "SELECT * FROM trades ORDER BY recv_ns, frame")
    path = leave_open(tmp_path)
    store(tmp_path)
    assert count(tmp_path) == (12, 12)
    assert query(tmp_path, "SELECT * FROM trades ORDER BY recv_ns, frame") == whole

    path.rename(path.with_suffix(".log"))
    store(tmp_path)
    shutil.rmtree(tmp_path / "journal")

    assert query(tmp_path, "SELECT * FROM trades ORDER BY recv_ns, frame") == whole


def test_an_empty_table_is_an_empty_view_with_the_same_columns(tmp_path: Path) -> None:
    found = with_views(tmp_path, lambda views, _: {name: fetch(views, f'SELECT * FROM "{name}"') for name in TABLES})

    assert found == {name: (list(table.columns), []) for name, table in TABLES.items()}


def test_columns_have_the_same_types_whether_stored_or_not(tmp_path: Path) -> None:
    def types(views: duckdb.DuckDBPyConnection, picture: reading.Picture) -> list[Any]:
        return [fetch(views, f'DESCRIBE SELECT * EXCLUDE (exchange, market) FROM "{table}"') for table in TABLES]

    empty = with_views(tmp_path, types)
    record_some(tmp_path, 1)
    unstored = with_views(tmp_path, types)
    store(tmp_path)

    assert empty == unstored == with_views(tmp_path, types)


def test_times_are_utc_whatever_the_machine_thinks(tmp_path: Path) -> None:
    record_some(tmp_path, 1)

    _, rows = query(tmp_path, "SELECT ts::VARCHAR FROM trades ORDER BY frame LIMIT 1")

    assert rows == [("2026-11-23 12:38:00+00",)]


def test_files_published_before_the_cursor_moved_are_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)
    monkeypatch.setattr(tables, "save_checkpoint", lambda data_dir, checkpoint: None)
    store(tmp_path)

    assert count(tmp_path) == (12, 12)


def test_a_follower_that_stores_and_a_recorder_that_deletes_between_two_looks_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)
    (first, *_) = segments(tmp_path)
    tables.open_tables(tmp_path, structlog.get_logger()).store(first, 1)
    listed = reading.segments_behind

    def late(data_dir: Path, segment: int) -> Any:
        monkeypatch.setattr(reading, "segments_behind", listed)
        store(data_dir)
        tidy(data_dir, 3, "until stored", 0, 0.0)
        return listed(data_dir, segment)

    monkeypatch.setattr(reading, "segments_behind", late)

    assert count(tmp_path) == (12, 12)


def test_files_of_segments_that_began_after_the_look_are_left_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else rows of a later segment could be there, and rows before them not."""
    record_some(tmp_path, 3)
    later = [leave_open(tmp_path, index) for index in (2, 1)]
    hidden = [path.rename(path.with_suffix(".hidden")) for path in later]
    store(tmp_path)
    cursor = reading.load_cursor
    cursors: list[Cursor] = []

    def store_all_after_the_look(data_dir: Path) -> Cursor:
        cursors.append(cursor(data_dir))
        if len(cursors) == 1:
            for path in hidden:
                path.rename(path.with_suffix(".log"))
            store(data_dir)
        return cursors[-1]

    monkeypatch.setattr(reading, "load_cursor", store_all_after_the_look)
    assert count(tmp_path) == (4, 4)

    monkeypatch.setattr(reading, "load_cursor", cursor)
    assert count(tmp_path) == (12, 12)


def after_the_look(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], times: int = 1) -> list[int]:
    """Let something happen between the first looks and the reading; return a list that grows by one per look."""
    real, looks = reading.look, list[int]()

    def looking(*asked: Any) -> reading.Picture:
        picture = real(*asked)
        looks.append(1)
        if len(looks) <= times:
            happens()
        return picture

    monkeypatch.setattr(reading, "look", looking)
    return looks


def test_segments_that_are_sealed_and_compressed_before_they_are_read_are_read_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)
    path = leave_open(tmp_path)

    def go_on() -> None:
        path.rename(path.with_suffix(".log"))
        tidy(tmp_path, 3, "forever", 0, 0.0)

    looks = after_the_look(monkeypatch, go_on)

    assert count(tmp_path) == (12, 12)
    assert len(looks) == 1


def test_segments_that_vanish_before_they_are_read_are_looked_for_again_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)

    def go_on() -> None:
        store(tmp_path)
        tidy(tmp_path, 3, "until stored", 0, 0.0)

    looks = after_the_look(monkeypatch, go_on)

    assert count(tmp_path) == (12, 12)
    assert len(looks) == 2


def test_a_file_that_vanishes_before_it_is_read_makes_it_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)
    store(tmp_path)

    def replace() -> None:
        for path in sorted((tmp_path / "trades").glob("**/*-000000000003.parquet")):
            path.rename(path.with_name("trades-000000000002-000000000003.parquet"))

    looks = after_the_look(monkeypatch, replace)

    assert count(tmp_path) == (12, 12)
    assert len(looks) == 2


def test_a_data_dir_that_never_stands_still_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 3)

    def move() -> None:
        for segment in segments(tmp_path)[:1]:
            segment.path.rename(segment.path.with_name(f"{segment.number + 100:012d}-x.log"))

    looks = after_the_look(monkeypatch, move, times=100)

    with pytest.raises(CollectorError, match="changes faster than it can be read"):
        count(tmp_path)
    assert len(looks) == reading.ATTEMPTS


def test_a_file_the_user_names_and_that_is_not_there_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = after_the_look(monkeypatch, lambda: None)

    with pytest.raises(duckdb.IOException):
        query(tmp_path, "SELECT * FROM read_parquet('/nowhere/at/all.parquet')")
    assert len(looks) == 1


def test_tables_that_were_copied_without_their_journal_are_read(tmp_path: Path) -> None:
    record_some(tmp_path / "here", 3)
    store(tmp_path / "here")
    for table in ("trades", "sessions"):
        shutil.copytree(tmp_path / "here" / table, tmp_path / "there" / table)

    assert count(tmp_path / "there") == (12, 12)
    assert query(tmp_path / "there", "SELECT count(*) FROM sessions")[1] == [(2,)]
    assert query(tmp_path / "there", "SELECT count(*) FROM book")[1] == [(0,)]


def test_tables_survive_the_loss_of_the_cursor(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    store(tmp_path)
    tidy(tmp_path, 2, "until stored", 0, 0.0)
    (tmp_path / "state" / "tables.cursor").unlink()

    assert count(tmp_path) == (12, 12)


def test_a_path_with_a_quote_in_it_is_a_path(tmp_path: Path) -> None:
    data_dir = tmp_path / "it's [here]"
    record_some(data_dir, 2)
    store(data_dir)

    assert count(data_dir) == (8, 8)


def test_a_place_that_is_no_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="nowhere: no such folder"):
        query(tmp_path / "nowhere", "SELECT 1")


def test_one_picture_answers_several_questions_alike(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.receive(session, binance_trade(1))

        def ask(views: duckdb.DuckDBPyConnection, picture: reading.Picture) -> list[Any]:
            first = fetch(views, COUNT)
            recorder.receive(session, binance_trade(2))
            return [first, fetch(views, COUNT)]

        first, second = with_views(tmp_path, ask)

    assert first == second
    assert look(tmp_path).unstored


# A process works while this one reads: a step for each line it is sent, so that there is as much of the one as of the
# other, and the two overlap however busy the machine is.

STORE_AND_DELETE = """
import sys
from pathlib import Path
import structlog
from collector_trio.followers.cursor import load_cursor, segments_behind
from collector_trio.followers.tables import open_tables
from tests.journal.writing import tidy

data_dir = Path(sys.argv[1])
for segment, line in zip(segments_behind(data_dir, 0), sys.stdin):
    open_tables(data_dir, structlog.get_logger()).store(segment, segment.number)
    tidy(data_dir, load_cursor(data_dir).segment, "until stored" if segment.number % 3 else "forever", 0, 0.0)
"""

RECORD = """
import sys
from pathlib import Path
from tests.followers.recordings import binance_trade, recording, store

data_dir, number = Path(sys.argv[1]), 0
with recording(data_dir) as recorder:
    session = recorder.open()
    for line in sys.stdin:
        for number in range(number + 1, number + 8):
            recorder.receive(session, binance_trade(number))
            if number % 5 == 0:
                recorder.next_segment()
                while recorder.journal._full:  # what the journal's task does
                    recorder.journal._finish(recorder.journal._full.popleft())
        store(data_dir)
"""
STEPS = 10


def reading_beside(script: str, data_dir: Path, asked: str) -> list[Any]:
    """Ask again and again while another process does its steps; return the answers, the last one when it has ended."""
    found = []
    with subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)], stdin=subprocess.PIPE, cwd=ROOT, bufsize=0
    ) as worker:
        assert worker.stdin is not None
        for _ in range(STEPS):
            worker.stdin.write(b"go on\n")
            found += query(data_dir, asked)[1]
        worker.stdin.close()
        while worker.poll() is None:
            found += query(data_dir, asked)[1]
    assert worker.returncode == 0
    return found + query(data_dir, asked)[1]


def test_no_row_is_missed_or_seen_twice_while_a_follower_stores_and_a_recorder_deletes(tmp_path: Path) -> None:
    record_some(tmp_path, STEPS)

    found = reading_beside(STORE_AND_DELETE, tmp_path, COUNT)

    assert set(found) == {(4 * STEPS, 4 * STEPS)}
    assert segments(tmp_path) == []


def test_what_is_seen_while_it_is_recorded_only_grows_and_has_no_holes(tmp_path: Path) -> None:
    asked = "SELECT count(*), count(DISTINCT id), coalesce(max(id), 0) FROM trades"

    found = reading_beside(RECORD, tmp_path, asked)

    assert all(rows == different == last for rows, different, last in found)
    assert found == sorted(found)
    assert found[-1] == (7 * STEPS,) * 3
