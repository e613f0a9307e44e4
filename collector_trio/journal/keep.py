"""What happens to sealed segments that every follower has confirmed: kept compressed for a while, then deleted."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import zstandard

from collector_trio.journal.segments import Segment, journal_dir, list_segments, sync_folder, write_whole

LEVEL = 1  # measured: level 3 was larger and slower on this data


def tidy_one(data_dir: Path, confirmed: int, keep: float | str, min_free_bytes: int, now_s: float) -> bool:
    """Compress or delete the first segment up to number `confirmed` that is due; tell whether there was one.

    `keep` is seconds, "until stored" or "forever". One at a time, so that a stop need not wait for more.

    Below `min_free_bytes` of free space the oldest go first, whatever `keep` says. What a follower still needs never
    goes. What somebody else removed or forbade, or a disk too full for the copy, is no reason to stop.
    """
    for segment in list_segments(journal_dir(data_dir)):
        if segment.is_open or segment.number > confirmed:
            break
        with suppress(OSError):
            age_s = now_s - segment.path.stat().st_mtime
            expired = keep == "until stored" or (not isinstance(keep, str) and age_s > keep)
            if expired or shutil.disk_usage(data_dir).free < min_free_bytes:
                segment.path.unlink()
                return True
            if segment.path.name.endswith(".log") and _compress(segment):
                return True
    return False


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
