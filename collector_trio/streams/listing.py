"""The instruments of a market: from REST, kept in the data dir, so that a restart needs no REST to begin."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import cattrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.errors import BadAnswer, HttpFailed
from collector_trio.exchanges.protocol import Exchange
from collector_trio.instruments import Instrument
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.journal.segments import state_dir, write_whole
from collector_trio.net.budgets import Budget
from collector_trio.net.http import HttpClient
from collector_trio.streams.supervisor import backoff


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
    """Return what was kept last, None if nothing was or it cannot be read (it is only a copy; REST has the original)."""
    try:
        return cattrs.structure(json.loads(_path(data_dir, exchange, market).read_bytes()), Listing)
    except (OSError, ValueError, cattrs.BaseValidationError):
        return None


def keep_listing(data_dir: Path, exchange: str, market: str, listing: Listing) -> None:
    """Keep `listing` for the next start."""
    path = _path(data_dir, exchange, market)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(cattrs.unstructure(listing)).encode())


def _path(data_dir: Path, exchange: str, market: str) -> Path:
    return state_dir(data_dir) / f"instruments-{exchange}-{market}.json"


async def fetch_listing(
    exchange: Exchange, market: str, client: HttpClient, weight: Budget, clock: Callable[[], int]
) -> Listing:
    """Ask the exchange once. Raises HttpFailed or BadAnswer; a market without a single instrument is a bad answer."""
    request = exchange.instruments_request(market)
    await weight.take(request.weight)
    instruments = exchange.parse_instruments(market, await client.get(request.path))
    if not instruments:
        raise BadAnswer(f"{exchange.NAME} lists no instruments of market {market}")
    return Listing(tuple(instruments), clock())


async def obtain_listing(
    exchange: Exchange,
    market: str,
    client: HttpClient,
    weight: Budget,
    journal: Journal,
    clock: Callable[[], int],
    random_: random.Random,
    log: FilteringBoundLogger,
) -> Listing:
    """Ask until there is an answer, with the streams' backoff. Says once that there is none, and once that there is one again."""
    log = log.bind(exchange=exchange.NAME, market=market)
    failed = False
    for delay_s in backoff(random_):
        request = exchange.instruments_request(market)
        journal.note(Letter.REQUEST, {"exchange": exchange.NAME, "market": market, "path": request.path})
        try:
            listing = await fetch_listing(exchange, market, client, weight, clock)
        except (HttpFailed, BadAnswer) as error:
            journal.note(Letter.FAILED, {"exchange": exchange.NAME, "market": market, "path": request.path, "reason": str(error)})
            report = log.debug if failed else log.warning
            report("no instruments", reason=str(error))
            failed = True
            wait_s = delay_s
            if isinstance(error, HttpFailed) and error.retry_after_s is not None:
                wait_s = max(delay_s, error.retry_after_s)
            await trio.sleep(wait_s)
        else:
            log.info("instruments", listed=len(listing.instruments))
            return listing
    raise AssertionError("a backoff does not end")
