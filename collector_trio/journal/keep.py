"""What happens to sealed segments that every follower has confirmed: kept compressed for a while, then deleted."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import zstandard

from collector_trio.journal.segments import Segment, journal_dir, list_segments, sync_folder, write_whole

LEVEL = 1  # measured: level 3 was larger and slower on this data


def tidy_one(data_dir: Path, confirmed: int, keep: float | str, now_s: float) -> bool:
    """Compress or delete the first segment up to number `confirmed` that is due; tell whether there was one.

    `keep` is seconds, "until stored" or "forever". One at a time, so that a stop need not wait for more.

    What a follower still needs never goes. What somebody else removed, or a disk too full for the copy, is no reason to
    stop; nor is what somebody forbade, but where nothing else is due that raises its OSError.
    """
    forbidden: OSError | None = None
    for segment in _confirmed(data_dir, confirmed):
        try:
            age_s = now_s - segment.path.stat().st_mtime
            if keep == "until stored" or (not isinstance(keep, str) and age_s > keep):
                segment.path.unlink()
                return True
            if segment.path.name.endswith(".log") and _compress(segment):
                return True
        except FileNotFoundError:
            continue
        except OSError as error:
            forbidden = forbidden or error
    if forbidden is not None:
        raise forbidden
    return False


def let_go(data_dir: Path, confirmed: int, wanted_bytes: int) -> bool:
    """Delete the oldest segments up to number `confirmed` until they make up `wanted_bytes`; tell whether they did.

    It counts what they took and does not look at what is free: some file systems give space back only later.
    """
    gone_bytes = 0
    for segment in _confirmed(data_dir, confirmed):
        if gone_bytes >= wanted_bytes:
            break
        with suppress(FileNotFoundError):
            taken = segment.path.stat().st_blocks * 512
            segment.path.unlink()
            gone_bytes += max(1, taken)
    return gone_bytes >= wanted_bytes


def _confirmed(data_dir: Path, confirmed: int) -> Iterator[Segment]:
    for segment in list_segments(journal_dir(data_dir)):
        if segment.is_open or segment.number > confirmed:
            return
        yield segment


def _compress(segment: Segment) -> bool:
    """Replace a segment by its zstd copy. Readers prefer the text while both exist; the copy keeps the age of what was
    recorded.
    """
    stat = segment.path.stat()
    packed = segment.path.with_name(segment.path.name + ".zst")
    data = zstandard.ZstdCompressor(level=LEVEL).compress(segment.path.read_bytes())
    try:
        write_whole(packed, data)
    except OSError:
        return False  # the text stays, and is tried again next time
    os.utime(packed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    segment.path.unlink()
    sync_folder(packed.parent)
    return True
