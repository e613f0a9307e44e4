"""Markets: instruments first, from the cache or from REST; those that share sockets begin together, and what goes wrong
stays in its market.
"""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
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
from collector_trio.net.http import HttpAnswer
from collector_trio.streams import markets
from collector_trio.streams.markets import TOGETHER_S, keep_markets
from collector_trio.streams.supervisor import Stream, Surroundings

from .test_session import notes
from .wires import Network, Wishes, live, trio_clock

ANSWER = (
    b'{"symbols":[{"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","filters":[]},'
    b'{"symbol":"ETHUSDT","status":"TRADING","baseAsset":"ETH","quoteAsset":"USDT","filters":[]}]}'
)


def okx_answer(path: str) -> bytes:
    swap = {"instFamily": "BTC-USDT", "ctVal": "0.01", "ctType": "linear", "instId": "BTC-USDT-SWAP"}
    spot = {"baseCcy": "BTC", "quoteCcy": "USDT", "instId": "BTC-USDT"}
    terms = swap if path.endswith("=SWAP") else spot
    data = [terms | {"state": "live", "instType": path.rpartition("=")[2]}]
    return json.dumps({"code": "0", "data": data}).encode()


class Rest:
    """Answers requests for instruments, or does not: with `silent`, those whose path ends so."""

    base_url = "https://example.org"

    def __init__(self) -> None:
        self.requests: list[float] = []
        self.works = True
        self.silent: str | None = None

    @asynccontextmanager
    async def open_client(self, url: str) -> AsyncIterator[Any]:
        yield self

    async def ask(self, path: str) -> HttpAnswer:
        await trio.lowlevel.checkpoint()
        self.requests.append(trio.current_time())
        if not self.works:
            raise HttpFailed("https://example.org" + path, "no answer")
        if self.silent is not None and path.endswith(self.silent):
            raise HttpFailed("https://example.org" + path, "no answer")
        return HttpAnswer(okx_answer(path) if "/v5/" in path else ANSWER, httpx.Headers(), 0.0, 0.0)


def config_of(data_dir: Path, symbols: str = '["BTC-USDT"]', share: float = 1.0) -> Config:
    text = f'[collector]\ndata_dir = "{data_dir}"\n[limits]\nshare = {share}\n'
    text += f'[[record]]\nexchange = "binance"\nmarket = "spot"\nsymbols = {symbols}\nchannels = ["trades"]\n'
    return parse_config(text, "test.toml", {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})


def around(journal: Journal, network: Network, rest: Rest, share: float = 1.0) -> Surroundings:
    log = structlog.get_logger()
    return Surroundings(
        journal, trio_clock, random.Random(1), network.connect, rest.open_client, Budgets(), share, log, live(),
        Wishes(),
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
        await keep_markets(config, EXCHANGES["binance"], ["spot"], around(journal, network, rest, share), streams)
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


async def test_why_a_market_has_no_instruments_is_known_until_it_has(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest, config = Rest(), config_of(journal.data_dir)
    rest.works = False
    kept = around(journal, Network(), rest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_markets, config, EXCHANGES["binance"], ["spot"], kept, [])
        await trio.sleep(1)
        [(market, reason)] = kept.unanswered.items()
        assert market == ("binance", "spot")
        assert "no answer" in reason
        rest.works = True
        await trio.sleep(60)
        assert not kept.unanswered
        nursery.cancel_scope.cancel()


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
    keep_stream = markets.keep_stream

    async def crash(*arguments: Any) -> None:
        with trio.move_on_after(5):
            await keep_stream(*arguments)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(markets, "keep_stream", crash)
    with capture_logs() as logs:
        streams = await keep_for(120, config_of(journal.data_dir), journal, Network(), Rest())
    assert [entry["event"] for entry in logs].count("market crashed") > 2
    assert [stream.plan.name for stream in streams] == ["binance.spot/1"]
    assert streams[0].sessions > 2


async def test_a_crash_while_asking_for_instruments_leaves_the_streams_alone(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*arguments: object, **options: object) -> None:
        await trio.sleep(1)
        raise ZeroDivisionError("a bug")

    rest, network = Rest(), Network()
    await keep_for(1, config_of(journal.data_dir), journal, Network(), rest)
    monkeypatch.setattr(markets, "obtain_listing", crash)
    with capture_logs() as logs:
        await keep_for(20, config_of(journal.data_dir), journal, network, rest)
    assert [entry["event"] for entry in logs].count("market crashed") > 2
    assert len(network.dialled_at) == 1


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


# Markets that share sockets


async def keep_okx_for(seconds: float, journal: Journal, network: Network, rest: Rest) -> list[Stream]:
    text = f'[collector]\ndata_dir = "{journal.data_dir}"\n'
    for market, channels in (("spot", '["trades", "book"]'), ("perp", '["book"]')):
        text += f'[[record]]\nexchange = "okx"\nmarket = "{market}"\nsymbols = ["BTC-USDT"]\nchannels = {channels}\n'
    config = parse_config(text, "test.toml", {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})
    streams: list[Stream] = []
    with trio.move_on_after(seconds):
        await keep_markets(config, EXCHANGES["okx"], ("spot", "perp"), around(journal, network, rest), streams)
    return streams


def carried(streams: list[Stream]) -> dict[str, list[str]]:
    return {stream.plan.name: [s.native_symbol for s in stream.plan.subscriptions] for stream in streams}


BOTH = {"okx.business/1": ["BTC-USDT"], "okx.public/1": ["BTC-USDT", "BTC-USDT-SWAP"]}


async def test_markets_that_share_sockets_begin_at_once_and_together_when_all_are_listed(
    journal: Journal, autojump_clock: MockClock
) -> None:
    network, start = Network(), trio.current_time()
    streams = await keep_okx_for(1, journal, network, Rest())
    assert carried(streams) == BOTH
    assert network.dialled_at == [start, start]


@pytest.mark.parametrize(("silent", "begun"), [("=SWAP", ["BTC-USDT"]), ("=SPOT", ["BTC-USDT-SWAP"])])
async def test_a_market_without_instruments_keeps_the_others_waiting_for_five_seconds_only(
    silent: str, begun: list[str], journal: Journal, autojump_clock: MockClock
) -> None:
    network, rest, start = Network(), Rest(), trio.current_time()
    rest.silent = silent
    streams = await keep_okx_for(60, journal, network, rest)
    assert {symbol for symbols in carried(streams).values() for symbol in symbols} == set(begun)
    assert set(network.dialled_at[: len(streams)]) == {start + TOGETHER_S}


async def test_a_late_listing_begins_again_only_the_streams_whose_plan_it_changes(
    journal: Journal, autojump_clock: MockClock
) -> None:
    network, rest = Network(), Rest()
    rest.silent = "=SWAP"

    async def recover() -> None:
        await trio.sleep(8)
        rest.silent = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recover)
        streams = await keep_okx_for(20, journal, network, rest)
    assert carried(streams) == BOTH
    by_url: dict[str, list[float | None]] = {}
    for wire in network.wires:
        by_url.setdefault(wire.url.rpartition("/")[2], []).append(wire.closed_at)
    assert len(by_url["business"]) == 1
    assert len(by_url["public"]) == 2
    assert [stream.sessions for stream in streams] == [1, 2]
    before, after = (wire for wire in network.wires if wire.url.endswith("public"))
    assert before.closed_at is not None
    assert 8 <= before.closed_at <= after.opened_at
    assert [note.letter for note in notes(journal)].count("i") == 2


async def test_markets_whose_instruments_were_kept_begin_together_without_rest(
    journal: Journal, autojump_clock: MockClock
) -> None:
    await keep_okx_for(1, journal, Network(), Rest())
    network, rest, start = Network(), Rest(), trio.current_time()
    rest.works = False
    streams = await keep_okx_for(1, journal, network, rest)
    assert carried(streams) == BOTH
    assert network.dialled_at == [start, start]
