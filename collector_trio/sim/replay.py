"""Serves recordings instead of a market.

An endpoint's frames are sent once every recorded instrument is subscribed there, by whichever connections; until then
the replay waits, and says each time something changes which are missing. Then all frames go out in recorded order,
whatever the stream's name: a recorded `@trade` to whoever subscribed `@aggTrade`. Each frame goes to exactly one
connection: one that subscribed its instrument on its endpoint, to the same kind (trades, book) if there is one,
otherwise to whatever. OKX `books` go to /public only and `trades-all` to /business only; a recorded `trades`, and what
is neither trades nor book, may also go to the other endpoint when nobody on its own has the instrument. If a connection
ends, the rest goes to the next that subscribes; what was handed to the socket is not sent again.

Each recording keeps its own time; the next one begins where it ends. Frames without a time follow at once.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from collector_trio.sim.audience import Subscription
from collector_trio.sim.connection import Connection
from collector_trio.sim.recordings import RecordedFrame, Recording
from collector_trio.sim.venue import Venue

# One write; large enough that its cost does not show, small enough that little is uncertain when a connection breaks.
BATCH_BYTES = 128 * 1024


@attrs.define(eq=False)
class Replay:
    """Sends `recordings` to the audiences of `venues`. `speed` 1.0 is as recorded, None as fast as possible."""

    recordings: Sequence[Recording]
    venues: Mapping[str, Venue]
    speed: float | None
    announce: Callable[[str], None]
    done: trio.Event

    async def run(self) -> None:
        """Send everything, say so, and set `done`."""
        endpoints = {frame.endpoint: frame.exchange for one in self.recordings for frame in one.frames}
        async with trio.open_nursery() as nursery:
            for endpoint, exchange in endpoints.items():
                nursery.start_soon(self._serve, endpoint, self.venues[exchange])
        total = sum(len(one.frames) for one in self.recordings)
        self.announce(f"replay: done, {total} frames sent; connections stay open")
        self.done.set()

    async def _serve(self, endpoint: str, venue: Venue) -> None:
        everything = [[frame for frame in one.frames if frame.endpoint == endpoint] for one in self.recordings]
        await self._everybody(endpoint, venue, [frame for frames in everything for frame in frames])
        self.announce(f"replay: {endpoint}: sending {sum(map(len, everything))} frames")
        for frames in everything:
            await self._send(venue, frames)

    async def _everybody(self, endpoint: str, venue: Venue, frames: Sequence[RecordedFrame]) -> None:
        """Wait until each frame would find somebody."""
        kinds = list({(frame.native_symbol, frame.stream): frame for frame in frames}.values())
        said = None
        while True:
            missing = sorted({frame.native_symbol for frame in kinds if _listener(venue, frame) is None})
            if not missing:
                return
            if missing != said:
                self.announce(f"replay: {endpoint}: waiting until somebody subscribes {', '.join(missing)}")
                said = missing
            await venue.audience.change()

    async def _send(self, venue: Venue, frames: Sequence[RecordedFrame]) -> None:
        started = trio.current_time()
        first_ns = next((frame.at_ns for frame in frames if frame.at_ns is not None), 0)
        position = 0
        listeners = _Listeners(venue)
        while position < len(frames):
            batch: list[tuple[bytes, RecordedFrame]] = []
            connection: Connection | None = None
            size = 0
            for frame in frames[position : position + 2000]:
                if self.speed is not None and frame.at_ns is not None:
                    due = started + (frame.at_ns - first_ns) / 1e9 / self.speed
                    if due > trio.current_time():
                        break
                heard_by = listeners.of(frame)
                if size > BATCH_BYTES or heard_by is None or heard_by is not (connection or heard_by):
                    break
                connection = heard_by
                batch.append((frame.text, frame))
                size += len(frame.text)
            if connection is not None:
                if connection.stalled:
                    await trio.sleep_until(connection.stalled_until)
                    continue
                connection.send(batch)
                await connection.written()
                position += len(batch) - connection.unsent(batch)
            elif listeners.of(frames[position]) is None:
                await self._everybody(frames[position].endpoint, venue, frames[position:])
            else:
                await trio.sleep_until(due)


@attrs.define(eq=False)
class _Listeners:
    """Remembers who hears what until the audience changes."""

    _venue: Venue
    _known: dict[tuple[str, str], Connection] = attrs.Factory(dict)
    _version: int = -1

    def of(self, frame: RecordedFrame) -> Connection | None:
        key = (frame.native_symbol, frame.stream)
        if self._version != self._venue.audience.version:
            self._known.clear()
            self._version = self._venue.audience.version
        known = self._known.get(key)
        if known is None or not known.open:
            known = _listener(self._venue, frame)
            if known is not None:
                self._known[key] = known
        return known


def _listener(venue: Venue, frame: RecordedFrame) -> Connection | None:
    """Choose the connection a frame goes to; None while nobody wants it."""
    heard = [one for one in venue.audience.of_symbol(frame.native_symbol) if one.connection.open]
    here = [one for one in heard if one.connection.endpoint == frame.endpoint]
    if not here and frame.exchange == "okx" and frame.kind != "book" and frame.stream != "trades-all":
        here = heard
    return min(here, key=lambda one: _fit(one, frame)).connection if here else None


def _fit(subscription: Subscription, frame: RecordedFrame) -> int:
    if subscription.stream == frame.stream:
        return 0
    return 1 if subscription.kind == frame.kind else 2
