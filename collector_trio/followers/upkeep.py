"""What becomes of hours that are over: their files are merged, and one day they are removed (`keep_tables`).

Done by the follower between two segments, a piece at a time, so that no segment waits for long. Whole folders change
places or go: what a reader has begun to list stays complete for `GRACE_S` more. A crash leaves the old folder or the
new one; what was beside is in `<data_dir>/tmp`, which the next start clears.
"""

import errno
import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pyarrow as pa
from structlog.typing import FilteringBoundLogger

from collector_trio.followers.cursor import segments_behind
from collector_trio.followers.merge import CannotMerge, merge
from collector_trio.followers.publish import numbers
from collector_trio.followers.swap import SwapUnsupported
from collector_trio.journal.segments import sync_folder
from collector_trio.tables import TABLES

GRACE_S = 10.0
ROOM = 8  # times what an hour's files take; the pieces on the way take more than the files, and nothing goes before
HOUR_S = 3600
DAY_H = 24
# Kept whatever their age: what is still missing, and the terms still in force, may have been noted long ago.
KEPT_TABLES = ("gaps", "instruments")
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what every hour would meet


@attrs.frozen
class _Span:
    """Hours since the epoch: those before `over` are merged, those before `expired` are removed."""

    over: int
    expired: int


@attrs.define
class Upkeep:
    """Merges and removes hours. `keep_s` None is forever; `clock` gives seconds since the epoch.

    The caller holds the cursor. A context manager: what was begun and not finished is given up at its end.
    """

    data_dir: Path
    keep_s: float | None
    log: FilteringBoundLogger
    clock: Callable[[], float]
    _work: Iterator[None] | None = None
    _working_on: _Span = _Span(0, 0)
    _done: _Span | None = None
    _swaps: bool = True
    _left: set[Path] = attrs.field(factory=set)  # hours that cannot be merged, and will not be tried again
    _going: deque[tuple[float, Path]] = attrs.field(factory=deque)  # folders to be removed, and since when
    _names: Iterator[int] = attrs.field(factory=itertools.count)

    def __enter__(self) -> "Upkeep":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._give_up()

    def step(self, stored: int) -> bool:
        """Do the next piece of work; tell whether there is more. Segments up to number `stored` are in the tables."""
        self._remove_going()
        if self._work is None:
            span = self._span(stored)
            if span == self._done:
                return False
            self._work, self._working_on = self._pass(span, stored), span
        try:
            next(self._work)
        except StopIteration:
            self._work, self._done = None, self._working_on
        except OSError as error:  # of a folder that cannot be listed, renamed or synced; the next hour tries again
            self.log.error("hours not tidied", problem=str(error))
            self._work, self._done = None, self._working_on
        return self._work is not None

    def _give_up(self) -> None:
        if self._work is not None:
            self._work.close()  # type: ignore[attr-defined]
            self._work = None

    def _span(self, stored: int) -> _Span:
        """Tell which hours are over: they have passed, and no segment that was opened in or before them is unstored."""
        now_s = self.clock()
        expired = 0 if self.keep_s is None else int((now_s - self.keep_s) // HOUR_S)
        by_the_clock = _Span(int(now_s // HOUR_S), expired)
        if by_the_clock == self._done:  # the usual answer, for which the journal need not be listed
            return by_the_clock
        unstored = [segment.opened_s for segment in segments_behind(self.data_dir, stored)]
        return _Span(int(min([now_s, *unstored]) // HOUR_S), expired)

    def _pass(self, span: _Span, stored: int) -> Iterator[None]:
        if self.keep_s is not None:
            yield from self._remove_expired(span.expired)
        # The first time all hours are looked at; then those that may have changed since, with a day's margin.
        first = 0 if self._done is None else min(self._done.over, span.over) - DAY_H
        for table in TABLES:
            for market in _markets(self.data_dir, table):
                for folder in _hours(market, first, span.over):
                    if self._swaps and folder not in self._left and _is_due(folder, stored):
                        try:
                            yield from self._merge(table, folder)
                        except OSError as error:
                            self.log.error("hours not merged", problem=str(error))
                            return
                yield

    # Merging

    def _merge(self, table: str, folder: Path) -> Iterator[None]:
        """Merge one hour. Raises OSError where the disk would not take the next one either."""
        aside, is_swapped = self._aside(folder), False
        try:
            _ask_for_room(folder)
            yield from merge(table, folder, aside)
            is_swapped = True
        except SwapUnsupported as error:
            self._swaps = False
            self.log.warning("hours stay as they are: this filesystem cannot swap folders", problem=str(error))
        except (CannotMerge, OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
                raise
            self._left.add(folder)
            self.log.error("hour not merged", folder=str(folder), problem=str(error))
        finally:
            if is_swapped:
                self._going.append((self.clock(), aside))
            else:
                shutil.rmtree(aside, ignore_errors=True)

    def _aside(self, folder: Path) -> Path:
        """Return a folder that is not there, for what takes or took the place of `folder`."""
        return self.data_dir / "tmp" / "-".join(["hour", str(next(self._names)), *folder.parts[-5:]])

    # Removing

    def _remove_expired(self, expired: int) -> Iterator[None]:
        removed = 0
        for table in TABLES:
            if table in KEPT_TABLES:
                continue
            for market in _markets(self.data_dir, table):
                for folder in _hours(market, 0, expired):
                    self._remove(folder)
                    removed += 1
                    yield
        if removed:
            before = datetime.fromtimestamp(expired * HOUR_S, UTC).isoformat()
            self.log.info("tables older than keep_tables removed", before=before, folders=removed)

    def _remove(self, folder: Path) -> None:
        """Take an hour's folder away as a whole; its files are deleted a little later."""
        aside = self._aside(folder)
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        sync_folder(folder.parent)
        self._going.append((self.clock(), aside))
        with suppress(OSError):  # other hours of that day are there
            folder.parent.rmdir()

    def _remove_going(self) -> None:
        """Delete one of the folders that nobody can be listing any more."""
        if self._going and not 0 <= self.clock() - self._going[0][0] < GRACE_S:
            folder = self._going.popleft()[1]
            try:
                shutil.rmtree(folder)
            except OSError as error:  # what is left of it goes at the next start
                self.log.error("old files not deleted", folder=str(folder), problem=str(error))


def _ask_for_room(folder: Path) -> None:
    """Raise OSError where merging might take the space that the recorder needs."""
    needed = ROOM * sum(path.stat().st_size for path in folder.iterdir())
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"merging wants {needed:,} bytes of free space", str(folder))


def _markets(data_dir: Path, table: str) -> list[Path]:
    return sorted((data_dir / table).glob("exchange=*/market=*"))


def _hours(market: Path, first: int, end: int) -> Iterator[Path]:
    """Yield the folders of the hours from `first` to before `end`, counted since the epoch."""
    for day in sorted(market.glob("date=*")):
        midnight = _hour(day.name, "hour=00")
        if midnight is not None and first - DAY_H < midnight < end:
            for folder in sorted(day.glob("hour=*")):
                hour = _hour(day.name, folder.name)
                if hour is not None and first <= hour < end:
                    yield folder


def _hour(day: str, hour: str) -> int | None:
    try:
        began = datetime.strptime(f"{day} {hour}", "date=%Y-%m-%d hour=%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(began.timestamp()) // HOUR_S


def _is_due(folder: Path, stored: int) -> bool:
    """Tell whether there are several files, and none of a segment that will be stored again."""
    found = [numbers(path) for path in folder.glob("*.parquet")]
    return len(found) > 1 and all(said is None or said[1] <= stored for said in found)
