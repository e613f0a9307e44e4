"""The levels of a batch, read at once, are those that each side has when it is read alone."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from collector_trio.exchanges.wire import parse_levels
from collector_trio.followers.levels import MOST_KEPT, BadSides, Levels

NUMBERS = st.decimals(0, 10**8, places=8, allow_nan=False).map(lambda number: format(number, "f")) | st.sampled_from(
    ["0", "1", "5.", ".5", "0.00000001", "1234567890.12345678", "9007199254740993"]
)
ODD = st.sampled_from(["1e-8", "1.2.3", "", "-1", "nan", "1_0", " 1", "٣", 5, 0.5, None, [], "[", "\n"])


def plain(stride: int) -> st.SearchStrategy[bytes]:
    level = st.lists(NUMBERS, min_size=stride, max_size=stride)
    return st.lists(level, max_size=5).map(lambda side: json.dumps(side, separators=(",", ":")).encode())


def odd(stride: int) -> st.SearchStrategy[bytes]:
    level = st.lists(NUMBERS | ODD, max_size=stride + 1)
    side = st.lists(level, max_size=3).map(lambda side: json.dumps(side, ensure_ascii=False).encode())
    return side | st.sampled_from(
        [b"[5]", b"[.]", b"[[]]", b"{}", b"null", b"", b"[", b"[[\n]]", b'[\n["1","2","0","1"]]', b'["1","2"]']
    )


@settings(deadline=None)
@given(st.data(), st.sampled_from([2, 4]))
def test_a_batch_is_read_as_its_sides_are_read_alone(data: st.DataObject, stride: int) -> None:
    sides = data.draw(st.lists(plain(stride) | plain(stride) | odd(stride), min_size=1, max_size=6))
    expected, bad = [], set()
    for row, side in enumerate(sides):
        try:
            expected.append([(float(price), float(size)) for price, size in parse_levels(side)])
        except ValueError:
            bad.add(row)
    if bad:
        with pytest.raises(BadSides) as raised:
            Levels(list(map(Raw, sides)), stride)
        assert raised.value.problems.keys() <= bad
        return
    levels = Levels(list(map(Raw, sides)), stride)
    pairs = list(zip(levels.prices.tolist(), levels.sizes.tolist(), strict=True))
    ends = levels.offsets.tolist()
    assert [pairs[start:end] for start, end in pairwise(ends)] == expected


def test_a_side_with_more_levels_than_are_known_beforehand_is_plain_too() -> None:
    count = MOST_KEPT + 5
    side = json.dumps([[f"{price}.5", "2"] for price in range(count)], separators=(",", ":")).encode()
    levels = Levels([b"[]", side, b'[["7","8"]]'], 2)
    assert levels.counts.tolist() == [0, count, 1]
    assert levels.prices.tolist() == [*(price + 0.5 for price in range(count)), 7.0]
