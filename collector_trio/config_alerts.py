"""`[alerts]`: when something is to be said aloud. The first four are the outage report's thresholds."""

from collections.abc import Mapping
from typing import Any

import attrs

from collector_trio.config_values import Reader, count, duration, per_hour, size, span, written_count


@attrs.frozen
class Threshold:
    """`normal` is shown, from its low end to its high end; above `alert_above` is an alert; looked at every `every_s`.

    Numbers are counts, bytes, or per hour.
    """

    normal: tuple[float, float]
    alert_above: float
    every_s: float


@attrs.frozen
class Alerts:
    """`[alerts]`. What is no threshold is how much of it, or for how long, is too much."""

    sockets: Threshold = Threshold((15, 30), 50, 300)
    close_wait: Threshold = Threshold((0, 2), 5, 300)
    memory: Threshold = Threshold((0, 2**30), 2**31, 60)
    reconnects: Threshold = Threshold((0, 10), 30, 600)
    off_plan_s: float = 300.0
    not_live_s: float = 120.0
    data_age_s: float = 120.0
    open_gaps_s: float = 900.0
    follower_lag_s: float = 300.0
    disk_bytes: int = 2**30
    event_loop_lag_s: float = 1.0
    clock_offset_s: float = 0.5
    webhook: str = ""


@attrs.frozen
class WrittenThreshold:
    """What a config says of a threshold; None where it says nothing."""

    normal: tuple[float, float] | None = None
    alert_above: float | None = None
    every_s: float | None = None

    def over(self, default: Threshold) -> Threshold:
        """Return the threshold: what was written, and the rest of `default`."""
        written = attrs.asdict(self, filter=lambda _, value: value is not None)
        return attrs.evolve(default, **written)


_EVERY = duration("1s", "1h")

# The keys of a threshold's table, by the key of the threshold.
THRESHOLDS: Mapping[str, Mapping[str, Reader[Any]]] = {
    "sockets": {"normal": span(written_count, "15..30"), "alert_above": count, "every": _EVERY},
    "close_wait": {"normal": span(written_count, "0..2"), "alert_above": count, "every": _EVERY},
    "memory": {"normal": span(size, "..1 GiB"), "alert_above": size, "every": _EVERY},
    "reconnects": {"normal": span(per_hour, "..10/h"), "alert_above": per_hour, "every": _EVERY},
}
LIMITS: Mapping[str, Reader[Any]] = {
    "off_plan": duration("0s", "1d"),
    "not_live": duration("0s", "1d"),
    "data_age": duration("1s", "1d"),
    "open_gaps": duration("0s", "30d"),
    "follower_lag": duration("1s", "1d"),
    "disk": size,
    "event_loop_lag": duration("1ms", "1h"),
    "clock_offset": duration("1ms", "1d"),
}
