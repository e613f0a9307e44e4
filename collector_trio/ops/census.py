"""The socket census: every TCP socket of this process, its state as the kernel has it, and the scope that owns it.

Connections are scopes, so an owner is a `with` block: what is dialled inside it is its own, until the block is left. A
socket that is still there afterwards, or that nobody said was theirs, has no owner (`NOBODY`): that is a leak, by
definition.

The kernel is asked about our own file descriptors one by one, not for its table of all connections (/proc/net/tcp): 50
sockets cost 0.7 ms, however many the rest of the machine has, and a socket that was reset (CLOSE), which that table
does not list, is seen too.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs
import trio

from collector_trio.net.dial import tcp, transport_socket

# In the kernel's order, from 1: https://github.com/torvalds/linux/blob/master/include/net/tcp_states.h
STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
NOBODY = "none"
HTTP = "http"
REST = "rest"
WEBHOOK = "webhook"
_DNS_PORT = 53  # the C library asks over TCP when an answer is too long for UDP


@attrs.frozen
class TcpSocket:
    """One file descriptor that is a TCP socket. `peer` is empty where it is connected to nobody."""

    fd: int
    state: str
    owner: str
    local: str
    peer: str


@attrs.define
class Owned:
    """What one owner has, while its block runs. Its `dial` is a `Connector`."""

    name: str
    _owners: "Owners"
    _inodes: set[int] = attrs.field(factory=set)

    def add(self, fd: int) -> None:
        """Say that the socket `fd` belongs to this block."""
        inode = os.fstat(fd).st_ino
        self._inodes.add(inode)
        self._owners.by_inode[inode] = self.name

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        """Open a TCP connection that belongs to this block, the attempts on the way included. Raises OSError."""
        attempt = (self.name, port)
        self._owners.dials.append(attempt)
        try:
            stream = await tcp(host, port)
        finally:
            self._owners.dials.remove(attempt)
        connected = transport_socket(stream)
        if connected is not None:
            self.add(connected.fileno())
        return stream

    def release(self) -> None:
        """Give everything up: what is still open from now on is a leak."""
        for inode in self._inodes:
            self._owners.by_inode.pop(inode, None)


@attrs.define
class Owners:
    """Who owns which socket. `ports`: whose the sockets on a local port are, where that is not ours to count (the
    simulated exchanges of a demo).
    """

    ports: dict[int, str] = attrs.field(factory=dict)
    by_inode: dict[int, str] = attrs.field(factory=dict)
    dials: list[tuple[str, int]] = attrs.field(factory=list)  # owner and port of those in progress

    @contextmanager
    def owning(self, name: str) -> Iterator[Owned]:
        """Open the block that owns what is added or dialled through what it yields."""
        owned = Owned(name, self)
        try:
            yield owned
        finally:
            owned.release()

    def census(self) -> list[TcpSocket]:
        """Count the TCP sockets of this process."""
        found, alive = [], set()
        for fd, inode in _socket_fds():
            alive.add(inode)
            seen = _ask_kernel(fd)
            if seen is not None:
                state, local, peer = seen
                owner = self.by_inode.get(inode) or self._owner_by_place(state, local, peer)
                found.append(TcpSocket(fd, state, owner, _written(local), _written(peer)))
        for inode in self.by_inode.keys() - alive:  # a REST client's block outlives its connections
            del self.by_inode[inode]
        return found

    def _owner_by_place(self, state: str, local: tuple[str, int], peer: tuple[str, int]) -> str:
        if local[1] in self.ports:
            return self.ports[local[1]]
        if peer[1] == _DNS_PORT:
            return "dns"
        # Happy eyeballs has several sockets for one dial; until the first answers they are known by where they go.
        for owner, port in self.dials:
            if peer[1] == port or (not peer[1] and state in ("SYN_SENT", "CLOSE")):
                return owner
        return NOBODY


def _socket_fds() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own fd is gone by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


def _ask_kernel(fd: int) -> tuple[str, tuple[str, int], tuple[str, int]] | None:
    """Return state, local address and peer of a TCP socket; None for another kind."""
    try:
        borrowed = socket.socket(fileno=fd)  # asks the kernel for the family and protocol
    except OSError:
        return None
    try:
        if borrowed.proto != socket.IPPROTO_TCP or borrowed.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        number = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        local, peer = borrowed.getsockname()[:2], ("", 0)
        with suppress(OSError):
            peer = borrowed.getpeername()[:2]
        return STATES[number - 1], local, peer
    except OSError:
        return None
    finally:
        borrowed.detach()


def _written(address: tuple[str, int]) -> str:
    host, port = address
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
