"""Every file descriptor of the process has an owner, or is a leak."""

import os
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.ops.census import DNS, INHERITED, LOOK_EVERY_S, LOOKUP_S, NOBODY, STDIO, TRIO, UNCLAIMED, Fd, Owners
from collector_trio.ops.fds import STATES
from collector_trio.ops.state import resident_bytes
from collector_trio.threads import run_in_thread

from .conftest import no_descriptors_left


@asynccontextmanager
async def listening() -> AsyncIterator[trio.SocketListener]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


def port_of(listener: trio.SocketListener) -> int:
    port: int = listener.socket.getsockname()[1]
    return port


def by_owner(owners: Owners) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in owners.sockets():
        found.setdefault(each.owner, []).append(each.state)
    return found


def owner_of(fd: int, owners: Owners) -> Fd:
    [found] = [each for each in owners.census() if each.fd == fd]
    return found


@pytest.fixture
async def owners() -> Owners:
    """What this process has open beside the test is nobody's leak."""
    made = Owners()
    made.claim_what_is_open()
    return made


async def test_what_is_dialled_in_a_block_is_its_own_until_the_block_is_left() -> None:
    owners = Owners()
    async with listening() as listener:
        port = port_of(listener)
        owners.ports[port] = "test"
        with owners.owning("binance.spot/1") as owned:
            stream = await owned.dial("127.0.0.1", port)
            assert by_owner(owners)["binance.spot/1"] == ["ESTABLISHED"]
        assert by_owner(owners)[NOBODY] == ["ESTABLISHED"]
        assert [found.left_by for found in owners.sockets() if found.owner == NOBODY] == ["binance.spot/1"]
        await stream.aclose()
        assert NOBODY not in by_owner(owners)


async def test_what_nobody_claimed_is_a_leak_at_the_second_look_and_said_once(owners: Owners) -> None:
    async with listening() as listener:
        port = port_of(listener)
        owners.ports[port] = "test"
        async with await trio.open_tcp_stream("127.0.0.1", port):
            assert owners.find_leaks() == []
            assert by_owner(owners)[UNCLAIMED] == ["ESTABLISHED"]
            [leak] = owners.find_leaks()
            assert (leak.owner, leak.kind, leak.state, leak.peer) == (NOBODY, "tcp", "ESTABLISHED", f"127.0.0.1:{port}")
            assert by_owner(owners)[NOBODY] == ["ESTABLISHED"]
            assert owners.find_leaks() == []
    assert NOBODY not in by_owner(owners)
    assert owners.leaked == {"tcp": 1}


async def test_a_leak_is_found_when_no_descriptor_is_left_to_look_with(owners: Owners) -> None:
    process = await trio.lowlevel.open_process(["sleep", "60"])
    with owners.holding("follower tables", list, lambda: process.pid), socket.socket() as leak:
        owners.census()
        with no_descriptors_left():
            with pytest.raises(OSError, match="Too many open files"):
                os.listdir("/proc/self/fd")
            owners.find_leaks()
            found = {each.fd: each.kind for each in owners.find_leaks()}
            assert found[leak.fileno()] == "tcp"
            assert "pidfd" not in found.values()
            assert resident_bytes() > 0
        process.kill()
        await process.wait()


async def test_what_is_claimed_between_two_looks_is_no_leak(owners: Owners) -> None:
    one, other = os.pipe()
    with os.fdopen(one), os.fdopen(other, "w"):
        assert owners.find_leaks() == []
        with owners.owning("follower tables") as owned:
            owned.add(one)
            owned.add(other)
            assert owners.find_leaks() == []
            assert owners.find_leaks() == []


async def test_a_number_that_was_used_again_between_two_looks_is_no_leak(owners: Owners, tmp_path: Path) -> None:
    first = os.open(tmp_path / "first", os.O_CREAT)
    owners.find_leaks()
    second = os.open(tmp_path / "second", os.O_CREAT)
    os.dup2(second, first)
    os.close(second)
    assert owners.find_leaks() == []
    assert [leak.fd for leak in owners.find_leaks()] == [first]
    os.close(first)


async def test_a_leak_is_logged_once_with_all_that_is_known_of_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    owners = Owners()
    owners.claim_what_is_open()
    with owners.owning("journal") as owned:
        fd = os.open(tmp_path / "segment", os.O_CREAT)
        owned.add(fd)
    with capture_logs() as logs, trio.move_on_after(LOOK_EVERY_S * 5):
        await owners.watch(structlog.get_logger())
    os.close(fd)
    [entry] = logs
    assert entry["log_level"] == "error"
    known = {"fd": fd, "kind": "file", "target": str(tmp_path / "segment"), "left_by": "journal", "age_s": 10.0}
    assert known.items() <= entry.items()
    assert {"state", "local", "peer", "first_seen"} <= entry.keys()
    assert owners.leaked == {"file": 1}


async def test_what_there_was_before_has_an_owner(owners: Owners) -> None:
    found = owners.census()
    assert {each.owner for each in found} <= {STDIO, TRIO, INHERITED}
    assert {each.kind for each in found if each.owner == TRIO} == {"eventpoll", "unix"}
    assert [each.fd for each in found if each.owner == STDIO] == [0, 1, 2]
    assert owners.find_leaks() == owners.find_leaks() == []


async def test_who_holds_other_descriptors_every_now_and_then_is_asked(owners: Owners, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "segment", os.O_CREAT)
    running = [fd]
    with owners.holding("journal", lambda: running):
        assert owner_of(fd, owners).owner == "journal"
        running.clear()
        assert owner_of(fd, owners).owner == UNCLAIMED
    os.close(fd)


async def test_what_stands_for_a_child_is_its_keepers(owners: Owners) -> None:
    process = await trio.lowlevel.open_process(["sleep", "60"])
    try:
        with owners.holding("follower tables", list, lambda: process.pid):
            pidfds = {each.owner for each in owners.census() if each.kind == "pidfd"}
            assert pidfds == {"follower tables"}
        assert {each.owner for each in owners.census() if each.kind == "pidfd"} == {UNCLAIMED}
    finally:
        process.kill()
        await process.wait()


async def test_what_a_thread_has_open_is_its_own_while_it_works_and_a_leak_afterwards(tmp_path: Path) -> None:
    owners, begun, go_on, fds = Owners(), trio.Event(), threading.Event(), list[int]()
    owners.claim_what_is_open()

    def work() -> None:
        fds.append(os.open(tmp_path / "copy", os.O_CREAT))
        trio.from_thread.run_sync(begun.set)
        go_on.wait(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_in_thread, "space", trio.CapacityLimiter(1), work)
        await begun.wait()
        assert owner_of(fds[0], owners).owner == "space"
        assert owners.find_leaks() == owners.find_leaks() == []
        go_on.set()
    with trio.move_on_after(1):  # another piece of work, which began later, does not own it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_in_thread, "space", trio.CapacityLimiter(1), go_on.wait)
            owners.find_leaks()
            assert [leak.fd for leak in owners.find_leaks()] == fds
    os.close(fds[0])


async def test_a_copy_of_an_owned_socket_is_a_leak_of_its_own(owners: Owners) -> None:
    async with listening() as listener:
        owners.ports[port_of(listener)] = "test"
        with owners.owning("okx.public/1") as owned:
            async with await owned.dial("127.0.0.1", port_of(listener)) as stream:
                assert isinstance(stream, trio.SocketStream)
                copy = os.dup(stream.socket.fileno())
                owners.find_leaks()
                assert [leak.fd for leak in owners.find_leaks()] == [copy]
                os.close(copy)


async def test_ages_count_from_the_claim_or_from_the_first_look(tmp_path: Path, autojump_clock: MockClock) -> None:
    owners = Owners()
    with owners.owning("journal") as owned:
        claimed, other = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
        owned.add(claimed)
        await trio.sleep(3)
        assert owner_of(other, owners).age_s == 0.0
        await trio.sleep(4)
        assert (owner_of(claimed, owners).age_s, owner_of(other, owners).age_s) == (7.0, 4.0)
        os.close(claimed)
        os.close(other)


async def test_states_are_the_kernels() -> None:
    owners = Owners()
    async with listening() as listener:
        port = port_of(listener)
        owners.ports[port] = "test"
        with owners.owning("left") as left, owners.owning("reset") as reset:
            first = await left.dial("127.0.0.1", port)
            await (await listener.accept()).aclose()
            second = await reset.dial("127.0.0.1", port)
            peer = await listener.accept()
            peer.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
            await peer.aclose()
            found = by_owner(owners)
            assert found["left"] == ["CLOSE_WAIT"]
            assert found["reset"] == ["CLOSE"]  # /proc/net/tcp does not list it
            assert found["test"] == ["LISTEN"]
            await first.aclose()
            await second.aclose()


async def test_sockets_of_a_dial_in_progress_belong_to_it() -> None:
    owners = Owners()
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        owners.ports[port] = "test"
        with owners.owning("first") as first, owners.owning("okx.public/1") as second:
            async with await first.dial("127.0.0.1", port), trio.open_nursery() as nursery:  # the queue is full now
                nursery.start_soon(second.dial, "127.0.0.1", port)
                await trio.testing.wait_all_tasks_blocked()
                assert by_owner(owners)["okx.public/1"] == ["SYN_SENT"]
                nursery.cancel_scope.cancel()
    assert not owners.dials


async def test_what_is_closed_is_forgotten_while_its_block_goes_on() -> None:
    owners = Owners()
    async with listening() as listener:
        port = port_of(listener)
        with owners.owning("rest") as owned:
            await (await owned.dial("127.0.0.1", port)).aclose()
            owners.census()
            assert not owners.claimed


async def test_sockets_of_other_kinds_are_no_tcp_sockets() -> None:
    owners = Owners()
    before = len(owners.sockets())
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as datagrams:
        one, other = trio.socket.socketpair()
        with one, other:
            assert len(owners.sockets()) == before
            assert [owner_of(each.fileno(), owners).kind for each in (datagrams, one, other)] == ["udp", "unix", "unix"]


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW)]
)
async def test_what_a_look_up_uses_is_a_leak_when_no_look_up_can_be_under_way(
    owners: Owners, autojump_clock: MockClock, family: int, kind: int
) -> None:
    with socket.socket(family, kind) as left:
        assert owner_of(left.fileno(), owners).owner == DNS
        owners.dials.append(("binance.spot/1", 443))
        await trio.sleep(LOOKUP_S)
        assert owner_of(left.fileno(), owners).owner == DNS
        assert owners.find_leaks() == owners.find_leaks() == []
        owners.dials.clear()
        assert owners.find_leaks() == []
        assert [leak.fd for leak in owners.find_leaks()] == [left.fileno()]
        owners.dials.append(("binance.spot/1", 443))  # a leak stays one
        assert owner_of(left.fileno(), owners).owner == NOBODY


@pytest.mark.parametrize(("number", "name"), [(1, "ESTABLISHED"), (7, "CLOSE"), (8, "CLOSE_WAIT"), (10, "LISTEN")])
def test_states_are_in_the_kernels_order(number: int, name: str) -> None:
    assert STATES[number - 1] == name
