"""Every system call of the journal fails, once and for a while, at every place in a short life: nothing accepted is
lost, nothing else is claimed, work goes on when the errors end, and somebody is told.
"""

import errno
import io
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from collector_trio.errors import CollectorError
from collector_trio.journal import reserve
from collector_trio.journal.append import Journal, open_journal
from collector_trio.journal.records import Damage, Letter
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.journal.segments import journal_dir

from .writing import HandClock, everything, inline, journal_in, leave_open, notes, numbered, segments

TORN = b"#b 99 99 1 1 20 00000000\n{"
FOR_S = 3.5  # how long errors last that do not come once only

# What fails, and how. `short`: a part is done, and said so. `torn`: a part is done, and then an error.
CALLS: dict[str, tuple[str, ...]] = {
    "writev": ("short", "torn", "ENOSPC"),
    "pwrite": ("short", "torn", "ENOSPC"),
    "fdatasync": ("ENOSPC", "EIO"),
    "fsync": ("EIO",),
    "fallocate": ("ENOSPC", "EIO", "EOPNOTSUPP"),
    "fstatvfs": ("EIO",),
    "ftruncate": ("EIO",),
    "truncate": ("EIO",),
    "open": ("ENOSPC",),
    "io.open": ("ENOSPC",),
    "close": ("EIO",),
    "rename": ("ENOSPC", "EIO"),
    "replace": ("EIO",),
    "unlink": ("EIO",),
    "symlink": ("ENOSPC",),
    "mkdir": ("ENOSPC",),
    "scandir": ("EIO",),
}
ALL = "all of them"


@attrs.define
class Calls:
    """Stands before the system calls that concern `data_dir`: counts them, and lets some of them fail."""

    data_dir: Path
    name: str = ""
    index: int = -1  # the first that fails; none: -1
    how: str = ""
    lasts: bool = False
    count: Counter[str] = attrs.field(factory=Counter)
    struck: list[str] = attrs.field(factory=list)  # calls and paths
    begun: float = 0.0

    @contextmanager
    def in_the_way(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                home: Any = {"io.open": io, "fallocate": reserve}.get(name, os)
                short = name.rpartition(".")[2]
                patch.setattr(home, short, self._before(name, getattr(home, short)))
            yield

    def _before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            path = str(arguments[name == "symlink"])
            if isinstance(arguments[0], int):
                path = os.readlink(f"/proc/self/fd/{path}")
            if not path.startswith(str(self.data_dir)) or path.endswith(".lock"):
                return call(*arguments, **options)
            if name == "io.open" and "r" in arguments[1]:
                return call(*arguments, **options)
            for counted in (name, ALL):
                self.count[counted] += 1
            if not self._strikes(name):
                return call(*arguments, **options)
            self.struck.append(f"{name} {path}")
            if self.how in ("short", "torn"):
                data = b"".join(arguments[1]) if name == "writev" else arguments[1]
                half = data[: len(data) // 2]
                done: int = call(arguments[0], [half] if name == "writev" else half, *arguments[2:])
                if self.how == "short":
                    return done
            elif name == "close":
                call(*arguments)
            number = getattr(errno, self.how, errno.EIO)
            raise OSError(number, os.strerror(number))

        return stand_in

    def _strikes(self, name: str) -> bool:
        index = self.count[self.name] - 1
        if self.name not in (name, ALL) or self.index < 0 or index < self.index:
            return False
        if index == self.index:
            self.begun = trio.current_time()
        return index == self.index or (self.lasts and trio.current_time() < self.begun + FOR_S)


@attrs.define
class Life:
    """A short life of a journal: what was accepted, what was noted, and what somebody was told."""

    calls: Calls
    clock: HandClock = attrs.field(factory=HandClock)
    accepted: list[bytes] = attrs.field(factory=list)
    noted: list[int] = attrs.field(factory=list)
    told: list[str] = attrs.field(factory=list)
    stopped_full: bool = False  # the disk refused to the end, so that what waited could not be written

    async def live(self) -> None:
        """Record, rotate, be held, stop; crash; start again."""
        async with self.recording() as journal:
            journal.note(Letter.OPENED, {"session": 1, "frames": 0, "bytes": 0}, current="session 1")
            await self.work(journal)
            self.clock.advance(61)
            await self.work(journal)
            journal.hold("no reason")
            await trio.sleep(1.5)
            journal.release()
            await self.work(journal)
        self.crash()
        async with self.recording() as journal:
            await self.work(journal)

    async def work(self, journal: Journal) -> None:
        for _ in range(2):
            frame = b"%d" % len(self.accepted)
            with trio.fail_after(20):
                while not journal.append(1, self.clock(), [frame]):
                    await journal.room()
            self.accepted.append(frame)
            self.noted.append(len(self.noted))
            journal.note(Letter.SUBSCRIBE, {"n": self.noted[-1]})
            await trio.sleep(0.7)

    def crash(self) -> None:
        """Leave what a kill, or a power cut, may leave: a torn record, a segment of nothing else, an empty one."""
        last = segments(self.calls.data_dir)[-1]
        sealed = b"#z " in last.read()
        path = leave_open(self.calls.data_dir) if sealed else last.path.rename(last.path.with_suffix(".open"))
        with path.open("ab") as file:
            file.write(TORN)
        path.with_name("000000000008-20261123T130000Z.open").write_bytes(TORN)
        path.with_name("000000000009-20261123T130000Z.open").touch()

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[Journal]:
        """Let a journal work, opened as `run` does, and once more if the disk does not let it begin."""
        with self.calls.in_the_way(), ExitStack() as stack:
            try:
                journal = self.begin(stack)
            except CollectorError as error:
                self.told.append(str(error))
                await trio.sleep(FOR_S)
                journal = self.begin(stack)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                yield journal
                nursery.cancel_scope.cancel()
            self.stopped_full |= journal.is_refusing

    def begin(self, stack: ExitStack) -> Journal:
        with ExitStack() as attempt:
            attempt.enter_context(lock_data_dir(self.calls.data_dir))
            opening = open_journal(
                self.calls.data_dir, recover(self.calls.data_dir).numbers, clock=self.clock, segment_s=60.0,
                sync_every_s=1.0, offload=inline, on_refusal=self.tell, on_unreserved=self.tell,
            )  # fmt: skip
            journal = attempt.enter_context(opening)
            stack.push(attempt.pop_all())
        return journal

    def tell(self, reason: str | None) -> None:
        if reason is not None:
            self.told.append(reason)


def played(data_dir: Path, name: str = "", index: int = -1, how: str = "", *, lasts: bool = False) -> Life:
    calls = Calls(data_dir, name, index, how, lasts)
    life = Life(calls)
    trio.run(life.live, clock=MockClock(autojump_threshold=0))
    return life


def goes_unsaid(struck: str) -> bool:
    """Tell whether nobody need be told: what fails is for people, or a copy of what the segments say themselves."""
    name, path = struck.split(" ", 1)
    return name in ("symlink", "pwrite") or "/state/" in path or path.endswith(("current", "/state"))


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("name", CALLS)
def test_whatever_call_fails_wherever_nothing_accepted_is_lost_and_work_goes_on(
    tmp_path: Path, name: str, lasts: bool
) -> None:
    assert_nothing_is_lost_wherever(tmp_path, name, CALLS[name], lasts=lasts)


def test_a_disk_that_is_gone_for_a_while_costs_nothing_accepted_and_work_goes_on(tmp_path: Path) -> None:
    assert_nothing_is_lost_wherever(tmp_path, ALL, ["EIO"], lasts=True)


def assert_nothing_is_lost_wherever(tmp_path: Path, name: str, hows: Sequence[str], *, lasts: bool) -> None:
    places = played(tmp_path / "none").calls.count[name]
    assert places > 0
    for how in hows:
        for index in range(places):
            data_dir = tmp_path / f"{how} {index}"
            where = f"{name} number {index} of {places}: {how}"
            try:
                life = played(data_dir, name, index, how, lasts=lasts)
            except BaseException as error:
                raise AssertionError(where) from error
            assert life.calls.struck, where
            with journal_in(data_dir, life.clock):
                pass
            assert numbered(data_dir) == list(enumerate(life.accepted, 1)), where
            assert not [found for found in everything(data_dir) if isinstance(found, Damage)], where
            files = Counter(path.name[:12] for path in journal_dir(data_dir).glob("*.[lo]*"))
            assert max(files.values()) == 1, where
            noted = [value["n"] for value in notes(data_dir, Letter.SUBSCRIBE)]
            assert noted == life.noted or (life.stopped_full and set(noted) < set(life.noted)), where
            if not all(map(goes_unsaid, life.calls.struck)):
                assert life.told, where
