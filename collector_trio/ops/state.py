"""What the recorder is doing now, derived from what runs: nothing here is told of a change, and nothing is a flag.

An `Observer` looks at the running parts when it is asked. What one look cannot tell (rates, whether a follower moves)
it remembers from the looks it takes once a second.
"""

import os
import resource
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import starmap
from pathlib import Path
from statistics import linear_regression
from typing import Any, NoReturn

import attrs
import trio

from collector_trio import __version__
from collector_trio.config import Config
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.tracks import BookTrack
from collector_trio.followers.child import FollowerChild
from collector_trio.followers.cursor import Cursor
from collector_trio.journal.append import Journal
from collector_trio.journal.segments import journal_dir
from collector_trio.journal.space import Floor, free_bytes
from collector_trio.net.gate import Hold
from collector_trio.ops.census import NOBODY, Fd, Owners
from collector_trio.ops.fds import STATES, TCP
from collector_trio.ops.lag import LagHistogram, LoopLag
from collector_trio.ops.status import (
    AlertStatus,
    BookStatus,
    ClockStatus,
    FdStatus,
    FollowerStatus,
    GapStatus,
    HoldStatus,
    JournalStatus,
    SocketStatus,
    Status,
    StreamStatus,
    WebhookStatus,
)
from collector_trio.streams.clocks import Offset
from collector_trio.streams.supervisor import Stream
from collector_trio.threads import run_in_thread

LOOK_EVERY_S = 1.0
RATE_LOOKS = 6  # rates are means over the last five seconds
MEASURE_EVERY_S = 30.0
DISK_LOOKS = 121  # how fast the disk fills up is a mean over the last hour
LEAST_DISK_LOOKS = 11  # and is not known before five minutes are over
STUCK_LOOP_S = 5.0
STUCK_WATCH_S = 10.0
STUCK_JOURNAL_S = 10.0  # a tick is appended each second, and synced `sync_every` later
STEADY_FOLLOWER_S = 60.0  # so long must a follower that died have been up to count as alive
STUCK_FOLLOWER_S = 300.0  # so long without a stored segment, while sealed ones wait, is no progress
BOOK_STATES = ("none", "buffering", "synced", "broken")


@attrs.frozen
class Following:
    """A follower: its process, and how far it is."""

    child: FollowerChild
    cursor: Callable[[], Cursor]


@attrs.define
class Sealed:
    """The sealed segments that a follower may still have to store, and since when they are sealed."""

    _sealed: deque[tuple[int, int]] = attrs.field(factory=deque)

    def add(self, segment: int, ns: int) -> None:
        """Say that `segment` was sealed at `ns`. In the order of their numbers."""
        self._sealed.append((segment, ns))

    def after(self, segment: int) -> tuple[int, int | None]:
        """Return how many came after number `segment`, and when the first of them was sealed."""
        later = [ns for number, ns in self._sealed if number > segment]
        return len(later), later[0] if later else None

    def forget(self, up_to: int) -> None:
        """Drop what every follower has stored."""
        while self._sealed and self._sealed[0][0] <= up_to:
            self._sealed.popleft()


@attrs.frozen
class Parts:
    """What runs; `app` knows it all and hands it over. `lags` by exchange. `follower_totals` is what the follower's
    cursor says it has stored so far, empty before the first time:

    {"rows": {"trades binance spot": n, "inexact": n}, "gaps": {"trades disconnect": n}, "missing": {"trades": n},
    "rejects": {reason: n}, "divergence": n, "unbalanced": n}

    `unlisted` by exchange and market: what of the config is not listed; `unanswered` why the exchange has not said what
    it lists; `offsets` what clocks were found to differ by.
    """

    config: Config
    clock: Callable[[], int]
    started_ns: int
    first_frame: int
    journal: Journal
    floor: Floor
    streams: Sequence[Stream]
    followers: Sequence[Following]
    sealed: Sealed
    owners: Owners
    lags: Mapping[str, LagHistogram]
    continuity: Continuity
    follower_totals: Callable[[], Mapping[str, Any]]
    holds: Callable[[], Sequence[Hold]] = tuple  # what venues do not want to be asked now
    unlisted: Mapping[tuple[str, str], Sequence[str]] = attrs.field(factory=dict)
    unanswered: Mapping[tuple[str, str], str] = attrs.field(factory=dict)
    offsets: Mapping[tuple[str, str], Offset] = attrs.field(factory=dict)
    alerts: Callable[[], tuple[AlertStatus, ...]] = tuple
    webhook: Callable[[], WebhookStatus] = WebhookStatus
    crashed: Collection[str] = ()  # of what watches: what a bug or a lack has ended, and that has not begun again


@attrs.define
class _Deaths:
    """A follower's deaths: how many, when the last was seen, and since when it has not been steady."""

    count: int = 0
    last_at: float = 0.0
    unsteady_since: float | None = None

    def is_steady(self, *, is_up: bool, now: float) -> bool:
        """Tell whether it has been up for long enough."""
        return is_up and now - self.last_at > STEADY_FOLLOWER_S

    def is_unhealthy(self, *, is_up: bool, now: float) -> bool:
        """Tell whether it has not been steady for too long."""
        since = self.unsteady_since
        return since is not None and now - since > STEADY_FOLLOWER_S and not self.is_steady(is_up=is_up, now=now)


@attrs.define
class Observer:
    """Looks at what runs. `run` takes the looks that rates need; `look` may be called by anyone, at any time."""

    parts: Parts
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    _counts: dict[str, deque[tuple[float, int, int]]] = attrs.field(factory=dict)  # by stream: when, frames, bytes
    _moved: dict[str, tuple[int, float]] = attrs.field(factory=dict)  # by follower: last segment, and since when
    _deaths: dict[str, _Deaths] = attrs.field(factory=dict)  # by follower
    _first_look_at: float | None = None
    _looked_at: float | None = None
    _appended: tuple[int, float] = (-1, 0.0)  # what was written, and since when it is no more than that
    _journal_bytes: int = 0  # on the disk, less what this run has written when that was measured
    _free: deque[tuple[float, int]] = attrs.field(factory=lambda: deque(maxlen=DISK_LOOKS))  # when, bytes

    async def run(self) -> NoReturn:
        """Look once a second, and measure the event loop and the disk, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.loop_lag.run)
            nursery.start_soon(self._measure_disk)
            while True:
                self._remember()
                await trio.sleep(LOOK_EVERY_S)
        raise AssertionError("the nursery ends by cancellation only")

    def look(self) -> Status:
        """Say what is going on now."""
        parts, now_ns, census = self.parts, self.parts.clock(), self.parts.owners.census()
        followers = tuple(self._follower(following, now_ns) for following in parts.followers)
        streams = tuple(map(self._stream, parts.streams))
        totals = parts.follower_totals()
        rows = totals.get("rows", {})
        without_stream = tuple(self._without_stream(streams))
        not_ready = tuple(self._not_ready(streams, without_stream))
        not_healthy = tuple(self._not_healthy(followers))
        return Status(
            version=__version__,
            pid=os.getpid(),
            started=iso_time(parts.started_ns),
            uptime_s=round((now_ns - parts.started_ns) / 1e9, 3),
            data_dir=str(parts.config.collector.data_dir),
            ready=not not_ready,
            not_ready=not_ready,
            healthy=not not_healthy,
            not_healthy=not_healthy,
            memory_bytes=resident_bytes(),
            event_loop_lag_s=round(self.loop_lag.worst_s, 6),
            streams=streams,
            without_stream=without_stream,
            holds=tuple(map(_hold, parts.holds())),
            sockets=self._sockets([found for found in census if found.kind == TCP]),
            fds=self._fds(census),
            journal=self._journal(),
            followers=followers,
            gaps=self._gaps(totals),
            books=_books(parts.continuity.books.values()),
            rows={place: count for place, count in rows.items() if place != "inexact"},
            rejects=dict(totals.get("rejects", {})),
            inexact_values=rows.get("inexact", 0),
            not_listed=tuple(symbol for symbols in parts.unlisted.values() for symbol in symbols),
            clocks=tuple(starmap(_clock, parts.offsets.items())),
            alerts=parts.alerts(),
            webhook=parts.webhook(),
        )

    # What only several looks can tell

    def _remember(self) -> None:
        now = trio.current_time()
        self._first_look_at, self._looked_at = self._first_look_at or now, now
        if self._appended[0] != self.parts.journal.bytes_written:
            self._appended = self.parts.journal.bytes_written, now
        for stream in self.parts.streams:
            counts = self._counts.setdefault(stream.plan.name, deque(maxlen=RATE_LOOKS))
            counts.append((now, stream.frames, stream.bytes))
        stored = []
        for following in self.parts.followers:
            segment = following.cursor().segment
            waiting, _ = self.parts.sealed.after(segment)
            before = self._moved.get(following.child.name)
            if before is None or before[0] != segment or not waiting:
                self._moved[following.child.name] = (segment, now)
            stored.append(segment)
            self._count_deaths(following.child, now)
        if stored:
            self.parts.sealed.forget(min(stored))

    def _count_deaths(self, child: FollowerChild, now: float) -> None:
        deaths = self._deaths.setdefault(child.name, _Deaths())
        if child.restarts > deaths.count:
            deaths.count, deaths.last_at = child.restarts, now
            deaths.unsteady_since = deaths.unsteady_since or now
        elif deaths.is_steady(is_up=child.pid is not None, now=now):
            deaths.unsteady_since = None

    async def _measure_disk(self) -> None:
        limiter = trio.CapacityLimiter(1)
        folder = journal_dir(self.parts.config.collector.data_dir)
        while True:
            written = self.parts.journal.bytes_written
            taken, free = await run_in_thread("disk measure", limiter, partial(_measure, folder))
            self._journal_bytes = taken - written
            if free is not None:
                self._free.append((trio.current_time(), free))
            await trio.sleep(MEASURE_EVERY_S)

    # What one look tells

    def _stream(self, stream: Stream) -> StreamStatus:
        plan, session = stream.plan, stream.session
        heard_at = session.heard_at if session is not None else None
        if heard_at is None:  # the present session has brought nothing yet, and those before may not have either
            heard_at = stream.heard_at
        frames_per_s, bytes_per_s = self._rates(stream)
        return StreamStatus(
            name=plan.name,
            exchange=plan.exchange,
            markets=plan.markets,
            url=plan.url,
            subscriptions=len(plan.subscriptions),
            state=stream_state(stream),
            session=None if session is None else session.number,
            live_since=None if session is None or session.live_ns is None else iso_time(session.live_ns),
            peer="" if session is None else session.peer,
            frames=stream.frames,
            bytes=stream.bytes,
            frames_per_s=frames_per_s,
            bytes_per_s=bytes_per_s,
            last_data_age_s=None if heard_at is None else round(trio.current_time() - heard_at, 3),
            sessions=stream.sessions,
            sessions_live=stream.lived + stream.is_live,
            silence_s=min((s.silence_s for s in plan.subscriptions if s.silence_s is not None), default=None),
            ended=dict(stream.ended),
            last_ending=_last_ending(stream),
        )

    def _rates(self, stream: Stream) -> tuple[float, float]:
        counts = self._counts.get(stream.plan.name)
        if not counts:
            return 0.0, 0.0
        then, frames, received = counts[0]
        seconds = trio.current_time() - then
        if seconds <= 0:
            return 0.0, 0.0
        return round((stream.frames - frames) / seconds, 2), round((stream.bytes - received) / seconds, 1)

    def _sockets(self, sockets: Sequence[Fd]) -> SocketStatus:
        by_state = dict.fromkeys(STATES, 0)
        by_owner: dict[str, dict[str, int]] = {}
        for found in sockets:
            by_state[found.state] += 1
            states = by_owner.setdefault(found.owner, {})
            states[found.state] = states.get(found.state, 0) + 1
        return SocketStatus(
            sessions_planned=len(self.parts.streams),
            sessions_open=sum(is_open(stream) for stream in self.parts.streams),
            open=len(sockets),
            unowned=sum(by_owner.get(NOBODY, {}).values()),
            by_state=by_state,
            by_owner=dict(sorted(by_owner.items())),
            sockets=tuple(sockets),
        )

    def _fds(self, census: Sequence[Fd]) -> FdStatus:
        others = Counter(found.owner for found in census if found.kind != TCP)
        return FdStatus(
            open=others.total(),
            by_owner=dict(sorted(others.items())),
            leaks=tuple(found for found in census if found.owner == NOBODY),
            leaked=dict(self.parts.owners.leaked),
        )

    def _journal(self) -> JournalStatus:
        journal, bytes_per_s = self.parts.journal, free_bytes_per_s(self._free)
        return JournalStatus(
            segment=journal.numbers.segment - 1,
            bytes=max(0, self._journal_bytes + journal.bytes_written),
            written_bytes=journal.bytes_written,
            free_bytes=self._free[-1][1] if self._free else None,
            min_free_bytes=self.parts.floor.bytes,
            free_bytes_per_s=None if bytes_per_s is None else round(bytes_per_s, 3),
            left_s=left_s(self._free, self.parts.floor.bytes),
            frames_accepted=journal.numbers.frame - self.parts.first_frame,
            refusing=journal.is_refusing,
            refusal=journal.refusal,
            next_frame=journal.numbers.frame,
            next_session=journal.numbers.session,
        )

    def _follower(self, following: Following, now_ns: int) -> FollowerStatus:
        cursor = following.cursor()
        waiting, since_ns = self.parts.sealed.after(cursor.segment)
        return FollowerStatus(
            name=following.child.name,
            pid=following.child.pid,
            restarts=following.child.restarts,
            stored_segment=cursor.segment,
            next_frame=cursor.next_frame,
            lag_frames=max(0, self.parts.journal.numbers.frame - cursor.next_frame),
            lag_segments=waiting,
            lag_s=0.0 if since_ns is None else max(0.0, round((now_ns - since_ns) / 1e9, 3)),
        )

    def _gaps(self, totals: Mapping[str, Any]) -> GapStatus:
        continuity = self.parts.continuity
        return GapStatus(
            open=sum(len(track.known) for track in continuity.trades.values())
            + sum(track.gap is not None and track.gap.in_ledger for track in continuity.books.values()),
            seen={f"{table} {cause}": count for (table, cause), count in continuity.gaps.items()},
            stored=dict(totals.get("gaps", {})),
            missing_rows=dict(totals.get("missing", {})) or dict(continuity.missing),
            divergence=totals.get("divergence", 0),
            unbalanced=totals.get("unbalanced", 0),
        )

    # The probes

    def _without_stream(self, streams: Sequence[StreamStatus]) -> Iterable[str]:
        planned = {(stream.exchange, market) for stream in streams for market in stream.markets}
        for place in dict.fromkeys((record.exchange, record.market) for record in self.parts.config.record):
            if place not in planned:
                yield " ".join(place)

    def _not_ready(self, streams: Sequence[StreamStatus], without_stream: Sequence[str]) -> Iterable[str]:
        waiting = {place.split()[0] for place in without_stream}
        for place in without_stream:
            exchange, _, market = place.partition(" ")
            yield f"{place}: no stream yet; {self._why_none(exchange, market)}"
        for stream in streams:
            if stream.state != "live":
                waiting.add(stream.exchange)
                after = f" after {stream.last_ending}" if stream.last_ending else ""
                yield f"{stream.name}: {stream.state}{after}"
        for hold in self.parts.holds():
            if hold.venue in waiting:
                yield f"{hold.what}: nothing is asked until {iso_time(hold.until_ns)}; {hold.text}"
        if self.parts.journal.is_refusing:
            yield f"journal: refuses, reading has stopped: {self.parts.journal.refusal}"

    def _why_none(self, exchange: str, market: str) -> str:
        """Say why nothing of a market is planned."""
        problem = self.parts.unanswered.get((exchange, market))
        if problem is not None:
            return f"its instruments cannot be had: {problem}"
        if (exchange, market) not in self.parts.unlisted:
            return "its instruments are awaited"
        records = [each for each in self.parts.config.record if (each.exchange, each.market) == (exchange, market)]
        wanted = {symbol for record in records for symbol in record.symbols}
        none = len(self.parts.unlisted[exchange, market]) >= len(wanted)
        return "none of its symbols is listed" if none else "it is about to begin"

    def _not_healthy(self, followers: Sequence[FollowerStatus]) -> Iterable[str]:
        if self.loop_lag.worst_s > STUCK_LOOP_S:
            yield f"event loop: stood still for {self.loop_lag.worst_s:.1f} s"
        if self._first_look_at is not None and self._looked_at is not None:
            yield from self._no_progress(trio.current_time(), self._first_look_at, self._looked_at)
        if self.parts.journal.is_refusing:
            yield f"journal: refuses, reading has stopped: {self.parts.journal.refusal}"
        for name in sorted(self.parts.crashed):
            yield f"watching: {name} has crashed, the log says why"
        for follower in followers:
            deaths = self._deaths.get(follower.name, _Deaths())
            if deaths.is_unhealthy(is_up=follower.pid is not None, now=trio.current_time()):
                yield f"follower {follower.name}: does not stay up, it has died {follower.restarts} times"
            still_s = trio.current_time() - self._moved.get(follower.name, (0, trio.current_time()))[1]
            if follower.lag_segments and min(still_s, follower.lag_s) > STUCK_FOLLOWER_S:
                running = "is running but has" if follower.pid else "is down and has"
                yield f"follower {follower.name}: {running} stored nothing for {still_s:.0f} s"

    def _no_progress(self, now: float, first_look_at: float, looked_at: float) -> Iterable[str]:
        """Say what has stopped that should move by itself."""
        if now - looked_at > STUCK_WATCH_S:
            yield f"watching: has stopped {now - looked_at:.0f} s ago, the log says why"
            return
        journal = self.parts.journal
        if journal.is_refusing:
            return
        written, since = self._appended
        if journal.bytes_written == written and now - since > STUCK_JOURNAL_S:
            yield f"journal: nothing was appended for {now - since:.0f} s"
        unsynced_s = now - max(first_look_at, journal.synced_at or 0.0)
        if unsynced_s > STUCK_JOURNAL_S + self.parts.config.store.sync_every_s:
            yield f"journal: nothing was synced for {unsynced_s:.0f} s, the disk hangs"


def stream_state(stream: Stream) -> str:
    """Say in one word what a stream is doing."""
    if stream.parked:
        return "parked"
    if stream.session is None:
        return "backing off" if stream.sessions else "dialling"
    if not stream.session.peer:
        return "dialling"
    return "live" if stream.is_live else "connecting"


def is_open(stream: Stream) -> bool:
    """Tell whether a stream has a connection, live or not."""
    return stream.session is not None and stream.session.peer != ""


def iso_time(ns: int) -> str:
    """Write nanoseconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def resident_bytes() -> int:
    """Return the memory that this process has in RAM; the most it ever had when no file can be opened to ask."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _clock(place: tuple[str, str], found: Offset) -> ClockStatus:
    age_s = round(trio.current_time() - found.at, 3)
    return ClockStatus(*place, round(found.offset_ns / 1e9, 6), round(found.error_ns / 1e9, 6), age_s)


def _last_ending(stream: Stream) -> str | None:
    last = stream.last
    if last is None:
        return None
    if last.ending is not None:
        return str(last.ending)
    return "crashed" if stream.ended["crashed"] else None  # else it was we who ended it, for another plan


def _hold(hold: Hold) -> HoldStatus:
    since, until = iso_time(hold.since_ns), iso_time(hold.until_ns)
    return HoldStatus(hold.venue, hold.host, hold.status, hold.text, hold.told, hold.refused, since, until)


def book_state(track: BookTrack) -> str:
    """Say in one word how a book is: `buffering` until its first whole book is bridged, `broken` until the next."""
    if track.chain.synced:
        return "synced"
    if track.gap is not None:
        return "broken"
    return "none" if track.chain.tip is None else "buffering"


def _books(tracks: Iterable[BookTrack]) -> tuple[BookStatus, ...]:
    states: dict[tuple[str, str], Counter[str]] = {}
    not_synced: dict[tuple[str, str], list[str]] = {}
    for track in tracks:
        market, state = (track.exchange, track.market), book_state(track)
        states.setdefault(market, Counter(dict.fromkeys(BOOK_STATES, 0)))[state] += 1
        if state != "synced":
            not_synced.setdefault(market, []).append(track.native_symbol)
    return tuple(
        BookStatus(*market, dict(counted), tuple(not_synced.get(market, ()))) for market, counted in states.items()
    )


def free_bytes_per_s(free: Sequence[tuple[float, int]]) -> float | None:
    """Say how fast what is free becomes more, by the line through all looks (time, bytes): segments come and go, so it
    rises and falls. None while there were too few looks.
    """
    return linear_regression(*zip(*free, strict=True)).slope if len(free) >= LEAST_DISK_LOOKS else None


def left_s(free: Sequence[tuple[float, int]], floor_bytes: int) -> float | None:
    """Say in how many seconds only `floor_bytes` will be free. None where too little is known, or where what is free
    does not become less.
    """
    bytes_per_s = free_bytes_per_s(free)
    if bytes_per_s is None or bytes_per_s >= 0:
        return None
    return max(0.0, round((free[-1][1] - floor_bytes) / -bytes_per_s, 1))


def _measure(folder: Path) -> tuple[int, int | None]:
    """Return what a folder takes on the disk, and what is free there. In a thread: it can hold thousands of files."""
    taken = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    taken += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # compressed or deleted meanwhile
        return taken, free_bytes(folder)
    except OSError:
        return taken, None
