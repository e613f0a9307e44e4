"""Where other programs say what a frame means, ours agrees, or the disagreement stands here (and in the document)."""

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from collector_trio.instruments import Instrument

from .readings import SHARED, Folded, Row, difference, fold, jsonl, needs_shared, okx_instruments, read_plainly

pytestmark = needs_shared


@attrs.frozen
class Disagreement:
    """What we make of a frame that another program reads otherwise, and why."""

    ours: str
    why: str


GENERATED = "no exchange sent it: tardis makes these frames from REST answers when it records"
BUFFERED = "tardis holds changes back until it has a snapshot; we store each as published"
V3 = "a frame of API v3, not v5"
OLD_API = "OKX switched API v3 off; nothing that can be subscribed to today looks like this"

# By exchange and index of tardis-node's mapper tests. What tardis maps to types that we do not record yet (tickers,
# liquidations) is no disagreement.
TARDIS = {
    ("binance", 5): Disagreement("ignored channel not recorded: depthSnapshot", GENERATED),
    ("binance", 7): Disagreement("rows", BUFFERED),
    ("binance", 8): Disagreement("rows", BUFFERED),
    ("binance", 9): Disagreement("ignored channel not recorded: depthSnapshot", GENERATED),
    ("binance-futures", 1): Disagreement(
        "reject Object missing required field `a` - at `$.data`",
        "an aggTrade of 2019 without its id; tardis ignores all aggTrades, and a trade without id is no row for us",
    ),
    ("binance-futures", 6): Disagreement("rows", BUFFERED),
    ("binance-futures", 7): Disagreement("ignored channel not recorded: depthSnapshot", GENERATED),
    ("binance-futures", 9): Disagreement("reject no event type, in stream 'btcusdt@openInterest'", GENERATED),
    ("okex-futures", 26): Disagreement("reject unknown channel 'liquidations'", GENERATED),
    ("okex-futures", 27): Disagreement("reject unknown channel 'liquidations'", GENERATED),
} | {
    (exchange, index): Disagreement(f"reject {V3}", OLD_API)
    for exchange, indices in (("okex", range(1, 8)), ("okex-futures", range(1, 18)))
    for index in indices
}


def tardis_pairs() -> list[Any]:
    return [
        pytest.param(exchange, pair, id=f"{exchange}-{pair['index']}")
        for exchange in ("binance", "binance-futures", "okex", "okex-futures")
        for pair in jsonl(SHARED / "tardis-node" / f"{exchange}.pairs.jsonl")
    ]


def summary(folded: Folded) -> str:
    """Say in a few words what became of one frame."""
    return "rows" if folded.rows else " ".join(folded.only)


def micros(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1e6)


def levels(row: Row, side: str) -> list[tuple[float, float]]:
    return list(zip(row[f"{side}_price"], row[f"{side}_size"], strict=True))


@pytest.mark.parametrize(("exchange", "pair"), tardis_pairs() if SHARED.exists() else [])
def test_tardis_reads_it_so(exchange: str, pair: Any) -> None:
    folded = fold("okx" if exchange.startswith("ok") else "binance", [json.dumps(pair["input"]).encode()])
    expected = [row for row in pair["expected"] if row["type"] in ("trade", "book_change")]
    agreed = len(folded.rows) == len(expected) and all(map(same_as_tardis, folded.rows, expected))
    if agreed and not folded.rejects:
        assert (exchange, pair["index"]) not in TARDIS, "an agreement stands in the list of disagreements"
    else:
        assert summary(folded) == TARDIS[exchange, pair["index"]].ours


def same_as_tardis(row: Row, reading: Any) -> bool:
    if row["symbol"] != reading["symbol"] or row["ts"] != micros(reading["timestamp"]):
        return False
    if reading["type"] == "trade":
        ours = str(row["id"]), row["price"], row["size"], row["side"]
        return ours == (reading["id"], reading["price"], reading["amount"], reading["side"])
    theirs = {side: [(level["price"], level["amount"]) for level in reading[side]] for side in ("bids", "asks")}
    return (row["snapshot"], levels(row, "bid"), levels(row, "ask")) == (
        reading["isSnapshot"],
        theirs["bids"],
        theirs["asks"],
    )


# crypto-msg-parser: assertions in Rust about one frame, contracts converted

PUSH_TIME = "their time of a Binance message is E, when it was sent; a trade's is T, when it was matched"
OPTION_CONTRACT = "they take an option's contract for 1 BTC; OKX says ctVal 1 x ctMult 0.1 (0.01 since), so do we"

# By file, module and test: the fields that differ, each with its reason.
PARSER: dict[tuple[str, str, str], dict[str, str]] = {
    ("binance", "trade", "spot"): {"time": PUSH_TIME},
    ("binance", "trade", "inverse_future"): {"time": PUSH_TIME},
    ("binance", "trade", "inverse_swap"): {"time": PUSH_TIME},
    ("binance", "trade", "linear_swap"): {"time": PUSH_TIME},
    ("okx", "l2_event", "option_snapshot"): {"asks[0].quantity_base": OPTION_CONTRACT},
}
# Of what they also read and we do not record: the reason we give, per module.
NOT_RECORDED = {
    ("binance", "bbo"): "ignored channel not recorded: bookTicker",
    ("binance", "candlestick"): "ignored channel not recorded: kline",
    ("binance", "funding_rate"): "ignored channel not recorded: markPriceUpdate",
    ("binance", "l2_event"): "ignored channel not recorded: depth20",
    ("binance", "l2_snapshot"): "ignored a whole book, not a change of one",
    ("binance", "l2_topk"): "ignored channel not recorded: depth20",
    ("binance", "open_interest"): "reject neither an event nor an answer",
    ("binance", "ticker"): "ignored channel not recorded: 24hrTicker",
    ("okx", "bbo"): "ignored channel not recorded: bbo-tbt",
    ("okx", "candlestick"): "ignored channel not recorded: candle1m",
    ("okx", "funding_rate"): "ignored channel not recorded: funding-rate",
    ("okx", "l2_snapshot"): "reject neither an event nor data of a channel",
    ("okx", "l2_topk"): "ignored channel not recorded: books5",
    ("okx", "open_interest"): "reject neither an event nor data of a channel",
    ("okx", "ticker"): "ignored channel not recorded: tickers",
}


def parser_tests() -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{case['module']}-{case['test']}")
        for name in ("binance", "okx", "okx_v3")
        for case in jsonl(SHARED / "crypto-msg-parser" / f"{name}.jsonl")
    ]


@pytest.fixture(scope="module")
def instruments() -> list[Instrument]:
    """What OKX said of the same families in 2022, and the worth of COIN-M contracts, for the contracts of 2021-22."""
    listed = okx_instruments(SHARED / "cryptofeed" / "OKX_2022-05.jsonl.gz")
    found = []
    for native_symbol in ("BTC-USDT-220325", "BTC-USD-220325", "BTC-USD-SWAP", "BTC-USD-220304-32000-P"):
        family, dashes = native_symbol.rpartition("-")[0], native_symbol.count("-")
        family = "BTC-USD-" if dashes == 4 else family
        terms = next(i for i in listed if i.native_symbol.startswith(family) and i.native_symbol.count("-") == dashes)
        found.append(attrs.evolve(terms, native_symbol=native_symbol))
    for native_symbol in (
        "BTCUSD_210625",
        "BTCUSD_PERP",
    ):  # 100 USD each, https://www.binance.com/en/futures/trading-rules
        worth = {"contract_size": "100", "inverse": True}
        found.append(Instrument("binance", "perp", "BTC-USD", native_symbol, "BTC", "USD", "TRADING", True, **worth))
    return found


@pytest.mark.parametrize(("name", "case"), parser_tests() if SHARED.exists() else [])
def test_crypto_msg_parser_reads_it_so(name: str, case: Any, instruments: list[Instrument]) -> None:
    for frame in case["frames"]:
        folded = fold(name.partition("_")[0], [frame.encode()], instruments, market="perp")
        if name == "okx_v3":
            assert summary(folded) == f"reject {V3}"
        elif not folded.rows:
            assert summary(folded) == NOT_RECORDED[name, case["module"]]
        else:
            assert case["module"] in ("trade", "l2_event")
            (row,) = folded.rows
            ours = as_parser_names(row)
            readings = dict(parser_readings(case["expected_source"]))
            assert len(readings) >= 4
            wrong = {field for field, value in readings.items() if not close(ours[field], value)}
            assert wrong == PARSER.get((name, case["module"], case["test"]), {}).keys()


NUMBER = r"-?\d+(?:\.\d+)?"
ARITHMETIC = re.compile(rf"{NUMBER}(?: [*/] {NUMBER})*")


def parser_readings(lines: list[str]) -> Iterator[tuple[str, Any]]:
    """Read `assert_eq!(trade.price, 43474.1);` and its like; the bare number is the message's time."""
    for line in lines:
        if found := re.fullmatch(r"(\d{13}),", line):
            yield "time", int(found[1])
        elif found := re.fullmatch(r"assert!\((!?)orderbook\.snapshot\);", line):
            yield "snapshot", not found[1]
        elif found := re.fullmatch(r"assert_eq!\((?:trade|orderbook)\.([\w.\[\]()]+), (.*)\);", line):
            field = found[1].removesuffix(".unwrap()")
            if not field.endswith(("quantity_quote", "len()")):
                yield field, parser_value(found[2])
            elif field.endswith("len()"):
                yield field, int(found[2])


def parser_value(text: str) -> Any:
    """Evaluate a Rust expression of the kinds that occur."""
    if found := re.fullmatch(r"Some\((.*)\)", text):
        text = found[1]
    if text in ("None", "TradeSide::Buy", "TradeSide::Sell"):
        return {"None": None, "TradeSide::Buy": "buy", "TradeSide::Sell": "sell"}[text]
    assert ARITHMETIC.fullmatch(text), text
    first, *rest = text.split(" ")
    value = float(first)
    for operator, operand in zip(rest[::2], rest[1::2], strict=True):
        value = value * float(operand) if operator == "*" else value / float(operand)
    return value


def as_parser_names(row: Row) -> dict[str, Any]:
    """Return our row under their names."""
    ours = {"time": row["ts"] // 1000, "timestamp": row["ts"] // 1000}
    if "side" in row:
        contracts = row["contracts"] if row["contracts"] is not None else Anything()
        return ours | {
            "side": row["side"],
            "price": row["price"],
            "quantity_base": row["size"],
            "quantity_contract": contracts,
        }
    ours |= {"snapshot": row["snapshot"], "seq_id": row["last_seq"], "prev_seq_id": row["prev_seq"]}
    for side in ("bid", "ask"):
        ours[f"{side}s.len()"] = len(row[f"{side}_price"])
        for index, (price, size) in enumerate(levels(row, side)):
            here = f"{side}s[{index}]"
            ours |= {f"{here}.price": price, f"{here}.quantity_base": size, f"{here}.quantity_contract": Anything()}
    return ours


class Anything:
    """Equal to all: the tables have no column for it (a book's contracts; contracts where sizes are in base units)."""


def close(ours: Any, reading: Any) -> bool:
    if isinstance(ours, Anything):
        return True
    if isinstance(ours, float) and isinstance(reading, float):
        return math.isclose(ours, reading, rel_tol=1e-14)
    return bool(ours == reading)


def test_a_contract_of_binance_usd_m_that_was_margined_in_busd_counts_base_units() -> None:
    frame = {
        "e": "aggTrade",
        "E": 1609830121004,
        "s": "BTCBUSD_210129",
        "a": 1,
        "p": "31799.2",
        "q": "0.5",
        "f": 1,
        "l": 1,
    }
    frame |= {"T": 1609830121004, "m": True}
    (linear,) = fold("binance", [json.dumps(frame).encode()]).trades
    (inverse,) = fold("binance", [json.dumps(frame | {"s": "BNBUSD_220624", "q": "5"}).encode()]).trades
    assert (linear["size"], linear["contracts"]) == (0.5, None)
    assert (inverse["size"], inverse["contracts"]) == (5.0, 5.0)


# barter: structures in Rust. Those with a reading of trades or books, as Python.

NOT_A_MARKET_TRADE = "barter does not read X; INSURANCE_FUND and ADL fills were no trades in the market"
# By file and number of the frame: what they read, or None where they expect an error.
BARTER: dict[tuple[str, int], Row | None] = {
    ("binance_trade", 0): {
        "symbol": "ETHUSDT", "id": 1000000000, "price": 10000.19, "size": 0.239, "side": "buy", "ts": 1749354825200000
    },
    ("binance_trade", 1): None,
    ("binance_trade", 2): {
        "symbol": "ETHUSDT", "id": 1000000000, "price": 10000.19, "size": 0.239, "side": "sell", "ts": 1749354825200000
    },
    ("okx_trade", 0): {
        "symbol": "BTC-USDT", "id": 130639474, "price": 42219.9, "size": 0.12060306, "side": "buy",
        "ts": 1630048897897000,
    },
    ("binance_spot_l2", 0): {
        "symbol": "ETHUSDT", "ts": 1671656397761000, "first_seq": 22611425143, "last_seq": 22611425151,
        "bid_price": [1209.67, 1209.66], "bid_size": [85.4821, 20.6879], "ask_price": [], "ask_size": [],
    },
    ("binance_futures_l2", 0): {  # time_exchange; time_engine is T
        "symbol": "BTCUSDT", "ts": 1571889248277000, "first_seq": 157, "last_seq": 160, "prev_seq": 149,
        "bid_price": [0.0024], "bid_size": [10.0], "ask_price": [0.0026], "ask_size": [100.0],
    },
}  # fmt: skip
BARTER_DISAGREEMENTS = {
    ("binance_trade", 3): Disagreement("ignored not a market trade: LIQUIDATION", NOT_A_MARKET_TRADE),
    ("binance_trade", 4): Disagreement("ignored not a market trade: INSURANCE_FUND", NOT_A_MARKET_TRADE),
    ("binance_subscription", 1): Disagreement(
        "control ack: []", "they take it for a refusal; LIST_SUBSCRIPTIONS answers so, and SUBSCRIBE never does"
    ),
}


def barter_frames(name: str) -> list[bytes]:
    (case,) = jsonl(SHARED / "barter" / f"{name}.jsonl")
    return [frame.encode() for frame in case["frames"]]


@pytest.mark.parametrize(("name", "number"), BARTER)
def test_barter_reads_it_so(name: str, number: int) -> None:
    folded = fold(name.partition("_")[0], [barter_frames(name)[number]])
    reading = BARTER[name, number]
    if reading is None:
        assert summary(folded) == "reject Expected `bool`, got `str` - at `$.m`"
    else:
        (row,) = folded.rows
        assert {field: row[field] for field in reading} == reading


@pytest.mark.parametrize(("name", "number"), BARTER_DISAGREEMENTS)
def test_barter_disagrees(name: str, number: int) -> None:
    folded = fold(name.partition("_")[0], [barter_frames(name)[number]])
    assert summary(folded) == BARTER_DISAGREEMENTS[name, number].ours


def test_barters_answers_to_subscriptions_are_acks_and_an_error() -> None:
    assert summary(fold("binance", barter_frames("binance_subscription")[:1])) == "control ack"
    ack, error = barter_frames("okx_subscription")
    assert summary(fold("okx", [ack])) == "control ack: subscribe"
    assert summary(fold("okx", [error])).startswith('control error: Invalid request: {"op": "subscribe"')


# Frames nobody gave a reading of: plain JSON reads them, and what gives no row says why

TIME = "neither milliseconds nor microseconds since 1970"
# Why frames of these sources are rejected, and how many are. The documentation prints made-up times such as 123456785.
REJECTED = {
    "gocryptotrader": {
        f"time 123456785 is {TIME}": 1,
        f"time 1234567880 is {TIME}": 1,
        "unknown event type 'balanceUpdate'": 1,  # the user data stream, which needs a key
        "unknown event type 'executionReport'": 1,
        "unknown event type 'listStatus'": 1,
        "unknown event type 'outboundAccountPosition'": 1,
    },
    "jkorf": {
        f"time 123456785 is {TIME}": 1,
        f"time 123456789 is {TIME}": 1,
        "action '' is neither snapshot nor update": 1,  # the exchange always says which, their fixture does not
    },
    "l2-orderbook-pipeline": {},
    "nautilus": {f"time 123456785 is {TIME}": 1},
    "transcribed": {},
}


def unread_frames(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield exchange and frame."""
    folder = SHARED / source
    if source == "gocryptotrader":
        for exchange, name in (("binance", "binance_wsHandleData.jsonl"), ("okx", "okx_wsAllTrades.json")):
            for line in (folder / name).read_bytes().splitlines():
                yield exchange, line
    elif source == "jkorf":  # "< answer" and "= update", with |1| in place of the request's number
        for exchange, name in (("binance", "Binance.Net.jsonl"), ("okx", "OKX.Net.jsonl")):
            for fixture in jsonl(folder / name):
                if "/Subscriptions/" in fixture["file"]:
                    for part in re.split(r"^(?=[<>=])", fixture["text"], flags=re.MULTILINE):
                        frame = re.sub(r"\|.*?\|", "1", re.sub(r"^[<=]\d*", "", part)).strip()
                        if part.startswith(("<", "=")) and frame:
                            yield exchange, frame.encode()
    elif source == "l2-orderbook-pipeline":
        for exchange, name in (("binance", "binance_spot.jsonl"), ("okx", "okx_books.jsonl")):
            for fixture in jsonl(folder / name):
                yield exchange, fixture["frame"].encode()
    elif source == "nautilus":
        for fixture in jsonl(folder / "fixtures.jsonl"):
            exchange, name = fixture["file"].split("/")[2], fixture["file"].split("/")[-1]
            if exchange != "deribit" and ("stream" in name or name.startswith("ws_")):
                yield exchange, fixture["body"].encode()
    else:
        for path in sorted(folder.iterdir()):
            for line in path.read_bytes().splitlines():
                yield "binance" if b'"stream"' in line else "okx", line


@pytest.mark.parametrize("source", REJECTED)
def test_every_other_frame_is_read_as_plain_json_reads_it_or_rejected_for_a_listed_reason(source: str) -> None:
    rejected: dict[str, int] = {}
    rows = 0
    for exchange, frame in unread_frames(source):
        folded = fold(exchange, [frame])
        if folded.rejects:
            reason = folded.only[1]
            rejected[reason] = rejected.get(reason, 0) + 1
            continue
        if "channel not recorded" in str(folded.others):
            continue
        expected = read_plainly(exchange, frame)
        assert [difference(ours, row) for ours, row in zip(folded.rows, expected, strict=True)] == [None] * len(
            expected
        )
        rows += len(expected)
    assert rejected == REJECTED[source]
    assert rows >= 1 or source == "nautilus"


# The document


def test_the_document_lists_every_disagreement() -> None:
    text = " ".join(
        (Path(__file__).parents[2] / "docs" / "disagreements.md").read_text(encoding="utf-8").replace("`", "").split()
    )
    reasons = {disagreement.why for disagreement in (*TARDIS.values(), *BARTER_DISAGREEMENTS.values())}
    reasons |= {why for fields in PARSER.values() for why in fields.values()}
    assert [why for why in sorted(reasons) if why.replace("`", "") not in text] == []
