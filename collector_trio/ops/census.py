"""The census: every file descriptor of this process, and the scope that owns it.

Connections are scopes, so an owner is a `with` block: what is dialled inside it is its own, until the block is left.
What else is open has an owner as well: the journal's segment, the lock, a follower's pipe, what Trio itself needs, what
we were started with. What is still there when its block is left, or that nobody said was theirs, has no owner
(`NOBODY`): that is a leak, by definition.

Between `accept` and the line that claims what was accepted there is a turn for other tasks, and threads open files as
they please. So what was never claimed has to be there at two looks in a row before it is called a leak; until then it
is `UNCLAIMED`. What a block has left behind is a leak at the first look.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.net.dial import tcp, transport_socket
from collector_trio.ops.fds import TCP, OpenFd, inode_of, is_inherited, open_fds, process_of, target_of, written
from collector_trio.threads import thread_works

NOBODY = "none"
UNCLAIMED = "unclaimed"
HTTP = "http"
REST = "rest"
WEBHOOK = "webhook"
DNS = "dns"
STDIO = "stdio"
TRIO = "trio"
INHERITED = "inherited"
LOOK_EVERY_S = 5.0
LOOKUP_S = 60.0  # so long may a look-up that nobody waits for any more take
_DNS_PORT = 53
_DNS_KINDS = ("udp", "netlink")  # what a look-up in a thread has open; nothing else here uses them
_TRIO_KINDS = ("eventpoll", "unix")  # it waits by the one, and is woken through the other

_Inode = tuple[int, int]


@attrs.frozen
class Fd:
    """One open file descriptor. `kind` as in `OpenFd`; `state`, `local` and `peer` are empty where there are none.

    `age_s`: since it was claimed, or first seen. `left_by`: the owner whose block is over, of what was left behind.
    """

    fd: int
    kind: str
    state: str
    owner: str
    local: str
    peer: str
    age_s: float
    left_by: str = ""


@attrs.define(eq=False)
class _Claim:
    owner: str
    inode: _Inode
    since: float
    is_held: bool = True


@attrs.frozen
class _Holder:
    fds: Callable[[], Iterable[int]]
    child: Callable[[], int | None]


@attrs.define
class Owned:
    """What one owner has, while its block runs. Its `dial` is a `Connector`."""

    name: str
    _owners: "Owners"
    _claims: dict[int, _Claim] = attrs.field(factory=dict)

    def add(self, fd: int) -> None:
        """Say that `fd` belongs to this block."""
        self._claims[fd] = self._owners.claim(fd, self.name)

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
        for fd, claim in self._claims.items():
            self._owners.give_up(fd, claim)


@attrs.define
class Owners:
    """Who owns what. `ports`: whose the sockets on a local port are, where that is not ours to count (the simulated
    exchanges of a demo). `clock`: seconds, for ages.
    """

    ports: dict[int, str] = attrs.field(factory=dict)
    clock: Callable[[], float] = trio.current_time
    dials: list[tuple[str, int]] = attrs.field(factory=list)  # owner and port of those in progress
    leaked: Counter[str] = attrs.field(factory=Counter)  # found so far, by kind
    _claims: dict[int, _Claim] = attrs.field(factory=dict)  # by fd
    _holders: dict[str, _Holder] = attrs.field(factory=dict)
    _first_seen: dict[tuple[int, _Inode], float] = attrs.field(factory=dict)
    _processes: dict[tuple[int, _Inode], int | None] = attrs.field(factory=dict)  # of pidfds, as last asked
    _placed: Counter[str] = attrs.field(factory=Counter)  # in this look
    _suspects: set[tuple[int, _Inode]] = attrs.field(factory=set)  # were without an owner at the last look of `watch`
    _leaks: set[tuple[int, _Inode]] = attrs.field(factory=set)

    # Claiming

    @contextmanager
    def owning(self, name: str) -> Iterator[Owned]:
        """Open the block that owns what is added or dialled through what it yields."""
        owned = Owned(name, self)
        try:
            yield owned
        finally:
            owned.release()

    @contextmanager
    def holding(
        self, name: str, fds: Callable[[], Iterable[int]], child: Callable[[], int | None] = lambda: None
    ) -> Iterator[None]:
        """Open the block of who has other descriptors every now and then, and says which when asked. What stands for
        its child process (a pidfd) is its own, too.
        """
        self._holders[name] = _Holder(fds, child)
        try:
            yield
        finally:
            del self._holders[name]

    def claim_what_is_open(self) -> None:
        """Claim what a process has before it begins: what it was started with, and what Trio has opened."""
        for found in open_fds():
            if found.local[1] in self.ports:
                continue
            if found.fd <= 2:
                self.claim(found.fd, STDIO)
            elif found.kind in _TRIO_KINDS and not is_inherited(found.fd):
                self.claim(found.fd, TRIO)
            else:
                self.claim(found.fd, INHERITED)

    def claim(self, fd: int, name: str) -> _Claim:
        """Say that `fd` belongs to `name`."""
        claim = _Claim(name, inode_of(fd) or (0, 0), self.clock())
        self._claims[fd] = claim
        return claim

    def give_up(self, fd: int, claim: _Claim) -> None:
        """Say that what was claimed should be closed by now; what is not has been left behind."""
        claim.is_held = False
        if self._claims.get(fd) is claim and inode_of(fd) != claim.inode:
            del self._claims[fd]

    @property
    def claimed(self) -> int:
        """Count what is claimed by blocks that run."""
        return sum(claim.is_held for claim in self._claims.values())

    # Looking

    def census(self) -> list[Fd]:
        """Say what is open now, and whose it is."""
        return [found for _, found in self._look()]

    def _look(self) -> list[tuple[_Inode, Fd]]:
        now = self.clock()
        found = list(open_fds())
        here = {(each.fd, each.inode) for each in found}
        for fd in [fd for fd, claim in self._claims.items() if (fd, claim.inode) not in here]:
            del self._claims[fd]  # a REST client's block outlives its connections
        for key in self._first_seen.keys() - here:
            del self._first_seen[key]
            self._processes.pop(key, None)
        self._leaks &= here
        held = {fd: name for name, holder in self._holders.items() for fd in holder.fds()}
        self._placed.clear()
        found.sort(key=lambda each: not each.peer[0])  # those that lead somewhere first: see `_owner_by_place`
        return sorted(((each.inode, self._named(each, held, now)) for each in found), key=lambda named: named[1].fd)

    def sockets(self) -> list[Fd]:
        """Say which TCP sockets are open now."""
        return [found for found in self.census() if found.kind == TCP]

    def find_leaks(self) -> list[Fd]:
        """Look, and return what is without an owner at two looks in a row, once each."""
        unowned = {(each.fd, inode): each for inode, each in self._look() if _is_unowned(each)}
        found = [key for key in unowned if key in self._suspects and key not in self._leaks]
        self._suspects = set(unowned)
        self._leaks |= set(found)
        self.leaked.update(unowned[key].kind for key in found)
        return [attrs.evolve(unowned[key], owner=NOBODY) for key in found]

    async def watch(self, log: FilteringBoundLogger) -> NoReturn:
        """Look for leaks every few seconds until cancelled, and say of each all that is known."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            for leak in self.find_leaks():
                log.error("leak: no scope owns this file descriptor", **_facts(leak))

    def _named(self, found: OpenFd, held: Mapping[int, str], now: float) -> Fd:
        key = found.fd, found.inode
        claim = self._claims.get(found.fd)
        since = self._first_seen.setdefault(key, now) if claim is None else claim.since
        left_by = ""
        if claim is not None and claim.is_held:
            owner = claim.owner
        elif claim is not None:
            owner, left_by = NOBODY, claim.owner
        elif found.fd in held:
            owner = held[found.fd]
        else:
            owner = self._owner_by_place(found, since) or (NOBODY if key in self._leaks else UNCLAIMED)
        local, peer = written(found.local), written(found.peer)
        return Fd(found.fd, found.kind, found.state, owner, local, peer, round(now - since, 3), left_by)

    def _owner_by_place(self, found: OpenFd, since: float) -> str | None:
        """Return whose it must be, by what it is and where it leads."""
        key = found.fd, found.inode
        if found.kind in ("file", "folder"):
            return next((work.owner for work in thread_works() if work.since <= since), None)
        if found.kind == "pidfd":
            pid = self._processes[key] = process_of(found.fd) or self._processes.get(key)  # which takes a descriptor
            return next((name for name, holder in self._holders.items() if pid and holder.child() == pid), None)
        # The C library asks over TCP when an answer is too long for UDP. Its thread may outlive the dial that asked.
        is_asking = bool(self.dials) or self.clock() - since < LOOKUP_S
        if (found.kind in _DNS_KINDS or found.peer[1] == _DNS_PORT) and is_asking and key not in self._leaks:
            return DNS
        if found.kind != TCP:
            return None
        if found.local[1] in self.ports:
            return self.ports[found.local[1]]
        # Happy eyeballs has several sockets for one dial; until the first answers they are known by where they go, and
        # those of several dials to one port are dealt out among them.
        nowhere_yet = not found.peer[1] and found.state in ("SYN_SENT", "CLOSE")
        owners = [owner for owner, port in self.dials if nowhere_yet or found.peer[1] == port]
        if not owners:
            return None
        owner = min(owners, key=self._placed.__getitem__)
        self._placed[owner] += 1
        return owner


def _is_unowned(found: Fd) -> bool:
    return found.owner in (NOBODY, UNCLAIMED)


def _facts(leak: Fd) -> dict[str, object]:
    first_seen = datetime.now(UTC) - timedelta(seconds=leak.age_s)
    return {
        "fd": leak.fd,
        "kind": leak.kind,
        "target": target_of(leak.fd),
        "left_by": leak.left_by or None,
        "state": leak.state or None,
        "local": leak.local or None,
        "peer": leak.peer or None,
        "age_s": leak.age_s,
        "first_seen": first_seen.isoformat(timespec="milliseconds"),
    }
