"""One session: the life of one connection, from dialling to whatever ends it.

The order of events. `run` writes down that the session opens, then enters `connect`: from that line on there is a
socket, and it is gone when the block is left, however it is left. Inside, one nursery: the subscriber asks for
everything, batch by batch and within the message budget; the pinger, where an exchange wants one, keeps the connection
open; the watch judges silence. Frames arrive on none of these tasks: the connection's reader calls `on_batch`,
synchronously, and what it does is append, decode, note who was heard.

A subscription is *prompt* when the exchange promises data soon (a snapshot, a busy book); it is proven by its first
data, an ack proves nothing. The others are proven by data of any sibling, or, where all are sparse, by having been
asked without refusal. When all are proven the session is *live*. From then on a prompt subscription that falls silent
while others speak is asked for again, alone; a wholly silent socket ends the session. Every end is a value, a
`ConnectionEnded` with its reason: it is logged, counted, and written down.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.continuity.leg import Leg
from collector_trio.continuity.tracks import BookTrack
from collector_trio.errors import ConnectionEnded
from collector_trio.exchanges.protocol import (
    BookDelta,
    Control,
    ControlKind,
    Decoded,
    Exchange,
    Ignored,
    Links,
    Reject,
    Trades,
)
from collector_trio.instruments import Instrument
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.net.budgets import Budget
from collector_trio.net.connect import Connection
from collector_trio.net.tap import Sink
from collector_trio.plan import StreamPlan, Subscription
from collector_trio.streams.live import Live

# The reader's turn before anyone is judged: a process that was stopped must read what waited before it ends its
# sessions.
GRACE_S = 0.5
# A whole socket is not given up for less than this, however busy its books: TCP may need that long to repair a loss.
SOCKET_SILENCE_S = 5.0
# Asking again for one silent subscription: after its limit, then after twice as long, up to this.
ASK_AGAIN_MAX_S = 600.0
# After so many askings a subscription without data no longer keeps the others from being live: a delisted symbol may be
# acked.
EXCUSED_AFTER = 3
# Subscribing a broken book again: not sooner after the last time than this, then twice as long, up to this.
MEND_FIRST_S = 1.0
MEND_LONGEST_S = 30.0
# A message that would have to wait for longer ends the session: the next connection has a budget of its own.
MESSAGE_S = 30.0


class Want(Protocol):
    """Whom to tell that a whole book is wanted, where REST gives them."""

    def want(self, instrument: Instrument, track: BookTrack) -> None:
        """Ask for the book of `instrument`."""


class Connect(Protocol):
    """The one door, with everything but the address and the sink already given."""

    def __call__(self, url: str, sink: Sink) -> AbstractAsyncContextManager[Connection]:
        """Open a WebSocket whose frames go to `sink`."""


@attrs.define
class Watched:
    """What is known of one subscription: when it was asked for, how often, and when it was last heard (trio time)."""

    subscription: Subscription
    asked_at: float | None = None
    askings: int = 0
    heard_at: float | None = None
    refused: bool = False

    def overdue_at(self) -> float:
        """Return when silence becomes a fault; infinity where it is none."""
        if self.refused or self.asked_at is None:
            return float("inf")
        if self.heard_at is not None and self.heard_at >= self.asked_at:
            limit_s = self.subscription.silence_s
            return float("inf") if limit_s is None else self.heard_at + limit_s
        if not self.subscription.prompt:
            return float("inf")
        patience_s = self.subscription.first_data_s * 2.0 ** (self.askings - 1)
        return self.asked_at + min(patience_s, ASK_AGAIN_MAX_S)

    def quiet_limit_s(self) -> float:
        """Return how long this subscription may be silent now."""
        heard = self.heard_at is not None
        return (self.subscription.silence_s if heard else None) or self.subscription.first_data_s


@attrs.define
class _Broken:
    """A book that a new subscription is to mend, and when it is asked for (trio time)."""

    watched: Watched
    track: BookTrack
    due: float
    delay_s: float = MEND_FIRST_S


@attrs.define
class Session:
    """One connection's life. Made for one `run`; its counters can be read while it runs and afterwards."""

    number: int
    stream: StreamPlan
    exchange: Exchange
    journal: Journal
    clock: Callable[[], int]
    log: FilteringBoundLogger
    messages: Budget
    live: Live
    snapshots: Mapping[tuple[str, str], Want]
    observe_lag: Callable[[int], None] = lambda ns: None  # from a message's exchange time to its receive time
    frames: int = 0
    frame_bytes: int = 0
    rejects: int = 0
    peer: str = ""
    opened_ns: int = 0
    live_ns: int | None = None
    live_at: float | None = None  # trio time
    ending: ConnectionEnded | None = None
    refusal: str = ""  # the exchange's last error, which may not say what it is about
    _watched: dict[tuple[str, str], Watched] = attrs.field(factory=dict)
    _unproven: set[tuple[str, str]] = attrs.field(factory=set)
    _heard_at: float = 0.0
    _request: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _leg: Leg = attrs.field(init=False)
    _broken: dict[tuple[str, str], _Broken] = attrs.field(factory=dict)
    _broke: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        known = {instrument.native_symbol: instrument for instrument in self.stream.instruments}
        self._leg = Leg(self.number, self.live.continuity, known.get, self.exchange.book_rules)

    async def run(self, connect: Connect) -> NoReturn:
        """Open the connection and live until something ends it. Raises ConnectionEnded; a cancellation and a bug pass
        through.
        """
        self._watched = {s.key: Watched(s) for s in self.stream.subscriptions}
        self._unproven = {s.key for s in self.stream.subscriptions if s.prompt}
        self.opened_ns = self.clock()
        self.journal.note(Letter.OPENED, self._facts(), current=self._name)
        reason = "stopped"  # nothing but a cancellation leaves it at that
        try:
            try:
                async with connect(self.stream.url, self) as connection:
                    await self._live(connection)
            except* ConnectionEnded as group:
                self.ending = _first(group)
            if self.ending is not None:
                reason = self.ending.reason
                raise self.ending
            raise AssertionError("a connection's block ends by an exception")
        except ConnectionEnded:
            raise
        except Exception:
            reason = "crashed"
            raise
        finally:
            self.journal.forget(self._name)
            detail = self.ending.detail if self.ending is not None else ""
            self.journal.note(Letter.ENDED, self._facts() | {"reason": reason, "detail": detail})

    async def _live(self, connection: Connection) -> None:
        self.peer = connection.peer
        self.journal.update(self._name, peer=self.peer)
        self.log.debug("connected", peer=self.peer)
        self._heard_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_all, connection)
            nursery.start_soon(self._ping, connection)
            nursery.start_soon(self._watch, connection)
            nursery.start_soon(self._mend, connection)

    # What the connection's reader calls

    def on_batch(self, frames: list[bytes], received_ns: int) -> bool:
        """Append what one read brought, then note who was heard. False when the journal refuses; nothing has happened
        then.
        """
        if not self.journal.append(self.number, received_ns, frames):
            return False
        self.frames += len(frames)
        self.frame_bytes += sum(map(len, frames))
        now, decode, leg = trio.current_time(), self.exchange.decode, self._leg
        first = self.journal.numbers.frame - len(frames)
        exchange_ns, alone = self._take_together(frames, first, now) if len(frames) > 1 else (None, range(1))
        if alone:
            for n in alone:
                decoded = decode(frames[n])
                leg.take(decoded, first + n, received_ns)
                self._take(decoded, now)
            if isinstance(decoded, (tuple, list)):
                exchange_ns = decoded[-1].exchange_ns
        if exchange_ns is not None:  # one observation a batch
            self.observe_lag(received_ns - exchange_ns)
        if leg.unsynced:
            self._want_books(now)
        if leg.is_news:
            leg.is_news = False
            self.live.settle()
        return True

    def _take_together(self, frames: Sequence[bytes], first: int, now: float) -> tuple[int | None, Sequence[int]]:
        """Take the trades of a read together, and the changes of books, where they just follow; return the last one's
        time, and which frames are left, to be taken alone.
        """
        found = self.exchange.decode_together(frames)
        if found is None:
            return None, range(len(frames))
        exchange_ns, left = None, list[int]()
        if found.trades_at:
            left += self._leg.take_trades(found.trades, first, found.trades_at)
            exchange_ns = self._heard_all(found.trades, now)
        if found.links_at:
            left += self._leg.take_links(found.links, first, found.links_at)
            exchange_ns = self._heard_all(found.links, now)
        return exchange_ns, sorted(left)

    def _heard_all(self, columns: Trades | Links, now: float) -> int:
        """Note who was heard; return the last one's time."""
        for native_symbol in dict.fromkeys(columns.native_symbols):
            self._heard((columns.channel, native_symbol), now)
        return columns.exchange_ns[-1]

    async def room(self) -> None:
        """Wait until the journal accepts again; the silence in between is ours and nobody is judged for it."""
        await self.journal.room()

    def _want_books(self, now: float) -> None:
        """Ask for whole books, by REST or, where they are in-band, by subscribing again: see `_mend`."""
        for native_symbol, (instrument, track) in self._leg.unsynced.items():
            if not track.in_band:
                self.snapshots[instrument.exchange, instrument.market].want(instrument, track)
                continue
            watched = self._watched.get((BookDelta.channel, native_symbol))
            if watched is not None and watched.subscription.key not in self._broken:
                due = now if watched.asked_at is None else max(now, watched.asked_at + MEND_FIRST_S)
                self._broken[watched.subscription.key] = _Broken(watched, track, due)
                self._broke.set()
        self._leg.unsynced.clear()

    def _take(self, decoded: Decoded, now: float) -> None:
        if isinstance(decoded, (tuple, list)):
            row = decoded[0]
            self._heard((row.channel, row.native_symbol), now)
        elif isinstance(decoded, Ignored):
            if decoded.channel is not None and decoded.native_symbol is not None:
                self._heard((decoded.channel, decoded.native_symbol), now)
        elif isinstance(decoded, Control):
            self._take_control(decoded)
        elif isinstance(decoded, Reject):
            self.rejects += 1
            if self.rejects == 1:
                self.log.warning("frame rejected", reason=decoded.reason)

    def _heard(self, key: tuple[str, str], now: float) -> None:
        self._heard_at = now
        watched = self._watched.get(key)
        if watched is None:
            return
        if watched.heard_at is None or watched.heard_at < (watched.asked_at or 0.0):
            self._changed.set()  # its deadline is another one from now on
        watched.heard_at = now
        watched.askings = 1
        if key in self._unproven or self.live_at is None:
            self._unproven.discard(key)
            self._judge_live()

    def _take_control(self, control: Control) -> None:
        if control.kind is ControlKind.ERROR:
            self.refusal = f"{control.code}: {control.text}"
            self.log.warning("refused by the exchange", code=control.code, text=control.text, request=control.request)
            named = self._watched.get((control.channel or "", control.native_symbol or ""))
            if named is not None:
                named.refused = True
                self._unproven.discard(named.subscription.key)
                self._changed.set()
        elif control.kind is ControlKind.NOTICE:
            self.log.info("exchange will close the connection", text=control.text, code=control.code)

    # Tasks

    async def _ask_for_all(self, connection: Connection) -> None:
        for batch in self.exchange.batches(self.stream.subscriptions):
            await self._ask(connection, batch)
        self._changed.set()
        self._judge_live()  # data may have been faster than our own task

    async def _ask(self, connection: Connection, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe, and start the clock of the first data."""
        self._request += 1
        await self._send(connection, self.exchange.subscribe(subscriptions, self._request))
        now = trio.current_time()
        for subscription in subscriptions:
            watched = self._watched[subscription.key]
            watched.asked_at = now
            watched.askings += 1

    async def _ask_again(self, connection: Connection, watched: Watched, why: str = "silent subscription") -> None:
        """Subscribe one subscription again; the others are left alone."""
        self.log.warning(
            f"{why} asked again",
            channel=watched.subscription.channel,
            native_symbol=watched.subscription.native_symbol,
            askings=watched.askings,
        )
        self._request += 1
        await self._send(connection, self.exchange.unsubscribe([watched.subscription], self._request))
        await self._ask(connection, [watched.subscription])
        if watched.askings >= EXCUSED_AFTER:
            self._unproven.discard(watched.subscription.key)
            self._judge_live()

    async def _mend(self, connection: Connection) -> NoReturn:
        """Subscribe books that are broken again, each alone, until a snapshot has come: after 1 s, 2 s, … 30 s."""
        while True:
            self._broke = trio.Event()
            with trio.move_on_at(min((broken.due for broken in self._broken.values()), default=float("inf"))):
                await self._broke.wait()
                continue
            now = trio.current_time()
            for key, broken in list(self._broken.items()):
                if not broken.track.wants_snapshot:
                    del self._broken[key]
                elif broken.due <= now:
                    await self._ask_again(connection, broken.watched, "broken book")
                    broken.due = trio.current_time() + broken.delay_s
                    broken.delay_s = min(broken.delay_s * 2, MEND_LONGEST_S)

    async def _send(self, connection: Connection, text: str) -> None:
        with trio.move_on_after(MESSAGE_S) as patience:
            await self.messages.take()
        if patience.cancelled_caught:  # the budget may be an hour's, and who waits for it judges no silence
            used_up = f"{self.messages.rate} on one connection are used up, a new one has its own"
            raise ConnectionEnded("spent", f"messages: {used_up}")
        self.journal.note(Letter.SUBSCRIBE, {"session": self.number, "text": text})
        await connection.send(text)

    async def _ping(self, connection: Connection) -> None:
        """Keep an exchange that closes idle connections from doing so, and see that it answers."""
        if self.exchange.PING is None:
            return
        while True:
            await trio.sleep(self.exchange.PING_EVERY_S)
            frames, refusing = self.frames, self.journal.is_refusing
            await connection.send(self.exchange.PING)
            await trio.sleep(self.exchange.PING_EVERY_S / 2)
            if self.frames == frames and not refusing and not self.journal.is_refusing:
                await trio.sleep(GRACE_S)
                if self.frames == frames:
                    raise ConnectionEnded("silent", f"no answer to {self.exchange.PING!r}")

    async def _watch(self, connection: Connection) -> None:
        """Judge silence: one deadline, moved by data; see the module's text."""
        while True:
            sparse_at = self._sparse_proof_at()
            self._changed = trio.Event()
            with trio.move_on_at(min(sparse_at, self._due_at())):
                await self._changed.wait()
                continue
            if min(sparse_at, self._due_at()) > trio.current_time():
                continue  # data has moved it
            if self.journal.is_refusing:
                await self.journal.room()
            now = await _readers_turn()
            if now >= sparse_at:
                self._judge_live()
            if self._silent_at() <= now - GRACE_S:
                raise ConnectionEnded("silent", f"no data for {now - self._heard_at:.1f} s{self._refused_with()}")
            late = [watched for watched in self._watched.values() if watched.overdue_at() <= now - GRACE_S]
            if late:
                await self._judge(connection, late, now)

    def _due_at(self) -> float:
        """Return when somebody's silence is to be judged."""
        return min(self._silent_at(), *(watched.overdue_at() for watched in self._watched.values()))

    def _silent_at(self) -> float:
        """Return when the whole socket has been silent for too long: asking one subscription again moves its own
        deadline, not this one. Before the session is live nobody has promised to go on.
        """
        limits = [
            watched.subscription.silence_s
            for watched in self._watched.values()
            if watched.heard_at is not None and watched.subscription.silence_s is not None and not watched.refused
        ]
        if self.live_at is None or not limits:
            return float("inf")
        return self._heard_at + max(SOCKET_SILENCE_S, min(limits))

    async def _judge(self, connection: Connection, late: Sequence[Watched], now: float) -> None:
        silent_s = now - self._heard_at
        limit_s = max(SOCKET_SILENCE_S, min(watched.quiet_limit_s() for watched in late))
        if silent_s > limit_s:
            first = late[0].subscription
            named = f"{first.channel} {first.native_symbol}" + (f" and {len(late) - 1} more" if late[1:] else "")
            reason = "silent" if self.live_at is not None else "unproven"
            raise ConnectionEnded(reason, f"no data for {silent_s:.1f} s ({named}){self._refused_with()}")
        spoken_since = [w for w in late if self._heard_at > (w.heard_at or w.asked_at or 0.0)]
        for watched in spoken_since:
            await self._ask_again(connection, watched)
        if not spoken_since:  # nothing at all was heard, but not for long enough to give the socket up
            await trio.sleep_until(self._heard_at + limit_s)

    def _refused_with(self) -> str:
        return f"; the exchange had said {self.refusal}" if self.refusal else ""

    # Liveness

    def _sparse_proof_at(self) -> float:
        """Return when subscriptions that promise nothing count as proven, having been asked and not refused."""
        if self.live_at is not None or self._unproven:
            return float("inf")
        asked = [w.asked_at + w.subscription.first_data_s for w in self._watched.values() if w.asked_at is not None]
        return max(asked, default=float("inf"))

    def _judge_live(self) -> None:
        if self.live_at is not None or self._unproven:
            return
        if all(watched.refused for watched in self._watched.values()):
            return
        if any(watched.asked_at is None for watched in self._watched.values()):
            return
        heard = any(watched.heard_at is not None for watched in self._watched.values())
        if heard or trio.current_time() >= self._sparse_proof_at():
            self.live_at, self.live_ns = trio.current_time(), self.clock()
            self.journal.note(Letter.LIVE, {"session": self.number, "peer": self.peer})
            self.journal.update(self._name, live_ns=self.live_ns)
            self.log.info("live", peer=self.peer)

    @property
    def heard_at(self) -> float | None:
        """Return when data last came (trio time), None before the first; control frames are no data."""
        return max((w.heard_at for w in self._watched.values() if w.heard_at is not None), default=None)

    @property
    def _name(self) -> str:
        return f"session {self.number}"

    def _facts(self) -> dict[str, object]:
        return {
            "session": self.number,
            "stream": self.stream.name,
            "exchange": self.stream.exchange,
            "markets": list(self.stream.markets),
            "url": self.stream.url,
            "opened_ns": self.opened_ns,
            "live_ns": self.live_ns,
            "peer": self.peer,
            "frames": self.frames,
            "bytes": self.frame_bytes,
        }


async def _readers_turn() -> float:
    """Give the reader `GRACE_S`, and return the time. Where the process was stopped meanwhile that was no turn."""
    while True:
        before = trio.current_time()
        await trio.sleep(GRACE_S)
        now = trio.current_time()
        if now - before < 2 * GRACE_S:
            return now


def _first(group: BaseExceptionGroup[ConnectionEnded]) -> ConnectionEnded:
    """Return the first ending in a nursery's group: the others followed from it."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
