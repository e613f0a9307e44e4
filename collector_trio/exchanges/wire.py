"""What JSON from any exchange needs: a second, tolerant reading, and checks that a text is a number."""

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise

# What fits a column of 64-bit integers and a nanosecond timestamp; anything else in a frame is damage.
MAX_INT = 2**63 - 1
# Numbers within these bounds are finite in float64 and can be spelled out at no cost ("1e999999999" cannot).
_MAX_EXPONENT = 300


def all_text(frame: bytes) -> bytes:
    """Return the same JSON with every number as a string, digits unchanged.

    For the second reading of a frame that broke its documented types: exchanges have sent numbers where strings were
    promised. Raises ValueError (also for nesting deeper than the parser's bound).
    """
    try:
        return json.dumps(json.loads(frame, parse_float=str, parse_int=str)).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


# Stamps between these are milliseconds: from 1973, where those of microseconds begin, to 2262, where 64 bits of
# nanoseconds end.
FIRST_MS, LAST_MS = 10**11, MAX_INT // 1_000_000


def exchange_ns(stamp: int) -> int:
    """Turn a stamp of milliseconds (13 digits) or microseconds (16 digits) since the epoch into nanoseconds.

    Raises ValueError for what is neither, or lies behind the year 2262, which 64 bits of nanoseconds end in.
    """
    if FIRST_MS <= stamp <= LAST_MS:
        return stamp * 1_000_000
    if 10**14 <= stamp <= MAX_INT // 1_000:
        return stamp * 1_000
    raise ValueError(f"time {stamp} is neither milliseconds nor microseconds since 1970")


def is_number(text: str) -> bool:
    """Tell whether `text` is a number float64 can hold, not negative, plain or in scientific notation."""
    if len(text) > _MAX_EXPONENT or not text.isascii():
        return False
    if text.replace(".", "", 1).isdecimal():
        return True
    try:
        number = Decimal(text)
    except InvalidOperation:
        return False
    plain = "_" not in text and text == text.strip()
    return plain and number.is_finite() and not number.is_signed() and abs(number.adjusted()) <= _MAX_EXPONENT


def are_numbers(price: str, size: str) -> bool:
    """Tell whether both are: what `is_number` says of each, in one look where they are spelled plainly."""
    return _two_plain(f"{price} {size}") is not None or (is_number(price) and is_number(size))


# With one space in it the text has no other between two numbers; each is far shorter than `is_number` allows.
_two_plain = re.compile(r"[0-9]{1,99}\.?[0-9]{0,99} [0-9]{1,99}\.?[0-9]{0,99}").fullmatch


def all_plain(prices: Sequence[str], sizes: Sequence[str]) -> bool:
    """Tell whether all are plainly spelled numbers: then `are_numbers` says so of each."""
    text = " ".join(prices) + " " + " ".join(sizes) + " "
    return text.count(" ") == len(prices) + len(sizes) and _all_plain(text) is not None


# Atomic, for there is nothing to go back for: a number can be cut in many ways.
_all_plain = re.compile(r"(?>[0-9]{1,99}\.?[0-9]{0,99} )*+").fullmatch


def number_or_none(text: str | None) -> str | None:
    """Return `text` if it is a number. REST answers leave terms empty that an instrument does not have."""
    return text if text is not None and is_number(text) else None


def parse_levels(side: bytes) -> list[tuple[str, str]]:
    """Read one side of a book, level by level: the careful way, for what the fast one does not take.

    Elements behind price and size are ignored, numbers may stand without quotes. Raises ValueError for anything else.
    """
    try:
        levels = json.loads(side, parse_float=str, parse_int=str)
        if not isinstance(levels, list):
            raise ValueError(f"{levels!r:.80} is not a list of levels")
        for level in levels:
            if not isinstance(level, list) or len(level) < 2:
                raise ValueError(f"level {level!r:.80} has no price and size")
            price, size = level[:2]
            if not (isinstance(price, str) and isinstance(size, str) and are_numbers(price, size)):
                raise ValueError(f"level {level!r:.80} is not a price and a size")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return [(price, size) for price, size, *_ in levels]


def check_book(bids: bytes, asks: bytes) -> tuple[int, int]:
    """Return how many levels the sides of a whole book have.

    Raises ValueError where a level is no price and size, the best one does not come first, or the best bid is not below
    the best ask. Takes about 2 µs per level: 20 ms for the deepest book there is.
    """
    bid_prices = [-Decimal(price) for price, _ in parse_levels(bids)]
    ask_prices = [Decimal(price) for price, _ in parse_levels(asks)]
    for prices, side in ((bid_prices, "bids"), (ask_prices, "asks")):
        if any(price >= next_ for price, next_ in pairwise(prices)):
            raise ValueError(f"{side} are not in order")
    if bid_prices and ask_prices and -bid_prices[0] >= ask_prices[0]:
        raise ValueError(f"crossed: best bid {-bid_prices[0]:f}, best ask {ask_prices[0]:f}")
    return len(bid_prices), len(ask_prices)
