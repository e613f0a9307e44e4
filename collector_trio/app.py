"""Opens the scopes and joins the parts: the only module that knows all of them.

    run                              root nursery: signals, the time limit
    ├─ follower                      child process that writes Parquet; outlives the journal, to store its last segment
    ├─ HTTP port                     the listening socket, for as long as the run
    └─ journal                       owns the running segment
       ├─ syncing, ticks, disk space, what the follower says; whoever watches: alerts and their webhook, the port's
       │  server, the terminal's table, the service manager's watchdog
       └─ supervisor                 nursery of markets and their streams; a stop cancels it, and with it every socket

A stop goes through this picture from the inside out: sockets (at most a second), journal sealed, follower finished.
What a slow disk takes for sealing is taken from the follower's time, so that all of it takes less than ten seconds,
whatever the peers do.
"""

import os
import platform
import random
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import attrs
import cattrs
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio import __version__
from collector_trio.clock import Clock
from collector_trio.config import Config
from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.child import Bell, FollowerChild
from collector_trio.followers.cursor import load_cursor, load_head, segments_behind
from collector_trio.journal.append import TICK_S, Journal, in_thread, open_journal
from collector_trio.journal.records import Letter
from collector_trio.journal.recover import Recovered, lock_data_dir, recover
from collector_trio.journal.space import Floor, Space, find_floor
from collector_trio.net.budgets import Budgets
from collector_trio.net.connect import Connection, connect
from collector_trio.net.dial import install_resolver, make_ssl_context
from collector_trio.net.http import HttpClient, open_client
from collector_trio.net.proxies import choose_proxy
from collector_trio.net.tap import Sink
from collector_trio.ops.alerts import Alerts, Change, keep_watch, log_change, message
from collector_trio.ops.census import REST, WEBHOOK, Owners
from collector_trio.ops.http import Port, open_port, serve
from collector_trio.ops.lag import LagHistogram
from collector_trio.ops.notify import Notifier, find_notifier
from collector_trio.ops.site import make_site
from collector_trio.ops.state import Following, Observer, Parts, Sealed
from collector_trio.ops.status import Status, WebhookStatus
from collector_trio.ops.webhook import Webhook
from collector_trio.plan import market_groups
from collector_trio.streams.clocks import Offset, clocks, keep_offsets
from collector_trio.streams.live import Live, recall
from collector_trio.streams.maintenance import Maintenance
from collector_trio.streams.markets import keep_markets, rest_url
from collector_trio.streams.session import Session
from collector_trio.streams.snapshots import Snapshots
from collector_trio.streams.supervisor import Stream, Surroundings
from collector_trio.threads import run_in_thread

FINISH_S = 6.0  # from the wish to stop until followers must have stored what is sealed; then they are killed
LEAST_FINISH_S = 0.5  # for them alone, however long a slow disk has taken
HEED_EVERY_S = 5.0
WATCH_AGAIN_S = 30.0  # what watches and has crashed would say for ever that all is well
SIGNS_EVERY_S = 10.0


@attrs.frozen
class Report:
    """What one run did: times in nanoseconds since the epoch, streams with their counters, frames no follower has
    stored yet.
    """

    started_ns: int
    ended_ns: int
    streams: tuple[Stream, ...]
    frames_left: int
    first_segment: int
    signalled: bool


@attrs.frozen
class Network:
    """How this process reaches the world: TLS trust, proxy, environment; and who owns its sockets."""

    ssl_context: ssl.SSLContext
    proxy: str
    environ: Mapping[str, str]
    owners: Owners = attrs.field(factory=Owners)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy `url` is reached through, None for a direct connection."""
        return choose_proxy(url, self.proxy, self.environ)


def open_network(config: Config) -> Network:
    """Read what the process's environment says about TLS and proxies, once."""
    return Network(make_ssl_context(), config.net.proxy, os.environ)


Watch = Callable[[Callable[[], Status]], Awaitable[NoReturn]]  # is given what looks at the recorder


@attrs.frozen
class Watchers:
    """By whom the recorder is watched: the HTTP port, the census of its sockets, the service manager, a table on the
    terminal.
    """

    port: Port
    owners: Owners
    notifier: Notifier
    watch: Watch | None
    alerts: Alerts
    webhook: Webhook | None


async def run(
    config: Config,
    *,
    for_s: float | None = None,
    clock: Clock | None = None,
    stop: trio.Event | None = None,
    streams: list[Stream] | None = None,
    owners: Owners | None = None,
    watch: Watch | None = None,
) -> Report:
    """Record until SIGTERM, SIGINT, the end of `for_s` or `stop`, then drain and return what was done.

    `streams` is filled as streams begin, for whoever wants to watch them; `watch` runs beside the recording and may
    look at it. `owners` knows of sockets in this process that are not the recorder's. Raises DataDirInUse at once when
    another collector records into the same folder, and PortUnavailable when something listens at its HTTP port. A
    second signal ends the process on the spot.
    """
    clock = clock or Clock()
    stop, signalled = trio.Event() if stop is None else stop, trio.Event()
    install_resolver()
    log: FilteringBoundLogger = structlog.get_logger()
    owners = owners or Owners()
    owners.claim_what_is_open()
    with lock_data_dir(config.collector.data_dir) as lock, owners.owning("lock") as held:
        held.add(lock)
        async with open_port(config.http.listen, owners) as port, trio.open_nursery() as root:
            await root.start(_watch_signals, stop, signalled, log)
            if for_s is not None:
                root.start_soon(_stop_after, for_s, stop)
            webhook = _webhook(config, attrs.evolve(open_network(config), owners=owners), log)
            notifier = find_notifier(os.environ, os.getpid(), log)
            watchers = Watchers(port, owners, notifier, watch, Alerts(config), webhook)
            report = await _record(config, clock, stop, [] if streams is None else streams, watchers, log)
            root.cancel_scope.cancel()
    return attrs.evolve(report, signalled=signalled.is_set())


async def _watch_signals(
    stop: trio.Event,
    signalled: trio.Event,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                log.warning("SIGHUP: reloading the config is not in this version; restart to apply changes")
                continue
            if stop.is_set():
                os._exit(1)
            log.info("stopping", signal=signal.Signals(number).name)
            signalled.set()
            stop.set()


async def _stop_after(seconds: float, stop: trio.Event) -> None:
    await trio.sleep(seconds)
    stop.set()


async def _record(
    config: Config, clock: Clock, stop: trio.Event, streams: list[Stream], watchers: Watchers, log: FilteringBoundLogger
) -> Report:
    data_dir, notifier = config.collector.data_dir, watchers.notifier
    notifier.tell(STATUS="reading what the last run left")
    recovered = recover(data_dir)
    live = Live(recall(data_dir, EXCHANGES, log), log)
    started_ns, first_segment = clock.now(), recovered.numbers.segment
    first_frame = recovered.numbers.frame
    floor = find_floor(data_dir, config.store.min_free_bytes)
    if floor.problem is not None:
        log.warning("min_free", problem=floor.problem)
    offsets: dict[tuple[str, str], Offset] = {}
    bell, finish, sealed, lags = Bell(), trio.Event(), Sealed(), {name: LagHistogram() for name in EXCHANGES}
    for segment in segments_behind(data_dir, load_cursor(data_dir).segment):  # what the last run left to be stored
        sealed.add(segment.number, segment.path.stat().st_mtime_ns)

    def on_sealed(number: int) -> None:
        sealed.add(number, clock.now())
        bell.ring()

    logging = (config.collector.log, config.collector.log_level)
    child = FollowerChild("tables", data_dir, *logging, config.store.keep_tables_s)
    stopping_at = float("inf")

    def finish_s() -> float:
        return max(LEAST_FINISH_S, stopping_at + FINISH_S - trio.current_time())

    keep = partial(child.keep, bell, finish, finish_s, random.Random(), log)
    async with trio.open_nursery() as followers:
        followers.start_soon(_keep_follower, child, keep, watchers.owners)
        with (
            open_journal(
                data_dir,
                recovered.numbers,
                clock=clock.now,
                segment_s=config.store.segment_s,
                sync_every_s=config.store.sync_every_s,
                offload=in_thread(trio.CapacityLimiter(1)),
                on_sealed=on_sealed,
                on_refusal=partial(_say_refusal, log),
                on_unreserved=partial(_say_unreserved, log),
                on_note=live.on_note,
                state=live.continuity.dump,
            ) as journal,
            watchers.owners.holding("journal", journal.fds),
        ):
            _note_start(journal, recovered, config)
            log.info("recording", data_dir=str(data_dir), pid=os.getpid(), version=__version__)
            async with trio.open_nursery() as recording:
                recording.start_soon(journal.run)
                recording.start_soon(_tick, journal, clock, log)
                snapshots = _snapshots(config)
                maintenance = _maintenance(config)
                around = _surroundings(config, watchers.owners, journal, clock, log, live, snapshots, lags, maintenance)
                await recording.start(_space(config, floor, journal, log).run)
                recording.start_soon(_heed, data_dir, live, journal)
                crashed = set[str]()
                observer = Observer(
                    Parts(
                        config=config,
                        clock=clock.now,
                        started_ns=started_ns,
                        first_frame=first_frame,
                        journal=journal,
                        floor=floor,
                        streams=streams,
                        followers=(Following(child, partial(load_cursor, data_dir)),),
                        sealed=sealed,
                        owners=watchers.owners,
                        lags=lags,
                        continuity=live.continuity,
                        follower_totals=lambda: load_head(data_dir).totals,
                        holds=lambda: around.gates.holds,
                        unlisted=around.unlisted,
                        unanswered=around.unanswered,
                        offsets=offsets,
                        alerts=watchers.alerts.statuses,
                        webhook=WebhookStatus if watchers.webhook is None else watchers.webhook.status,
                        crashed=crashed,
                    )
                )
                _start_watching(recording, watchers, observer, crashed, log)
                async with trio.open_nursery() as supervisor:
                    for wanted in snapshots.values():
                        supervisor.start_soon(wanted.keep, around)
                    for asked in maintenance.values():
                        supervisor.start_soon(asked.keep, around)
                    for exchange, markets in market_groups(config, EXCHANGES):
                        supervisor.start_soon(keep_markets, config, exchange, markets, around, streams)
                    supervisor.start_soon(keep_offsets, config, clocks(config, EXCHANGES), around, offsets)
                    notifier.tell(READY=1)
                    await stop.wait()
                    stopping_at = trio.current_time()
                    notifier.tell(STOPPING=1, STATUS="ending sessions, storing what was received")
                    supervisor.cancel_scope.cancel()
                journal.note(Letter.PROCESS, {"event": "stop", "pid": os.getpid()})
                recording.cancel_scope.cancel()
        finish.set()
    frames_left = max(0, journal.numbers.frame - load_cursor(data_dir).next_frame)
    if frames_left:
        log.warning("stopped before everything was stored; the next start stores it", frames_left=frames_left)
    log.info("stopped", frames=sum(stream.frames for stream in streams))
    return Report(started_ns, clock.now(), tuple(streams), frames_left, first_segment, signalled=False)


async def _keep_follower(child: FollowerChild, keep: Callable[[], Awaitable[None]], owners: Owners) -> None:
    """Keep one follower; the pipe to its process is its own."""
    with owners.holding(f"follower {child.name}", child.fds, lambda: child.pid):
        await keep()


def _start_watching(
    nursery: trio.Nursery, watchers: Watchers, observer: Observer, crashed: set[str], log: FilteringBoundLogger
) -> None:
    def start(name: str, watch: Callable[[], Awaitable[None]], *, again: bool = True) -> None:
        nursery.start_soon(_watching, name, watch, again, crashed, log)

    start("rates", observer.run)
    start("leaks", partial(watchers.owners.watch, log))
    tell: list[Callable[[Change, Status], None]] = [partial(log_change, log)]
    if watchers.webhook is not None:
        start("webhook", watchers.webhook.run)
        tell.append(partial(_put, watchers.webhook, platform.node()))
    start("alerts", partial(keep_watch, watchers.alerts, observer.look, observer.parts.clock, tell))
    start("signs", partial(_note_signs, observer.parts.journal, observer.look))
    start("watchdog", partial(watchers.notifier.feed, observer.parts.journal))
    start("service manager", partial(watchers.notifier.describe, observer.look))
    if watchers.port.listeners:
        site = make_site(observer.look, observer.parts.lags)
        start("http", partial(serve, watchers.port, site, watchers.owners, log), again=False)  # its port is closed
        log.info("http", url=watchers.port.url)
    if watchers.watch is not None:
        start("table", partial(watchers.watch, observer.look))


def _webhook(config: Config, network: Network, log: FilteringBoundLogger) -> Webhook | None:
    """Return what tells the webhook of alerts; None where there is none."""
    url = config.alerts.webhook
    if not url:
        return None

    async def post(body: bytes) -> None:
        async with open_rest(network, url, owner=WEBHOOK) as client:
            await client.post_json(body)

    where = urlsplit(url)
    return Webhook(post, f"{where.scheme}://{where.hostname}", log)  # what stands behind is often a secret


def _put(webhook: Webhook, host: str, change: Change, status: Status) -> None:
    webhook.put(message(change, status, host))


async def _watching(
    name: str, watch: Callable[[], Awaitable[None]], again: bool, crashed: set[str], log: FilteringBoundLogger
) -> None:
    """Run what only watches: a bug in it, or a lack of descriptors, ends itself and not the recording. With `again` it
    begins again; until then its name is in `crashed`.
    """
    while True:
        try:
            return await watch()
        except Exception:
            log.exception("watching crashed", watch=name)
        crashed.add(name)
        if not again:
            return
        await trio.sleep(WATCH_AGAIN_S)
        crashed.remove(name)


def _say_refusal(log: FilteringBoundLogger, reason: str | None) -> None:
    """Say that reading stops because nothing can be stored, or that it goes on."""
    if reason is None:
        log.info("journal accepts again")
    else:
        log.error("journal refuses, reading stops", reason=reason)


def _say_unreserved(log: FilteringBoundLogger, reason: str | None) -> None:
    """Say that the disk is nearly full, or that it is no more."""
    if reason is None:
        log.info("space is reserved ahead again")
    else:
        log.warning("no space can be reserved ahead, the disk is nearly full", reason=reason)


def _space(config: Config, floor: Floor, journal: Journal, log: FilteringBoundLogger) -> Space:
    """Return what looks after the disk, in a thread of its own."""
    return Space(
        journal=journal,
        floor=floor,
        keep=config.store.keep_journal,
        confirmed=lambda: load_cursor(config.collector.data_dir).segment,
        offload=in_thread(trio.CapacityLimiter(1), "space"),
        now_s=time.time,
        on_trouble=lambda reason: log.warning("kept journal not tidied", reason=reason),
    )


def _note_start(journal: Journal, recovered: Recovered, config: Config) -> None:
    """Write down that a process begins, and end the sessions that the last one could not end."""
    start = {"event": "start", "pid": os.getpid(), "version": __version__, "truncated_bytes": recovered.truncated_bytes}
    journal.note(Letter.PROCESS, start, current="process")
    settings = {"record": cattrs.unstructure(config.record), "snapshot_every_s": config.store.snapshot_every_s}
    journal.note(Letter.CONFIG, settings, current="config")
    for facts in recovered.open_sessions.values():
        ending = {"reason": "process died", "detail": "", "closed_ns": recovered.last_ns}
        lost = {"live_ns": None, "peer": ""} | {name: value for name, value in facts.items() if name != "again"}
        journal.note(Letter.ENDED, lost | ending)


def _snapshots(config: Config) -> dict[tuple[str, str], Snapshots]:
    """Return whom to ask for whole books, by exchange and market."""
    wanted = dict.fromkeys((r.exchange, r.market) for r in config.record)
    return {
        (name, market): Snapshots(EXCHANGES[name], market, rest_url(config, EXCHANGES[name], market))
        for name, market in wanted
        if not EXCHANGES[name].book_rules(market).in_band
    }


def _maintenance(config: Config) -> dict[str, Maintenance]:
    """Return whom to ask whether an exchange is in maintenance, by exchange, where that is by REST."""
    found = {}
    for record in config.record:
        exchange = EXCHANGES[record.exchange]
        request = exchange.maintenance_request()
        if request is not None:
            base_url = rest_url(config, exchange, record.market)
            found[record.exchange] = Maintenance(exchange, record.market, base_url, request)
    return found


def _surroundings(
    config: Config,
    owners: Owners,
    journal: Journal,
    clock: Clock,
    log: FilteringBoundLogger,
    live: Live,
    snapshots: Mapping[tuple[str, str], Snapshots],
    lags: Mapping[str, LagHistogram],
    maintenance: Mapping[str, Maintenance],
) -> Surroundings:
    network = attrs.evolve(open_network(config), owners=owners)
    return Surroundings(
        journal=journal,
        clock=clock.now,
        random=random.Random(),
        connect=partial(open_socket, network, clock.now),
        open_client=partial(open_rest, network),
        budgets=Budgets(),
        share=config.limits.share,
        log=log,
        live=live,
        snapshots=snapshots,
        observe_lag={name: lag.observe_ns for name, lag in lags.items()},
        session_ended={name: asked.session_ended for name, asked in maintenance.items()},
    )


@asynccontextmanager
async def open_socket(network: Network, clock: Callable[[], int], url: str, sink: Sink) -> AsyncIterator[Connection]:
    """Open one WebSocket the way this process reaches the world."""
    tls, proxy = network.ssl_context, network.proxy_for(url)
    owner = sink.stream.name if isinstance(sink, Session) else url
    with network.owners.owning(owner) as owned:
        async with connect(url, sink, clock=clock, ssl_context=tls, proxy=proxy, connector=owned.dial) as connection:
            yield connection


@asynccontextmanager
async def open_rest(network: Network, url: str, owner: str = REST) -> AsyncIterator[HttpClient]:
    """Open a client for one REST base, whose sockets are `owner`'s."""
    tls, proxy = network.ssl_context, network.proxy_for(url)
    with network.owners.owning(owner) as owned:
        async with open_client(url, ssl_context=tls, proxy=proxy, connector=owned.dial) as client:
            yield client


async def _tick(journal: Journal, clock: Clock, log: FilteringBoundLogger) -> None:
    """Write down that a second has passed, and what happened to the wall clock meanwhile."""
    while True:
        await trio.sleep(TICK_S)
        step_ns = clock.check_step()
        if step_ns:
            journal.note(Letter.STEP, {"step_ns": step_ns})
            log.warning("wall clock stepped", step_s=round(step_ns / 1e9, 3))
        journal.note(Letter.TICK, {})


async def _note_signs(journal: Journal, look: Callable[[], Status]) -> NoReturn:
    """Write down, as a tick, what a leak would be seen by: for who looks back over a month."""
    while True:
        status = look()
        signs = {
            "memory_bytes": status.memory_bytes,
            "sockets": status.sockets.open,
            "close_wait": status.sockets.by_state["CLOSE_WAIT"],
            "unowned": status.sockets.unowned,
        }
        journal.note(Letter.TICK, signs)
        await trio.sleep(SIGNS_EVERY_S)


async def _heed(data_dir: Path, live: Live, journal: Journal) -> None:
    """Hear what the follower has found out: it reads what the recorder only passes on."""
    limiter = trio.CapacityLimiter(1)
    while True:
        head = await run_in_thread("follower cursor", limiter, partial(load_head, data_dir))
        live.heed(head.totals.get("unreadable", {}), journal)
        await trio.sleep(HEED_EVERY_S)
