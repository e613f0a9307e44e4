"""Prometheus metrics, made when they are asked for: what is counted are the plain ints of what runs, so the hot path
knows nothing of this (`labels().inc()` would cost 1 µs each; a scrape of 300 series costs 1.2 ms).

What a follower has stored (rows, gaps, rejects) is counted by its cursor, and so goes on over restarts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from collector_trio.ops.census import HTTP, NOBODY, REST, WEBHOOK
from collector_trio.ops.fds import STATES, TCP
from collector_trio.ops.lag import LagHistogram
from collector_trio.ops.status import Status, market_of


class Metrics(Collector):
    """The metrics of one recorder, in a registry of its own: several may run in a process."""

    def __init__(self, look: Callable[[], Status], lags: Mapping[str, LagHistogram]) -> None:
        self._look = look
        self._lags = lags
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its content type: OpenMetrics for who accepts it, else the classic format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand; the registry is ours alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look once, and say all of it in Prometheus' words."""
        status = self._look()
        yield from _process(status)
        yield from _sockets(status)
        yield from _streams(status)
        yield _holds(status)
        yield _exchange_lag(self._lags)
        yield from _storage(status)
        yield from _rows_and_gaps(status)
        yield from _alerts(status)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"collector_{name}", text, value=value)


def _gauges(name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"collector_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counters(name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"collector_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _process(status: Status) -> Iterator[Metric]:
    yield _gauges("info", "The version that runs.", ["version"], {(status.version,): 1})
    yield _gauge("uptime_seconds", "Since the recorder started.", status.uptime_s)
    yield _gauge("ready", "1 when every planned stream is live.", status.ready)
    yield _gauge("healthy", "1 while event loop, journal and followers make progress.", status.healthy)
    yield _gauge("resident_memory_bytes", "Memory of the recorder's process in RAM.", status.memory_bytes)
    yield _gauge(
        "event_loop_lag_seconds", "How late the event loop was, the worst of the last 10 s.", status.event_loop_lag_s
    )


def _sockets(status: Status) -> Iterator[Metric]:
    streams = (stream.name for stream in status.streams)
    owners = dict.fromkeys((NOBODY, HTTP, REST, WEBHOOK, *streams, *status.sockets.by_owner))
    yield _gauges(
        "sockets",
        'TCP sockets of this process by the scope that owns them; owner="none" is a leak.',
        ["state", "owner"],
        {(state, owner): status.sockets.by_owner.get(owner, {}).get(state, 0) for owner in owners for state in STATES},
    )
    yield _gauges(
        "open_fds", 'File descriptors but TCP sockets, by the scope that owns them; owner="none" is a leak.', ["owner"],
        {(owner,): count for owner, count in ({NOBODY: 0} | status.fds.by_owner).items()},
    )  # fmt: skip
    yield _counters(
        "leaked_fds", "File descriptors found without an owner.", ["kind"],
        {(kind,): count for kind, count in ({TCP: 0} | status.fds.leaked).items()},
    )  # fmt: skip
    sessions: dict[tuple[str, ...], float] = {tuple(place.split()): 0 for place in status.without_stream}
    for stream in status.streams:
        key = (stream.exchange, market_of(stream))
        sessions[key] = sessions.get(key, 0) + (stream.state in ("connecting", "live"))
    yield _gauges("open_sessions", "Connections to exchanges.", ["exchange", "market"], sessions)
    yield _gauge("planned_sessions", "Connections to exchanges that the plan wants.", status.sockets.sessions_planned)


def _streams(status: Status) -> Iterator[Metric]:
    streams = status.streams
    live: dict[tuple[str, ...], float] = {(place,): 0 for place in status.without_stream}
    live |= {(stream.name,): stream.state == "live" for stream in streams}
    yield _gauges(
        "stream_live",
        "1 while a stream's session is live; 0, too, for a market that has no stream yet.",
        ["stream"],
        live,
    )
    yield _gauges(
        "stream_parked", "1 when a stream crashed so often that it was given up.", ["stream"],
        {(stream.name,): stream.state == "parked" for stream in streams},
    )  # fmt: skip
    yield _counters(
        "reconnects", "Sessions that ended, by why.", ["stream", "reason"],
        {(stream.name, reason): count for stream in streams for reason, count in stream.ended.items()},
    )  # fmt: skip
    yield _counters("sessions", "Sessions begun.", ["stream"], {(stream.name,): stream.sessions for stream in streams})
    yield _counters("frames", "Frames accepted.", ["stream"], {(stream.name,): stream.frames for stream in streams})
    yield _counters(
        "received_bytes", "Bytes of frames accepted.", ["stream"], {(stream.name,): stream.bytes for stream in streams}
    )
    # A stream that never brought data is as old as the run: an alert on the age must not wait for a first frame.
    yield _gauges(
        "last_data_age_seconds", "Since data last came; since the start where none has come.", ["stream"],
        {(s.name,): status.uptime_s if s.last_data_age_s is None else s.last_data_age_s for s in streams},
    )  # fmt: skip
    yield _gauges(
        "silence_limit_seconds", "The shortest silence of a subscription that is a fault; absent where none is.",
        ["stream"], {(stream.name,): stream.silence_s for stream in streams if stream.silence_s is not None},
    )  # fmt: skip
    yield _gauge("unlisted_symbols", "Symbols of the config that their exchange does not list.", len(status.not_listed))


def _holds(status: Status) -> Metric:
    return _gauges(
        "venue_held", "1 while nothing is asked of a venue, or of one host of it, because of how it answered.",
        ["venue", "host", "status"], {(hold.venue, hold.host, str(hold.status)): 1 for hold in status.holds},
    )  # fmt: skip


def _exchange_lag(lags: Mapping[str, LagHistogram]) -> Metric:
    family = HistogramMetricFamily(
        "collector_exchange_lag_seconds",
        "From the exchange's time of a message to its receive time (both clocks' errors included).",
        labels=["exchange"],
    )
    for exchange, lag in lags.items():
        family.add_metric([exchange], lag.cumulative(), lag.sum_ns / 1e9)
    return family


def _storage(status: Status) -> Iterator[Metric]:
    journal = status.journal
    yield _gauge("journal_bytes", "What the journal takes on the disk, kept segments included.", journal.bytes)
    yield _counters("journal_written_bytes", "What this run has written to it.", [], {(): journal.written_bytes})
    yield _gauge("journal_refusing", "1 while the disk takes nothing and reading has stopped.", journal.refusing)
    yield _counters("journal_frames", "Frames the journal accepted.", [], {(): journal.frames_accepted})
    if journal.free_bytes is not None:
        yield _gauge("disk_free_bytes", "What is free where the journal is.", journal.free_bytes)
    yield _gauge("disk_min_free_bytes", "What must stay free there, or reading stops.", journal.min_free_bytes)
    if journal.left_s is not None:
        yield _gauge(
            "disk_left_seconds",
            "When only that is free, at the last hour's rate; absent where the disk does not fill up.",
            journal.left_s,
        )  # fmt: skip
    followers = status.followers
    yield _gauges(
        "follower_lag_seconds", "For how long the oldest sealed segment has been waiting.", ["follower"],
        {(follower.name,): follower.lag_s for follower in followers},
    )  # fmt: skip
    yield _gauges(
        "follower_lag_frames", "Frames accepted and not stored yet.", ["follower"],
        {(follower.name,): follower.lag_frames for follower in followers},
    )  # fmt: skip
    yield _gauges(
        "follower_up", "1 while the process runs.", ["follower"],
        {(follower.name,): follower.pid is not None for follower in followers},
    )  # fmt: skip
    yield _counters(
        "follower_restarts", "How often the process had to be started again.", ["follower"],
        {(follower.name,): follower.restarts for follower in followers},
    )  # fmt: skip


def _rows_and_gaps(status: Status) -> Iterator[Metric]:
    yield _counters(
        "rows", "Rows stored.", ["table", "exchange", "market"],
        {_split(key, 3): count for key, count in status.rows.items()},
    )  # fmt: skip
    yield _counters(
        "gaps", "Gaps in the ledger.", ["table", "cause"],
        {_split(key, 2): count for key, count in (status.gaps.stored or status.gaps.seen).items()},
    )  # fmt: skip
    yield _gauge("holes_open", "Holes in the ids that are open now, as the recorder sees it.", status.gaps.open)
    yield _gauges(
        "missing_rows", "Rows known to be missing.", ["table"],
        {(table,): count for table, count in status.gaps.missing_rows.items()},
    )  # fmt: skip
    yield _counters(
        "rejects", "Frames that could not be used.", ["reason"],
        {(reason,): count for reason, count in status.rejects.items()},
    )  # fmt: skip
    yield _counters("inexact_values", "Values that float64 cannot hold.", [], {(): status.inexact_values})
    yield _gauge(
        "continuity_divergence", "Where the recorder's and the follower's view of the holes differ.",
        status.gaps.divergence,
    )  # fmt: skip
    yield _gauge(
        "unbalanced_frames", "Frames that were accepted and are in no class of the table segments.",
        status.gaps.unbalanced,
    )  # fmt: skip
    yield _gauges(
        "books", "Order books by state.", ["exchange", "market", "state"],
        {(b.exchange, b.market, state): count for b in status.books for state, count in b.states.items()},
    )  # fmt: skip


def _alerts(status: Status) -> Iterator[Metric]:
    yield _gauges(
        "clock_offset_seconds", "Our clock less the exchange's.", ["exchange", "market"],
        {(clock.exchange, clock.market): clock.offset_s for clock in status.clocks},
    )  # fmt: skip
    yield _gauges(
        "clock_offset_error_seconds", "By how much that can be wrong.", ["exchange", "market"],
        {(clock.exchange, clock.market): clock.error_s for clock in status.clocks},
    )  # fmt: skip
    yield _gauges(
        "alert", "1 while an alert is active.", ["name"], {(alert.name,): alert.active for alert in status.alerts}
    )
    yield _counters(
        "webhook_messages", "What became of the messages to the webhook.", ["outcome"],
        {
            ("sent",): status.webhook.sent,
            ("failed",): status.webhook.failed,
            ("dropped",): status.webhook.dropped,
        },
    )  # fmt: skip


def _split(key: str, parts: int) -> tuple[str, ...]:
    """Split a key of the cursor's totals into labels; the last may hold spaces ("trades process down")."""
    found = key.split(" ", parts - 1)
    return (*found, *[""] * (parts - len(found)))
