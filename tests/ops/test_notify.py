"""A service manager hears when the recorder is up and when it stops; its watchdog is fed while the journal moves."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from collector_trio.journal.append import Journal, open_journal
from collector_trio.journal.records import Letter
from collector_trio.journal.recover import Numbers, lock_data_dir
from collector_trio.ops.notify import Notifier, find_notifier, one_line

from ..end_to_end.test_power import can_trace
from ..streams.conftest import trio_clock_or_zero
from .conftest import Recorder

LOG = structlog.get_logger()


@contextmanager
def service_manager(address: str) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.setblocking(False)
        yield listener


def heard(listener: socket.socket) -> list[str]:
    """Return the datagrams that have come."""
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


@contextmanager
def journal_in(data_dir: Path, offload: Callable[..., object]) -> Iterator[Journal]:
    with (
        lock_data_dir(data_dir),
        open_journal(
            data_dir,
            Numbers(),
            clock=trio_clock_or_zero,
            segment_s=60,
            sync_every_s=1.0,
            offload=offload,  # type: ignore[arg-type]
        ) as journal,
    ):
        yield journal


async def at_once(work: Callable[[], None]) -> None:
    work()


async def tick(journal: Journal) -> None:
    while True:
        await trio.sleep(1.0)
        journal.note(Letter.TICK, {})


@pytest.mark.parametrize("form", ["{folder}/notify", "@collector-trio-test-{pid}"])
def test_words_reach_the_socket_that_the_environment_names(tmp_path: Path, form: str) -> None:
    address = form.format(folder=tmp_path, pid=os.getpid())
    with service_manager(address) as listener:
        find_notifier({"NOTIFY_SOCKET": address}, 1, LOG).tell(READY=1, STATUS="5 of 5 streams live")
        assert heard(listener) == ["READY=1\nSTATUS=5 of 5 streams live"]


def test_without_a_service_manager_nothing_is_said() -> None:
    with structlog.testing.capture_logs() as events:
        find_notifier({}, 1, LOG).tell(READY=1)
    assert events == []


def test_a_service_manager_that_is_gone_or_full_holds_nothing_up_and_is_logged_once(tmp_path: Path) -> None:
    address = f"{tmp_path}/notify"
    notifier = Notifier(address, None, LOG)
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            notifier.tell(READY=1)
        assert [event["problem"] for event in events] == ["[Errno 2] No such file or directory"]
        with service_manager(address):
            for _ in range(10_000):  # more than its queue takes
                notifier.tell(STATUS="x" * 100)
    assert [event["problem"] for event in events[1:]] == ["[Errno 11] Resource temporarily unavailable"]


@pytest.mark.parametrize(
    ("environ", "address", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "/run/n"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}, "/run/n", 30.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "42"}, "/run/n", 0.5),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "43"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "500000"}, None, None),
        ({"NOTIFY_SOCKET": "@"}, None, None),
        ({"WATCHDOG_USEC": "500000"}, None, None),
    ],
)
def test_what_the_environment_says_is_understood(
    environ: dict[str, str], address: str | None, watchdog_s: float | None
) -> None:
    with structlog.testing.capture_logs() as events:
        found = find_notifier(environ, 42, LOG)
    assert (found.address, found.watchdog_s) == (address, watchdog_s)
    wrong = environ.get("WATCHDOG_USEC") in ("soon", "0") or environ.get("NOTIFY_SOCKET", "/")[0:2] in ("vs", "@")
    assert bool(events) == wrong


async def test_the_watchdog_is_fed_twice_in_its_time_while_the_journal_moves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    address = f"{tmp_path}/notify"
    with service_manager(address) as listener, journal_in(tmp_path / "data", at_once) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(tick, journal)
            nursery.start_soon(Notifier(address, 10.0, LOG).feed, journal)
            await trio.sleep(39.5)
            nursery.cancel_scope.cancel()
        assert heard(listener) == ["WATCHDOG=1"] * 8  # at 0, 5, …, 35


async def test_the_watchdog_goes_hungry_while_a_sync_hangs_and_is_fed_at_once_when_it_comes_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    address, hangs, back = f"{tmp_path}/notify", trio.Event(), trio.Event()

    async def disk(work: Callable[[], None]) -> None:
        work()
        if hangs.is_set():
            await back.wait()

    with service_manager(address) as listener, journal_in(tmp_path / "data", disk) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(tick, journal)
            nursery.start_soon(Notifier(address, 10.0, LOG).feed, journal)
            await trio.sleep(20.5)
            hangs.set()
            with structlog.testing.capture_logs() as events:
                await trio.sleep(8)  # one sync a second, and five seconds' patience: the last time is at 25
                heard(listener)
                await trio.sleep(60)
                assert heard(listener) == []
                back.set()
                await trio.sleep(2)
                assert heard(listener) == ["WATCHDOG=1"]
            nursery.cancel_scope.cancel()
    assert [event["event"] for event in events] == ["watchdog not fed", "watchdog fed again"]
    assert str(events[0]["problem"]).startswith("the journal was not synced for ")


async def test_the_watchdog_goes_hungry_when_nothing_is_written_though_syncs_come_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    address = f"{tmp_path}/notify"
    with service_manager(address) as listener, journal_in(tmp_path / "data", at_once) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(Notifier(address, 10.0, LOG).feed, journal)
            with structlog.testing.capture_logs() as events:
                await trio.sleep(60.5)
            nursery.cancel_scope.cancel()
        assert heard(listener) == ["WATCHDOG=1"] * 2  # at 0 and at 5
    assert [event["problem"] for event in events] == ["nothing was written to the journal for 7 s"]


async def test_a_full_disk_is_no_reason_to_be_restarted(tmp_path: Path, autojump_clock: MockClock) -> None:
    address = f"{tmp_path}/notify"
    with service_manager(address) as listener, journal_in(tmp_path / "data", at_once) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(tick, journal)
            nursery.start_soon(Notifier(address, 10.0, LOG).feed, journal)
            journal.hold("less than min_free is free")
            await trio.sleep(39.5)
            assert journal.is_refusing
            nursery.cancel_scope.cancel()
        assert heard(listener) == ["WATCHDOG=1"] * 8


async def test_the_line_says_streams_rate_gaps_and_what_is_wrong(recorder: Recorder, autojump_clock: MockClock) -> None:
    recorder.open_session(recorder.add_stream("binance"), live_at=0.0)
    recorder.add_stream("okx")
    assert one_line(recorder.observer.look()) == "1 of 2 streams live, 0 frames/s, 0 open gaps"
    recorder.journal.hold("no room")
    line = one_line(recorder.observer.look())
    assert line.startswith("1 of 2 streams live, 0 frames/s, 0 open gaps; not healthy: journal: refuses")


CONFIG = """
[collector]
data_dir = "data"
[http]
listen = ""
[[record]]
exchange = "okx"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades"]
[endpoints.okx]
ws_public = "ws://127.0.0.1:{port}/ws/v5/public"
ws_business = "ws://127.0.0.1:{port}/ws/v5/business"
rest = "http://127.0.0.1:{port}"
"""


def environment(address: str, watchdog_s: int) -> dict[str, str]:
    said = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": f"{watchdog_s}000000"}
    return {**os.environ, **said, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_the_command_is_ready_though_its_exchange_is_down_and_says_when_it_stops(tmp_path: Path) -> None:
    address = f"{tmp_path}/notify"
    with socket.socket() as nobody, service_manager(address) as listener:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: who dials it is refused
        (tmp_path / "config.toml").write_text(CONFIG.format(port=nobody.getsockname()[1]))
        listener.settimeout(60)
        environ = environment(address, watchdog_s=2)
        command = [sys.executable, "-m", "collector_trio", "run"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                said: list[str] = []
                while "READY=1" not in said or said.count("WATCHDOG=1") < 2:
                    said.append(listener.recv(4096).decode())
                assert said[0] == "STATUS=reading what the last run left"
                assert "STATUS=0 of 0 streams live, 0 frames/s, 0 open gaps" in said
                process.send_signal(signal.SIGTERM)
                while not said[-1].startswith("STOPPING=1\nSTATUS="):
                    said.append(listener.recv(4096).decode())
                assert process.wait(30) == 0
            finally:
                process.kill()


@pytest.mark.skipif(not can_trace(), reason="there is no strace here, or it may trace nothing")
def test_the_command_on_a_disk_that_hangs_leaves_the_watchdog_hungry(tmp_path: Path) -> None:
    address = f"{tmp_path}/notify"
    hang = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    hang += ["-e", "inject=fdatasync:delay_enter=600000000:when=4+"]
    with socket.socket() as nobody, service_manager(address) as listener:
        nobody.bind(("127.0.0.1", 0))
        (tmp_path / "config.toml").write_text(CONFIG.format(port=nobody.getsockname()[1]))
        command = [*hang, sys.executable, "-m", "collector_trio", "run"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment(address, watchdog_s=4), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                assert process.stderr is not None
                entry = next(entry for entry in map(json.loads, process.stderr) if "watchdog" in entry["event"])
                assert entry["event"] == "watchdog not fed"
                assert entry["problem"].startswith("the journal was not synced for ")
                assert "WATCHDOG=1" in heard(listener)
                listener.settimeout(2.5)  # longer than it is fed in
                fed = False
                with suppress(TimeoutError):
                    while not fed:
                        fed = listener.recv(4096) == b"WATCHDOG=1"
                assert not fed
            finally:
                os.killpg(process.pid, signal.SIGKILL)
