"""Contracts become base units as decimals do: the float64 next to the product, and its text where that is not it."""

import json
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector_trio.continuity.fold import Continuity
from collector_trio.followers.columns import floats
from collector_trio.followers.contracts import base_units
from collector_trio.followers.fold import Fold
from collector_trio.instruments import Instrument, Naming
from collector_trio.journal.records import Batch, Letter, Note

EXACT = Context(prec=1000, Emax=MAX_EMAX, Emin=MIN_EMIN)
SIZES = ["0.01", "10", "0.0001", "100000", "0.1", "1", "100", "3", "0.001234567", "1000000000000", "0.0000000000000001"]
COUNTS = (
    st.integers(0, 10**6).map(str)
    | st.integers(0, 10**18).map(str)
    | st.decimals(0, 10**9, places=2, allow_nan=False).map(lambda count: format(count, "f"))
    | st.decimals(0, 10**14, places=9, allow_nan=False).map(lambda count: format(count, "f"))
)


def swap(size: str | None, *, inverse: bool = False, native: str = "BTC-USDT-SWAP") -> Instrument:
    return Instrument("okx", "perp", "BTC-USDT", native, "BTC", "USDT", "live", True, "0.1", "1", size, inverse)


def worth(counts: list[str], size: str | None) -> tuple[list[float], dict[int, str]]:
    numbers, texts = floats(counts)
    whose = np.zeros(len(counts), dtype=np.int32)
    values, exact = base_units(numbers, texts, np.ones(len(counts)), [swap(size)], whose)
    return values.tolist(), exact


@settings(deadline=None)  # the first example pays for what is imported late
@given(st.lists(COUNTS, min_size=1, max_size=30), st.sampled_from(SIZES))
def test_a_size_is_the_float_next_to_the_decimal_product_and_its_text_stands_where_it_is_not_the_product(
    counts: list[str], size: str
) -> None:
    products = [EXACT.multiply(Decimal(count), Decimal(size)) for count in counts]
    values, exact = worth(counts, size)
    assert values == [float(product) for product in products]
    held = [Decimal(repr(value)) == product for value, product in zip(values, products, strict=True)]
    assert exact.keys() == {index for index, is_held in enumerate(held) if not is_held}
    assert {index: Decimal(text) for index, text in exact.items()} == {index: products[index] for index in exact}


@pytest.mark.parametrize(
    ("count", "size", "value"), [("3", "0.1", 0.3), ("7", "0.01", 0.07), ("1.1", "100", 110.0), ("0.7", "0.1", 0.07)]
)
def test_products_that_floats_get_wrong_come_out_right(count: str, size: str, value: float) -> None:
    assert worth([count], size) == ([value], {})


@settings(deadline=None)
@given(st.lists(COUNTS, min_size=1, max_size=30))
def test_sizes_without_a_contract_size_stay_what_they_are(counts: list[str]) -> None:
    values, exact = worth(counts, None)
    assert values == list(map(float, counts))
    assert exact == {i: text for i, text in enumerate(counts) if Decimal(repr(float(text))) != Decimal(text)}


@settings(deadline=None)
@given(st.lists(COUNTS | st.sampled_from(["+1", "1e-8", ".5", "5.", "1E3"]), max_size=30))
def test_numbers_of_a_batch_are_read_as_python_reads_each(texts: list[str]) -> None:
    values, exact = floats(texts)
    assert values.tolist() == list(map(float, texts))
    assert exact == {i: text for i, text in enumerate(texts) if Decimal(repr(float(text))) != Decimal(text)}


# In the tables

LONG = "1234567890.12345678"  # contracts that float64 cannot hold; nor what they are worth
WORTH = {"0.1": "123456789.012345678", "100": "123456789012.345678"}


def trade(number: int, size: str, native: str = "BTC-USDT-SWAP") -> bytes:
    row = {"instId": native, "tradeId": str(number), "px": "64221.1", "sz": size, "side": "buy", "ts": "1723161255342"}
    return json.dumps({"arg": {"channel": "trades-all", "instId": native}, "data": [row]}).encode()


def book(seq: int, previous: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    sides = {side: [[*level, "0", "1"] for level in levels] for side, levels in (("bids", bids), ("asks", asks))}
    row = {**sides, "ts": "1723161255342", "seqId": seq, "prevSeqId": previous}
    action = "snapshot" if previous == -1 else "update"
    return json.dumps(
        {"arg": {"channel": "books", "instId": "BTC-USDT-SWAP"}, "action": action, "data": [row]}
    ).encode()


def rows(instrument: Instrument, frames: list[bytes]) -> dict[str, list[dict[str, Any]]]:
    naming = Naming()
    naming.add([instrument])
    fold = Fold(naming, continuity=Continuity())
    opened = {"session": 1, "exchange": "okx", "markets": ["perp"], "stream": "test/1"}
    fold.feed(Note(Letter.OPENED, 1, opened))
    fold.feed(Batch(1, 2, 1, frames))
    names = ["exact", "price", "size", "contracts", "bid_size", "ask_size"]
    found = {}
    for (table, _, _), chunk in fold.take().items():
        chunk = chunk.select([name for name in names if name in chunk.column_names])
        found[table] = [
            row | {"exact": None if row["exact"] is None else json.loads(row["exact"])} for row in chunk.to_pylist()
        ]
    return found


@pytest.mark.parametrize("size", WORTH)
def test_a_trade_keeps_the_exchanges_own_number_and_the_product_where_float64_cannot(size: str) -> None:
    first, second = rows(swap(size), [trade(1, LONG), trade(2, "3")])["trades"]
    assert first["exact"] == {"contracts": LONG, "size": WORTH[size]}
    assert (first["contracts"], first["size"]) == (float(LONG), float(WORTH[size]))
    assert (second["exact"], second["contracts"], second["size"]) == (None, 3.0, float(Decimal(size) * 3))


def test_a_product_may_be_inexact_though_the_contracts_are_not() -> None:
    (row,) = rows(swap("0.001234567"), [trade(1, "9234567891.5")])["trades"]
    product = str(Decimal("9234567891.5") * Decimal("0.001234567"))
    assert row["exact"] == {"size": product}
    assert (row["size"], row["contracts"]) == (float(product), 9234567891.5)


def test_the_worth_of_an_inverse_contract_is_a_quotient_and_has_no_exact_text() -> None:
    (row,) = rows(swap("100", inverse=True), [trade(1, LONG)])["trades"]
    assert row["exact"] == {"contracts": LONG}


def test_a_contract_nobody_described_counts_as_it_is() -> None:
    (row,) = rows(swap(None), [trade(1, LONG)])["trades"]
    assert row["exact"] == {"contracts": LONG, "size": LONG}


def test_a_book_keeps_the_products_where_float64_cannot_and_so_does_the_whole_book() -> None:
    frames = [
        book(1, -1, [["64221.1", LONG], ["64221.0", "3"]], [["64221.2", "2"]]),
        book(2, 1, [["64220.9", "7"]], []),
        book(3, 2, [["64221.1", "0"]], [["64221.3", LONG]]),
    ]
    found = rows(swap("0.1"), frames)
    products = {"bid_size": ["123456789.012345678", "0.3"]}
    assert [row["exact"] for row in found["book"]] == [products, None, {"ask_size": ["123456789.012345678"]}]
    assert [row["bid_size"] for row in found["book"]] == [[float(WORTH["0.1"]), 0.3], [0.7], [0.0]]
    (whole,) = found["book_snapshots"]
    assert whole["exact"] == {"bid_price": ["64221.1", "64221.0"], **products}
    assert whole["bid_size"] == [float(WORTH["0.1"]), 0.3]
