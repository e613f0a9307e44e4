"""The stream that trio-websocket reads: messages are taken out on the way, in batches, and go straight to the sink.

trio-websocket's reader task pulls. What one read of the socket brought is one batch with one receive time; no queue
stands between the socket and the sink. When the sink has no room nothing is read, so TCP pushes back (and pings wait,
like everything else). A peer that leaves meanwhile would keep its socket in CLOSE_WAIT until there is room: so that is
looked for, what it has sent is read to its end (no more than the kernel held), and the socket is closed at once.

The tap is also where a connection ends. trio-websocket has many ways of noticing an end, and in some of them its reader
task just stops (0.12.2: `wrap_client_stream` then waits for ever). So every ending comes out of the tap as
`ConnectionEnded`, which trio-websocket does not catch: it ends the reader task and with it the nursery of `connect`.
The first ending is the verdict; later ones repeat it.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import trio

from collector_trio.errors import ConnectionEnded, Refusal
from collector_trio.net.dial import describe, peer_has_left
from collector_trio.net.frames import MAX_MESSAGE_BYTES, FrameSplitter
from collector_trio.net.refusals import excerpt, retry_after_s

RECEIVE_BYTES = 262_144  # what one read brings is one batch; TLS brings a quarter of that at most
SEND_S = 10.0
PEER_LOOK_S = 1.0
MAX_HEAD_BYTES = 16_384  # h11's limit, too

_HEAD_END = re.compile(rb"\n\r?\n")  # h11 takes bare newlines, so we must
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3}) ?([^\r\n]*)")
_RETRY_AFTER = re.compile(rb"(?im)^retry-after:[ \t]*([^\r\n]*)")
_DATE = re.compile(rb"(?im)^date:[ \t]*([^\r\n]*)")
_CODES = {
    1000: "normal",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no code given",
    1006: "abnormal",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
}


class Sink(Protocol):
    """Where batches go."""

    def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
        """Take all that one read brought (True) or nothing (False): then the same batch comes again after `room()`."""

    async def room(self) -> None:
        """Wait until a refused batch is worth offering again."""


class Tap(trio.abc.Stream):
    """Stands between `inner` and trio-websocket; owns neither.

    The head of the handshake's answer passes untouched (an answer other than 101 ends the connection as `refused`).
    What comes behind it waits until `open` is called, so the sink is called only while the block of `connect` runs: not
    before, and not after `leaving`.
    """

    def __init__(
        self, inner: trio.abc.Stream, sink: Sink, clock: Callable[[], int], max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        self.bytes_received = 0
        self.frames_received = 0
        self.verdict: ConnectionEnded | None = None
        self.raised = False  # so trio-websocket's reader task is about to raise, too
        self._cut_short = False  # a send was given up in the middle: whatever is sent now would be garbage
        self._inner = inner
        self._sink = sink
        self._clock = clock
        self._splitter = FrameSplitter(max_message_bytes)
        self._opened = trio.Event()
        self._leaving = False
        self._head = bytearray()
        self._upgraded = False
        self._behind_head = b""
        self._rest = b""  # for trio-websocket
        self._received_ns = 0
        self._left: deque[bytes | BaseException] | None = None  # what a peer that has left had sent, and how that ended

    def open(self) -> None:
        """Let messages through: the block of `connect` runs."""
        self._opened.set()

    def leaving(self) -> None:
        """Let nothing through any more: the block is over. From here on the peer's endings are no news (`b""`)."""
        self._leaving = True

    @property
    def may_say_goodbye(self) -> bool:
        """Whether a close frame still makes sense to the peer: it has not left, and our last message went out whole."""
        stays = self._left is None and (self.verdict is None or self.verdict.reason == "protocol")
        return self._opened.is_set() and stays and not self._splitter.close and not self._cut_short

    def ended(self, reason: str, detail: str, refusal: Refusal | None = None) -> ConnectionEnded:
        """Return the verdict on this connection: the first ending, or the peer's CLOSE frame if one came."""
        if self.verdict is None:
            if self._splitter.close:
                code, text = self._splitter.close
                reason, detail = "closed", f"{code} {text or _CODES.get(code, '')}".strip()
            self.verdict = ConnectionEnded(reason, detail, refusal)
        return ConnectionEnded(self.verdict.reason, self.verdict.detail, self.verdict.refusal)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes that are for trio-websocket, having passed on the messages that came before them.

        Raises `ConnectionEnded`: `eof`, `reset`, `protocol`, `refused`, or `closed` when the peer's CLOSE frame has
        been returned before (so that it could be answered).
        """
        try:
            return await self._receive(max_bytes)
        except BaseException:
            self.raised = True
            raise

    async def _receive(self, max_bytes: int | None) -> bytes:
        while not self._rest:
            if self._splitter.close:
                raise self.ended("closed", "")
            if self._splitter.failed:
                raise self.ended("protocol", str(self._splitter.failed)) from self._splitter.failed
            if self._upgraded and not self._opened.is_set():
                await self._opened.wait()
            data, self._behind_head = self._behind_head or await self._read(), b""
            if not data:
                return b""
            self._rest = await self._divide(data) if self._upgraded else self._pass_head(data)
        data = self._rest[:max_bytes]
        self._rest = self._rest[len(data) :]
        return data

    async def offer(self, frames: list[bytes], *, by_reader: bool = False) -> None:
        """Give a batch to the sink, with the time of the latest read, waiting for room as often as it takes.

        `by_reader`: nobody else reads meanwhile.
        """
        received_ns = self._received_ns
        while not self._leaving:
            if self._sink.on_batch(frames, received_ns):
                self.frames_received += len(frames)
                return
            await self._wait_for_room(by_reader)

    async def _wait_for_room(self, by_reader: bool) -> None:
        """Wait for the sink, and look after the peer meanwhile."""
        while True:
            with trio.move_on_after(PEER_LOOK_S):
                await self._sink.room()
                return
            if by_reader and self._left is None and peer_has_left(self._inner):
                await self._take_what_is_left()

    async def _take_what_is_left(self) -> None:
        """Read what a peer that has left had sent before, and close the socket."""
        left: deque[bytes | BaseException] = deque()
        with trio.CancelScope(shield=True):  # its end is there already: nothing is waited for
            try:
                while data := await self._inner.receive_some(RECEIVE_BYTES):
                    left.append(bytes(data))
                left.append(b"")
            except (trio.BrokenResourceError, OSError) as error:
                left.append(error)
            await trio.aclose_forcefully(self._inner)
        self._left = left

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send within `SEND_S` seconds. Raises `ConnectionEnded`: `timeout`, `reset`."""
        if self._left is not None:
            await trio.lowlevel.checkpoint()
            return  # nobody hears it; the end comes out once what came before has been taken
        if self._cut_short:
            raise self.ended("timeout", "an earlier message was cut short")
        self._cut_short = True
        try:
            with trio.fail_after(SEND_S):
                await self._inner.send_all(data)
        except trio.TooSlowError:
            raise self.ended("timeout", f"the peer took no data for {SEND_S:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise self.ended("reset", describe(error)) from error
        self._cut_short = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the inner stream does; trio-websocket does not use it."""
        with trio.move_on_after(SEND_S):
            await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Refuse: `connect` owns the socket. trio-websocket tries only when the handshake was answered wrongly."""
        await trio.lowlevel.checkpoint()
        if not self._leaving:
            raise self.ended("protocol", "the answer to the handshake is not a WebSocket server's")

    async def _read(self) -> bytes:
        try:
            data = await self._receive_or_left()
        except trio.ClosedResourceError:
            if self._leaving:
                return b""
            raise
        except (trio.BrokenResourceError, OSError) as error:
            if self._leaving:
                return b""
            raise self.ended("reset", describe(error)) from error
        self._received_ns = self._clock()
        self.bytes_received += len(data)
        if not data and not self._leaving:
            where = "" if self._upgraded else "during the handshake"
            raise self.ended("eof", where or "the peer closed the connection without a close frame")
        return bytes(data)

    async def _receive_or_left(self) -> bytes | bytearray:
        if not self._left:
            return await self._inner.receive_some(RECEIVE_BYTES)
        await trio.lowlevel.checkpoint()
        found = self._left.popleft()
        if isinstance(found, BaseException):
            raise found
        return found

    async def _divide(self, data: bytes) -> bytes:
        """Send messages to the sink and return the rest."""
        messages, rest = self._splitter.feed(data)
        if messages:
            await self.offer(messages, by_reader=True)
        return rest

    def _pass_head(self, data: bytes) -> bytes:
        """Return the bytes of the answer's head, for trio-websocket to judge; keep what comes behind it."""
        seen = len(self._head)
        self._head += data
        if self._head[:5] != b"HTTP/"[: len(self._head)]:
            raise self.ended("protocol", f"the handshake was answered with {bytes(self._head[:20])!r}")
        end = _HEAD_END.search(self._head, max(0, seen - 2))
        if end is None:
            if len(self._head) > MAX_HEAD_BYTES:
                raise self.ended("protocol", f"no end of the handshake's answer within {MAX_HEAD_BYTES} bytes")
            return data
        status = _STATUS.match(self._head)
        if status and status[1] != b"101":
            raise self.ended("refused", *_refusal(bytes(self._head), end.end()))
        self._upgraded = True
        self._behind_head = data[end.end() - seen :]
        return data[: end.end() - seen]


def _refusal(answer: bytes, head_end: int) -> tuple[str, Refusal]:
    """Sum up an answer that is not 101: `HTTP 503 Service Unavailable (retry after 7): start of the body`."""
    status = _STATUS.match(answer)
    assert status is not None
    retry, date = (_header(pattern, answer, head_end) for pattern in (_RETRY_AFTER, _DATE))
    parts = [f"HTTP {status[1].decode()} {status[2].decode(errors='replace').strip()}".strip()]
    if retry:
        parts.append(f"(retry after {retry})")
    body = excerpt(answer[head_end:])
    refusal = Refusal(int(status[1]), retry_after_s(retry, date, datetime.now(UTC)), body)
    return " ".join(parts) + (f": {body}" if body else ""), refusal


def _header(pattern: re.Pattern[bytes], answer: bytes, head_end: int) -> str:
    found = pattern.search(answer, 0, head_end)
    return found[1].decode(errors="replace").strip() if found else ""
