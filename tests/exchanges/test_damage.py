"""Damaged frames give rows, a control message, an ignored frame or a reject: never an exception, and none is lost."""

import copy
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import BookDelta, Links, Trade, Trades
from collector_trio.followers.intake import CHUNK
from collector_trio.instruments import Instrument

from .readings import Folded, difference, fold, read_plainly

DATA = Path(__file__).parents[1] / "data"
MASKS = (1, 2, 4, 8, 16, 32, 64, 128, 0xFF)  # all single-bit flips, and all bits at once
SHORT = 1000  # bytes; of longer frames a sample of positions is damaged
SAMPLES = 20
SEED = 20261123


@attrs.frozen
class Fixture:
    exchange: str
    origin: str
    frame: bytes


def fixtures() -> list[Fixture]:
    found = []
    for path in sorted(DATA.glob("*/*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            frame = json.loads(line)["frame"].encode()
            found.append(Fixture(path.parent.name, f"{path.parent.name}-{path.stem}-{number}", frame))
    return found


FIXTURES = fixtures()
every_frame = pytest.mark.parametrize("fixture", FIXTURES, ids=[fixture.origin for fixture in FIXTURES])

# As https://github.com/binance/binance-spot-api-docs and https://www.okx.com/docs-v5/en/ print them: nobody's recording
# holds one.
DOCUMENTED = [
    Fixture("binance", "error, nested", b'{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":1}'),
    Fixture("binance", "error, flat", b'{"code":2,"msg":"Invalid request: unknown variant","id":1}'),
    Fixture("binance", "subscriptions", b'{"result":["btcusdt@aggTrade"],"id":3}'),
    Fixture("binance", "shutdown", b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'),
    Fixture(
        "okx", "notice", b'{"event":"notice","code":"64008","msg":"The connection will soon be closed","connId":"a"}'
    ),
    Fixture("okx", "pong", b"pong"),
    Fixture(
        "okx",
        "refusal",
        b'{"id":"1","event":"error","code":"60018","msg":"Wrong URL or channel:books,instId:FOO-USDT doesn\'t exist."}',
    ),
]

# Contracts are converted: their way through the columns must bear damage too.
PERPETUALS = [
    Instrument("binance", "perp", "BTC-USD", "BTCUSD_PERP", "BTC", "USD", "TRADING", True, None, None, "100", True),
    Instrument("okx", "perp", "BTC-USD", "UNI-USD-SWAP", "UNI", "USD", "live", True, "0.001", "1", "10", True),
    Instrument("okx", "perp", "BTC-USDT", "BTC-USDT-220325", "BTC", "USDT", "live", True, "0.1", "1", "0.01"),
]


def check_beside(fixture: Fixture, frames: Sequence[bytes]) -> Folded:
    """Check `frames`, variants of the fixture, and that the whole one behind them is not touched by their damage."""
    alone = check(fixture.exchange, [fixture.frame]).rows
    folded = check(fixture.exchange, [*frames, fixture.frame])
    beside = [row for row in folded.rows if row["frame"] == len(frames) + 1]
    assert [{**row, "frame": 1} for row in beside] == alone
    return folded


def check(exchange: str, frames: Sequence[bytes]) -> Folded:
    """Fold `frames`; each must be accounted for once, and what became rows must hold what a table can."""
    for frame in frames:
        check_together(exchange, [frame])
    folded = fold(exchange, frames, PERPETUALS)
    counts = folded.counts
    assert counts.keys() <= {"rows", "control", "ignored", "rejected"}
    assert counts.total() == len(frames)
    with_rows = {row["frame"] for row in folded.rows}
    assert len(with_rows) == counts["rows"]
    assert with_rows | folded.others.keys() == set(range(1, len(frames) + 1))
    assert len(with_rows) + len(folded.others) == len(frames)
    classes = [what for what, _ in folded.others.values()]
    assert (classes.count("control"), classes.count("ignored")) == (counts["control"], counts["ignored"])
    assert len(folded.rejects) == classes.count("reject") == counts["rejected"]
    for row in folded.rejects:
        assert row["reason"]
        assert row["text"] == frames[row["frame"] - 1].decode("utf-8", "backslashreplace")
    for row in folded.trades:
        assert row["symbol"]
        assert row["side"] in ("buy", "sell")
        assert 0 <= row["price"] < float("inf")
        assert 0 <= row["size"] < float("inf")
    for row in folded.book:
        assert row["symbol"]
        for side in ("bid", "ask"):
            assert len(row[f"{side}_price"]) == len(row[f"{side}_size"])
            assert all(0 <= number < float("inf") for number in row[f"{side}_price"] + row[f"{side}_size"])
    return folded


def check_together(exchange: str, frames: Sequence[bytes]) -> bool:
    """Read trades together; tell whether that could be done. It must say what reading them one by one does."""
    found = EXCHANGES[exchange].decode_trades(frames)
    if found is None:
        return False
    trades, where = found
    alone = Trades()
    for n in where:
        said = EXCHANGES[exchange].decode(frames[n])
        assert isinstance(said, (tuple, list))
        (trade,) = said
        assert isinstance(trade, Trade)
        assert trade.covers == 1
        alone.append(trade)
    assert attrs.asdict(trades) == attrs.asdict(alone)
    return True


def check_numbers_together(exchange: str, frames: Sequence[bytes]) -> bool:
    """Read trades and changes together; tell whether that could be done. It must say what reading them one by one
    does.
    """
    found = EXCHANGES[exchange].decode_together(frames)
    if found is None:
        return False
    trades, links = Trades(), Links()
    for n, frame in enumerate(frames):
        said = EXCHANGES[exchange].decode(frame)
        assert isinstance(said, (tuple, list))
        (row,) = said
        assert (n in found.trades_at, n in found.links_at) == (isinstance(row, Trade), isinstance(row, BookDelta))
        if isinstance(row, Trade):
            assert row.covers == 1
            trades.append(row)
        else:
            assert not row.snapshot
            assert row.prev_seq is not None
            assert row.last_seq is not None
            links.native_symbols.append(row.native_symbol)
            links.prev_seqs.append(row.prev_seq)
            links.last_seqs.append(row.last_seq)
            links.exchange_ns.append(row.exchange_ns)
    assert attrs.asdict(found.trades) == attrs.asdict(trades)
    assert found.links == links
    return True


def damaged(frame: bytes, positions: Iterable[int]) -> list[bytes]:
    """Flip bits of each byte, and make a point of each digit: to the fast reading of levels it looks like one."""
    return [
        frame[:position] + bytes([byte]) + frame[position + 1 :]
        for position in positions
        for byte in {*(frame[position] ^ mask for mask in MASKS), *(b"." if chr(frame[position]).isdigit() else b"")}
    ]


def positions(frame: bytes) -> Sequence[int]:
    if len(frame) <= SHORT:
        return range(len(frame))
    print(f"damaged at {SAMPLES} of {len(frame)} positions, seed {SEED}")  # shown when it fails
    return sorted(random.Random(SEED).sample(range(len(frame)), SAMPLES))


def test_at_least_fifty_frames_of_both_exchanges_are_damaged() -> None:
    assert len(FIXTURES) >= 50
    assert {fixture.exchange for fixture in FIXTURES} == EXCHANGES.keys()
    assert len({fixture.frame for fixture in FIXTURES}) == len(FIXTURES)
    classes = {what for fixture in FIXTURES for what in check(fixture.exchange, [fixture.frame]).counts}
    assert classes == {"rows", "control", "ignored", "rejected"}


@every_frame
def test_whole_it_is_what_plain_json_reads(fixture: Fixture) -> None:
    folded = check(fixture.exchange, [fixture.frame])
    if folded.rows:
        expected = read_plainly(fixture.exchange, fixture.frame)
        contracts = [row["symbol"] for row in folded.rows] != [row.native_symbol for row in expected]
        assert contracts or list(map(difference, folded.rows, expected)) == [None] * len(expected)


@pytest.mark.parametrize("fixture", FIXTURES + DOCUMENTED, ids=lambda fixture: fixture.origin)
def test_any_byte_may_be_damaged(fixture: Fixture) -> None:
    check_beside(fixture, damaged(fixture.frame, positions(fixture.frame)))


@pytest.mark.parametrize("fixture", FIXTURES + DOCUMENTED, ids=lambda fixture: fixture.origin)
def test_cut_off_anywhere_it_is_rejected(fixture: Fixture) -> None:
    cuts = [fixture.frame[:length] for length in positions(fixture.frame)]
    folded = check_beside(fixture, cuts)
    whole = [cut for cut in cuts if cut.strip() == fixture.frame.strip()]  # only white space was lost
    assert folded.counts["rejected"] >= len(cuts) - len(whole)


TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255335,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000",'
    b'"q":"0.02000000","T":1723161255342,"m":true,"M":true}}'
)
DEPTH = (
    b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1783763843614,"s":"BTCUSDT","U":97274742098,'
    b'"u":97274742101,"b":[["57758.25000000","0.00693000"],["57758.00000000","0.03462000"]],"a":[]}}'
)
BOOKS = (
    b'{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"update","data":[{"asks":[["64220.9","0","0","0"],'
    b'["64221.1","0.14394063","0","1"]],"bids":[],"ts":"1783786806308","checksum":0,"seqId":78677952860,'
    b'"prevSeqId":78677952829}]}'
)


OKX_TRADE = (
    b'{"arg":{"channel":"trades-all","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","tradeId":"130639474",'
    b'"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897"}]}'
)


@pytest.mark.parametrize(
    ("exchange", "trade", "others"),
    [
        ("binance", TRADE, DEPTH),
        ("binance", TRADE.replace(b'"s"', b'"a":5,"f":7,"l":9,"s"').replace(b"trade", b"aggTrade"), b"not JSON"),
        ("okx", OKX_TRADE, BOOKS),
        ("okx", OKX_TRADE.replace(b"-SWAP", b""), b"pong"),
    ],
)
def test_trades_are_read_together_as_they_are_alone_with_or_without_others_between(
    exchange: str, trade: bytes, others: bytes
) -> None:
    for frames in ([trade] * 3, [trade, others, trade], [others, trade, trade], [others, others]):
        assert check_together(exchange, frames)
        found = EXCHANGES[exchange].decode_trades(frames)
        assert found is not None
        assert list(found[1]) == [n for n, frame in enumerate(frames) if frame is trade]


@pytest.mark.parametrize(
    ("exchange", "trade"),
    [
        ("binance", TRADE.replace(b'"M":true', b'"st":2')),
        ("binance", TRADE.replace(b"BTCUSDT", b"BTCUSD_PERP")),
        ("binance", TRADE.replace(b'"M":true', b'"X":"ADL"')),
        ("okx", OKX_TRADE.replace(b'"buy"', b'"buy","count":"3"')),
        ("okx", OKX_TRADE.replace(b"trades-all", b"trades")),
        ("okx", OKX_TRADE.replace(b"[", b"[" + OKX_TRADE[OKX_TRADE.index(b"[") + 1 : -2] + b",")),
    ],
)
def test_what_is_more_than_a_plain_trade_is_looked_at_alone(exchange: str, trade: bytes) -> None:
    assert not check_together(exchange, [trade])


PERP_DEPTH = DEPTH.replace(b'"b":', b'"pu":97274742090,"b":')


@pytest.mark.parametrize(
    ("exchange", "trade", "change"),
    [("binance", TRADE, DEPTH), ("binance", TRADE, PERP_DEPTH), ("okx", OKX_TRADE, BOOKS)],
)
def test_trades_and_changes_are_read_together_as_they_are_alone(exchange: str, trade: bytes, change: bytes) -> None:
    for frames in ([trade, trade], [change, change], [trade, change, change, trade]):
        assert check_numbers_together(exchange, frames)


@pytest.mark.parametrize(
    ("exchange", "frame"),
    [
        ("binance", b"not JSON"),
        ("binance", b'{"result":null,"id":1}'),
        ("binance", DEPTH.replace(b"@depth@100ms", b"@depth20@100ms")),
        ("binance", DEPTH.replace(b"1783763843614", b"0")),
        ("binance", TRADE.replace(b'"M":true', b'"st":2')),
        ("okx", b"pong"),
        ("okx", BOOKS.replace(b"update", b"snapshot")),
        ("okx", BOOKS.replace(b"update", b"upset")),
        ("okx", BOOKS.replace(b"BTC-USDT", b"")),
        ("okx", BOOKS.replace(b"78677952829", b"78677952860")),
        ("okx", BOOKS.replace(b'"seqId":78677952860,', b"")),
        ("okx", BOOKS.replace(b',"prevSeqId":78677952829', b"")),
        ("okx", BOOKS.replace(b"1783786806308", b"0")),
        ("okx", BOOKS.replace(b'"data":[', b'"data":[' + BOOKS[BOOKS.index(b'"data":[') + 8 : -2] + b",")),
        ("okx", OKX_TRADE.replace(b'"buy"', b'"buy","count":"3"')),
    ],
)
def test_what_is_neither_a_plain_trade_nor_a_plain_change_keeps_a_read_from_being_read_together(
    exchange: str, frame: bytes
) -> None:
    good = {"binance": DEPTH, "okx": BOOKS}[exchange]
    assert check_numbers_together(exchange, [good, good])
    assert not check_numbers_together(exchange, [good, frame, good])


@pytest.mark.parametrize(
    ("exchange", "frame"),
    [("binance", DEPTH), ("binance", PERP_DEPTH), ("binance", TRADE), ("okx", BOOKS), ("okx", OKX_TRADE)],
)
def test_what_is_damaged_is_never_read_together_with_others_as_something_else(exchange: str, frame: bytes) -> None:
    for variant in damaged(frame, positions(frame)):
        check_numbers_together(exchange, [frame, variant, frame])


@pytest.mark.parametrize(("exchange", "trade"), [("binance", TRADE), ("okx", OKX_TRADE)])
def test_a_trade_that_is_damaged_is_never_read_together_with_others_as_another_one(exchange: str, trade: bytes) -> None:
    for variant in damaged(trade, positions(trade)):
        check_together(exchange, [trade, variant, trade])
        check_together(exchange, [variant, trade])


# A value may become any other


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.5, 1e300, 2**63, 2**64, 10**400, "", " ", "x", "0", "-1", "+1", "1_0", "1 ",
    "٣", "1.2.3", ".", "1.", ".5", "1e5", "1e-18", "1e400", "1e999999999", "1e-999999999", "NaN", "Infinity", "-0",
    "0x10", "0.000000000000000001", "9007199254740993", "1" * 310, "null", "true", [], [[]], [None], {}, {"e": "trade"},
    [[[]]], [5], ["1", "2"], [["1", "2"]], [["1", "2", "", ""]], [["1", "2", None, []]], [["1"]], [[1, 2.50]],
    [["1", "-2"]], [["1", "2"], {}], "btcusdt@trade", "\x00", "é\U0001f600",
]  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each value in some JSON stands; of long lists the beginning and the end."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from paths(value[index], (*path, index))


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    whole = copy.copy(value)
    whole[path[0]] = replaced(value[path[0]], path[1:], odd)
    return whole


def removed(value: Any, path: tuple[Any, ...]) -> Any:
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return whole


@every_frame
def test_any_value_may_be_another_one_or_missing(fixture: Fixture) -> None:
    if len(fixture.frame) > SHORT:
        pytest.skip("the shorter frames have the same shape")
    value = json.loads(fixture.frame)
    odd = [replaced(value, path, odd) for path in paths(value) for odd in ODD]
    odd += [removed(value, path) for path in paths(value) if path]
    spelled = [json.dumps(frame, ensure_ascii=index % 2 == 0) for index, frame in enumerate(odd)]
    check_beside(fixture, [frame.encode() for frame in spelled])


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_any_nesting_is_survived(exchange: str) -> None:
    depths = [*range(100, 1100, 7), *range(900, 1010), 5_000, 100_000]
    asks = BOOKS.index(b'[["64220')
    shapes = [
        (b"", b"[", b"]", b""),
        (b"", b'{"e":', b"}", b""),
        (b"", b'{"data":', b"}", b""),
        (b"", b'{"stream":"x@depth","data":', b"}", b""),
        (b"", b'{"arg":', b"}", b""),
        (b'{"id":1,"result":', b"[", b"]", b"}"),
        (b'{"e":', b"[", b"]", b"}"),
        (b'{"event":"error","msg":', b'{"a":', b"}", b"}"),
        (b'{"arg":{"channel":', b"[", b"]", b'},"data":[]}'),
        (BOOKS[:asks], b"[", b"]", b"}]}"),
        (DEPTH[: DEPTH.index(b'[["57758')], b"[", b"]", b"}}"),
    ]
    frames = [
        head + opening * depth + b"1" + closing * depth + tail
        for head, opening, closing, tail in shapes
        for depth in depths
    ]
    for frame in frames:  # one by one: the depth at hand depends on who calls
        EXCHANGES[exchange].decode(frame)
    check(exchange, frames[::5])


def rewritten(frame: bytes, old: bytes, new: bytes) -> bytes:
    assert frame.count(old) == 1
    return frame.replace(old, new)


@pytest.mark.parametrize(
    ("exchange", "frame", "old", "new"),
    [
        ("binance", TRADE, b'"61837.63000000"', b"61837.63000000"),
        ("binance", TRADE, b'"61837.63000000"', b'"6.183763E+4"'),
        ("binance", TRADE, b'"0.02000000"', b"2e-2"),
        ("binance", TRADE, b"1723161255342", b'"1723161255342"'),
        ("binance", TRADE, b"3735683259", b'"3735683259"'),
        ("binance", TRADE, b'"M":true', b'"M":true,"new":{"field":[1,2]}'),
        ("binance", TRADE, b'"p":"61837.63000000"', b'"p":"1","p":"61837.63000000"'),
        ("binance", DEPTH, b'["57758.25000000","0.00693000"]', b"[57758.25000000,0.00693000]"),
        ("binance", DEPTH, b'["57758.25000000","0.00693000"]', b'["57758.25000000","0.00693000","new"]'),
        ("binance", DEPTH, b'["57758.25000000","0.00693000"]', b'["5.775825e4","6.93e-3"]'),
        ("binance", DEPTH, b'"E":1783763843614', b'"E":1783763843614000'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b'["64221.1","0.14394063","0","1","5"]'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b'["64221.1","0.14394063"]'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b'["64221.1","0.14394063",null,"1"]'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b'["64221.1","0.14394063","","one"]'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b'["64221.1","0.14394063","","."]'),
        ("okx", BOOKS, b'["64221.1","0.14394063","0","1"]', b"[64221.1, 0.14394063, 0, 1]"),
        ("okx", BOOKS, b'"1783786806308"', b"1783786806308"),
        ("okx", BOOKS, b"78677952860", b'"78677952860"'),
    ],
)
def test_another_spelling_of_the_same_is_the_same_row(exchange: str, frame: bytes, old: bytes, new: bytes) -> None:
    (row,) = check(exchange, [frame]).rows
    assert check(exchange, [rewritten(frame, old, new)]).rows == [row]


@pytest.mark.parametrize(("exchange", "frame"), [("binance", TRADE), ("binance", DEPTH), ("okx", BOOKS)])
def test_white_space_and_the_order_of_keys_mean_nothing(exchange: str, frame: bytes) -> None:
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return [backwards(inner) for inner in value] if isinstance(value, list) else value

    (row,) = check(exchange, [frame]).rows
    pretty = json.dumps(json.loads(frame), indent=2).encode()
    turned = json.dumps(backwards(json.loads(frame))).encode()
    assert [{**other, "frame": 1} for other in check(exchange, [pretty, turned]).rows] == [row, row]


def test_digits_that_float64_cannot_hold_are_kept_as_text() -> None:
    trade = rewritten(TRADE, b'"0.02000000"', b'"123456789.123456789012345678"')
    (row,) = check("binance", [trade]).trades
    assert json.loads(row["exact"]) == {"size": "123456789.123456789012345678"}
    depth = rewritten(DEPTH, b'"0.00693000"', b'"9007199254740993"')
    (row,) = check("binance", [depth]).book
    assert json.loads(row["exact"]) == {"bid_size": ["9007199254740993", "0.03462000"]}
    (row,) = check("binance", [rewritten(DEPTH, b'"0.00693000"', b'"9007199254740992.0"')]).book
    assert row["exact"] is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"61837.63000000"', b'"NaN"', "price 'NaN' or size '0.02000000' is not a number"),
        (b'"61837.63000000"', b'"Infinity"', "price 'Infinity' or size '0.02000000' is not a number"),
        (b'"61837.63000000"', b'"-1"', "price '-1' or size '0.02000000' is not a number"),
        (b'"61837.63000000"', b"NaN", "not JSON: JSON is malformed: invalid character (byte 97)"),
        (b'"61837.63000000"', b"null", "Expected `str`, got `null` - at `$.data.p`"),
        (b'"BTCUSDT"', b'""', "Expected `str` of length >= 1 - at `$.data.s`"),
        (b'"BTCUSDT"', b'"\\ud800"', "not JSON: JSON is malformed: unexpected end of escaped utf-16 surrogate"),
        (b'"BTCUSDT"', b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"1723161255342", b"9223372036855", "time 9223372036855 is neither milliseconds nor microseconds since 1970"),
        (b"1723161255342", b"123456785", "time 123456785 is neither milliseconds nor microseconds since 1970"),
        (b"3735683259", b"9223372036854775808", "Expected `int` <= 9223372036854775807 - at `$.data.t`"),
        (b"3735683259", b"-1", "Expected `int` >= 0 - at `$.data.t`"),
        (b'"e":"trade"', b'"e":["trade"]', "unknown event type \"['trade']\""),
        (b'"m":true', b'"m":"yes"', "Expected `bool`, got `str` - at `$.data.m`"),
    ],
)  # fmt: skip
def test_a_trade_that_cannot_be_one_is_rejected_with_its_reason(old: bytes, new: bytes, reason: str) -> None:
    assert reason in check("binance", [rewritten(TRADE, old, new)]).only[1]


@pytest.mark.parametrize("frame", [b"", b" ", b"\n", b"\x00", b"\xff\xfe", b"null", b"0", b'""', b"[]", b"{}", b"nan"])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_is_no_frame_at_all_is_rejected(exchange: str, frame: bytes) -> None:
    assert check(exchange, [frame]).counts == {"rejected": 1}


def test_one_bad_level_rejects_its_frame_whole_and_no_other() -> None:
    bad = rewritten(BOOKS, b'"64221.1"', b'"64.221.1"')
    two = json.loads(BOOKS)
    two["data"].append(json.loads(bad)["data"][0])
    half_bad = json.dumps(two).encode()
    frames = [BOOKS, bad, BOOKS, half_bad, BOOKS]
    folded = check("okx", frames)
    assert [row["frame"] for row in folded.book] == [1, 3, 5]
    assert {row["text"].encode() for row in folded.rejects} == {bad, half_bad}
    reason = "level ['64.221.1', '0.14394063', '0', '1'] is not a price and a size"
    assert [row["reason"] for row in folded.rejects] == [reason, reason]


def test_a_frame_that_ends_a_chunk_is_withdrawn_whole() -> None:
    two = json.loads(BOOKS)
    two["data"].append(json.loads(rewritten(BOOKS, b'"64221.1"', b'"64.221.1"'))["data"][0])
    folded = check("okx", [BOOKS] * (CHUNK - 1) + [json.dumps(two).encode()])
    assert (folded.counts["rows"], folded.counts["rejected"], len(folded.book)) == (CHUNK - 1, 1, CHUNK - 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["trade", "books", "1", "e"]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["e", "s", "data", "arg", "stream", "event"]), inner)
    ),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()), min_size=1, max_size=10))
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_any_bytes_and_any_json_are_accounted_for(exchange: str, frames: list[bytes]) -> None:
    check(exchange, frames)
