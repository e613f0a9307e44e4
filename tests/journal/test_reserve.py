"""Space reserved ahead: readers see nothing of it, what is not used goes back, and it is no condition for recording."""

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from collector_trio.journal import reserve as module

from .writing import HandClock, journal_in, leave_open, numbered, segments


async def test_space_is_reserved_without_size_and_given_back_when_the_segment_is_sealed(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            await trio.sleep(0.5)
            stat = segments(tmp_path)[0].path.stat()
            if stat.st_blocks * 512 < 2**20:
                pytest.skip("this file system cannot reserve")
            assert stat.st_size < 1000
            nursery.cancel_scope.cancel()
    assert segments(tmp_path)[0].path.stat().st_blocks * 512 < 2**16
    assert numbered(tmp_path) == [(1, b"first")]


def test_what_a_killed_recorder_had_reserved_is_given_back(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
    path = leave_open(tmp_path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        if module.reserve(fd, path.stat().st_size) is None:
            pytest.skip("this file system cannot reserve")
    finally:
        os.close(fd)
    with journal_in(tmp_path, clock):
        pass
    assert segments(tmp_path)[0].path.stat().st_blocks * 512 < 2**16
    assert numbered(tmp_path) == [(1, b"first")]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT])
async def test_where_nothing_can_be_reserved_recording_goes_on(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "fallocate", refuse)
    told: list[str | None] = []
    with journal_in(tmp_path, clock) as (journal, _):
        journal.on_unreserved = told.append
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            for _ in range(3):
                await trio.sleep(2)
                assert journal.append(1, clock(), [b"x"])
            nursery.cancel_scope.cancel()
    assert len(numbered(tmp_path)) == 3
    assert len(told) == (number in (errno.ENOSPC, errno.EDQUOT))  # once: a warning, no refusal


async def test_who_holds_the_journal_stops_reading_and_the_refusal_is_written_when_it_is_released(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock
) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"first"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            journal.hold("less than min_free is free")
            assert not journal.append(1, clock(), [b"second"])
            await trio.sleep(5)
            assert journal.refusal == "less than min_free is free"
            assert [segment.is_open for segment in segments(tmp_path)] == [False]  # so followers store it
            journal.release()
            await trio.sleep(3)
            assert journal.append(1, clock(), [b"second"])
            nursery.cancel_scope.cancel()
    assert numbered(tmp_path) == [(1, b"first"), (2, b"second")]
