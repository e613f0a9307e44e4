"""A disk that is full refuses batches; what was accepted, and what was to be said, is not lost by it."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from collector_trio.journal.append import RETRY_S, Journal
from collector_trio.journal.records import Batch, Damage, Letter, Note, encode_batch
from collector_trio.journal.segments import journal_dir, state_dir
from tests.small_disk import on_small_disk

from .writing import Disk, HandClock, batches, everything, journal_in, notes, numbered, records, segments

ROOT = Path(__file__).parents[2]


def damages(data_dir: Path) -> list[Damage]:
    return [record for record in everything(data_dir) if isinstance(record, Damage)]


async def until_room(journal: Journal) -> None:
    """Run the journal until batches are accepted again."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        with trio.fail_after(10):
            await journal.room()
        nursery.cancel_scope.cancel()


def test_a_batch_that_does_not_fit_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, clock: HandClock, disk: Disk
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        whole = segments(tmp_path)[0].read()
        length = sum(map(len, encode_batch(Batch(2, clock.ns, 1, [b"second"]))))
        for room in range(length):
            journal._refused_since_ns = None  # as if there had been room in between
            disk.free = room

            assert not journal.append(1, clock(), [b"second"])
            assert journal.is_refusing
            assert segments(tmp_path)[0].read() == whole
        disk.free = 10_000

    assert numbered(tmp_path) == [(1, b"first")]


def test_while_it_refuses_nothing_is_written(tmp_path: Path, clock: HandClock, disk: Disk) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        journal.append(1, clock(), [b"second"])
        disk.free = 10_000

        assert not journal.append(1, clock(), [b"x"])  # the reader waits for `room`, and so do all others
        journal.note(Letter.SUBSCRIBE, {})
        assert disk.free == 10_000


async def test_whoever_waits_for_room_goes_on_when_the_disk_has_some(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        await journal.room()  # there is room: nothing to wait for
        journal.append(1, clock(), [b"first"])
        disk.free = 3
        assert not journal.append(1, clock(), [b"second"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            with trio.move_on_after(50):
                await journal.room()
                raise AssertionError("there is no room")
            disk.free = 10_000
            began = trio.current_time()
            with trio.fail_after(2 * RETRY_S):
                await journal.room()
            assert trio.current_time() - began <= RETRY_S
            nursery.cancel_scope.cancel()
        assert journal.append(1, clock(), [b"second"])

    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]


async def test_the_first_record_after_a_refusal_is_the_refusal_with_its_bounds(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        refused_ns = clock()
        journal.append(1, refused_ns, [b"second"])
        clock.advance(7)
        disk.free = 10_000
        await until_room(journal)
        journal.append(1, clock(), [b"third"])

    found = everything(tmp_path)
    first, refusal, third = found[1:4]
    assert isinstance(refusal, Note)
    assert (type(first), refusal.letter, type(third)) == (Batch, Letter.REFUSAL, Batch)
    assert refused_ns <= refusal.value["since_ns"] < refused_ns + 10
    assert refused_ns + 7 * 10**9 <= refusal.value["until_ns"] == refusal.ns <= batches(tmp_path)[1].received_ns


async def test_notes_made_meanwhile_follow_the_refusal_in_their_order_and_with_their_times(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 5
        made_ns = []
        for number in range(100):  # the first of them meets the full disk itself
            made_ns.append(clock.ns)
            journal.note(Letter.SUBSCRIBE, {"n": number})
        disk.free = 100_000
        await until_room(journal)

    found = everything(tmp_path)
    ticks = [record for record in found if isinstance(record, Note) and record.letter is Letter.SUBSCRIBE]
    assert [tick.value["n"] for tick in ticks] == list(range(100))
    assert [tick.ns for tick in ticks] == [ns + 1 for ns in made_ns]
    refusal = found[2]
    assert isinstance(refusal, Note)
    assert refusal.letter is Letter.REFUSAL


async def test_when_room_suffices_only_for_some_of_the_notes_the_others_wait_on(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        for number in range(20):
            journal.note(Letter.SUBSCRIBE, {"n": number})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            while journal.is_refusing:
                disk.free += 90
                await trio.sleep(RETRY_S)
            nursery.cancel_scope.cancel()
        disk.free = 10_000

    assert [value["n"] for value in notes(tmp_path, Letter.SUBSCRIBE)] == list(range(20))
    assert damages(tmp_path) == []
    assert len({value["since_ns"] for value in notes(tmp_path, Letter.REFUSAL)}) == 1


@pytest.mark.parametrize("room", [0, 1, 20, 35, 60, 150])
async def test_a_disk_that_fills_up_while_segments_change_loses_nothing(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock, room: int
) -> None:
    """With little room the last line of the old segment fails, with more the head of the new one."""
    with journal_in(tmp_path, clock) as (journal, _):
        journal.note(Letter.OPENED, {"session": 1, "frames": 0, "bytes": 0}, current="session 1")
        journal.append(1, clock(), [b"first"])
        clock.advance(61)
        disk.free = room
        assert not journal.append(1, clock(), [b"second"])
        journal.note(Letter.SUBSCRIBE, {})
        disk.free = 10_000
        await until_room(journal)
        assert journal.append(1, clock(), [b"second"])

    assert damages(tmp_path) == []
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]
    assert [segment.number for segment in segments(tmp_path)] == [1, 2]
    first, second = map(records, segments(tmp_path))
    letters = [record.letter if isinstance(record, Note) else None for record in second]
    assert letters == [Letter.SEGMENT, Letter.OPENED, Letter.REFUSAL, Letter.SUBSCRIBE, None, Letter.SEALED]
    assert isinstance(first[-1], Note)
    assert first[-1].letter is Letter.SEALED


async def test_a_segment_that_cannot_be_opened_is_a_full_disk_too(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".open"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_(path, *arguments, **options)

    open_ = os.open
    with journal_in(tmp_path, clock) as (journal, _):
        with monkeypatch.context() as patch:
            patch.setattr("os.open", refuse)
            assert not journal.append(1, clock(), [b"first"])
        await until_room(journal)
        assert journal.append(1, clock(), [b"first"])

    assert numbered(tmp_path) == [(1, b"first")]
    assert len(notes(tmp_path, Letter.REFUSAL)) == 1


async def test_nothing_is_written_behind_a_torn_record_that_cannot_be_cut_off_yet(
    tmp_path: Path, clock: HandClock, disk: Disk, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    def broken(fd: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        with monkeypatch.context() as patch:
            patch.setattr("os.ftruncate", broken)
            disk.free = 10
            assert not journal.append(1, clock(), [b"second"])
            disk.free = 10_000
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                await trio.sleep(5 * RETRY_S)
                nursery.cancel_scope.cancel()
            assert journal.is_refusing
            assert len(segments(tmp_path)[0].read()) > journal._file.size  # type: ignore[union-attr]  # torn
        await until_room(journal)
        assert journal.append(1, clock(), [b"second"])

    assert damages(tmp_path) == []
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]


async def test_a_full_disk_does_not_end_the_task_that_seals(
    tmp_path: Path, clock: HandClock, disk: Disk, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The numbers are written down at each sealing; where there is no room for that, the segments say them."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sealed: list[int] = []
    monkeypatch.setattr("collector_trio.journal.recover.write_whole", full)
    with journal_in(tmp_path, clock, sealed.append) as (journal, _):
        journal.append(1, clock(), [b"first"])
        clock.advance(61)
        journal.append(1, clock(), [b"second"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
        assert sealed == [1]
        disk.free = 0
        journal.append(1, clock(), [b"third"])

    assert sealed == [1, 2]
    assert not (state_dir(tmp_path) / "numbers.json").exists()
    with journal_in(tmp_path, clock) as (journal, _):
        disk.free = 10_000
        journal.append(1, clock(), [b"third"])
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second"), (3, b"third")]


async def test_ticks_made_meanwhile_are_not_written_later(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    """They say that time passed while frames could be received; the refusal says that none could."""
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        for _ in range(5):
            journal.note(Letter.TICK, {})
        disk.free = 10_000
        await until_room(journal)

    assert notes(tmp_path, Letter.TICK) == []
    assert len(notes(tmp_path, Letter.REFUSAL)) == 1


async def test_notes_beyond_the_bound_are_dropped_and_the_refusal_says_how_many(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector_trio.journal.append.MAX_WAITING_NOTES", 3)
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        for expected in (2, 0):
            disk.free = 0
            for number in range(3 + expected):
                journal.note(Letter.SUBSCRIBE, {"n": number})
            disk.free = 10_000
            await until_room(journal)

    assert [value["n"] for value in notes(tmp_path, Letter.SUBSCRIBE)] == [0, 1, 2, 0, 1, 2]
    assert [value["dropped_notes"] for value in notes(tmp_path, Letter.REFUSAL)] == [2, 0]


async def test_somebody_is_told_once_that_the_disk_refuses_and_once_that_it_accepts(
    tmp_path: Path, clock: HandClock, disk: Disk, autojump_clock: MockClock
) -> None:
    told: list[str | None] = []
    with journal_in(tmp_path, clock) as (journal, _):
        journal.on_refusal = told.append
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        for _ in range(3):
            journal.append(1, clock(), [b"second"])
            journal.note(Letter.SUBSCRIBE, {})
        assert told == ["[Errno 28] No space left on device"]
        disk.free = 10_000
        await until_room(journal)

    assert told == ["[Errno 28] No space left on device", None]


def test_notes_that_waited_are_tried_once_more_at_the_end(tmp_path: Path, clock: HandClock, disk: Disk) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        journal.note(Letter.ENDED, {"session": 1})
        disk.free = 10_000

    assert notes(tmp_path, Letter.ENDED) == [{"session": 1}]
    assert [type(record) for record in everything(tmp_path)] == [Note, Batch, Note, Note, Note]


def test_a_journal_that_ends_on_a_full_disk_keeps_what_it_has(tmp_path: Path, clock: HandClock, disk: Disk) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        disk.free = 0
        journal.append(1, clock(), [b"second"])

    assert numbered(tmp_path) == [(1, b"first")]
    assert segments(tmp_path)[0].path.suffix == ".log"
    assert damages(tmp_path) == []


STEPS = st.lists(
    st.tuples(st.just("append"), st.integers(0, 60))
    | st.tuples(st.just("note"), st.integers(0, 60))
    | st.tuples(st.just("free"), st.integers(0, 500))
    | st.tuples(st.just("wait"), st.integers(1, 90)),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_whatever_the_disk_does_exactly_what_was_accepted_is_read_back(steps: list[tuple[str, int]]) -> None:
    async def play(data_dir: Path, disk: Disk) -> tuple[list[bytes], list[int]]:
        clock, accepted, noted = HandClock(), list[bytes](), list[int]()
        with journal_in(data_dir, clock) as (journal, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                for number, (step, size) in enumerate(steps):
                    if step == "append":
                        frames = [b"%d " % number + b"x" * size, b"#"]
                        if journal.append(1, clock(), frames):
                            accepted += frames
                    elif step == "note":
                        journal.note(Letter.SUBSCRIBE, {"n": number, "pad": "x" * size})
                        noted.append(number)
                    elif step == "free":
                        disk.free = size
                    else:
                        clock.advance(size)
                        await trio.sleep(size)
                disk.free = 10**9
                with trio.fail_after(10):
                    await journal.room()
                nursery.cancel_scope.cancel()
        return accepted, noted

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        data_dir = Path(folder)
        disk = Disk(journal_dir(data_dir))
        patch.setattr("os.writev", disk.writev)
        accepted, noted = trio.run(play, data_dir, disk, clock=MockClock(autojump_threshold=0))

        assert numbered(data_dir) == list(enumerate(accepted, 1))
        assert [value["n"] for value in notes(data_dir, Letter.SUBSCRIBE)] == noted
        assert damages(data_dir) == []


# On real file systems, in a process of its own


def fill(command: list[str], data_dir: Path) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["refused"] > 0
    assert found["damages"] == []
    assert found["frames"] == found["accepted"] == found["numbers"] == list(range(1, len(found["numbers"]) + 1))
    assert found["meanwhile"]
    assert len(found["meanwhile"]) == found["refused"]
    assert all(refusal["since_ns"] < refusal["until_ns"] for refusal in found["refusals"])
    return found


def test_a_file_that_may_not_grow_refuses_and_goes_on_when_it_may(tmp_path: Path) -> None:
    found = fill([sys.executable, "-m", "tests.journal.filling", str(tmp_path), "limit"], tmp_path)

    assert len(found["refusals"]) == 1


def test_a_file_system_that_is_full_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    command = [
        *on_small_disk(data_dir, "512k"),
        sys.executable,
        "-m",
        "tests.journal.filling",
        str(data_dir),
        "ballast",
    ]

    found = fill(command, data_dir)

    assert len(found["refusals"]) == 1


async def test_a_sync_that_fails_stops_reading_until_it_works_and_ends_nothing(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, or a thin volume, may say only then that there is no space."""
    failing = True

    def fdatasync(fd: int) -> None:
        if failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fdatasync", fdatasync)
    with journal_in(tmp_path, clock) as (journal, _):
        assert journal.append(1, clock(), [b"first"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            await trio.sleep(5)
            assert journal.is_refusing
            assert not journal.append(1, clock(), [b"refused"])
            failing = False
            with trio.fail_after(10):
                await journal.room()
            assert journal.append(1, clock(), [b"second"])
            nursery.cancel_scope.cancel()
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]
    assert len(notes(tmp_path, Letter.REFUSAL)) == 1


@pytest.mark.parametrize("step", ["os.fdatasync", "pathlib.Path.rename"])
async def test_a_segment_that_could_not_be_finished_is_finished_later(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        clock.advance(61)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, fail)
            journal.append(1, clock(), [b"second"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                await trio.sleep(5)
                assert journal.is_refusing
                nursery.cancel_scope.cancel()
        await until_room(journal)
        assert [segment.is_open for segment in segments(tmp_path)] == [False, True]
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]


def test_a_stop_whose_last_segment_cannot_be_synced_leaves_it_for_the_next_start(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        with journal_in(tmp_path, clock) as (journal, _):
            journal.append(1, clock(), [b"first"])
    assert [segment.is_open for segment in segments(tmp_path)] == [True]
    with journal_in(tmp_path, clock):
        pass
    assert numbered(tmp_path) == [(1, b"first")]
