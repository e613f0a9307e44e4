"""The words for what the recorder is doing now: one document, which everything that watches is made of.

Ages and lengths of time are seconds, instants ISO 8601.
"""

from typing import Any

import attrs

from collector_trio.ops.census import Fd


@attrs.frozen
class StreamStatus:
    """One stream. `ended` counts why its sessions ended; times are ISO 8601, ages in seconds."""

    name: str
    exchange: str
    markets: tuple[str, ...]
    url: str
    subscriptions: int
    state: str  # dialling, connecting, live, backing off, parked
    session: int | None
    live_since: str | None
    peer: str
    frames: int
    bytes: int
    frames_per_s: float
    bytes_per_s: float
    last_data_age_s: float | None
    sessions: int
    sessions_live: int
    silence_s: float | None  # the shortest silence that is a fault; None: nothing is promised
    ended: dict[str, int]
    last_ending: str | None


@attrs.frozen
class HoldStatus:
    """A venue, or one `host` of it ("" is all), of which nothing is asked `until` then, because of an answer with HTTP
    `status`. `told`: the answer said for how long. `refused`: how often in a row.
    """

    venue: str
    host: str
    status: int
    reason: str
    told: bool
    refused: int
    since: str
    until: str


@attrs.frozen
class SocketStatus:
    """The census: TCP sockets by owner and state, and each of them. `unowned` ones are leaks."""

    sessions_planned: int
    sessions_open: int
    open: int
    unowned: int
    by_state: dict[str, int]
    by_owner: dict[str, dict[str, int]]
    sockets: tuple[Fd, ...]


@attrs.frozen
class FdStatus:
    """The rest of the census: descriptors that are no TCP sockets, by owner; `leaks` are the unowned ones of any kind.
    `leaked` counts by kind what was found in this run, whether or not it is still there.
    """

    open: int
    by_owner: dict[str, int]
    leaks: tuple[Fd, ...]
    leaked: dict[str, int]


@attrs.frozen
class JournalStatus:
    """The journal: its running segment, what it takes on the disk and what this run has written, the next numbers.

    `free_bytes_per_s`: how fast `free_bytes` became more in the last hour (less than 0: the disk fills up), whoever
    filled it; None while it is not watched for long enough to say. `left_s`: when only `min_free_bytes` will be free at
    that rate; None also where it does not fill up. `refusal` says why it refuses.
    """

    segment: int
    bytes: int
    written_bytes: int
    free_bytes: int | None
    min_free_bytes: int
    free_bytes_per_s: float | None
    left_s: float | None
    frames_accepted: int
    refusing: bool
    refusal: str | None
    next_frame: int
    next_session: int


@attrs.frozen
class FollowerStatus:
    """One follower. `lag_s`: for how long the oldest sealed segment has been waiting for it."""

    name: str
    pid: int | None
    restarts: int
    stored_segment: int
    next_frame: int
    lag_frames: int
    lag_segments: int
    lag_s: float


@attrs.frozen
class GapStatus:
    """Gaps: open holes and what this run has seen (live, advisory), and what the ledger holds (stored, what counts)."""

    open: int
    seen: dict[str, int]
    stored: dict[str, int]
    missing_rows: dict[str, int]
    divergence: int
    unbalanced: int  # frames that were accepted and are in no class of `segments`


@attrs.frozen
class BookStatus:
    """The order books of one market by state, and which are not in step with their exchange."""

    exchange: str
    market: str
    states: dict[str, int]
    not_synced: tuple[str, ...]


@attrs.frozen
class ClockStatus:
    """Our clock less an exchange's: `offset_s`, right to `error_s`, as asked `age_s` ago."""

    exchange: str
    market: str
    offset_s: float
    error_s: float
    age_s: float


@attrs.frozen
class AlertStatus:
    """One alert. `value` and `limit` are counts, seconds, bytes or per hour; None: not known yet.

    `since`: when it started, if it is active. `normal`: from and to, where the config says what is normal.
    """

    name: str
    active: bool
    since: str | None
    value: float | None
    limit: float | None
    normal: tuple[float, float] | None
    detail: str


@attrs.frozen
class WebhookStatus:
    """What became of the messages to the webhook; `dropped`: they were too many."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0


@attrs.frozen
class Status:
    """All of it: what /status.json, the metrics, the live table and both probes are made of."""

    version: str
    pid: int
    started: str
    uptime_s: float
    data_dir: str
    ready: bool
    not_ready: tuple[str, ...]
    healthy: bool
    not_healthy: tuple[str, ...]
    memory_bytes: int
    event_loop_lag_s: float
    streams: tuple[StreamStatus, ...]
    without_stream: tuple[str, ...]  # markets of the config, "okx spot"
    holds: tuple[HoldStatus, ...]
    sockets: SocketStatus
    fds: FdStatus
    journal: JournalStatus
    followers: tuple[FollowerStatus, ...]
    gaps: GapStatus
    books: tuple[BookStatus, ...]
    rows: dict[str, int]
    rejects: dict[str, int]
    inexact_values: int
    not_listed: tuple[str, ...]
    clocks: tuple[ClockStatus, ...]
    alerts: tuple[AlertStatus, ...]
    webhook: WebhookStatus

    def document(self) -> dict[str, Any]:
        """Return it as one JSON document with stable keys."""
        return attrs.asdict(self)


def market_of(stream: StreamStatus) -> str:
    """Name the market in a label; "all" where a stream carries several."""
    return stream.markets[0] if len(stream.markets) == 1 else "all"
