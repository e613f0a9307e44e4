"""The instruments of a market: from REST, kept in the data dir, so that a restart needs no REST to begin."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import cattrs
import trio

from collector_trio.errors import BadAnswer, HttpFailed
from collector_trio.exchanges.protocol import Exchange
from collector_trio.instruments import Instrument
from collector_trio.journal.records import Letter
from collector_trio.journal.segments import state_dir, write_whole
from collector_trio.net.budgets import Budget
from collector_trio.net.gate import Gate, host_of
from collector_trio.net.http import HttpAnswer, HttpClient
from collector_trio.streams.supervisor import Surroundings, backoff


@attrs.frozen
class Listing:
    """All instruments of one market, and when the exchange said so (nanoseconds since the epoch)."""

    instruments: tuple[Instrument, ...]
    fetched_ns: int

    @property
    def fetched(self) -> str:
        """The same instant for people."""
        return datetime.fromtimestamp(self.fetched_ns // 1_000_000_000, UTC).isoformat()


def load_listing(data_dir: Path, exchange: str, market: str) -> Listing | None:
    """Return what was kept last; None if nothing was or it cannot be read (it is a copy: REST has the original)."""
    try:
        return cattrs.structure(json.loads(_path(data_dir, exchange, market).read_bytes()), Listing)
    except (OSError, ValueError, cattrs.BaseValidationError):
        return None


def keep_listing(data_dir: Path, exchange: str, market: str, listing: Listing) -> None:
    """Keep `listing` for the next start. Raises OSError, for one when the disk is full."""
    path = _path(data_dir, exchange, market)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(cattrs.unstructure(listing)).encode())


def _path(data_dir: Path, exchange: str, market: str) -> Path:
    return state_dir(data_dir) / f"instruments-{exchange}-{market}.json"


async def fetch_listing(
    exchange: Exchange, market: str, client: HttpClient, gate: Gate, weight: Budget, clock: Callable[[], int]
) -> Listing:
    """Ask the exchange once, when it is our turn. Raises HttpFailed or BadAnswer; a market without a single instrument
    is a bad answer.
    """
    request = exchange.instruments_request(market)
    async with gate.asking(host_of(client.base_url), weight, units=request.weight) as turn:
        with turn.judged():
            answer = await client.ask(request.path)
        heed_weight(exchange, market, answer, weight)
    body = answer.body
    instruments = await trio.to_thread.run_sync(exchange.parse_instruments, market, body, limiter=rest_threads())
    if not instruments:
        raise BadAnswer(f"{exchange.NAME} lists no instruments of market {market}")
    return Listing(tuple(instruments), clock())


_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("rest_threads")


def rest_threads() -> trio.CapacityLimiter:
    """Return the run's limiter for work on REST answers: they are megabytes, and the event loop goes on."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(1)
        _limiter.set(limiter)
        return limiter


def weight_budget(exchange: Exchange, market: str, around: Surroundings) -> Budget:
    """Return what REST requests about `market` are taken from; markets of one pool share it."""
    limits = exchange.limits(market)
    return around.budgets.get(f"{limits.pool} weight", limits.weight.share(around.share))


def heed_weight(exchange: Exchange, market: str, answer: HttpAnswer, weight: Budget) -> None:
    """Let the budget rest where the venue says that as much is used as we would use alone: others ask from here too."""
    used = exchange.used_weight(answer.headers)
    if used is not None and used >= exchange.limits(market).weight.limit:
        weight.rest()


async def obtain_listing(exchange: Exchange, market: str, base_url: str, around: Surroundings) -> Listing:
    """Ask until there is an answer, with the streams' backoff. Says once that there is none, and once that there is one
    again; meanwhile `around.unanswered` has the last reason.
    """
    log = around.log.bind(exchange=exchange.NAME, market=market)
    gate, weight = around.gates.get(exchange.NAME), weight_budget(exchange, market, around)
    path = exchange.instruments_request(market).path
    facts = {"exchange": exchange.NAME, "market": market, "url": base_url + path}
    failed = False
    for delay_s in backoff(around.random):
        around.journal.note(Letter.REQUEST, facts)
        try:
            async with around.open_client(base_url) as client:
                listing = await fetch_listing(exchange, market, client, gate, weight, around.clock)
        except (HttpFailed, BadAnswer) as error:
            around.journal.note(Letter.FAILED, facts | {"reason": str(error)})
            report = log.debug if failed else log.warning
            report("no instruments", reason=str(error))
            around.unanswered[exchange.NAME, market] = str(error)
            failed = True
            await trio.sleep(delay_s)
        else:
            around.unanswered.pop((exchange.NAME, market), None)
            log.info("instruments", listed=len(listing.instruments))
            return listing
    raise AssertionError("a backoff does not end")
