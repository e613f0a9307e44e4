"""What every exchange module must offer. A new exchange adds a line to `FACTS` below and recorded frames, no tests."""

import inspect
import json
from urllib.parse import urlsplit

import attrs
import pytest

from collector_trio.errors import BadAnswer
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import Control, Exchange, Ignored
from collector_trio.instruments import Instrument
from collector_trio.plan import Rate

from .readings import SHARED, jsonl, needs_shared, okx_instruments, recorded


@attrs.frozen
class Facts:
    """What the exchange documents; our own numbers may be smaller, never larger."""

    dials: Rate
    messages: dict[str, Rate]  # by market
    weight: dict[str, Rate]  # by market
    per_socket: dict[str, int]
    quiet_s: float | None  # how long a connection may be silent when it is ours to speak
    subscribed: str  # what a subscribe message for BTC-USDT's trades and book must contain, each once
    error: bytes  # its answer to a request it refuses


FACTS = {
    "binance": Facts(
        dials=Rate(300, 300.0),
        messages={"spot": Rate(5, 1.0), "perp": Rate(10, 1.0)},
        weight={"spot": Rate(6000, 60.0), "perp": Rate(2400, 60.0)},
        per_socket={"trades": 1024, "book": 1024},
        quiet_s=None,
        subscribed='"btcusdt@aggTrade" "btcusdt@depth@100ms" "SUBSCRIBE"',
        error=b'{"code":-1003,"msg":"Too many requests; current limit is 6000 request weight per 1 MINUTE."}',
    ),
    "okx": Facts(
        dials=Rate(3, 1.0),
        messages=dict.fromkeys(("spot", "perp"), Rate(480, 3600.0)),
        weight=dict.fromkeys(("spot", "perp"), Rate(20, 2.0)),
        per_socket={"trades": 480, "book": 30},
        quiet_s=30.0,
        subscribed='"trades-all" "books" "subscribe"',
        error=b'{"code":"50011","data":[],"msg":"Too Many Requests"}',
    ),
}
every_exchange = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)


def instrument(exchange: Exchange, number: int = 0) -> Instrument:
    """Return BTC-USDT, or the `number`th of many with names as long as they come."""
    base = f"1000000LONG{number}" if number else "BTC"
    native = f"{base}-USDT" if exchange.NAME == "okx" else f"{base}USDT"
    return Instrument(exchange.NAME, "spot", f"{base}-USDT", native, base, "USDT", "live", True)


def offers(exchange: Exchange) -> list[tuple[str, str]]:
    return [(market, channel) for market, channels in exchange.OFFERS.markets.items() for channel in channels]


def test_there_are_facts_of_every_exchange() -> None:
    assert FACTS.keys() == EXCHANGES.keys()


@every_exchange
def test_a_module_offers_all_that_the_protocol_names(exchange: Exchange) -> None:
    for protocol in (Exchange, *Exchange.__bases__):
        for name in getattr(protocol, "__annotations__", {}):
            assert hasattr(exchange, name)
        for name, member in vars(protocol).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                wanted = list(inspect.signature(member).parameters)[1:]
                assert list(inspect.signature(getattr(exchange, name)).parameters) == wanted
    assert EXCHANGES[exchange.NAME] is exchange


@every_exchange
def test_every_channel_has_an_endpoint_with_an_encrypted_address(exchange: Exchange) -> None:
    for market, channel in offers(exchange):
        endpoint = exchange.endpoint(market, channel)
        addresses = exchange.OFFERS.endpoints[endpoint.section]
        assert endpoint.name.startswith(f"{exchange.NAME}.")
        assert urlsplit(addresses[endpoint.key]).scheme == "wss"
        assert urlsplit(addresses["rest"]).scheme == "https"
        assert 1 <= endpoint.per_socket <= FACTS[exchange.NAME].per_socket[channel]
    sections = {exchange.endpoint(market, channel).section for market, channel in offers(exchange)}
    assert sections == exchange.OFFERS.endpoints.keys()


@every_exchange
def test_our_budgets_are_within_what_is_documented(exchange: Exchange) -> None:
    facts = FACTS[exchange.NAME]
    for market in exchange.OFFERS.markets:
        limits = exchange.limits(market)
        for ours, theirs in (
            (limits.dials, facts.dials),
            (limits.messages, facts.messages[market]),
            (limits.weight, facts.weight[market]),
        ):
            assert 0 < ours.limit <= theirs.limit
            assert ours.period_s == theirs.period_s


@every_exchange
def test_a_connection_is_kept_open_by_a_ping_where_the_exchange_asks_for_one(exchange: Exchange) -> None:
    quiet_s = FACTS[exchange.NAME].quiet_s
    assert (exchange.PING is None) == (quiet_s is None)
    if quiet_s is not None:
        assert exchange.PING is not None
        assert quiet_s >= exchange.PING_EVERY_S * 2


@every_exchange
def test_a_subscription_says_what_is_asked_for_and_expected(exchange: Exchange) -> None:
    for _, channel in offers(exchange):
        for one in (instrument(exchange), instrument(exchange, 1)):
            subscription = exchange.subscription(one, channel)
            assert subscription.key == (channel, one.native_symbol)
            assert subscription.first_data_s > 0
            assert subscription.silence_s is None or subscription.silence_s > 0
        assert exchange.subscription(instrument(exchange), channel).prompt  # somebody always trades BTC-USDT


@every_exchange
def test_subscribe_and_unsubscribe_are_json_that_names_each_subscription_once(exchange: Exchange) -> None:
    subscriptions = [exchange.subscription(instrument(exchange), channel) for channel in ("trades", "book")]
    message = exchange.subscribe(subscriptions, 7)
    for part in FACTS[exchange.NAME].subscribed.split():
        assert message.count(part) == 1
    ended = exchange.unsubscribe(subscriptions, 7)
    parsed, ending = json.loads(message), json.loads(ended)
    assert [key for key in parsed if parsed[key] != ending[key]] == ["method" if "method" in parsed else "op"]
    assert str(parsed["id"]) == "7"


@every_exchange
def test_batches_keep_all_subscriptions_in_order_and_each_message_below_64_kb(exchange: Exchange) -> None:
    for market, channel in offers(exchange):
        many = [exchange.subscription(instrument(exchange, number), channel) for number in range(1, 3001)]
        batches = list(exchange.batches(many))
        assert [subscription for batch in batches for subscription in batch] == many
        assert all(len(exchange.subscribe(batch, 10**6).encode()) < 64_000 for batch in batches)
        socket = many[: exchange.endpoint(market, channel).per_socket]
        messages = exchange.limits(market).messages
        assert 10 * len(list(exchange.batches(socket))) <= messages.limit * max(1.0, 60 / messages.period_s)
    assert list(exchange.batches([])) == []


@every_exchange
def test_symbols_that_are_not_ascii_are_subscribed_to_as_they_are(exchange: Exchange) -> None:
    one = attrs.evolve(instrument(exchange), native_symbol="币安人生USDT")
    message = exchange.subscribe([exchange.subscription(one, "trades")], 1)
    assert "币安人生" in message


@every_exchange
def test_the_request_for_instruments_is_a_path_with_its_cost(exchange: Exchange) -> None:
    for market in exchange.OFFERS.markets:
        request = exchange.instruments_request(market)
        assert request.path.startswith("/")
        assert 1 <= request.weight <= exchange.limits(market).weight.limit


@every_exchange
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"<html>403 Forbidden</html>", b'{"symbols":5}', b"\xff", b'{"code":"0","data":{}}'],
)
def test_an_answer_that_lists_no_instruments_is_bad(exchange: Exchange, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        exchange.parse_instruments("spot", body)


@every_exchange
def test_an_error_in_the_exchanges_own_words_is_bad(exchange: Exchange) -> None:
    with pytest.raises(BadAnswer, match=r"Too [Mm]any [Rr]equests"):
        exchange.parse_instruments("spot", FACTS[exchange.NAME].error)


@every_exchange
def test_a_ping_is_answered_by_a_control_message(exchange: Exchange) -> None:
    if exchange.PING is None:
        pytest.skip("the server pings, the WebSocket library answers")
    assert isinstance(exchange.decode(b"pong"), Control)


# Recorded answers


def recorded_answers() -> list[tuple[str, bytes]]:
    answers = [
        ("binance", json.dumps(row["body"]).encode())
        for row in jsonl(SHARED / "gocryptotrader" / "binance_rest.jsonl")
        if row["path"].endswith("/v3/exchangeInfo")
    ]
    for path in sorted((SHARED / "cryptofeed").glob("*.jsonl.gz")):
        for line in recorded(path):
            if line.url is not None and line.url.endswith(("/api/v3/exchangeInfo", "instruments?instType=SPOT")):
                answers.append(("okx" if path.name.startswith("OK") else "binance", line.frame))
                break
    for fixture in jsonl(SHARED / "nautilus" / "fixtures.jsonl"):
        if "okx" in fixture["file"] and "http_get_instruments_margin" in fixture["file"]:
            answers.append(("okx", fixture["body"].encode()))
    for fixture in jsonl(SHARED / "jkorf" / "OKX.Net.jsonl"):
        if fixture["file"].endswith("GetSymbols.txt"):
            answers.append(("okx", fixture["text"].partition("false\n")[2].encode()))
    return answers


@needs_shared
def test_recorded_answers_list_each_instrument_under_its_assets_names() -> None:
    seen = set()
    for name, answer in recorded_answers():
        exchange = EXCHANGES[name]
        raw = json.loads(answer)
        rows = raw["symbols"] if name == "binance" else raw["data"]
        instruments = exchange.parse_instruments("spot", answer)
        assert len(instruments) == len(rows) >= 1
        assert len({one.native_symbol for one in instruments}) == len(instruments)
        for one, row in zip(instruments, rows, strict=True):
            if name == "binance":
                filters = {terms["filterType"]: terms for terms in row["filters"]}
                tick = filters["PRICE_FILTER"]["tickSize"]
                lot = filters["LOT_SIZE"]["stepSize"]
                base, quote, native, live = row["baseAsset"], row["quoteAsset"], row["symbol"], "TRADING"
                status = row["status"]
            else:
                base, quote, native, live = row["baseCcy"], row["quoteCcy"], row["instId"], "live"
                tick, lot, status = row["tickSz"], row["lotSz"], row["state"]
            assert (one.exchange, one.market, one.native_symbol) == (name, "spot", native)
            assert (one.symbol, one.base, one.quote) == (f"{base}-{quote}", base, quote)
            assert (one.tick_size, one.lot_size, one.status) == (tick, lot, status)
            assert one.tradable == (status == live)
            assert (one.contract_size, one.inverse) == (None, False)
        seen.add((name, len(instruments) > 100))
    assert seen >= {("binance", True), ("okx", True)}


@needs_shared
def test_okx_derivatives_say_what_a_contract_is_worth() -> None:
    listed = {one.native_symbol: one for one in okx_instruments(SHARED / "cryptofeed" / "OKX_2022-05.jsonl.gz")}
    swap, inverse = listed["BTC-USDT-SWAP"], listed["BTC-USD-SWAP"]
    option = next(one for symbol, one in listed.items() if symbol.startswith("BTC-USD-") and symbol.count("-") == 4)
    assert (swap.symbol, swap.contract_size, swap.inverse) == ("BTC-USDT", "0.01", False)
    assert (inverse.symbol, inverse.contract_size, inverse.inverse) == ("BTC-USD", "100", True)
    assert (option.symbol, option.contract_size, option.inverse) == ("BTC-USD", "0.1", False)


def test_binances_coin_margined_contracts_are_worth_quote_units() -> None:
    # https://developers.binance.com/docs/derivatives/coin-margined-futures/market-data/rest-api/Exchange-Information
    # prints a quarterly contract; a perpetual's terms have the same form.
    documented = {
        "symbol": "BTCUSD_PERP",
        "pair": "BTCUSD",
        "contractType": "PERPETUAL",
        "contractStatus": "TRADING",
        "contractSize": 100,
        "quoteAsset": "USD",
        "baseAsset": "BTC",
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.1"}, {"filterType": "LOT_SIZE", "stepSize": "1"}],
    }
    (one,) = EXCHANGES["binance"].parse_instruments("perp", json.dumps({"symbols": [documented]}).encode())
    assert (one.symbol, one.status, one.tradable) == ("BTC-USD", "TRADING", True)
    assert (one.contract_size, one.inverse) == ("100", True)


@pytest.mark.parametrize("term", ["", "x", "-1", "1e999", "NaN"])
def test_a_term_that_is_no_number_is_unknown(term: str) -> None:
    binance = {"symbol": "AB", "status": "TRADING", "baseAsset": "A", "quoteAsset": "B"}
    filters = [{"filterType": "PRICE_FILTER", "tickSize": term}, {"filterType": "LOT_SIZE", "stepSize": term}]
    okx = {"instId": "A-B", "instType": "SPOT", "state": "live", "baseCcy": "A", "quoteCcy": "B"}
    answers = {
        "binance": {"symbols": [{**binance, "filters": filters}]},
        "okx": {"code": "0", "data": [{**okx, "tickSz": term, "lotSz": term}]},
    }
    for name, answer in answers.items():
        (one,) = EXCHANGES[name].parse_instruments("spot", json.dumps(answer).encode())
        assert (one.tick_size, one.lot_size) == (None, None)


# Perpetuals


@needs_shared
def test_binances_recorded_futures_list_their_perpetuals_alone() -> None:
    path = SHARED / "cryptofeed" / "BINANCE_FUTURES_2021-07.jsonl.gz"
    answer = next(line.frame for line in recorded(path) if line.url is not None and "exchangeInfo" in line.url)
    rows = [row for row in json.loads(answer)["symbols"] if row["contractType"] == "PERPETUAL"]
    instruments = EXCHANGES["binance"].parse_instruments("perp", answer)
    assert len(instruments) == len({one.symbol for one in instruments}) == 119
    for one, row in zip(instruments, rows, strict=True):
        assert (one.market, one.native_symbol) == ("perp", row["symbol"])
        assert one.symbol == f"{row['baseAsset']}-{row['quoteAsset']}"
        assert (one.tradable, one.contract_size, one.inverse) == (True, None, False)
        assert one.tick_size is not None


@needs_shared
def test_okxs_recorded_swaps_are_named_by_their_families() -> None:
    nautilus = jsonl(SHARED / "nautilus" / "fixtures.jsonl")
    answers = [row["body"].encode() for row in nautilus if row["file"].endswith("http_get_instruments_swap.json")]
    path = SHARED / "cryptofeed" / "OKX_2022-05.jsonl.gz"
    answers.append(
        next(line.frame for line in recorded(path) if line.url is not None and line.url.endswith("instType=SWAP"))
    )
    for answer in answers:
        rows = json.loads(answer)["data"]
        instruments = EXCHANGES["okx"].parse_instruments("perp", answer)
        assert len(instruments) == len(rows) >= 3
        for one, row in zip(instruments, rows, strict=True):
            assert one.native_symbol == row["instId"] == f"{one.symbol}-SWAP"
            assert (one.market, one.symbol, one.inverse) == ("perp", row["uly"], row["ctType"] == "inverse")
            assert one.contract_size is not None


@pytest.mark.parametrize("odd", [None, "", "NEW", 5, [], {"a": 1}])
def test_values_that_nobody_has_seen_yet_do_not_stop_a_listing(odd: object) -> None:
    known = {"symbol": "BTCUSDT", "contractType": "PERPETUAL", "baseAsset": "BTC", "quoteAsset": "USDT"}
    filters = [{"filterType": odd}, {"filterType": "PRICE_FILTER", "tickSize": odd}]
    rows = [known | {"status": odd, "filters": filters}, known | {"contractType": odd, "symbol": "OTHER"}]
    (one,) = EXCHANGES["binance"].parse_instruments("perp", json.dumps({"symbols": rows, "new": odd}).encode())
    assert (one.symbol, one.tradable) == ("BTC-USDT", False)


@pytest.mark.parametrize(
    "terms",
    [
        {"ctType": "quanto"},
        {"ctType": ""},
        {"ctVal": ""},
        {"ctVal": "x"},
        {"ctMult": "x"},
        {"ctValCcy": "ETH"},
        {"instType": "FUTURES"},
    ],
)
def test_a_swap_whose_contracts_cannot_become_base_units_is_not_listed(terms: dict[str, str]) -> None:
    swap = {"instId": "BTC-USDT-SWAP", "instType": "SWAP", "state": "live", "instFamily": "BTC-USDT"}
    swap |= {"ctVal": "0.01", "ctMult": "1", "ctType": "linear", "ctValCcy": "BTC"}
    answer = {"code": "0", "data": [swap, swap | terms]}
    (one,) = EXCHANGES["okx"].parse_instruments("perp", json.dumps(answer).encode())
    assert (one.symbol, one.contract_size) == ("BTC-USDT", "0.01")


def test_books_of_usd_m_are_public_and_trades_are_market_data() -> None:
    endpoints = {channel: EXCHANGES["binance"].endpoint("perp", channel) for channel in ("trades", "book")}
    assert (endpoints["book"].name, endpoints["book"].key) == ("binance.perp.public", "ws_public")
    assert (endpoints["trades"].name, endpoints["trades"].key) == ("binance.perp.market", "ws_market")
    urls = EXCHANGES["binance"].OFFERS.endpoints["binance.perp"]
    assert urlsplit(urls["ws_public"]).path == "/public/stream"
    assert urlsplit(urls["ws_market"]).path == "/market/stream"


# https://developers.binance.com/docs/derivatives: what each path carries; the raw trades are undocumented, but public.
USD_M_STREAMS = {
    "ws_public": ["bookTicker", "depth", "depth@100ms", "depth5@500ms", "rpiDepth@500ms", "trade"],
    "ws_market": ["aggTrade", "markPrice", "markPrice@1s", "kline_1m", "ticker", "miniTicker", "forceOrder"],
}


@pytest.mark.parametrize(("key", "stream"), [(key, s) for key, streams in USD_M_STREAMS.items() for s in streams])
def test_a_stream_of_usd_m_goes_to_the_path_that_carries_it(
    key: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(EXCHANGES["binance"])["_STREAMS"], "book", stream)
    assert EXCHANGES["binance"].endpoint("perp", "book").key == key


@pytest.mark.parametrize("stream", ["aggTrades", "avgPrice", "blockTrade", "x", ""])
def test_a_stream_that_no_path_of_usd_m_is_known_to_carry_cannot_be_planned(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(EXCHANGES["binance"])["_STREAMS"], "book", stream)
    with pytest.raises(ValueError, match=f"no path of USD-M is known to carry the stream '{stream}' .*ws_market: aggT"):
        EXCHANGES["binance"].endpoint("perp", "book")


def test_a_fill_that_was_no_trade_in_the_market_keeps_its_place_in_the_sequence() -> None:
    frame = (  # recorded by hftbacktest: usdm_btcusdt_20230405.dat.gz
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1680652874406,"T":1680652874400,"s":"BTCUSDT",'
        b'"t":3535191080,"p":"28722.50","q":"0.001","X":"INSURANCE_FUND","m":true}}'
    )
    decoded = EXCHANGES["binance"].decode(frame)
    assert decoded == Ignored("not a market trade: INSURANCE_FUND", "trades", "BTCUSDT", trade_id=3535191080)
