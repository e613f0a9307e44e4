"""What each alert finds in a look at the recorder: a number, what it may be, and whether that is too much.

Pure, but not without memory: how long something has been so, and how much a counter rose in a window, are told by the
looks before. Time is an argument.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping

import attrs

from collector_trio.config import Config, Threshold
from collector_trio.journal.space import size_text
from collector_trio.ops.status import Status, StreamStatus

PLAN_MARGIN = 20  # sockets beyond the plan that are never an alert: pages, scrapes, REST
HOUR_S = 3600.0
RECENT_S = 900.0  # what never becomes less is an alert for so long after it became more
HYSTERESIS = 0.1  # an alert ends a tenth below its limit


@attrs.frozen
class Finding:
    """What one look says about one alert. `too_much` None: neither clearly so nor clearly over, or not known."""

    value: float | None
    limit: float
    too_much: bool | None
    detail: str


def judge(value: float, limit: float, detail: str) -> Finding:
    """Hold a value against its limit: above it is too much, it is over a tenth below. Said to a thousandth."""
    too_much = True if value > limit else False if value <= limit * (1 - HYSTERESIS) else None
    return Finding(round(value, 3), limit, too_much, detail)


@attrs.define
class _Since:
    """For how long things have been so."""

    _first: dict[Hashable, float] = attrs.field(factory=dict)

    def ages(self, things: Iterable[Hashable], now: float) -> dict[Hashable, float]:
        """Return for how long each of `things` has been among them, by the looks that were taken."""
        self._first = {thing: self._first.get(thing, now) for thing in things}
        return {thing: now - first for thing, first in self._first.items()}


@attrs.define
class _Rise:
    """By how much a counter rose within a window. One that became less has begun anew."""

    window_s: float
    _last: float | None = None
    _rises: deque[tuple[float, float]] = attrs.field(factory=deque)

    def take(self, total: float, now: float) -> float:
        """Return the rise within the window that ends now, where the counter says `total`."""
        if self._last is not None and total > self._last:
            self._rises.append((now, total - self._last))
        self._last = total
        while self._rises and self._rises[0][0] <= now - self.window_s:
            self._rises.popleft()
        return sum(rise for _, rise in self._rises)


@attrs.define
class Findings:
    """Looks at a `Status` for all alerts: a method each, whose first line is what the alert means."""

    config: Config
    _off_plan: _Since = attrs.field(factory=_Since)
    _not_live: _Since = attrs.field(factory=_Since)
    _open_gaps: _Since = attrs.field(factory=_Since)
    _reconnects: _Rise = attrs.field(factory=lambda: _Rise(HOUR_S))
    _unbalanced: _Rise = attrs.field(factory=lambda: _Rise(RECENT_S))
    _divergence: _Rise = attrs.field(factory=lambda: _Rise(RECENT_S))

    def take(self, status: Status, now: float) -> dict[str, Finding]:
        """Return what is found, by alert, at `now` (seconds that never go back)."""
        return {name: find(self, status, now) for name, find in FINDERS.items()}

    # Sockets and memory

    def sockets(self, status: Status, now: float) -> Finding:
        """More TCP sockets than the plan explains."""
        sockets = status.sockets
        limit = max(self.config.alerts.sockets.alert_above, sockets.sessions_planned + PLAN_MARGIN)
        states = ", ".join(f"{count} {state}" for state, count in sockets.by_state.items() if count)
        return judge(sockets.open, limit, f"{_many(sockets.open, 'TCP socket')} ({states or 'none'})")

    def close_wait(self, status: Status, now: float) -> Finding:
        """Peers have closed, and we have not."""
        waiting = [each for each in status.sockets.sockets if each.state == "CLOSE_WAIT"]
        owners = _counted(each.owner for each in waiting)
        return judge(len(waiting), self.config.alerts.close_wait.alert_above, f"{len(waiting)} in CLOSE_WAIT{owners}")

    def memory(self, status: Status, now: float) -> Finding:
        """The recorder takes more memory than it should."""
        detail = f"{size_text(status.memory_bytes)} of memory"
        return judge(status.memory_bytes, self.config.alerts.memory.alert_above, detail)

    def reconnects(self, status: Status, now: float) -> Finding:
        """Sessions end too often."""
        ended = sum((Counter(stream.ended) for stream in status.streams), Counter[str]())
        in_an_hour = self._reconnects.take(ended.total(), now)
        reasons = ", ".join(f"{reason} {count}" for reason, count in ended.most_common())
        detail = f"{_many(in_an_hour, 'session')} ended within an hour" + (
            f"; since the start: {reasons}" if reasons else ""
        )
        return judge(in_an_hour, self.config.alerts.reconnects.alert_above, detail)

    def unowned_socket(self, status: Status, now: float) -> Finding:
        """No scope owns it: a leak, of whatever kind its descriptor is."""
        leaks = status.fds.leaks
        where = _some(
            " ".join(
                filter(None, (f"fd {leak.fd} {leak.kind}", leak.state, leak.peer and f"{leak.local} → {leak.peer}"))
            )
            for leak in leaks
        )
        return judge(len(leaks), 0, f"{_many(len(leaks), 'file descriptor')} without an owner{where}")

    def off_plan(self, status: Status, now: float) -> Finding:
        """Other sessions are open than planned, for longer than a rotation takes."""
        sockets = status.sockets
        differ = sockets.sessions_open != sockets.sessions_planned
        for_s = self._off_plan.ages(["sessions"] if differ else [], now).get("sessions", 0.0)
        detail = f"{sockets.sessions_open} of {sockets.sessions_planned} planned sessions open, for {for_s:.0f} s"
        return judge(for_s, self.config.alerts.off_plan_s, detail)

    # Streams

    def not_live(self, status: Status, now: float) -> Finding:
        """A stream brings nothing that can be relied on, or a market has no stream."""
        waiting = [stream.name for stream in status.streams if stream.state != "live"]
        ages = self._not_live.ages([*status.without_stream, *waiting], now)
        return _oldest(ages, self.config.alerts.not_live_s, "every stream is live", "not live for")

    def data_age(self, status: Status, now: float) -> Finding:
        """A stream that promises data brings none, whatever its connection says."""
        ages = {s.name: _age_s(s, status.uptime_s) for s in status.streams if s.silence_s is not None}
        return _oldest(ages, self.config.alerts.data_age_s, "no stream promises data", "last data")

    def parked(self, status: Status, now: float) -> Finding:
        """A stream crashed (a bug) so often that it was given up."""
        parked = [stream.name for stream in status.streams if stream.state == "parked"]
        return judge(len(parked), 0, f"{_many(len(parked), 'stream')} given up{_some(parked)}")

    def not_listed(self, status: Status, now: float) -> Finding:
        """The exchange does not list what the config wants (any more)."""
        symbols = status.not_listed
        return judge(len(symbols), 0, f"{_many(len(symbols), 'symbol')} not listed{_some(symbols)}")

    # What was recorded

    def open_gaps(self, status: Status, now: float) -> Finding:
        """Something is missing, and has not come."""
        for_s = self._open_gaps.ages(["gaps"] if status.gaps.open else [], now).get("gaps", 0.0)
        detail = f"{_many(status.gaps.open, 'hole')} open, some for {for_s:.0f} s"
        return judge(for_s, self.config.alerts.open_gaps_s, detail)

    def unbalanced(self, status: Status, now: float) -> Finding:
        """Accepted frames are accounted for nowhere."""
        more = self._unbalanced.take(status.gaps.unbalanced, now)
        return judge(more, 0, f"{_many(more, 'accepted frame')}, lately, that no class of segments counts")

    def divergence(self, status: Status, now: float) -> Finding:
        """The recorder and the follower found different holes in the same journal."""
        more = self._divergence.take(status.gaps.divergence, now)
        return judge(more, 0, f"{_many(more, 'instrument')}, lately, on which recorder and follower disagree")

    def follower_lag(self, status: Status, now: float) -> Finding:
        """What was accepted is not becoming tables."""
        lags = {follower.name: follower.lag_s for follower in status.followers}
        return _oldest(lags, self.config.alerts.follower_lag_s, "no follower", "behind for")

    def disk(self, status: Status, now: float) -> Finding:
        """Reading stops when only `min_free` is left."""
        journal, margin = status.journal, self.config.alerts.disk_bytes
        if journal.free_bytes is None:
            return Finding(None, margin, journal.refusing or None, journal.refusal or "not measured yet")
        above = journal.free_bytes - journal.min_free_bytes
        too_much = True if above < margin or journal.refusing else False if above >= margin * (1 + HYSTERESIS) else None
        detail = f"{size_text(max(0, above))} above min_free" + (f"; {journal.refusal}" if journal.refusing else "")
        return Finding(above, margin, too_much, detail)

    # Clocks

    def event_loop_lag(self, status: Status, now: float) -> Finding:
        """Receive times are late by so much."""
        late_s = status.event_loop_lag_s
        return judge(late_s, self.config.alerts.event_loop_lag_s, f"event loop at most {late_s * 1000:.0f} ms late")

    def clock_offset(self, status: Status, now: float) -> Finding:
        """Our clock is not that of an exchange, by more than asking for it can be wrong."""
        limit = self.config.alerts.clock_offset_s
        if not status.clocks:
            return Finding(None, limit, None, "no exchange has said its time yet")
        sure = {f"{c.exchange} {c.market}": max(0.0, abs(c.offset_s) - c.error_s) for c in status.clocks}
        said = "; ".join(
            f"our clock less that of {c.exchange} {c.market}: {c.offset_s:+.3f} s, ± {c.error_s:.3f} s"
            for c in status.clocks
        )
        return judge(max(sure.values()), limit, said)


Finder = Callable[[Findings, Status, float], Finding]

# Every alert, by the name it has in `collector_alert`, in the order in which they are shown.
FINDERS: Mapping[str, Finder] = {
    finder.__name__: finder
    for finder in (
        Findings.sockets, Findings.close_wait, Findings.memory, Findings.reconnects, Findings.unowned_socket,
        Findings.off_plan, Findings.not_live, Findings.data_age, Findings.parked, Findings.not_listed,
        Findings.open_gaps, Findings.unbalanced, Findings.divergence, Findings.follower_lag, Findings.disk,
        Findings.event_loop_lag, Findings.clock_offset,
    )
}  # fmt: skip


def threshold(config: Config, name: str) -> Threshold | None:
    """Return the threshold that the config has of this alert, None where it has a mere limit."""
    found = getattr(config.alerts, name, None)
    return found if isinstance(found, Threshold) else None


def _oldest(ages: Mapping[Hashable, float] | Mapping[str, float], limit: float, none: str, words: str) -> Finding:
    if not ages:
        return judge(0.0, limit, none)
    oldest = max(ages.values())
    over = [f"{name} {words} {age:.0f} s" for name, age in ages.items() if age > limit * (1 - HYSTERESIS)]
    return judge(oldest, limit, ", ".join(over[:10]) or f"at most {oldest:.0f} s")


def _age_s(stream: StreamStatus, uptime_s: float) -> float:
    return uptime_s if stream.last_data_age_s is None else stream.last_data_age_s


def _counted(names: Iterable[str]) -> str:
    return _some(f"{count} of {name}" for name, count in Counter(names).items())


def _many(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


def _some(words: Iterable[str]) -> str:
    listed = list(words)
    if not listed:
        return ""
    return f": {', '.join(listed[:10])}" + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
