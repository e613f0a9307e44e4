"""Markets: instruments first, from the cache or from REST; what goes wrong stays in its market."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.config import Config, parse_config
from collector_trio.errors import HttpFailed
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.net.budgets import Budgets
from collector_trio.streams import markets
from collector_trio.streams.markets import keep_market
from collector_trio.streams.supervisor import Stream, Surroundings

from .test_session import notes
from .wires import Network, trio_clock

ANSWER = (
    b'{"symbols":[{"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","filters":[]},'
    b'{"symbol":"ETHUSDT","status":"TRADING","baseAsset":"ETH","quoteAsset":"USDT","filters":[]}]}'
)


class Rest:
    """Answers requests for instruments, or does not."""

    def __init__(self) -> None:
        self.requests: list[float] = []
        self.works = True

    @asynccontextmanager
    async def open_client(self, url: str) -> AsyncIterator[Any]:
        yield self

    async def get(self, path: str) -> bytes:
        await trio.lowlevel.checkpoint()
        self.requests.append(trio.current_time())
        if not self.works:
            raise HttpFailed("https://example.org" + path, "no answer")
        return ANSWER


def config_of(data_dir: Path, symbols: str = '["BTC-USDT"]', share: float = 1.0) -> Config:
    text = f'[collector]\ndata_dir = "{data_dir}"\n[limits]\nshare = {share}\n'
    text += f'[[record]]\nexchange = "binance"\nmarket = "spot"\nsymbols = {symbols}\nchannels = ["trades"]\n'
    return parse_config(text, "test.toml", {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})


def around(journal: Journal, network: Network, rest: Rest, share: float = 1.0) -> Surroundings:
    log = structlog.get_logger()
    return Surroundings(
        journal, trio_clock, random.Random(1), network.connect, rest.open_client, Budgets(), share, log
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not stop an autojumping clock."""

    async def run_sync(work: Any, *arguments: Any, **options: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


async def keep_for(seconds: float, config: Config, journal: Journal, network: Network, rest: Rest) -> list[Stream]:
    streams: list[Stream] = []
    share = config.limits.share
    with trio.move_on_after(seconds):
        await keep_market(config, EXCHANGES["binance"], "spot", around(journal, network, rest, share), streams)
    return streams


async def test_without_instruments_nothing_is_dialled_and_rest_is_asked_again_with_backoff(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest, network = Rest(), Network()
    rest.works = False
    with capture_logs() as logs:
        await keep_for(600, config_of(journal.data_dir), journal, network, rest)
    assert not network.dialled_at
    assert 600 / 30 < len(rest.requests) < 60
    assert [entry["log_level"] for entry in logs if entry["event"] == "no instruments"].count("warning") == 1
    assert [note.letter for note in notes(journal)].count("q") == len(rest.requests)
    assert [note.letter for note in notes(journal)].count("f") == len(rest.requests)


async def test_instruments_kept_by_an_earlier_run_need_no_rest_to_begin(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest = Rest()
    await keep_for(1, config_of(journal.data_dir), journal, Network(), rest)
    rest.works = False
    network = Network()
    start = trio.current_time()
    await keep_for(1, config_of(journal.data_dir), journal, network, rest)
    assert network.dialled_at[0] == start


async def test_a_listing_that_cannot_be_kept_is_said_and_recording_goes_on(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(markets, "keep_listing", full)
    network = Network()
    with capture_logs() as logs:
        await keep_for(1, config_of(journal.data_dir), journal, network, Rest())
    assert network.dialled_at
    assert [entry["event"] for entry in logs].count("instruments not kept") == 1


async def test_a_crash_in_a_market_is_logged_and_the_market_begins_again(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0

    def crash(*arguments: object) -> None:
        nonlocal crashes
        crashes += 1
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(markets, "make_plan", crash)
    with capture_logs() as logs:
        await keep_for(60, config_of(journal.data_dir), journal, Network(), Rest())
    assert crashes > 2
    assert [entry["event"] for entry in logs].count("market crashed") == crashes


async def test_a_market_that_begins_again_keeps_its_streams_and_their_counts(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*arguments: object, **options: object) -> None:
        await trio.sleep(5)
        raise ZeroDivisionError("a bug")

    rest = Rest()
    await keep_for(1, config_of(journal.data_dir), journal, Network(), rest)
    monkeypatch.setattr(markets, "obtain_listing", crash)
    with capture_logs() as logs:
        streams = await keep_for(120, config_of(journal.data_dir), journal, Network(), rest)
    assert [entry["event"] for entry in logs].count("market crashed") > 2
    assert [stream.plan.name for stream in streams] == ["binance.spot/1"]
    assert streams[0].sessions > 2


async def test_a_small_share_of_the_budget_still_asks(journal: Journal, autojump_clock: MockClock) -> None:
    network = Network()
    await keep_for(100, config_of(journal.data_dir, share=0.001), journal, network, Rest())
    assert network.dialled_at


async def test_what_nothing_listed_answers_to_is_said_and_the_rest_is_recorded(
    journal: Journal, autojump_clock: MockClock
) -> None:
    config = config_of(journal.data_dir, '["BTC-USDT", "GONE-USDT", "ZZZ-*"]')
    with capture_logs() as logs:
        streams = await keep_for(1, config, journal, Network(), Rest())
    said = [entry["symbol"] for entry in logs if entry["event"] == "not listed"]
    assert said == ["binance spot GONE-USDT", "binance spot ZZZ-*"]
    assert [s.native_symbol for s in streams[0].plan.subscriptions] == ["BTCUSDT"]
