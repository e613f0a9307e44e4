"""What a crash leaves, at every byte it may stop at, and what the next start makes of it."""

import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collector_trio.errors import CollectorError, DataDirInUse
from collector_trio.journal.records import Batch, Damage, Letter, Note
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.journal.segments import journal_dir
from tests.journal.writing import tidy

from .writing import Disk, HandClock, batches, everything, journal_in, leave_open, notes, numbered, records, segments

ROOT = Path(__file__).parents[2]


def opened(session: int) -> dict[str, object]:
    return {"session": session, "stream": "binance.spot/1", "frames": 0, "bytes": 0, "live_ns": None}


def crashed(data_dir: Path, clock: HandClock) -> Path:
    """Record two segments, the second as a killed process leaves it; return its path."""
    with journal_in(data_dir, clock) as (journal, _):
        for session in (1, 2):
            assert journal.next_session() == session
            journal.note(Letter.OPENED, opened(session), current=f"session {session}")
        journal.append(1, clock(), [b"in the first segment"])
        clock.advance(61)
        journal.append(1, clock(), [b"a", b"b"])
        journal.note(Letter.LIVE, {"session": 1})
        journal.append(2, clock(), [b"c\nd"])
        journal.note(Letter.ENDED, {"session": 2})
        journal.append(1, clock(), [b"e"])
    (data_dir / "state" / "numbers.json").unlink()
    return leave_open(data_dir)


# The lock

HOLD = """
import sys, pathlib
from collector_trio.journal.recover import lock_data_dir
with lock_data_dir(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_collector_is_refused_at_once_and_told_who_is_there(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(DataDirInUse, match=f"pid {holder.pid}") as refused, lock_data_dir(tmp_path):
            pass
        assert time.monotonic() - began < 5
        assert refused.value.data_dir == tmp_path

        holder.send_signal(signal.SIGKILL)  # it cannot unlock; the kernel does
        holder.wait()
        with lock_data_dir(tmp_path):
            pass


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_data_dir(tmp_path):
            pass


def test_a_place_where_no_folder_can_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CollectorError, match="file cannot be recorded into"), lock_data_dir(tmp_path / "file"):
        pass


# Torn tails


def test_a_torn_tail_is_cut_off_wherever_it_is_torn_and_nothing_whole_is_lost(tmp_path: Path, clock: HandClock) -> None:
    path = crashed(tmp_path, clock)
    whole = path.read_bytes()
    first = records(segments(tmp_path)[0])
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = [record for record in records(segments(tmp_path)[1]) if not isinstance(record, Damage)]

        with lock_data_dir(tmp_path):
            recovered = recover(tmp_path)

        found = everything(tmp_path)
        if expected:
            *kept, sealed = found[len(first) :]
            assert kept == expected
            assert isinstance(sealed, Note)
            assert (sealed.letter, sealed.value) == (Letter.SEALED, {"recovered": True})
            assert sealed.ns == recovered.last_ns
            path.with_suffix(".log").unlink()
        else:  # not even its first record is whole
            assert found == first
            assert path.with_suffix(".damaged").exists() == (length > 0)
            path.with_suffix(".damaged").unlink(missing_ok=True)
        (tmp_path / "state" / "numbers.json").unlink()
        torn = length - sum(len(line) for line in whole_lines(whole, expected))
        assert recovered.truncated_bytes == torn
        assert recovered.numbers.segment == 3
        assert recovered.numbers.frame == 2 + sum(len(r.frames) for r in expected if isinstance(r, Batch))
        assert recovered.numbers.session == 3


def whole_lines(data: bytes, found: list[Batch | Note]) -> list[bytes]:
    """Return the texts of the first records of `data`, as many as `found`."""
    starts = [match.start() for match in re.finditer(rb"^#", data, re.MULTILINE)] + [len(data)]
    return [data[starts[index] : starts[index + 1]] for index in range(len(found))]


def test_a_segment_sealed_by_its_recorder_but_not_yet_renamed_gets_no_second_end(
    tmp_path: Path, clock: HandClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"a"])
    (segment,) = segments(tmp_path)
    whole = segment.read()
    segment.path.rename(segment.path.with_suffix(".open"))

    with journal_in(tmp_path, clock):
        pass

    assert segments(tmp_path) == [segment]
    assert segment.read() == whole


def test_recovering_twice_changes_nothing_more(tmp_path: Path, clock: HandClock) -> None:
    crashed(tmp_path, clock)

    with lock_data_dir(tmp_path):
        first = recover(tmp_path)
        files = {segment.path: segment.read() for segment in segments(tmp_path)}
        second = recover(tmp_path)

    assert {segment.path: segment.read() for segment in segments(tmp_path)} == files
    assert second == first


def test_several_open_segments_are_all_mended(tmp_path: Path, clock: HandClock) -> None:
    """A recorder may die after it opened a segment and before the one before is renamed."""
    crashed(tmp_path, clock)
    first, _ = segments(tmp_path)
    first.path.rename(first.path.with_suffix(".open"))

    with journal_in(tmp_path, clock) as (journal, recovered):
        assert list(recovered.open_sessions) == [1]
        journal.append(1, clock(), [b"next"])

    assert [number for number, _ in numbered(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [segment.path.suffix for segment in segments(tmp_path)] == [".log"] * 3


# Damage inside


def test_damage_inside_leaves_a_copy_aside_and_costs_only_what_it_hit(tmp_path: Path, clock: HandClock) -> None:
    path = crashed(tmp_path, clock)
    damaged = path.read_bytes().replace(b"\nb\n", b"\nX\n")
    path.write_bytes(damaged)

    with journal_in(tmp_path, clock) as (journal, recovered):
        assert recovered.truncated_bytes == 0
        assert recovered.numbers.frame == 6
        journal.append(1, clock(), [b"next"])

    assert path.with_suffix(".damaged").read_bytes() == damaged
    assert path.with_suffix(".log").read_bytes().startswith(damaged)
    assert [number for number, _ in numbered(tmp_path)] == [1, 4, 5, 6]  # 2 and 3 lie in the damage
    assert [segment.number for segment in segments(tmp_path)] == [1, 2, 3]


def test_damage_inside_and_a_torn_tail_are_told_apart(tmp_path: Path, clock: HandClock) -> None:
    path = crashed(tmp_path, clock)
    path.write_bytes(path.read_bytes().replace(b"\nb\n", b"\nX\n")[:-1])

    with journal_in(tmp_path, clock) as (_, recovered):
        pass

    assert recovered.truncated_bytes == len(b"#b 5 1795437541000000000 1 1 2 00000000\ne\n") - 1
    assert recovered.numbers.frame == 5
    found = [record for record in records(segments(tmp_path)[1]) if isinstance(record, Damage)]
    assert [damage.tail for damage in found] == [False]


def test_a_segment_of_nothing_readable_is_set_aside_and_its_number_not_used_again(
    tmp_path: Path, clock: HandClock
) -> None:
    path = crashed(tmp_path, clock)
    path.write_bytes(b"\0" * 4096)  # a power cut may leave that

    with journal_in(tmp_path, clock) as (journal, recovered):
        assert recovered.truncated_bytes == 4096
        journal.append(1, clock(), [b"next"])

    assert path.with_suffix(".damaged").read_bytes() == b"\0" * 4096
    assert [segment.number for segment in segments(tmp_path)] == [1, 3]


def test_a_flipped_digit_cannot_make_the_numbers_jump(tmp_path: Path, clock: HandClock) -> None:
    path = crashed(tmp_path, clock)
    path.write_bytes(path.read_bytes().replace(b"#b 5 ", b"#b 9999999 "))

    with lock_data_dir(tmp_path):
        assert recover(tmp_path).numbers.frame == 5


# Sessions


def test_sessions_that_were_open_are_returned_with_what_was_accepted_of_them(tmp_path: Path, clock: HandClock) -> None:
    crashed(tmp_path, clock)

    with lock_data_dir(tmp_path):
        recovered = recover(tmp_path)

    (session,) = recovered.open_sessions.values()
    assert session["session"] == 1
    assert (session["frames"], session["bytes"]) == (4, len(b"in the first segment") + 3)
    live = next(r for r in everything(tmp_path) if isinstance(r, Note) and r.letter is Letter.LIVE)
    assert session["live_ns"] == live.ns
    assert recovered.last_ns == batches(tmp_path)[-1].received_ns


def test_a_session_is_not_forgotten_by_a_start_that_died_before_it_could_end_it(
    tmp_path: Path, clock: HandClock
) -> None:
    crashed(tmp_path, clock)
    with journal_in(tmp_path, clock) as (journal, recovered):
        assert list(recovered.open_sessions) == [1]
        journal.note(Letter.PROCESS, {"event": "start"})
    leave_open(tmp_path)  # killed here: the ending of session 1 was about to be written

    with journal_in(tmp_path, clock) as (journal, recovered):
        assert list(recovered.open_sessions) == [1]
        assert recovered.open_sessions[1]["frames"] == 4
        journal.note(Letter.ENDED, {"session": 1})
    with journal_in(tmp_path, clock) as (_, recovered):
        assert recovered.open_sessions == {}


def test_a_session_whose_opening_was_deleted_since_is_known_from_the_last_head(
    tmp_path: Path, clock: HandClock
) -> None:
    crashed(tmp_path, clock)
    tidy(tmp_path, 1, "until stored", 0, 0.0)

    with lock_data_dir(tmp_path):
        recovered = recover(tmp_path)

    assert [segment.number for segment in segments(tmp_path)] == [2]
    assert recovered.open_sessions[1]["frames"] == 4


# Beginning nevertheless


def test_a_damaged_old_segment_does_not_keep_a_collector_from_starting(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"a" * 5000])
    tidy(tmp_path, 1, "forever", 0, 0.0)
    (segment,) = segments(tmp_path)
    segment.path.write_bytes(segment.path.read_bytes()[:-3])

    with journal_in(tmp_path, clock) as (journal, _):
        assert journal.numbers.frame == 2


def test_a_full_disk_does_not_keep_a_collector_from_starting(tmp_path: Path, clock: HandClock, disk: Disk) -> None:
    path = crashed(tmp_path, clock)
    path.write_bytes(path.read_bytes()[:-1])
    disk.free = 7

    with journal_in(tmp_path, clock) as (journal, recovered):
        assert list(recovered.open_sessions) == [1]
        assert not journal.append(1, clock(), [b"x"])
        disk.free = 10_000

    assert [number for number, _ in numbered(tmp_path)] == [1, 2, 3, 4]
    assert not [record for record in everything(tmp_path) if isinstance(record, Damage)]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"segment": 3, "frame": 4, "session": 5, "later": 6}'])
def test_numbers_that_cannot_be_read_are_taken_from_the_segments(
    tmp_path: Path, clock: HandClock, content: bytes
) -> None:
    crashed(tmp_path, clock)
    (tmp_path / "state" / "numbers.json").write_bytes(content)

    with lock_data_dir(tmp_path):
        numbers = recover(tmp_path).numbers

    assert (numbers.segment, numbers.frame, numbers.session) == (3, 6, 3)


def test_copies_that_a_crash_left_half_written_are_removed(tmp_path: Path, clock: HandClock) -> None:
    crashed(tmp_path, clock)
    part = tmp_path / "journal" / "000000000001-20261123T123800Z.log.zst.4711.part"
    part.write_bytes(b"half")

    with lock_data_dir(tmp_path):
        recover(tmp_path)

    assert not part.exists()


# kill -9

# One process that has imported everything forks a recorder for each line it is sent.
RECORDERS = """
import os, signal, sys, time
from pathlib import Path
import trio
from collector_trio.journal.append import in_thread, open_journal
from collector_trio.journal.recover import lock_data_dir, recover

async def main(data_dir):
    with lock_data_dir(data_dir):
        with open_journal(data_dir, recover(data_dir).numbers, clock=time.time_ns, segment_s=3600,
                          sync_every_s=0.001, offload=in_thread(trio.CapacityLimiter(1))) as journal:
            journal.segment_bytes = 10_000
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                while True:
                    first = journal.numbers.frame
                    frames = [b"%d " % n + b"x\\n" * (n * 37 % 150) for n in range(first, first + 1 + first % 4)]
                    assert journal.append(1, time.time_ns(), frames)
                    os.write(1, b"%d\\n" % (journal.numbers.frame - 1))
                    await trio.lowlevel.checkpoint()

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.write(1, b"%d\\n" % os.getpid())
        trio.run(main, Path(sys.argv[1]))
"""
KILLS = 8


def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    moments = random.Random(seed)
    command = [sys.executable, "-c", RECORDERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, bufsize=0) as recorders:
        assert recorders.stdin is not None
        assert recorders.stdout is not None
        for _ in range(KILLS):
            recorders.stdin.write(b"begin\n")
            said = read_until(recorders.stdout.fileno(), moments.randrange(1, 1_500))
            kill_and_wait(int(said.split()[0]))
            said += read_all(recorders.stdout.fileno())
            acknowledged = int(said[: said.rindex(b"\n")].split()[-1])

            read = numbered(tmp_path)

            assert len(read) >= acknowledged
            assert [number for number, _ in read] == list(range(1, len(read) + 1))
            assert all(frame == b"%d " % number + b"x\n" * (number * 37 % 150) for number, frame in read)
        recorders.stdin.close()
    assert len(segments(tmp_path)) >= KILLS
    assert not [record for record in everything(tmp_path) if isinstance(record, Damage) and not record.tail]


def kill_and_wait(pid: int) -> None:
    """Kill a process that is not our child, and wait for its end."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    ended, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    assert ended


def read_all(fd: int) -> bytes:
    """Read what is in a pipe now."""
    found = b""
    while select.select([fd], [], [], 0)[0]:
        found += os.read(fd, 65_536)
    return found


def read_until(fd: int, length: int, patience_s: float = 30.0) -> bytes:
    """Read at least `length` bytes and two whole lines from a pipe: the process's id and an acknowledgement."""
    found = b""
    deadline = time.monotonic() + patience_s
    while len(found) < length or found.count(b"\n") < 2:
        readable, _, _ = select.select([fd], [], [], deadline - time.monotonic())
        assert readable, f"not within {patience_s:g} s: {length} bytes; these came: {found[-100:]!r}"
        data = os.read(fd, 4096)
        assert data, f"it ended after {found[-100:]!r}"
        found += data
    return found


def test_the_journals_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path / "not" / "yet"):
        assert recover(tmp_path / "not" / "yet").numbers.frame == 1

    assert journal_dir(tmp_path / "not" / "yet").is_dir()
    assert notes(tmp_path / "not" / "yet", Letter.SEGMENT) == []
