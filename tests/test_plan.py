"""Which sockets a config comes to, and which markets share them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector_trio.config import Config, Record, load_config
from collector_trio.exchanges import EXCHANGES
from collector_trio.instruments import Instrument
from collector_trio.plan import Plan, make_plan, market_groups

OFFERS = {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}
URLS = {section: urls for offers in OFFERS.values() for section, urls in offers.endpoints.items()}
SHIPPED = load_config(Path(__file__).parent.parent / "config.toml", OFFERS, {})
MARKETS = [(name, market) for name, offers in OFFERS.items() for market in offers.markets]


def listed(exchange: str, market: str, symbols: tuple[str, ...] = ("BTC-USDT", "ETH-USDT")) -> list[Instrument]:
    instruments = []
    for symbol in symbols:
        native = symbol.replace("-", "") if exchange == "binance" else symbol + ("-SWAP" if market == "perp" else "")
        instruments.append(Instrument(exchange, market, symbol, native, *symbol.split("-"), "live", True))
    return instruments


def planned(config: Config, *without: tuple[str, str]) -> Plan:
    return make_plan(config, EXCHANGES, {market: listed(*market) for market in MARKETS if market not in without})


def grouped(config: Config) -> list[tuple[str, tuple[str, ...]]]:
    return [(exchange.NAME, markets) for exchange, markets in market_groups(config, EXCHANGES)]


def test_the_shipped_config_is_five_sockets_of_which_okx_markets_share_two() -> None:
    plan = planned(SHIPPED)
    assert {stream.name: (stream.markets, [s.argument for s in stream.subscriptions]) for stream in plan.streams} == {
        "binance.spot/1": (
            ("spot",),
            ["btcusdt@aggTrade", "ethusdt@aggTrade", "btcusdt@depth@100ms", "ethusdt@depth@100ms"],
        ),
        "binance.perp.market/1": (("perp",), ["btcusdt@aggTrade", "ethusdt@aggTrade"]),
        "binance.perp.public/1": (("perp",), ["btcusdt@depth@100ms", "ethusdt@depth@100ms"]),
        "okx.business/1": (("spot", "perp"), ["trades-all"] * 4),
        "okx.public/1": (("spot", "perp"), ["books"] * 4),
    }
    symbols = {s.native_symbol for stream in plan.streams for s in stream.subscriptions if stream.exchange == "okx"}
    assert symbols == {"BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP", "ETH-USDT-SWAP"}


def test_a_market_without_instruments_is_left_out_of_a_shared_socket() -> None:
    plan = planned(SHIPPED, ("okx", "perp"))
    shared = [stream for stream in plan.streams if stream.exchange == "okx"]
    assert [(stream.name, stream.markets) for stream in shared] == [
        ("okx.business/1", ("spot",)),
        ("okx.public/1", ("spot",)),
    ]


def test_markets_are_grouped_by_the_sockets_they_share() -> None:
    assert grouped(SHIPPED) == [("binance", ("spot",)), ("binance", ("perp",)), ("okx", ("spot", "perp"))]


def test_markets_whose_recorded_channels_share_no_socket_are_groups_of_their_own() -> None:
    record = (Record("okx", "spot", ("*-USDT",), ("trades",)), Record("okx", "perp", ("*-USDT",), ("book",)))
    assert grouped(Config("test", record, URLS)) == [("okx", ("spot",)), ("okx", ("perp",))]


def test_a_stream_on_no_known_path_is_refused_when_it_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(EXCHANGES["binance"])["_STREAMS"], "trades", "trades@100ms")
    with pytest.raises(ValueError, match="no path of USD-M is known to carry the stream 'trades@100ms'"):
        planned(SHIPPED)


RECORDS = st.builds(
    lambda market, channels, symbols: Record(*market, tuple(symbols), tuple(channels)),
    st.sampled_from(MARKETS),
    st.lists(st.sampled_from(["trades", "book"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["BTC-USDT", "ETH-USDT", "*-USDT"]), min_size=1, unique=True),
)


@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_planned_group_by_group_it_is_the_same_plan(records: list[Record]) -> None:
    config = Config("test", tuple(records), URLS)
    whole = planned(config)
    groups = grouped(config)
    assert sorted((name, market) for name, markets in groups for market in markets) == sorted(
        {(record.exchange, record.market) for record in records}
    )
    parts = []
    for name, markets in groups:
        instruments = {(name, market): listed(name, market) for market in markets}
        parts += make_plan(config, {name: EXCHANGES[name]}, instruments).streams
    assert sorted(parts, key=lambda stream: stream.name) == sorted(whole.streams, key=lambda stream: stream.name)
