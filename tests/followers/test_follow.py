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
from .recordings import record_some

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


def test_it_stores_what_is_sealed_reports_damage_and_ends_with_its_input(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    leave_open(tmp_path)
    (damaged, *_) = segments(tmp_path)
    damaged.path.write_bytes(damaged.read().replace(b'"id":1}', b'"id":2}'))

    done = subprocess.run(command(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, cwd=ROOT, check=False)

    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    event = json.loads(line)
    assert (event["level"], event["event"], event["path"]) == ("error", "journal damaged", str(damaged.path))
    assert event["start"] < event["end"]
    assert load_cursor(tmp_path) == Cursor(2, 15)


def test_it_stores_a_segment_when_it_is_told_of_it_and_what_came_after_the_last_word_too(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    second, first = leave_open(tmp_path, 2), leave_open(tmp_path, 1)
    with following(tmp_path, "--log-level", "debug") as process:
        assert process.stdin is not None
        assert next_line(process)["segments"] == 1
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        first.rename(first.with_suffix(".log"))
        process.stdin.write(b"sealed\n")
        assert next_line(process)["segments"] == 1
        second.rename(second.with_suffix(".log"))

        code, said = finish(process)

    assert code == 0
    assert "Traceback" not in said
    assert load_cursor(tmp_path) == Cursor(3, 22)


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
    whole = query(tmp_path, "SELECT * FROM trades ORDER BY frame")
    with following(tmp_path) as process:
        deadline = time.monotonic() + PATIENCE_S
        while load_cursor(tmp_path).segment < 3:
            assert time.monotonic() < deadline
            time.sleep(0.002)  # a look at a file now and then, not a wait for it
        process.kill()
    assert query(tmp_path, "SELECT * FROM trades ORDER BY frame") == whole

    subprocess.run(command(tmp_path), stdin=subprocess.DEVNULL, cwd=ROOT, check=True)

    assert load_cursor(tmp_path).segment == 12
    assert query(tmp_path, "SELECT * FROM trades ORDER BY frame") == whole
