"""Alerts: they start when something is too much, end when it clearly is no more, and are said aloud both times.

`Alerts` is the pure part: looks go in with their time, changes come out. `keep_watch` takes the looks and tells whoever
wants to know: the log, the webhook. What is shown (status, metrics) is asked of `Alerts`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.config import Config
from collector_trio.ops.findings import FINDERS, Finding, Findings, threshold
from collector_trio.ops.state import iso_time
from collector_trio.ops.status import AlertStatus, Status

LOOK_EVERY_S = 5.0


@attrs.frozen
class Change:
    """An alert started, or ended. Times are nanoseconds since the epoch."""

    name: str
    started: bool
    at_ns: int
    since_ns: int
    finding: Finding


@attrs.define
class _Standing:
    """Where one alert stands: when it is looked at again, since when it is active, what was found last."""

    every_s: float
    due: float = float("-inf")
    since_ns: int | None = None
    finding: Finding | None = None


class Alerts:
    """All alerts of one recorder."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._findings = Findings(config)
        self._standing: dict[str, _Standing] = {}
        for name in FINDERS:
            known = threshold(config, name)
            self._standing[name] = _Standing(0.0 if known is None else known.every_s)

    @property
    def look_every_s(self) -> float:
        """How often to look, so that every alert can be looked at as often as the config says."""
        return min(LOOK_EVERY_S, *(each.every_s for each in self._standing.values() if each.every_s))

    def take(self, status: Status, now: float, now_ns: int) -> list[Change]:
        """Take a look at `now` (seconds that never go back), and return which alerts start and end by it."""
        changes = []
        for name, finding in self._findings.take(status, now).items():
            standing = self._standing[name]
            standing.finding = finding  # what is shown is of now, whatever the config says of when to judge
            if now < standing.due:
                continue
            standing.due = now + standing.every_s
            if finding.too_much and standing.since_ns is None:
                standing.since_ns = now_ns
                changes.append(Change(name, True, now_ns, now_ns, finding))
            elif finding.too_much is False and standing.since_ns is not None:
                changes.append(Change(name, False, now_ns, standing.since_ns, finding))
                standing.since_ns = None
        return changes

    def statuses(self) -> tuple[AlertStatus, ...]:
        """Say of every alert where it stands, whether it is active or not."""
        return tuple(self._status(name, standing) for name, standing in self._standing.items())

    def _status(self, name: str, standing: _Standing) -> AlertStatus:
        finding, known = standing.finding, threshold(self._config, name)
        return AlertStatus(
            name=name,
            active=standing.since_ns is not None,
            since=None if standing.since_ns is None else iso_time(standing.since_ns),
            value=None if finding is None else finding.value,
            limit=None if finding is None else finding.limit,
            normal=None if known is None else known.normal,
            detail="" if finding is None else finding.detail,
        )


async def keep_watch(
    alerts: Alerts,
    look: Callable[[], Status],
    clock: Callable[[], int],
    tell: Sequence[Callable[[Change, Status], None]],
) -> NoReturn:
    """Look often and tell everyone of `tell` what starts and ends, until cancelled."""
    while True:
        status = look()
        for change in alerts.take(status, trio.current_time(), clock()):
            for told in tell:
                told(change, status)
        await trio.sleep(alerts.look_every_s)


def log_change(log: FilteringBoundLogger, change: Change, status: Status) -> None:
    """Write one line for a start, and one for an end."""
    finding = change.finding
    facts = {"alert": change.name, "value": finding.value, "limit": finding.limit, "detail": finding.detail}
    if change.started:
        log.error("alert", **facts)
    else:
        log.info("alert ended", **facts, lasted_s=round((change.at_ns - change.since_ns) / 1e9, 1))


def message(change: Change, status: Status, host: str) -> bytes:
    """Return what a webhook is told, as JSON: `text` for people (and for chats that show just that), the rest for
    programs.
    """
    finding, word = change.finding, "started" if change.started else "ended"
    document: dict[str, Any] = {
        "text": f"collector_trio on {host}: alert {change.name} {word}: {finding.detail}",
        "alert": change.name,
        "state": word,
        "at": iso_time(change.at_ns),
        "since": iso_time(change.since_ns),
        "value": finding.value,
        "limit": finding.limit,
        "detail": finding.detail,
        "collector": {"host": host, "pid": status.pid, "data_dir": status.data_dir, "version": status.version},
    }
    return json.dumps(document, ensure_ascii=False).encode()
