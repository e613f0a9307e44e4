"""A drill for every alert: the real condition is caused, the alert starts, is in the metrics, and ends when that ends.

The recorder is the real one, against simulated exchanges on real sockets. What only waits for time to pass (an hour of
reconnects, the periods of the config) is made shorter here; tests/ops/test_alerts.py holds the times themselves.
"""

import errno
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families as parse

from collector_trio import app
from collector_trio.continuity.fold import Continuity
from collector_trio.journal.segments import journal_dir
from collector_trio.ops import alerts as alerts_module
from collector_trio.ops import census, findings, lag, state
from collector_trio.ops.alerts import Alerts, Change
from collector_trio.ops.census import Fd, Owners
from collector_trio.ops.findings import FINDERS
from collector_trio.ops.log import set_up_logging
from collector_trio.ops.metrics import Metrics
from collector_trio.ops.state import resident_bytes
from collector_trio.ops.status import AlertStatus, Status
from collector_trio.sim import Fault, Scenario
from collector_trio.sim.listings import binance_listing
from collector_trio.streams import clocks, markets, supervisor
from collector_trio.streams.session import Session

from ..ops.conftest import no_descriptors_left
from .recorder import Running, recording

ONE = Scenario(symbols=("BTC-USDT",), quiet_symbols=(), markets=("spot",), trades_per_s=50.0, book_changes_per_s=50.0)
MIB = 2**20
SHM = Path("/dev/shm")

drilled: set[str] = set()
not_drilled: dict[str, str] = {}  # why
started: set[str] = set()  # in the present test
ended: set[str] = set()

Test = Callable[..., Awaitable[None]]


def drills(*names: str, unless: str | None = None) -> Callable[[Test], Test]:
    """Say which alerts a test drills: it has to see each start and end. It is skipped with the reason `unless`."""
    if unless is not None:
        not_drilled.update(dict.fromkeys(names, unless))
        return pytest.mark.skip(reason=unless)
    drilled.update(names)

    def with_proof(test: Test) -> Test:
        @wraps(test)
        async def proven(*args: Any, **kwargs: Any) -> None:
            started.clear()
            ended.clear()
            await test(*args, **kwargs)
            assert set(names) <= started & ended, f"not seen: {set(names) - (started & ended)}"

        return proven

    return with_proof


def no_room() -> str | None:
    """Say why no disk can be filled up here."""
    if not SHM.is_dir() or not os.access(SHM, os.W_OK):
        return "no /dev/shm to fill up"
    return "too little room in /dev/shm" if shutil.disk_usage(SHM).free < 1024 * MIB else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make looks frequent, and periods short."""
    monkeypatch.setattr(alerts_module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(findings, "HOUR_S", 5.0)
    monkeypatch.setattr(findings, "RECENT_S", 4.0)
    monkeypatch.setattr(lag, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(state, "MEASURE_EVERY_S", 0.2)
    monkeypatch.setattr(clocks, "FIRST_S", 0.2)
    monkeypatch.setattr(clocks, "EVERY_S", 0.3)
    set_up_logging("json", "info")  # as in a recorder: structlog's own tracebacks hold the event loop up for seconds
    yield
    structlog.reset_defaults()


@attrs.define
class Drill:
    """A recorder that is watched."""

    running: Running

    def look(self) -> Status:
        assert self.running.look is not None
        return self.running.look()

    def alert(self, name: str) -> AlertStatus:
        return next(alert for alert in self.look().alerts if alert.name == name)

    async def live(self) -> None:
        """Wait until everything is live, and nothing is wrong."""
        await self.running.until(
            lambda: self.running.look is not None and self.running.all_live() and self.look().ready, "all live"
        )

    async def starts(self, *names: str) -> None:
        """Wait until these are active, in the metrics as well."""
        for name in names:
            await self.running.until(lambda name=name: self.alert(name).active, f"{name} starts")  # type: ignore[misc]
            assert self.gauges()[name] == 1, name
            started.add(name)

    async def ends(self, *names: str) -> None:
        """Wait until these are over, in the metrics as well."""
        for name in names:
            await self.running.until(  # type: ignore[misc]
                lambda name=name: not self.alert(name).active, f"{name} ends ({self.alert(name).detail})"
            )
            assert self.gauges()[name] == 0, name
            ended.add(name)

    def gauges(self) -> dict[str, float]:
        """Return `collector_alert` by name, as Prometheus reads it."""
        text = Metrics(self.look, {}).render("")[0].decode()
        samples = [sample for family in parse(text) if family.name == "collector_alert" for sample in family.samples]
        return {sample.labels["name"]: sample.value for sample in samples}


@asynccontextmanager
async def drill(
    data_dir: Path, alerts: str, *, scenario: Scenario = ONE, serve_with: dict[str, Any] | None = None, **config: Any
) -> AsyncIterator[Drill]:
    """Record beside the block, with these lines in [alerts]."""
    options = {"symbols": ("BTC-USDT",), "exchanges": ("binance",), **config}
    served = {"scenario": scenario, "seed": 11, **(serve_with or {})}
    async with recording(data_dir, serve_with=served, store=f"[alerts]\n{alerts}\n", **options) as running:
        yield Drill(running)


@drills("sockets", "close_wait", "unowned_socket", "memory")
async def test_sockets_that_nobody_owns_and_nobody_closes_and_memory_that_nobody_frees(tmp_path: Path) -> None:
    """The outage, in one test: connections leak, their peers close them, and they stay; memory grows."""
    limit = resident_bytes() + 200 * MIB
    lines = f"""
sockets = {{ normal = "1..2", alert_above = 10, every = "1s" }}
close_wait = {{ every = "1s" }}
memory = {{ normal = "..1 B", alert_above = "{limit} B", every = "1s" }}
"""
    async with drill(tmp_path, lines) as at:
        await at.live()
        assert not any(at.gauges().values())
        leaked = []
        for _ in range(25):
            connection = socket.create_connection(("127.0.0.1", at.running.server.port))
            leaked.append(connection)
            connection.sendall(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")  # answered, then closed by the peer
        await at.starts("unowned_socket", "close_wait", "sockets")
        assert "CLOSE_WAIT" in at.alert("unowned_socket").detail
        hoard = b"x" * (400 * MIB)
        await at.starts("memory")
        del hoard
        for connection in leaked:
            connection.close()
        await at.ends("unowned_socket", "close_wait", "sockets", "memory")


@drills("not_live", "off_plan", "reconnects", "data_age")
async def test_streams_that_are_down_silent_or_come_back_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = """
reconnects = { normal = "..1/h", alert_above = "2/h", every = "1s" }
not_live = "500ms"
off_plan = "500ms"
data_age = "1s"
"""
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.2)
    async with drill(tmp_path, lines) as at:
        await at.live()
        at.running.server.inject(Fault("stall", "binance.spot", duration_s=3600))  # until the session is given up
        await at.starts("data_age")
        await at.ends("data_age")
        at.running.server.inject(Fault("refuse", "binance.spot", count=100))
        at.running.server.inject(Fault("abort", "binance.spot"))
        await at.starts("not_live", "off_plan", "reconnects")
        assert "refused" in at.alert("reconnects").detail
        at.running.server._faults._refusals.clear()
        await at.ends("not_live", "off_plan", "reconnects")


@drills("open_gaps")
async def test_a_book_that_misses_a_change_until_its_next_snapshot(tmp_path: Path) -> None:
    async with drill(tmp_path, 'open_gaps = "0s"', exchanges=("okx",)) as at:
        await at.live()
        await at.running.until(lambda: at.look().books[0].states["synced"] == 1, "the book is synced")
        at.running.server.inject(Fault("snapshot_withheld", "okx.public", count=2))
        at.running.server.inject(Fault("lose", "okx.public", channel="book"))
        await at.starts("open_gaps")
        await at.ends("open_gaps")


@drills("parked")
async def test_a_stream_that_crashes_until_it_is_given_up_and_a_restart_without_the_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bug:

        async def crash(session: Session, connection: object) -> NoReturn:
            raise ZeroDivisionError("a bug")

        bug.setattr(Session, "_live", crash)
        bug.setattr(supervisor, "FIRST_DELAY_S", 0.01)
        async with drill(tmp_path, "") as at:
            await at.running.until(lambda: at.running.look is not None, "it runs")
            await at.starts("parked")
            assert at.alert("parked").detail == "1 stream given up: binance.spot/1"
    async with drill(tmp_path, "") as at:
        await at.live()
        await at.ends("parked")


@drills("follower_lag", "unbalanced")
async def test_a_follower_that_stands_still_and_a_journal_that_is_damaged_before_it_was_stored(tmp_path: Path) -> None:
    async with drill(tmp_path, 'follower_lag = "2s"', segment="1s") as at:
        await at.live()
        await at.running.until(lambda: at.look().followers[0].stored_segment > 0, "something is stored")
        pid = at.look().followers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        stored = at.look().followers[0].stored_segment
        await at.running.until(lambda: at.look().followers[0].lag_segments >= 3, "segments wait")
        await at.starts("follower_lag")
        damage(tmp_path, stored + 3)  # the follower may have read the first already
        os.kill(pid, signal.SIGCONT)
        await at.starts("unbalanced")
        await at.ends("follower_lag", "unbalanced")
        # The follower has said which books that broke, so they were asked for again, and both folds agree from then on.
        await at.ends("divergence")
        stored, divergence = at.look().followers[0].stored_segment, at.look().gaps.divergence
        await at.running.until(lambda: at.look().followers[0].stored_segment > stored + 3, "more is stored")
        assert at.look().gaps.divergence == divergence


def damage(data_dir: Path, number: int) -> None:
    """Overwrite what stands in the middle of a sealed segment."""
    [path] = [path for path in journal_dir(data_dir).iterdir() if path.name.startswith(f"{number:012d}")]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"x" * 2000
    path.write_bytes(data)


@drills("divergence")
async def test_a_recorder_that_takes_note_of_something_else_than_its_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgets, dump = False, Continuity.dump

    def forgetful(continuity: Continuity) -> dict[str, Any]:
        return dump(continuity) | ({"trades": []} if forgets else {})

    monkeypatch.setattr(Continuity, "dump", forgetful)
    async with drill(tmp_path, "", segment="1s") as at:
        await at.live()
        await at.running.until(lambda: at.look().followers[0].stored_segment > 0, "something is stored")
        assert not at.alert("divergence").active
        forgets = True
        await at.starts("divergence")
        forgets = False
        await at.ends("divergence")


@drills("disk", unless=no_room())
async def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    data_dir, filler = SHM / f"collector-trio-{os.getpid()}", SHM / f"collector-trio-{os.getpid()}.filler"
    free = shutil.disk_usage(SHM).free
    try:
        async with drill(data_dir, 'disk = "200 MiB"', min_free=f"{free - 600 * MIB} B") as at:
            await at.live()
            await at.running.until(lambda: at.look().journal.free_bytes is not None, "the disk is measured")
            assert not at.alert("disk").active
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 450 * MIB)
            await at.starts("disk")
            filler.unlink()
            await at.ends("disk")
    finally:
        filler.unlink(missing_ok=True)
        shutil.rmtree(data_dir, ignore_errors=True)


@drills("clock_offset", "event_loop_lag")
async def test_a_clock_that_is_off_and_an_event_loop_that_is_held_up(tmp_path: Path) -> None:
    ahead_ns = 3_000_000_000

    def now_ns() -> int:
        return time.time_ns() + ahead_ns

    async with drill(tmp_path, "", serve_with={"now_ns": now_ns}) as at:
        await at.live()
        await at.starts("clock_offset")
        [clock] = at.look().clocks
        assert clock.offset_s == pytest.approx(-3, abs=clock.error_s)
        ahead_ns = 0
        await at.ends("clock_offset")
        time.sleep(1.5)  # noqa: ASYNC251 - that is the condition
        await at.starts("event_loop_lag")
        await at.ends("event_loop_lag")


@drills("not_listed")
async def test_a_symbol_that_is_not_listed_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markets, "REFRESH_EVERY_S", 0.3)
    async with drill(tmp_path, "", symbols=("BTC-USDT", "NEW-USDT")) as at:
        await at.live()
        await at.starts("not_listed")
        assert at.alert("not_listed").detail == "1 symbol not listed: binance spot NEW-USDT"
        listing = binance_listing("NEW-USDT")
        at.running.server._spot.listings[listing.native_symbol] = listing
        await at.ends("not_listed")


def request_of(received: bytes) -> dict[str, Any]:
    """Return what was POSTed."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?key=1 HTTP/1.1\r\n")
    found: dict[str, Any] = json.loads(body)
    return found


async def test_a_webhook_hears_of_start_and_end_and_when_it_hangs_the_stop_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markets, "REFRESH_EVERY_S", 0.3)
    heard: list[dict[str, Any]] = []
    hangs = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while not received.endswith(b"}"):
                received += await stream.receive_some()
            heard.append(request_of(received))
            if len(heard) == 2:
                hangs.set()
                await trio.sleep_forever()
            await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        port = listener.socket.getsockname()[1]
        lines = f'webhook = "http://127.0.0.1:{port}/hook?key=1"'
        options: dict[str, Any] = {"symbols": ("BTC-USDT", "NEW-USDT"), "ours": (port,)}
        async with drill(tmp_path, lines, **options) as at:
            await at.live()
            listing = binance_listing("NEW-USDT")
            await at.starts("not_listed")
            await at.running.until(lambda: at.look().webhook.sent == 1, "the webhook was told")
            at.running.server._spot.listings[listing.native_symbol] = listing
            await hangs.wait()
            assert at.look().sockets.by_owner["webhook"] == {"ESTABLISHED": 1}
            assert at.look().sockets.unowned == 0
            stopped_at = trio.current_time()
        assert trio.current_time() - stopped_at < 10
        nursery.cancel_scope.cancel()
    assert [(each["alert"], each["state"]) for each in heard] == [("not_listed", "started"), ("not_listed", "ended")]
    assert at.running.report is not None


async def test_a_bug_in_looking_costs_some_looks_and_not_the_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "WATCH_AGAIN_S", 0.1)
    take, crashes = Alerts.take, iter([True, True])

    def crash(alerts: Alerts, status: Status, now: float, now_ns: int) -> list[Change]:
        if next(crashes, False):
            raise ZeroDivisionError("a bug")
        return take(alerts, status, now, now_ns)

    monkeypatch.setattr(Alerts, "take", crash)
    async with drill(tmp_path, "", symbols=("BTC-USDT", "NEW-USDT")) as at:
        await at.live()
        await at.starts("not_listed")


async def test_a_recorder_without_descriptors_left_sees_its_leaks_and_blames_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "LOOK_EVERY_S", 0.2)
    async with drill(tmp_path, "", segment="1s") as at:
        await at.live()
        with no_descriptors_left():
            await at.starts("unowned_socket")
            await at.running.until(lambda: not at.look().healthy, "the next segment cannot be opened")
            assert [said.split(":")[0] for said in at.look().not_healthy] == ["journal"]
            assert "Too many open files" in at.look().not_healthy[0]
            assert "disk" not in at.look().not_healthy[0]
        await at.ends("unowned_socket")
        await at.running.until(lambda: at.look().healthy, "all is well again")


async def test_what_watches_and_has_crashed_is_not_healthy_until_it_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(app, "WATCH_AGAIN_S", 1.0)
    find_leaks, crashes = Owners.find_leaks, iter([True])

    def crash(owners: Owners) -> list[Fd]:
        if next(crashes, False):
            raise OSError(errno.ENFILE, "Too many open files in system")
        return find_leaks(owners)

    monkeypatch.setattr(Owners, "find_leaks", crash)
    async with drill(tmp_path, "") as at:
        await at.running.until(lambda: at.running.look is not None and not at.look().healthy, "it has crashed")
        assert at.look().not_healthy == ("watching: leaks has crashed, the log says why",)
        await at.running.until(lambda: at.look().healthy, "it has begun again")
        with socket.socket():
            await at.starts("unowned_socket")
        await at.ends("unowned_socket")


def test_every_alert_is_drilled() -> None:
    assert drilled | not_drilled.keys() == FINDERS.keys()
    if not_drilled:
        pytest.skip(f"not drilled here: {not_drilled}")
