"""The recorder's own streams (supervisor, session, connection, census) on real sockets, against scripted peers."""

import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import cattrs
import structlog
import trio

from collector_trio import app
from collector_trio.clock import Clock
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal, in_thread, open_journal
from collector_trio.journal.records import Letter
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.net.budgets import Budgets
from collector_trio.ops.census import Fd, Owners
from collector_trio.plan import Rate, StreamPlan
from collector_trio.streams.live import Live
from collector_trio.streams.session import Connect
from collector_trio.streams.supervisor import Stream, Surroundings, keep_stream
from tests.net.frames import frame
from tests.net.peers import Peer
from tests.streams.conftest import plan_of
from tests.streams.test_session import depth
from tests.streams.wires import Wishes, live

PATIENCE_S = 20.0
ENDLESS = Rate(1_000_000, 1.0)


class Eager(random.Random):
    """Draws the shortest delay a backoff may have."""

    def uniform(self, a: float, b: float) -> float:
        return a


@attrs.define
class Kept:
    """Streams that are being kept, and who owns their sockets."""

    streams: list[Stream]
    owners: Owners
    around: Surroundings
    journal: Journal

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition()` holds, looking often."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in sockets
                await trio.sleep(0.01)
            return
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")

    def sessions(self) -> int:
        return sum(stream.sessions for stream in self.streams)

    def all_live(self) -> bool:
        return all(stream.is_live for stream in self.streams)

    def sockets(self) -> list[Fd]:
        """Return the streams' sockets, as the census has them."""
        names = {stream.plan.name for stream in self.streams}
        return [found for found in self.owners.sockets() if found.owner in names]

    def unowned(self) -> list[Fd]:
        return [found for found in self.owners.sockets() if found.owner in ("none", "unclaimed")]


def planned(url: str, exchange: str = "binance", number: int = 1) -> StreamPlan:
    """Plan a stream of one symbol, within no venue's limits."""
    plan = plan_of(exchange, ("BTC-USDT",))
    limits = attrs.evolve(plan.limits, dials=ENDLESS, messages=ENDLESS)
    name = f"{plan.name.rpartition('/')[0]}/{number}"
    return attrs.evolve(plan, url=url, name=name, limits=limits)


@contextmanager
def journal_in(data_dir: Path, seen: Live) -> Iterator[Journal]:
    with (
        lock_data_dir(data_dir),
        open_journal(
            data_dir,
            recover(data_dir).numbers,
            clock=Clock().now,
            segment_s=3600.0,
            sync_every_s=1.0,
            offload=in_thread(trio.CapacityLimiter(1)),
            on_note=seen.on_note,
            state=seen.continuity.dump,
        ) as journal,
    ):
        yield journal


@asynccontextmanager
async def keeping(
    data_dir: Path,
    plans: Sequence[StreamPlan],
    *,
    tls: ssl.SSLContext | None = None,
    ports: Sequence[int] = (),
    connect: Callable[[Connect], Connect] = lambda connect: connect,
) -> AsyncIterator[Kept]:
    """Keep streams beside the block; `ports` are the peers', where they live in this process."""
    owners = Owners(ports=dict.fromkeys(ports, "peers"))
    network = app.Network(tls or ssl.create_default_context(), "", {}, owners)
    clock, log = Clock(), structlog.get_logger()
    door: Connect = partial(app.open_socket, network, clock.now)
    seen = live()
    with journal_in(data_dir, seen) as journal, owners.holding("journal", journal.fds):
        owners.claim_what_is_open()  # the lock, too
        around = Surroundings(
            journal=journal,
            clock=clock.now,
            random=Eager(),
            connect=connect(door),
            open_client=partial(app.open_rest, network),
            budgets=Budgets(),
            share=1.0,
            log=log,
            live=seen,
            snapshots=Wishes(),
        )
        note_instruments(journal, plans)
        kept = Kept([Stream(plan) for plan in plans], owners, around, journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            for stream in kept.streams:
                nursery.start_soon(keep_stream, stream, EXCHANGES[stream.plan.exchange], around)
            yield kept
            nursery.cancel_scope.cancel()


def note_instruments(journal: Journal, plans: Sequence[StreamPlan]) -> None:
    for plan in {plan.exchange: plan for plan in plans}.values():
        value = {
            "exchange": plan.exchange,
            "market": "spot",
            "valid_from_ns": 1,
            "instruments": cattrs.unstructure(list(plan.instruments)),
        }
        journal.note(Letter.INSTRUMENTS, value, current=f"instruments {plan.exchange} spot")


# Peers


def trades_at(ms: int, *ids: int) -> list[bytes]:
    """Return trades of Binance, all made in one millisecond."""
    return [
        json.dumps(
            {
                "stream": "btcusdt@aggTrade",
                "data": {
                    "e": "aggTrade", "E": ms, "s": "BTCUSDT", "a": n, "p": "1.5", "q": "2", "f": n, "l": n, "T": ms,
                    "m": True,
                },
            }
        ).encode()
        for n in ids
    ]  # fmt: skip


def talk(*messages: bytes) -> bytes:
    """Return what makes a session of `planned` live: data of each subscription."""
    return b"".join(frame(text) for text in (depth(), *trades_at(1795000000000, 1), *messages))


def talking(then: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    """Return a peer that accepts, is asked for data, sends some, and then does something else."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.receive(1)
        await peer.send(talk())
        await then(peer)

    return script


async def stay(peer: Peer) -> None:
    await peer.until_left()
