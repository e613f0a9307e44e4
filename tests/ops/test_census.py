"""Every TCP socket of the process has an owner, or is a leak."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from collector_trio.ops.census import NOBODY, STATES, Owners


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
    for socket in owners.census():
        found.setdefault(socket.owner, []).append(socket.state)
    return found


async def test_what_is_dialled_in_a_block_is_its_own_until_the_block_is_left() -> None:
    owners = Owners()
    async with listening() as listener:
        port = port_of(listener)
        owners.ports[port] = "test"
        with owners.owning("binance.spot/1") as owned:
            stream = await owned.dial("127.0.0.1", port)
            assert by_owner(owners)["binance.spot/1"] == ["ESTABLISHED"]
        assert by_owner(owners)[NOBODY] == ["ESTABLISHED"]
        await stream.aclose()
        assert NOBODY not in by_owner(owners)


async def test_a_socket_that_nobody_claimed_has_no_owner_and_says_where_it_leads() -> None:
    owners = Owners()
    async with listening() as listener:
        port = port_of(listener)
        owners.ports[port] = "test"
        async with await trio.open_tcp_stream("127.0.0.1", port):
            [leaked] = [socket for socket in owners.census() if socket.owner == NOBODY]
    assert (leaked.state, leaked.peer) == ("ESTABLISHED", f"127.0.0.1:{port}")


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
            assert not owners.by_inode


async def test_sockets_of_other_kinds_are_not_counted() -> None:
    owners = Owners()
    before = len(owners.census())
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM):
        one, other = trio.socket.socketpair()
        with one, other:
            assert len(owners.census()) == before


@pytest.mark.parametrize(("number", "name"), [(1, "ESTABLISHED"), (7, "CLOSE"), (8, "CLOSE_WAIT"), (10, "LISTEN")])
def test_states_are_in_the_kernels_order(number: int, name: str) -> None:
    assert STATES[number - 1] == name
