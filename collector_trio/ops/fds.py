"""What the kernel says of the file descriptors of this process: what each is, and a TCP socket's state and both ends.

It is asked about our own descriptors one by one, not for its table of all connections (/proc/net/tcp): the cost does
not depend on the rest of the machine, and a socket that was reset (CLOSE), which that table does not list, is seen too.
"""

import errno
import fcntl
import os
import re
import resource
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

import attrs

# In the kernel's order, from 1: https://github.com/torvalds/linux/blob/master/include/net/tcp_states.h
STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
TCP = "tcp"
_FAMILIES = {socket.AF_UNIX: "unix", socket.AF_NETLINK: "netlink"}
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_TYPES = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISCHR, "device"))

Address = tuple[str, int]


@attrs.frozen
class OpenFd:
    """One descriptor. `kind`: tcp, udp, unix, netlink, socket, file, folder, pipe, device, or what the kernel calls it
    (eventpoll, pidfd). `inode` tells it from what had its number before, but not one eventpoll from another.
    """

    fd: int
    inode: tuple[int, int]
    kind: str
    state: str = ""  # of TCP
    local: Address = ("", 0)
    peer: Address = ("", 0)


def open_fds() -> Iterator[OpenFd]:
    """Yield what this process has open."""
    for fd in _numbers():
        with suppress(OSError):  # the folder's own is gone by now, and threads open and close theirs
            status = os.fstat(fd)
            inode = status.st_dev, status.st_ino
            if stat.S_ISSOCK(status.st_mode):
                yield _ask(fd, inode)
            else:
                kind = next((kind for is_it, kind in _TYPES if is_it(status.st_mode)), None)
                yield OpenFd(fd, inode, kind or _anonymous(target_of(fd)))


def _numbers() -> Iterable[int]:
    """Return the numbers that may be open."""
    try:
        return map(int, os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # None is left to list them with. Just then a leak must be seen, and nearly all below the limit are open.
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def inode_of(fd: int) -> tuple[int, int] | None:
    """Return what tells a descriptor from others that had its number; None when it is not open."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def target_of(fd: int) -> str:
    """Return the path of a file, or the kernel's name for another thing; empty when it is not open any more."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def process_of(pidfd: int) -> int | None:
    """Return the process that a pidfd stands for."""
    with suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        found = re.search(r"^Pid:\s*(\d+)$", file.read(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def is_inherited(fd: int) -> bool:
    """Tell whether it was there before this program: what Python opens does not outlive an exec."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def written(address: Address) -> str:
    """Write an address as host:port; empty for none."""
    host, port = address
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _anonymous(target: str) -> str:
    return target.removeprefix("anon_inode:").strip("[]") or "unknown"


def _ask(fd: int, inode: tuple[int, int]) -> OpenFd:
    borrowed = socket.socket(fileno=fd)  # asks the kernel for family, type and protocol
    try:
        if borrowed.family not in _INTERNET:
            return OpenFd(fd, inode, _FAMILIES.get(borrowed.family, "socket"))
        local: Address = borrowed.getsockname()[:2]
        peer: Address = ("", 0)
        with suppress(OSError):
            peer = borrowed.getpeername()[:2]
        if borrowed.proto != socket.IPPROTO_TCP:
            return OpenFd(fd, inode, "udp" if borrowed.type == socket.SOCK_DGRAM else "socket", "", local, peer)
        number = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return OpenFd(fd, inode, TCP, STATES[number - 1], local, peer)
    finally:
        borrowed.detach()
