"""A scripted network for sessions: whoever connects gets a `Wire`, and the test plays the exchange on it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import structlog
import trio

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import BookTrack
from collector_trio.errors import ConnectionEnded
from collector_trio.instruments import Instrument
from collector_trio.net.tap import Sink
from collector_trio.streams.live import Live

EPOCH_NS = 1_795_000_000_000_000_000


def trio_clock() -> int:
    """Nanoseconds since the epoch, by trio's (virtual) clock."""
    return EPOCH_NS + round(trio.current_time() * 1e9)


def live() -> Live:
    """A recorder's view that has seen nothing yet."""
    return Live(Continuity(), structlog.get_logger())


class Wishes(dict[tuple[str, str], Any]):
    """Takes down which whole books are wanted by REST, of any market."""

    def __init__(self) -> None:
        self.wanted: list[str] = []

    def __missing__(self, key: tuple[str, str]) -> "Wishes":
        return self

    def want(self, instrument: Instrument, track: BookTrack) -> None:
        if instrument.symbol not in self.wanted:
            self.wanted.append(instrument.symbol)


@attrs.define
class Wire:
    """One connection: what was sent on it, and the means to play the peer."""

    url: str
    sink: Sink
    sent: list[str] = attrs.field(factory=list)
    peer: str = "192.0.2.1:443"
    opened_at: float = 0.0
    closed_at: float | None = None
    _ending: ConnectionEnded | None = None
    _ended: trio.Event = attrs.field(factory=trio.Event)

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(text)

    def receive(self, *frames: bytes) -> None:
        """Play frames that came in one read."""
        assert self.sink.on_batch(list(frames), trio_clock())

    def end(self, reason: str, detail: str = "") -> None:
        """Play the end of the connection."""
        self._ending = ConnectionEnded(reason, detail)
        self._ended.set()

    async def _run(self) -> None:
        await self._ended.wait()
        assert self._ending is not None
        raise self._ending


@attrs.define
class Network:
    """Remembers all connections; `refuse` decides which dials fail, `on_open` plays the peer's first words."""

    wires: list[Wire] = attrs.field(factory=list)
    dialled_at: list[float] = attrs.field(factory=list)
    refuse: Callable[[int], ConnectionEnded | None] = lambda attempt: None
    on_open: Callable[[Wire], None] = lambda wire: None

    @asynccontextmanager
    async def connect(self, url: str, sink: Sink) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        self.dialled_at.append(trio.current_time())
        refusal = self.refuse(len(self.dialled_at))
        if refusal is not None:
            raise refusal
        wire = Wire(url, sink, opened_at=trio.current_time())
        self.wires.append(wire)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire._run)
                self.on_open(wire)
                yield wire
        finally:
            wire.closed_at = trio.current_time()

    @property
    def open_wires(self) -> list[Wire]:
        return [wire for wire in self.wires if wire.closed_at is None]
