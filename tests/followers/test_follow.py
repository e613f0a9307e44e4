"""`follow`, started as `run` starts it: as a process, told of segments over its standard input."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector_trio.followers.cursor import Cursor, load_cursor, lock_cursor
from collector_trio.followers.reading import query

from ..journal.writing import leave_open, segments
from .hours import hour_folders, record_hours
from .recordings import record_some, store

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


def command(data_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "collector_trio", "follow", "--data-dir", str(data_dir), "--log", "json", *options]


@contextmanager
def following(data_dir: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command(data_dir, *options), stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the next line it logs."""
    assert process.stderr is not None
    found, deadline = b"", time.monotonic() + PATIENCE_S
    while not found.endswith(b"\n"):
        readable, _, _ = select.select([process.stderr], [], [], deadline - time.monotonic())
        assert readable, "nothing was said"
        byte = os.read(process.stderr.fileno(), 1)
        assert byte, f"it ended, having said {found!r}"
        found += byte
    event: dict[str, Any] = json.loads(found)
    return event


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """End its input; return its exit code and what it still said."""
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.close()
    said = process.stderr.read().decode()
    return process.wait(PATIENCE_S), said


def test_it_stores_what_is_sealed_reports_damage_hears_of_new_segments_and_ends_with_its_input(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    (damaged, *_) = segments(tmp_path)
    damaged.path.write_bytes(damaged.read().replace(b'"id":1}', b'"id":2}'))
    second, first = leave_open(tmp_path, 2), leave_open(tmp_path, 1)
    with following(tmp_path, "--log-level", "debug") as process:
        assert process.stdin is not None
        event = next_line(process)
        assert (event["level"], event["event"], event["path"]) == ("error", "journal damaged", str(damaged.path))
        assert event["start"] < event["end"]
        assert next_line(process)["event"] == "frames are not in the journal"
        assert next_line(process)["segments"] == 1
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        first.rename(first.with_suffix(".log"))
        process.stdin.write(b"sealed\n")
        assert next_line(process)["segments"] == 1
        second.rename(second.with_suffix(".log"))  # of this one nobody tells it

        code, said = finish(process)

    assert code == 0
    assert "Traceback" not in said
    assert load_cursor(tmp_path) == Cursor(3, 22)


def test_a_disk_that_takes_nothing_is_said_once_and_what_is_sealed_is_stored_when_it_does(tmp_path: Path) -> None:
    record_some(tmp_path, 1)
    (tmp_path / "tmp").write_bytes(b"")  # where a folder is wanted: nothing can be built
    with following(tmp_path, "--log-level", "debug") as process:
        assert process.stdin is not None
        assert next_line(process)["event"] == "cannot store"
        for _ in range(3):
            process.stdin.write(b"sealed\n")
        (tmp_path / "tmp").unlink()
        assert next_line(process)["event"] == "stores again"
        assert next_line(process)["event"] == "stored"
        (tmp_path / "tmp").rmdir()
        assert finish(process) == (0, "")

    assert load_cursor(tmp_path) == Cursor(1, 8)


def test_hours_that_are_over_are_merged_and_old_ones_removed_when_all_is_stored(tmp_path: Path) -> None:
    record_hours(tmp_path)
    with following(tmp_path, "--keep-tables", "36500d") as process:
        deadline = time.monotonic() + PATIENCE_S
        while max(map(len, hour_folders(tmp_path).values())) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # a look at some folders now and then
        assert finish(process) == (0, "")
    assert query(tmp_path, "SELECT count(*) FROM trades")[1] == [(28,)]


def test_two_followers_never_run_at_once(tmp_path: Path) -> None:
    record_some(tmp_path, 1)
    with lock_cursor(tmp_path) as held, following(tmp_path) as second:
        assert held
        assert next_line(second)["event"] == "another follower holds the cursor; waiting"

        code, said = finish(second)

        assert code == 1
        assert said == f"{tmp_path}: another follower holds the cursor to the end; nothing was done\n"
    assert load_cursor(tmp_path) == Cursor()


def test_a_follower_that_waits_goes_on_when_the_other_ends_and_says_once_that_it_waits(tmp_path: Path) -> None:
    record_some(tmp_path, 1)
    with following(tmp_path, "--log-level", "debug") as second:
        assert second.stdin is not None
        with lock_cursor(tmp_path) as held:
            if held:  # before it got there; the usual case
                assert next_line(second)["event"] == "another follower holds the cursor; waiting"
                for _ in range(20):
                    second.stdin.write(b"sealed\n")
        assert next_line(second)["event"] == "stored"
        code, said = finish(second)

    assert (code, said) == (0, "")
    assert query(tmp_path, "SELECT count(*) FROM trades")[1] == [(4,)]


def test_a_follower_killed_while_it_stores_costs_and_doubles_no_row(tmp_path: Path) -> None:
    record_some(tmp_path, 12)
    counted = [(12 * 4, 12 * 4)]
    asked = "SELECT count(*), count(DISTINCT (exchange, symbol, id)) FROM trades"
    with following(tmp_path) as process:
        deadline = time.monotonic() + PATIENCE_S
        while load_cursor(tmp_path).segment < 3:
            assert time.monotonic() < deadline
            time.sleep(0.002)  # a look at a file now and then, not a wait for it
        process.kill()
    assert query(tmp_path, asked)[1] == counted

    store(tmp_path)

    assert load_cursor(tmp_path).segment == 12
    assert query(tmp_path, asked)[1] == counted
