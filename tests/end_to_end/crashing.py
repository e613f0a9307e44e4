"""The real command against simulated exchanges, in processes that can be killed; and what is then held against what."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pyarrow.dataset as ds
import trio

from collector_trio.followers.cursor import lock_cursor
from collector_trio.journal.records import Batch, Letter, Note, read_records
from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.sim import Fault, SimServer
from collector_trio.tables import TABLES
from tests.truth.ledger import Report, check

from .recorder import NO_REST, PATIENCE_S, config_text

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "collector_trio"]

# What there may be once in each table.
KEYS = {
    "trades": "exchange, market, symbol, id",
    "book": "exchange, market, symbol, prev_seq, last_seq, snapshot, session",
    "book_snapshots": "exchange, market, symbol, last_seq, recv_ns",
    "instruments": "exchange, market, symbol, recv_ns",
    "sessions": "session",
    "gaps": '"table", gap, state, first_missing, recv_ns',
    "rejects": "frame",
    "segments": "segment",
}


def write_config(folder: Path, endpoints: str, **options: Any) -> Path:
    """Write the config of a collector that records into `folder`/data."""
    path = folder / "config.toml"
    path.write_text(config_text(folder / "data", endpoints, **options))
    return path


@asynccontextmanager
async def running(config: Path, log: Path, command: Sequence[str] = COMMAND) -> AsyncIterator[trio.Process]:
    """Run `run` beside the block, its log in a file; whatever ends the block, the process is gone."""
    with log.open("ab") as stderr:
        line = [*command, "run", "--config", str(config)]
        process = await trio.lowlevel.open_process(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def followers_of(pid: int) -> list[int]:
    """Return the child processes of a recorder, whichever of its threads started them."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in children.read_text().split()]
    return found


def kill(pid: int) -> bool:
    """Kill -9; tell whether there was somebody to be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


async def stop_cleanly(server: SimServer, process: trio.Process, data_dir: Path, log: Path) -> None:
    """Wait until everything is recorded again, let the market fall silent, and end the collector as systemd would."""
    connections = server.truth.connections
    await until(lambda: sum(c.closed_ns is None and c.data > 50 for c in connections) == 5, "five sockets have data")
    server.inject(Fault("stall", duration_s=3600))
    await trio.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(20):
        assert await process.wait() == 0, log.read_text()[-2000:]


async def until(condition: Any, what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await trio.sleep(0.05)
        return
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


def is_free(data_dir: Path) -> bool:
    with lock_cursor(data_dir) as held:
        return held


# Reading all the while

READER = """
import json, pathlib, sys, threading
import duckdb, pyarrow.parquet as pq

keys, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
looks, vanished, files, problems, most = 0, 0, set(), [], {}
connection = duckdb.connect()
connection.execute("SET threads = 1")
while not over.is_set() or not looks:
    for table, key in keys.items():
        query = f"SELECT count(*), count(DISTINCT ({key})) FROM read_parquet('{folder}/{table}/**/*.parquet')"
        try:
            [(count, distinct)] = connection.sql(query).fetchall()
        except duckdb.IOException as error:
            vanished += "No files found" not in str(error)
            if "No files found" not in str(error) and "No such file" not in str(error):
                problems.append(f"{table}: {error}")
            continue
        except Exception as error:
            problems.append(f"{table}: {error!r}")
            continue
        looks += 1
        if count != distinct:
            problems.append(f"{table}: {count} rows, {distinct} different ones")
        if count < most.get(table, 0):
            problems.append(f"{table}: {count} rows, before there were {most[table]}")
        most[table] = max(most.get(table, 0), count)
    for path in folder.glob("*/exchange=*/**/*.parquet"):
        if path not in files:
            try:
                pq.read_table(path, partitioning=None)
            except FileNotFoundError:
                continue
            except Exception as error:
                problems.append(f"{path.name}: {error!r}")
            files.add(path)
    if problems:
        break
connection.close()
print(json.dumps({"looks": looks, "vanished": vanished, "files": len(files), "problems": problems, "rows": most}))
"""


@contextmanager
def reading(data_dir: Path) -> Iterator[dict[str, Any]]:
    """Read every table all the time beside the block; what is yielded says after it how that went."""
    report: dict[str, Any] = {}
    command = [sys.executable, "-c", READER, json.dumps(KEYS), str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield report
            said, _ = process.communicate("", timeout=120)
            report |= json.loads(said)
        finally:
            process.kill()


# What the journal holds


@attrs.define
class Accepted:
    """The batches that were seen in a journal: first frame, and what they were."""

    batches: dict[int, tuple[int, int, int]] = attrs.field(factory=dict)
    looked_at: int = 0  # segments up to here are sealed and were read
    next_frame: int = 1

    def look(self, data_dir: Path) -> int:
        """Read what is whole now; return the next frame number. What was seen before must not have changed."""
        upto = self.looked_at
        for segment in list_segments(journal_dir(data_dir)):
            if segment.number <= self.looked_at:
                continue
            for record in read_records(segment.read()):
                if isinstance(record, Batch):
                    said = record.received_ns, record.session, hash(tuple(record.frames))
                    assert self.batches.setdefault(record.first_frame, said) == said, "an accepted batch has changed"
                    self.next_frame = max(self.next_frame, record.first_frame + len(record.frames))
            if not segment.is_open:
                upto = segment.number
        self.looked_at = upto
        return self.next_frame


def frames_in(data_dir: Path) -> int:
    """Count the frames of a journal; their numbers must go from 1 on without a hole."""
    expected = 1
    for segment in list_segments(journal_dir(data_dir)):
        for record in read_records(segment.read()):
            if isinstance(record, Batch):
                assert record.first_frame == expected, f"segment {segment.number}: {record.first_frame}, not {expected}"
                expected += len(record.frames)
    return expected - 1


def opened_in(data_dir: Path) -> list[int]:
    """Return the numbers of all sessions that were opened."""
    found = []
    for segment in list_segments(journal_dir(data_dir)):
        for record in read_records(segment.read()):
            if isinstance(record, Note) and record.letter is Letter.OPENED and "again" not in record.value:
                found.append(record.value["session"])
    return found


# What the tables hold


def files(data_dir: Path, table: str) -> str:
    return f"read_parquet('{data_dir}/{table}/**/*.parquet')"


def tables_in(data_dir: Path) -> list[str]:
    return [table for table in TABLES if any((data_dir / table).glob("**/*.parquet"))]


def ask(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.sql(query).fetchall()


def assert_nothing_is_doubled(data_dir: Path) -> None:
    for table in tables_in(data_dir):
        counts = f"count(*), count(DISTINCT ({KEYS[table]}))"
        ((count, distinct),) = ask(f"SELECT {counts} FROM {files(data_dir, table)}")
        assert count == distinct, f"{table}: {count} rows, {distinct} different ones"


def assert_every_frame_is_accounted_for(data_dir: Path) -> int:
    """Every frame of the journal is in `segments` once, in one class; return how many there are."""
    total, expected = frames_in(data_dir), 1
    columns = "segment, first_frame, frames, rows + control + duplicate + ignored + rejected"
    for segment, first, frames, classes in ask(f"SELECT {columns} FROM {files(data_dir, 'segments')} ORDER BY 1"):
        assert first == expected, f"segment {segment} begins with frame {first}, not {expected}"
        assert frames == classes
        expected += frames
    assert expected - 1 == total
    ((with_rows,),) = ask(f"SELECT sum(rows) FROM {files(data_dir, 'segments')}")
    union = " UNION ".join(f"SELECT frame FROM {files(data_dir, table)}" for table in ("trades", "book"))
    ((stored, least, most),) = ask(f"SELECT count(*), min(frame), max(frame) FROM ({union}) WHERE frame > 0")
    assert 1 <= least <= most <= total
    assert stored <= with_rows  # whole books by REST give a row of `book_snapshots`, and several may give one
    return total


def assert_same_rows(one: Path, other: Path) -> None:
    assert tables_in(one) == tables_in(other)
    for table in tables_in(one):
        for left, right in ((one, other), (other, one)):
            columns = ", ".join(f'"{name}"' for name in TABLES[table].columns)
            rows = [f"SELECT {columns} FROM {files(side, table)}" for side in (left, right)]
            found = ask(f"{rows[0]} EXCEPT ALL {rows[1]} LIMIT 3")
            assert not found, f"{table}: only in {left}: {found}"


@attrs.frozen
class Run:
    """What a run is held against."""

    server: SimServer


def assert_tables_are_the_truth(data_dir: Path, server: SimServer, seed: int, instants: int = 40) -> Report:
    """Hold the tables of a collector that has stopped against what was published."""
    assert_nothing_is_doubled(data_dir)
    rows = {table: ds.dataset(data_dir / table, partitioning=None).to_table() for table in tables_in(data_dir)}
    order = ("recv_ns", "frame")
    rows = {table: found.sort_by([(name, "ascending") for name in order]) for table, found in rows.items()}
    return check(Run(server), rows, seed, instants)  # type: ignore[arg-type]  # it asks for the truth alone


def assert_the_journal_says_the_same(data_dir: Path, again: Path) -> None:
    """Hold the tables against the whole journal: its sessions, and the rows that `replay` makes of it."""
    ended = [number for (number,) in ask(f"SELECT session FROM {files(data_dir, 'sessions')} WHERE {NO_REST}")]
    assert sorted(ended) == sorted(opened_in(data_dir))
    command = [*COMMAND, "replay", str(data_dir / "journal"), "--data-dir", str(again), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_rows(data_dir, again)


def draw_seed() -> int:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(10**6))
    print(f"CRASH_SEED={seed}")
    return seed
