"""The running segment: one owner of one file, appended to synchronously, synced and sealed beside the event loop.

A batch is *accepted* when `os.writev` returned its full length: from then on no kill of the process loses it.
`fdatasync` runs in a thread every `sync_every_s` and bounds what a power cut can cost. When a write comes up short (the
kernel's first sign of a full disk) or fails, the file is cut back to the last whole record, the batch is refused, and
`room` makes its reader wait until there is space again; then the refusal, with its bounds, is the first record. Nothing
is ever written behind a torn record.

The same task reserves space ahead (`reserve`), so that a full disk does not come in the middle of a segment, and an
append does not wait for blocks. Where no space can be reserved, appending goes on as long as there is any.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import attrs
import trio

from collector_trio.journal.records import FORMAT, Batch, Letter, Note, encode_batch, encode_note
from collector_trio.journal.recover import Numbers, save_numbers
from collector_trio.journal.reserve import reserve
from collector_trio.journal.segments import (
    journal_dir,
    point_at,
    point_nowhere,
    segment_path,
    state_copy,
    sync_folder,
    write_whole,
)
from collector_trio.threads import run_in_thread

SEGMENT_BYTES = 64 * 2**20
HOUR_NS = 3_600_000_000_000
RETRY_S = 1.0  # how often a refused write is tried again
TICK_S = 1.0  # how often its owner notes a tick: so something is written even when no exchange says anything
NEVER = float("inf")
MAX_WAITING_NOTES = 100_000  # while the disk is full: weeks of sessions that begin and end a few times a minute

Offload = Callable[[Callable[[], None]], Awaitable[None]]


def in_thread(limiter: trio.CapacityLimiter, owner: str = "journal") -> Offload:
    """Run blocking work in a thread that only its owner uses: abandoned DNS look-ups cannot starve it."""
    return partial(run_in_thread, owner, limiter)


@attrs.define
class _File:
    fd: int
    path: Path
    size: int
    number: int
    opened_ns: int
    half: float = NEVER  # how long it is when half of what was reserved is written; NEVER: nothing is
    state: bytes = b""  # what its end says
    is_listed: bool = False  # its name in its folder would survive a power cut
    closed: bool = False


@attrs.define
class _Received:
    """What was accepted of one session."""

    frames: int = 0
    bytes: int = 0


@attrs.define
class Journal:
    """What everything received is appended to. Made by `open_journal`."""

    data_dir: Path
    numbers: Numbers
    clock: Callable[[], int]
    segment_ns: int
    sync_every_s: float
    offload: Offload
    on_sealed: Callable[[int], None]
    on_refusal: Callable[[str | None], None]  # why the disk refuses, None: it accepts again
    on_unreserved: Callable[[str | None], None]  # why no space can be reserved ahead, None: it can again
    on_note: Callable[[Note], None]  # of what was written, in the order of the file
    state: Callable[[], dict[str, Any]] | None  # what the last record of a segment says of all before
    segment_bytes: int = SEGMENT_BYTES
    bytes_written: int = 0  # since it was opened, notes included
    synced_at: float | None = None  # when all that was written before was last synced (trio time)
    turns: int = 0  # of `run`: how often it was synced, or found to be refusing still
    _file: _File | None = None
    _empty: _File | None = None  # a segment whose head could not be written yet
    _full: deque[_File] = attrs.field(factory=deque)  # sealed, still to be synced and renamed
    _current: dict[str, tuple[Letter, dict[str, Any]]] = attrs.field(factory=dict)
    _received: dict[int, _Received] = attrs.field(factory=dict)  # by session, for the next head
    _waiting: deque[tuple[Letter, int, dict[str, Any]]] = attrs.field(factory=deque)
    _dropped_notes: int = 0
    _refused_since_ns: int | None = None
    _refused_why: str = ""
    _held: bool = False
    _unreserved: str | None = None  # why no space could be reserved
    _room: trio.Event = attrs.field(factory=trio.Event)
    _reserves: bool = True  # until the file system says that it cannot
    _half_used: trio.Event = attrs.field(factory=trio.Event)  # half of what was reserved is written

    def append(self, session: int, received_ns: int, frames: list[bytes]) -> bool:
        """Append one batch; False when the disk refuses it (see `room`)."""
        if self._refused_since_ns is not None or not self._rotate_if_due(received_ns):
            return False
        if not self._write(*encode_batch(Batch(self.numbers.frame, received_ns, session, frames))):
            return False
        self.numbers.frame += len(frames)
        received = self._received.get(session)
        if received is not None:
            received.frames += len(frames)
            received.bytes += sum(map(len, frames))
        return True

    async def room(self) -> None:
        """Wait until batches are accepted again."""
        if self._refused_since_ns is not None:
            await self._room.wait()

    def fds(self) -> list[int]:
        """Return the descriptors of the running segment, and of those that are sealed and not finished yet."""
        files = [*self._full] if self._file is None else [self._file, *self._full]
        return [file.fd for file in files if not file.closed]

    @property
    def is_refusing(self) -> bool:
        """Tell whether the disk is full (or broken), and reading stopped."""
        return self._refused_since_ns is not None

    @property
    def refusal(self) -> str | None:
        """Say why it refuses, None: it does not."""
        return None if self._refused_since_ns is None else self._refused_why

    def hold(self, reason: str) -> None:
        """Refuse until `release`, as if the disk were full. Who holds it already changes the reason.

        The running segment is ended, so that followers store it, and it can go with the others.
        """
        now_ns, file = self.clock(), self._file
        self._held = True
        if self._refused_since_ns is None and file is not None and self._write_end(now_ns):
            self._file = None
            self._full.append(file)
            point_nowhere(journal_dir(self.data_dir))
        self._refuse(now_ns, reason)

    @property
    def is_held(self) -> bool:
        """Tell whether it refuses because somebody holds it."""
        return self._held

    def release(self) -> None:
        """Let what `hold` stopped be tried again."""
        self._held = False

    def note(self, letter: Letter, value: dict[str, Any], *, current: str | None = None) -> None:
        """Append what no frame says. With `current`, repeat it (marked `again`) at the head of every segment until
        `forget`.

        While the disk refuses, notes wait, but ticks do not; beyond `MAX_WAITING_NOTES` the newest are dropped and
        counted.
        """
        now = self.clock()
        if (
            self._refused_since_ns is not None
            or not self._rotate_if_due(now)
            or not self._write_note(letter, now, value)
        ):
            self._wait(letter, now, value)
        if current is not None:
            self._current[current] = (letter, value)
            if letter is Letter.OPENED:
                self._received[value["session"]] = _Received()

    def _wait(self, letter: Letter, ns: int, value: dict[str, Any]) -> None:
        if letter is Letter.TICK:
            return
        if len(self._waiting) < MAX_WAITING_NOTES:
            self._waiting.append((letter, ns, value))
        else:
            self._dropped_notes += 1

    def update(self, current: str, **facts: Any) -> None:
        """Change what the next segment's head will say under `current`."""
        letter, value = self._current[current]
        self._current[current] = (letter, value | facts)

    def forget(self, current: str) -> None:
        """Stop repeating."""
        letter, value = self._current.pop(current, (None, {}))
        if letter is Letter.OPENED:
            del self._received[value["session"]]

    def next_session(self) -> int:
        """Give out a session number."""
        number = self.numbers.session
        self.numbers.session += 1
        return number

    async def run(self) -> NoReturn:
        """Sync, seal, reserve and, after a refusal, try again, until cancelled."""
        while True:
            refused = self._refused_since_ns is not None
            with trio.move_on_after(RETRY_S if refused else self.sync_every_s):
                await self._reserve_ahead()
            try:
                await self._sync()
            except OSError as error:  # a quota or a thin volume may say so only now; what was written stays written
                self._refuse(self.clock(), f"not synced: {error}")
            else:
                if refused and not self._held:
                    self._try_again()
            self.turns += 1

    async def _sync(self) -> None:
        while self._full:
            file = self._full[0]
            await self.offload(lambda file=file: self._finish(file))  # type: ignore[misc]
            self._full.popleft()
            self.on_sealed(file.number)
        if self._file is not None:
            file = self._file  # only this task closes files, so its number stays ours
            await self.offload(lambda: _sync_running(file))
        self.synced_at = trio.current_time()

    async def _reserve_ahead(self) -> NoReturn:
        """Reserve where there is nothing reserved yet, and whenever half of it is written.

        May be cancelled: a thread is waited for.
        """
        while True:
            self._half_used = trio.Event()
            file = self._file
            if file is not None and file.half == NEVER and self._reserves and self._refused_since_ns is None:
                await self._reserve(file)
            await self._half_used.wait()

    async def _reserve(self, file: _File) -> None:
        offset, ends = file.size, list[int | None]()
        try:
            await self.offload(lambda: ends.append(reserve(file.fd, offset)))
        except OSError as error:  # an early warning, no refusal: what is still free can be written
            reason = str(error)
            if self._unreserved is None:
                self.on_unreserved(reason)
            self._unreserved = reason
            return
        if self._unreserved is not None:
            self.on_unreserved(None)
            self._unreserved = None
        if ends[0] is None:
            self._reserves = False
        else:
            file.half = (offset + ends[0]) // 2

    def _finish(self, file: _File) -> None:
        """Sync, close and rename a sealed file. What failed is done when this is called again."""
        if not file.closed:
            os.ftruncate(file.fd, file.size)  # gives back what was reserved and not used
            os.fdatasync(file.fd)
            file.closed = True  # also where closing fails: the number may be another file's by then
            os.close(file.fd)
        if file.path.exists():
            file.path.rename(file.path.with_suffix(".log"))
        sync_folder(file.path.parent)
        with suppress(OSError):  # copies for the day the segments are gone; the next seal writes them again
            save_numbers(self.data_dir, self.numbers)
            if file.state:
                write_whole(state_copy(self.data_dir), file.state)

    def _rotate_if_due(self, now_ns: int) -> bool:
        """Seal the running segment when it is old, large or of another UTC hour, and have one open. False when the disk
        refuses.
        """
        file = self._file
        if file is not None:
            due = (
                now_ns - file.opened_ns >= self.segment_ns
                or file.size >= self.segment_bytes
                or now_ns // HOUR_NS != file.opened_ns // HOUR_NS
            )
            if not due:
                return True
            if not self._write_end(now_ns):
                return False
            self._file = None
            self._full.append(file)
        return self._open_segment(now_ns)

    def _open_segment(self, now_ns: int) -> bool:
        number = self.numbers.segment
        try:
            file = self._empty_file(number, now_ns)
        except OSError as error:
            self._refuse(now_ns, str(error))
            return False
        head = {
            "format": FORMAT,
            "segment": number,
            "next_frame": self.numbers.frame,
            "next_session": self.numbers.session,
        }
        record = encode_note(Letter.SEGMENT, now_ns, head)
        for letter, value in self._current.values():
            again: dict[str, Any] = {"again": True}
            if letter is Letter.OPENED:  # so that a session's counts are known from its last segment alone
                again |= attrs.asdict(self._received[value["session"]])
            record += encode_note(letter, now_ns, value | again)
        self._file = file
        if not self._write(record):
            self._file, self._empty = None, file  # kept: were it not removed, a second file would have its number
            return False
        self._empty = None
        self.numbers.segment += 1
        self._half_used.set()
        point_at(file.path)
        return True

    def _empty_file(self, number: int, now_ns: int) -> _File:
        """Open a new segment's file, or take the one that was opened when its head could not be written."""
        if self._empty is None:
            path = segment_path(journal_dir(self.data_dir), number, now_ns)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._empty = _File(fd, path, 0, number, now_ns)
        os.ftruncate(self._empty.fd, 0)
        self._empty.opened_ns = now_ns
        return self._empty

    def _write_note(self, letter: Letter, ns: int, value: dict[str, Any]) -> bool:
        if not self._write(encode_note(letter, ns, value)):
            return False
        self.on_note(Note(letter, ns, value))
        return True

    def _write_end(self, ns: int) -> bool:
        """Write what a segment ends with: one record of two lines, so that there is no first without the second."""
        assert self._file is not None
        self._file.state = b"" if self.state is None else encode_note(Letter.STATE, ns, self.state())
        return self._write(self._file.state + encode_note(Letter.SEALED, ns, {}))

    def _write(self, *parts: bytes) -> bool:
        file = self._file
        assert file is not None, "a segment is opened before anything is written"
        reason = "a short write: the disk is full"
        try:
            written = os.writev(file.fd, parts)
        except OSError as error:
            written, reason = 0, str(error)
        if written != sum(map(len, parts)):
            self._refuse(self.clock(), reason)
            self._cut()
            return False
        file.size += written
        if file.size >= file.half:
            file.half = NEVER
            self._half_used.set()
        self.bytes_written += written
        return True

    def _cut(self) -> bool:
        """Cut the running segment back to its last whole record. False while even that fails: write nothing then."""
        try:
            if self._file is not None:
                self._file.half = NEVER  # what was reserved goes, too
                os.ftruncate(self._file.fd, self._file.size)
        except OSError:
            return False
        return True

    def _refuse(self, now_ns: int, reason: str) -> None:
        self._refused_why = reason
        if self._refused_since_ns is None:
            self._refused_since_ns = now_ns
            self._room = trio.Event()
            self.on_refusal(reason)

    def _try_again(self) -> None:
        since_ns, now_ns = self._refused_since_ns, self.clock()
        refusal = {"since_ns": since_ns, "until_ns": now_ns, "dropped_notes": self._dropped_notes}
        if not self._cut() or not self._rotate_if_due(now_ns) or not self._write_note(Letter.REFUSAL, now_ns, refusal):
            return
        while self._waiting:
            letter, ns, value = self._waiting[0]
            if not self._write_note(letter, ns, value):
                return
            self._waiting.popleft()
        self._refused_since_ns, self._dropped_notes = None, 0
        self._room.set()
        self.on_refusal(None)

    def seal(self) -> None:
        """End the running segment for good. What waits for room is tried once more."""
        if self._refused_since_ns is not None:
            self._try_again()
        if self._file is not None:
            if self._cut():
                self._write_end(self.clock())
            self._full.append(self._file)
            self._file = None
        while self._full:
            file = self._full.popleft()
            try:
                self._finish(file)
            except OSError as error:  # it stays as it is, and the next start mends it
                self.on_refusal(f"{file.path.name} not sealed: {error}")
                self._give_up(file)
            else:
                self.on_sealed(file.number)
        if self._empty is not None:
            self._give_up(self._empty)
            with suppress(OSError):  # the next start would remove it
                self._empty.path.unlink()
            self._empty = None
        point_nowhere(journal_dir(self.data_dir))

    def _give_up(self, file: _File) -> None:
        """Close a file that is left to the next start."""
        if not file.closed:
            file.closed = True
            with suppress(OSError):  # what it holds was written; whatever else is wrong was said already
                os.close(file.fd)


def _sync_running(file: _File) -> None:
    os.fdatasync(file.fd)
    if not file.is_listed:
        sync_folder(file.path.parent)
        file.is_listed = True


@contextmanager
def open_journal(
    data_dir: Path,
    numbers: Numbers,
    *,
    clock: Callable[[], int],
    segment_s: float,
    sync_every_s: float,
    offload: Offload,
    on_sealed: Callable[[int], None] = lambda number: None,
    on_refusal: Callable[[str | None], None] = lambda reason: None,
    on_unreserved: Callable[[str | None], None] = lambda reason: None,
    on_note: Callable[[Note], None] = lambda note: None,
    state: Callable[[], dict[str, Any]] | None = None,
) -> Iterator[Journal]:
    """Own the running segment; whatever ends the block, it is sealed and every file closed.

    The caller holds the data dir's lock, and runs `Journal.run` in a nursery inside the block.
    """
    hooks = (on_sealed, on_refusal, on_unreserved, on_note, state)
    journal = Journal(data_dir, numbers, clock, int(segment_s * 1e9), sync_every_s, offload, *hooks)
    try:
        yield journal
    finally:
        journal.seal()
