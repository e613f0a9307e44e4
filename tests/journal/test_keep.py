"""Segments that every follower has confirmed: compressed, then deleted; the others: never."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from collector_trio.errors import JournalError
from collector_trio.journal.segments import first_line, list_segments, one_segment
from tests.journal.writing import tidy

from .writing import HandClock, everything, journal_in, leave_open, segments

NOW_S = 2_000_000_000.0
FOREVER_FREE = 0


def recorded(data_dir: Path, clock: HandClock, ages_s: tuple[float, ...] = (300, 200, 100, 0)) -> None:
    """Record one segment per age."""
    with journal_in(data_dir, clock) as (journal, _):
        for number in range(len(ages_s)):
            journal.append(1, clock(), [b"%d" % number, b"the same again and again" * 50])
            clock.advance(61)
    for segment, age_s in zip(segments(data_dir), ages_s, strict=True):
        os.utime(segment.path, (NOW_S - age_s, NOW_S - age_s))


def kept(data_dir: Path) -> dict[int, str]:
    """Return what there is: number → the name's end."""
    return {segment.number: segment.path.name.partition(".")[2] for segment in segments(data_dir)}


def test_confirmed_segments_are_compressed_and_read_back_the_same(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    before, texts = everything(tmp_path), [segment.read() for segment in segments(tmp_path)]

    tidy(tmp_path, 3, "forever", FOREVER_FREE, NOW_S)

    assert kept(tmp_path) == {1: "log.zst", 2: "log.zst", 3: "log.zst", 4: "log"}
    assert [segment.read() for segment in segments(tmp_path)] == texts
    assert everything(tmp_path) == before
    assert segments(tmp_path)[0].path.stat().st_size < len(texts[0]) / 2


def test_a_compressed_segment_is_as_old_as_what_it_holds(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    ages = [segment.path.stat().st_mtime for segment in segments(tmp_path)]

    tidy(tmp_path, 4, 86400.0, FOREVER_FREE, NOW_S)

    assert [segment.path.stat().st_mtime for segment in segments(tmp_path)] == ages


def test_segments_are_deleted_when_they_are_old_enough_whether_compressed_or_not(
    tmp_path: Path, clock: HandClock
) -> None:
    recorded(tmp_path, clock)
    tidy(tmp_path, 1, 250.0 + 100, FOREVER_FREE, NOW_S)
    assert kept(tmp_path) == {1: "log.zst", 2: "log", 3: "log", 4: "log"}

    tidy(tmp_path, 4, 150.0, FOREVER_FREE, NOW_S)

    assert kept(tmp_path) == {3: "log.zst", 4: "log.zst"}


def test_until_stored_deletes_all_that_is_confirmed_and_nothing_else(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)

    tidy(tmp_path, 2, "until stored", FOREVER_FREE, NOW_S)

    assert kept(tmp_path) == {3: "log", 4: "log"}


def test_forever_deletes_nothing(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock, (10**9, 10**8, 10**7, 0))

    tidy(tmp_path, 4, "forever", FOREVER_FREE, NOW_S)

    assert list(kept(tmp_path)) == [1, 2, 3, 4]


@pytest.mark.parametrize("keep", ["until stored", 0.0, "forever"])
def test_what_no_follower_has_confirmed_is_not_touched_whatever_is_asked(
    tmp_path: Path, clock: HandClock, keep: float | str
) -> None:
    recorded(tmp_path, clock, (10**9, 10**9, 10**9, 10**9))
    before = {segment.path: segment.read() for segment in segments(tmp_path)}

    tidy(tmp_path, 0, keep, 2**62, NOW_S)

    assert {segment.path: segment.read() for segment in segments(tmp_path)} == before


def test_the_running_segment_is_not_touched_even_if_somebody_confirmed_it(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    leave_open(tmp_path)

    tidy(tmp_path, 99, "until stored", FOREVER_FREE, NOW_S)

    assert kept(tmp_path) == {4: "open"}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_below_the_wanted_free_space_the_oldest_go_first_and_no_more_than_needed(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path, clock)

    def usage(path: Any) -> Usage:
        return Usage(10_000, 0, 1000 - 100 * len(list(tmp_path.glob("journal/*.log"))))

    monkeypatch.setattr(shutil, "disk_usage", usage)

    tidy(tmp_path, 3, "forever", 750, NOW_S)  # 600 are free

    assert list(kept(tmp_path)) == [3, 4]


def test_a_disk_too_full_for_the_copy_keeps_the_text_and_is_no_error(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorded(tmp_path, clock)
    before = {segment.path: segment.read() for segment in segments(tmp_path)}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)

        tidy(tmp_path, 4, "forever", FOREVER_FREE, NOW_S)

    assert {segment.path: segment.read() for segment in segments(tmp_path)} == before
    assert not list(tmp_path.glob("journal/*.part"))
    tidy(tmp_path, 4, "forever", FOREVER_FREE, NOW_S)
    assert set(kept(tmp_path).values()) == {"log.zst"}


def test_a_segment_that_somebody_removed_meanwhile_is_no_error(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path, clock)
    listed = segments(tmp_path)
    listed[1].path.unlink()
    monkeypatch.setattr("collector_trio.journal.keep.list_segments", lambda folder: listed)

    tidy(tmp_path, 4, "until stored", FOREVER_FREE, NOW_S)

    assert kept(tmp_path) == {}


# What the folder says, while it changes


def test_of_a_segment_that_is_there_twice_the_text_is_read(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    (first, *_) = segments(tmp_path)
    first.path.with_name(first.path.name + ".zst").write_bytes(b"half a copy")

    assert segments(tmp_path)[0] == first


def test_what_is_no_segment_is_not_listed(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    for name in ("000000000009-x.log.zst.part", "000000000009-x.damaged", "notes.log", "000000000009.log", "x-y.open"):
        (tmp_path / "journal" / name).write_bytes(b"")

    assert list(kept(tmp_path)) == [1, 2, 3, 4]
    assert list_segments(tmp_path / "nowhere") == []


def test_a_rename_while_the_folder_is_listed_hides_no_segment(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lists a large folder in pieces: a file renamed in between can be missing from all of them."""
    recorded(tmp_path, clock)
    names = sorted(os.listdir(tmp_path / "journal"))
    lists = [[names[0], names[2], names[3]], names[:3], names, names]
    monkeypatch.setattr("collector_trio.journal.segments._names_in", lambda folder: lists.pop(0))

    assert list(kept(tmp_path)) == [1, 2, 3, 4]
    assert lists == []


def test_a_segment_is_read_under_the_name_it_has_by_then(tmp_path: Path, clock: HandClock) -> None:
    recorded(tmp_path, clock)
    leave_open(tmp_path)
    listed = segments(tmp_path)
    texts = [segment.read() for segment in listed]
    listed[3].path.rename(listed[3].path.with_suffix(".log"))
    tidy(tmp_path, 3, "forever", FOREVER_FREE, NOW_S)
    assert [segment.read() for segment in listed] == texts

    tidy(tmp_path, 4, "forever", FOREVER_FREE, NOW_S)
    assert [segment.read() for segment in listed] == texts
    tidy(tmp_path, 4, "until stored", FOREVER_FREE, NOW_S)
    for segment in listed:
        with pytest.raises(FileNotFoundError):
            segment.read()


def test_a_compressed_segment_that_is_cut_short_is_an_error_and_not_a_shorter_segment(
    tmp_path: Path, clock: HandClock
) -> None:
    recorded(tmp_path, clock, (0,))
    tidy(tmp_path, 1, "forever", FOREVER_FREE, NOW_S)
    (segment,) = segments(tmp_path)
    whole = segment.path.read_bytes()
    for length in range(1, len(whole)):
        segment.path.write_bytes(whole[:length])
        with pytest.raises(JournalError, match="cut short") as error:
            segment.read()
        assert error.value.path == segment.path


def test_a_segment_that_is_no_zstd_at_all_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "000000000001-x.log.zst"
    path.write_bytes(b"not compressed")

    with pytest.raises(JournalError, match=r"x\.log\.zst: at byte 0"):
        one_segment(path).read()
    with pytest.raises(JournalError):
        first_line(one_segment(path))


def test_a_journal_packed_by_other_means_is_read_whole(tmp_path: Path) -> None:
    """`zstd` from a pipe writes no size; `cat a.zst b.zst` makes several frames."""
    parts = [b"first\n" * 1000, b"second\n" * 1000]
    path = tmp_path / "moved.zst"
    path.write_bytes(b"".join(zstandard.ZstdCompressor(write_content_size=False).compress(part) for part in parts))

    assert one_segment(path).read() == b"".join(parts)
    assert first_line(one_segment(path)) == b"first\n"
