"""Below `min_free` kept journals go first, then reading stops; it goes on when there is enough again. A slow disk only
makes syncs late.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from collector_trio.config_values import parse_size
from collector_trio.journal import space
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.journal.space import Floor, Space, find_floor, size_text

from .writing import HandClock, inline, journal_in, notes, numbered, segments

GIB = 2**30


class DiskSpace:
    """What is free of a disk: `free`, and a GiB more for each segment that went."""

    def __init__(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data_dir, self.free = data_dir, 10 * GIB
        monkeypatch.setattr(space, "free_bytes", lambda data_dir: self.free + GIB * self.gone)
        self.most = 0

    @property
    def gone(self) -> int:
        kept = len(segments(self.data_dir))
        self.most = max(self.most, kept)
        return self.most - kept


@contextmanager
def looked_after(
    data_dir: Path, clock: HandClock, confirmed: Callable[[], int]
) -> Iterator[tuple[Journal, Space, list[str]]]:
    told: list[str] = []
    with journal_in(data_dir, clock) as (journal, _):
        floor = Floor(GIB, GIB, 100 * GIB)
        yield journal, Space(journal, floor, "forever", confirmed, inline, lambda: clock() / 1e9, told.append), told


async def test_reading_stops_below_the_floor_and_goes_on_when_enough_is_free_again(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskSpace(tmp_path, monkeypatch)
    with looked_after(tmp_path, clock, lambda: 0) as (journal, looking, told):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            await nursery.start(looking.run)
            assert journal.append(1, clock(), [b"before"])
            disk.free = GIB - 1
            await trio.sleep(3)
            assert not journal.append(1, clock(), [b"meanwhile"])
            assert journal.refusal == "less than min_free (1 GiB) is free: 1024.0 MiB"
            disk.free = GIB + 1  # as much as must be is not enough to begin again
            await trio.sleep(3)
            assert journal.is_refusing
            disk.free = 2 * GIB
            await trio.sleep(5)
            assert journal.append(1, clock(), [b"after"])
            nursery.cancel_scope.cancel()
    assert numbered(tmp_path) == [(1, b"before"), (2, b"after")]
    assert len(notes(tmp_path, Letter.REFUSAL)) == 1
    assert told == []


async def test_where_too_little_is_free_from_the_start_nothing_is_accepted(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda data_dir: 0)
    with looked_after(tmp_path, clock, lambda: 0) as (journal, looking, _):
        async with trio.open_nursery() as nursery:
            await nursery.start(looking.run)
            assert not journal.append(1, clock(), [b"x"])
            nursery.cancel_scope.cancel()
    assert numbered(tmp_path) == []


async def test_kept_journals_go_first_the_oldest_of_them_and_only_what_followers_have(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskSpace(tmp_path, monkeypatch)
    for n in range(5):
        with journal_in(tmp_path, clock) as (journal, _):
            journal.append(1, clock(), [b"%d" % n])
    numbers = [segment.number for segment in segments(tmp_path)]
    with looked_after(tmp_path, clock, lambda: numbers[2]) as (journal, looking, _):
        assert disk.gone == 0
        disk.free = GIB // 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            await nursery.start(looking.run)
            await trio.sleep(3)
            assert journal.append(1, clock(), [b"more"])  # it was enough that some went
            disk.free = -10 * GIB
            await trio.sleep(10)
            assert not journal.append(1, clock(), [b"too much"])
            nursery.cancel_scope.cancel()
    assert [segment.number for segment in segments(tmp_path)][:2] == numbers[3:]


async def test_a_disk_that_others_fill_stops_reading_although_a_little_more_can_go_at_every_look(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment a second is kept, stored and deleted, and what others write is more than it gives back."""
    monkeypatch.setattr(space, "free_bytes", lambda data_dir: GIB // 2)
    with looked_after(tmp_path, clock, lambda: 10**6) as (journal, looking, _):
        journal.segment_ns = 10**9 // 4
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            assert journal.append(1, clock(), [b"x"])
            clock.advance(1)
            assert journal.append(1, clock(), [b"x"])
            await trio.sleep(2)
            assert not segments(tmp_path)[0].is_open
            await nursery.start(looking.run)
            assert not journal.append(1, clock(), [b"x"])
            nursery.cancel_scope.cancel()


async def test_what_cannot_be_deleted_is_said_once_and_stops_nothing(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object) -> bool:
        raise PermissionError("not yours")

    monkeypatch.setattr(space, "free_bytes", lambda data_dir: 0)
    monkeypatch.setattr(space, "let_go", forbidden)
    with looked_after(tmp_path, clock, lambda: 0) as (journal, looking, told):
        async with trio.open_nursery() as nursery:
            await nursery.start(looking.run)
            await trio.sleep(20)
            assert journal.is_refusing
            nursery.cancel_scope.cancel()
    assert told == ["not yours"]


def test_a_disk_smaller_than_the_floor_keeps_a_tenth_of_itself_free(tmp_path: Path) -> None:
    assert find_floor(tmp_path, 0) == Floor(0, 0, find_floor(tmp_path, 0).disk_bytes)
    huge = find_floor(tmp_path / "not" / "there" / "yet", 2**60)
    assert huge.bytes == huge.disk_bytes // 10
    assert huge.problem is not None
    assert "min_free (1048576 TiB) is more than the whole disk" in huge.problem


async def test_a_sync_that_takes_seconds_delays_no_append(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock
) -> None:
    syncs = 0

    async def slowly(work: Callable[[], None]) -> None:
        nonlocal syncs
        await trio.sleep(5)
        work()
        syncs += 1

    with journal_in(tmp_path, clock) as (journal, _):
        journal.offload = slowly
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            for _ in range(30):
                await trio.sleep(1)
                clock.advance(1)
                assert journal.append(1, clock(), [b"x"])
            nursery.cancel_scope.cancel()
    assert len(numbered(tmp_path)) == 30
    assert syncs >= 3


def test_sizes_are_said_as_the_config_has_them() -> None:
    sizes = {2**30: "1 GiB", 512 * 2**20: "512 MiB", 2 * 10**9: "2 GB", 100_000: "100 kB", 0: "0 B", 1023: "1023 B"}
    for size, text in sizes.items():
        assert size_text(size) == text
        assert parse_size(text) == size
    assert size_text(3 * 2**29) == "1.5 GiB"
    assert size_text(20_000 * 512_000 + 4096) == "9.5 GiB"
