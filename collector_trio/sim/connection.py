"""One WebSocket as the simulated exchange sees it.

Everything the server says goes through one outbox, and one task writes it: so nothing needs a lock, control frames
cannot fall into the middle of data, many frames go out in one write, and the truth is logged in the order of the wire,
once the write has returned.

wsproto is driven directly. An exchange polices what a WebSocket library hides from its user: how many pings and pongs
came, and with which payload; and a simulated one must also be able to end a connection in ways a library forbids.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio
import wsproto
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from collector_trio.sim.audience import Subscription
from collector_trio.sim.endings import READ_BYTES, finish
from collector_trio.sim.facts import Fact
from collector_trio.sim.http import Request
from collector_trio.sim.truth import ConnectionRecord, Sent, Truth

FLUSH_S = 1.0  # how long what is queued may take once a connection is to end
# A client that lets this much pile up is too slow and is cut (protocols.md 1.2, 4.2 code 4005).
MAX_OUTBOX_BYTES = 32 * 2**20


class Session(Protocol):
    """What an exchange makes of one connection's messages."""

    MAX_MESSAGE_BYTES: int

    def received(self, text: str) -> None:
        """Take one whole text message."""

    def heard(self) -> None:
        """Take note of any inbound message: text, ping or pong."""

    def ponged(self, payload: bytes) -> None:
        """Take a pong."""

    async def keep(self) -> None:
        """Run the timers until cancelled."""

    def left(self) -> None:
        """Forget the subscriptions: the connection is over."""


class _Item(NamedTuple):
    """One frame in the outbox: data if it has facts, else control of some kind ("control", "ping", "pong", "")."""

    frame: bytes
    kind: str
    sent: tuple[Sent, ...] = ()


def text_frame(text: bytes) -> bytes:
    """Build an unmasked, unfragmented text frame (RFC 6455 section 5.2)."""
    length = len(text)
    if length < 126:
        return bytes((0x81, length)) + text
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big") + text
    return b"\x81\x7f" + length.to_bytes(8, "big") + text


class Connection:
    """One accepted WebSocket.

    `send`, `say`, `ping` and `end` return at once; `converse` lives as long as the connection.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        request: Request,
        record: ConnectionRecord,
        truth: Truth,
        fed: Callable[[], None],
    ) -> None:
        """`fed` is called when the first data have been sent."""
        self.record = record
        self.endpoint = record.endpoint
        self.stalled_until = 0.0
        self.last_push = trio.current_time()
        self._stream = stream
        self._request = request
        self._truth = truth
        self._fed = fed
        self._ws = wsproto.WSConnection(ConnectionType.SERVER)
        self._outbox: list[_Item] = []
        self._outbox_bytes = 0
        self._written = trio.Event()
        self._queued = trio.Event()
        self._scope = trio.CancelScope()
        self._ending: str | None = None
        self._peer_closed = False

    @property
    def stalled(self) -> bool:
        """Tell whether data are being withheld."""
        return trio.current_time() < self.stalled_until

    @property
    def open(self) -> bool:
        """Tell whether anything can still be sent."""
        return self._ending is None

    def publish(self, subscription: Subscription, wire: bytes, facts: Sequence[Fact]) -> None:
        """Send one data frame, built already, unless the connection is stalled."""
        now = trio.current_time()
        if self._ending is None and now >= self.stalled_until:
            conn, micro = self.record.conn, subscription.micro
            self._queue(_Item(wire, "data", tuple([Sent(conn, fact, micro, True) for fact in facts])))
            self.last_push = now

    def send(self, frames: Sequence[tuple[bytes, Fact]]) -> None:
        """Queue data frames, in this order."""
        if self.open:
            for text, fact in frames:
                sent = Sent(self.record.conn, fact, micro=False, certain=True)
                self._queue(_Item(text_frame(text), "data", (sent,)))
            self.last_push = trio.current_time()

    def say(self, text: str) -> None:
        """Queue a text that is no data: an ack, an error, a notice, a pong in words."""
        if self.open:
            self._queue(_Item(text_frame(text.encode()), "control"))
            self.last_push = trio.current_time()

    def ping(self, payload: bytes) -> None:
        """Queue a protocol ping."""
        if self.open:
            self._queue(_Item(self._ws.send(Ping(payload=payload)), "ping"))

    def end(self, how: str, code: int = 1000, reason: str = "") -> None:
        """End the connection after what is queued: how is "close" (with `code`), "drop" (FIN) or "abort" (RST)."""
        if not self.open:
            return
        if how == "close":
            self._queue(_Item(self._ws.send(CloseConnection(code=code, reason=reason)), ""))
        self._ending = f"close {code} {reason}".rstrip() if how == "close" else how
        self._scope.deadline = trio.current_time() + FLUSH_S
        self._queued.set()

    async def written(self) -> None:
        """Wait until the outbox is empty or the connection is over."""
        while self._outbox_bytes:
            await self._written.wait()

    def unsent(self, batch: Sequence[tuple[bytes, Fact]]) -> int:
        """Count the frames of `batch` that the socket was never offered, because the connection ended before."""
        if self.open:
            return 0
        waiting = {id(sent.fact) for item in self._outbox for sent in item.sent}
        return sum(id(fact) in waiting for _, fact in batch)

    async def converse(self, session: Session) -> str:
        """Shake hands, then let `session` talk until either side ends it. Returns how it ended; the stream is left to
        the caller.

        Raises `RemoteProtocolError` where the request is no proper WebSocket handshake.
        """
        self._ws.initiate_upgrade_connection(self._request.raw_headers, self._request.target)
        accepted = _Item(self._ws.send(AcceptConnection()), "")
        self._outbox.insert(0, accepted)  # before what the session has queued already
        self._outbox_bytes += len(accepted.frame)
        self._queued.set()
        try:
            with self._scope:
                try:
                    await self._run(session)
                except* (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._ending = self._ending or "lost"
        finally:
            self._ending = self._ending or "eof"
            self._outbox_bytes = 0
            self._written.set()
        await finish(self._stream, self._ending, None if self._peer_closed else self._ws)
        return self._ending

    async def _run(self, session: Session) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(session.keep)
            await self._read(session)
            if self._peer_closed:
                self._queued.set()
                await trio.sleep_forever()  # the writer ends this, once the answer to the peer's close is out
            nursery.cancel_scope.cancel()

    def _queue(self, item: _Item) -> None:
        self._outbox.append(item)
        self._outbox_bytes += len(item.frame)
        self._queued.set()
        if self._outbox_bytes > MAX_OUTBOX_BYTES:
            self.end("abort")

    async def _write(self) -> None:
        while True:
            await self._queued.wait()
            self._queued = trio.Event()
            while self._outbox:
                batch, self._outbox = self._outbox, []
                certain = False
                try:
                    await self._stream.send_all(b"".join([item.frame for item in batch]))
                    certain = True
                finally:
                    self._log(batch, certain)
                    self._outbox_bytes -= sum(len(item.frame) for item in batch)
            self._written.set()
            self._written = trio.Event()
            if self._ending is not None:
                self._scope.cancel()

    def _log(self, batch: list[_Item], certain: bool) -> None:
        entries = [sent for item in batch for sent in item.sent]
        frames = sum(item.kind == "data" for item in batch)
        if not certain:
            entries = [entry._replace(certain=False) for entry in entries]
            self.record.uncertain += frames
        else:
            first = frames and not self.record.data
            self.record.data += frames
            if first:
                self._fed()
            self.record.control += sum(item.kind == "control" for item in batch)
            self.record.pings += sum(item.kind == "ping" for item in batch)
            self.record.pongs += sum(item.kind == "pong" for item in batch)
        self._truth.add_sent(entries)

    async def _read(self, session: Session) -> None:
        """Give what comes to `session`, until the peer closes or is gone."""
        parts: list[str] = []
        data: bytes | bytearray = self._request.rest
        while True:
            try:
                if data:
                    self._ws.receive_data(bytes(data))
                for event in self._ws.events():
                    if isinstance(event, CloseConnection):
                        self._peer_closed = True
                        if self.open:
                            self._queue(_Item(self._ws.send(event.response()), ""))
                            self._ending = f"closed by peer {event.code}"
                        return
                    self._take(session, event, parts)
            except RemoteProtocolError as error:
                self.end("close", 1002, str(error)[:100])
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return

    def _take(self, session: Session, event: wsproto.events.Event, parts: list[str]) -> None:
        if isinstance(event, Ping):
            if self.open:
                self._queue(_Item(self._ws.send(event.response()), "pong"))
        elif isinstance(event, Pong):
            session.ponged(bytes(event.payload))
        elif isinstance(event, BytesMessage):
            self.end("close", 1003, "text only")
            return
        elif isinstance(event, TextMessage):
            parts.append(event.data)
            if sum(map(len, parts)) > session.MAX_MESSAGE_BYTES:
                self.end("close", 1009, "Max frame length exceeded")
                return
            if not event.message_finished:
                return
        else:
            return  # the handshake's own events
        self.record.received += 1
        session.heard()
        if isinstance(event, TextMessage) and self.open:
            text = "".join(parts)
            parts.clear()
            session.received(text)
