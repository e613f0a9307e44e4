"""What JSON from any exchange needs: a second, tolerant reading, and checks that a text is a number."""

import json
from decimal import Decimal, InvalidOperation

import msgspec

# What fits a column of 64-bit integers and a nanosecond timestamp; anything else in a frame is damage.
MAX_INT = 2**63 - 1

_levels = msgspec.json.Decoder(list[list[str | int | float]])


def all_text(frame: bytes) -> bytes:
    """Return the same JSON with every number as a string, digits unchanged.

    For the second reading of a frame that broke its documented types: exchanges have sent numbers where strings were promised.
    Raises ValueError (also for nesting deeper than the parser's bound).
    """
    try:
        return json.dumps(json.loads(frame, parse_float=str, parse_int=str)).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def exchange_ns(stamp: int) -> int:
    """Turn a stamp of milliseconds (13 digits) or microseconds (16 digits) since the epoch into nanoseconds.

    Raises ValueError for what is neither, so that a damaged stamp is a reject and not a row in the year 5138.
    """
    if 10**11 <= stamp < 10**14:
        return stamp * 1_000_000
    if 10**14 <= stamp < 10**17:
        return stamp * 1_000
    raise ValueError(f"time {stamp} is neither milliseconds nor microseconds since 1970")


def is_number(text: str) -> bool:
    """Tell whether `text` is a finite number that is not negative, plain or in scientific notation."""
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return True
    try:
        number = Decimal(text)
    except InvalidOperation:
        return False
    return text.isascii() and "_" not in text and text == text.strip() and number.is_finite() and not number.is_signed()


def parse_levels(side: bytes) -> list[tuple[str, str]]:
    """Read one side of a book, level by level: the careful way, for what the fast one does not take.

    Elements behind price and size are ignored, numbers may stand without quotes. Raises ValueError for anything else.
    """
    try:
        levels = _levels.decode(side)
    except msgspec.ValidationError:
        levels = _levels.decode(all_text(side))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if any(not all(isinstance(element, str) for element in level[:2]) for level in levels):
        levels = _levels.decode(all_text(side))
    pairs = []
    for level in levels:
        if len(level) < 2:
            raise ValueError(f"level {level} has no price and size")
        price, size = str(level[0]), str(level[1])
        if not is_number(price) or not is_number(size):
            raise ValueError(f"level {level[:2]} is not a price and a size")
        pairs.append((price, size))
    return pairs


def is_plain_side(side: bytes, stride: int) -> bool:
    """Tell whether `side` is a list of levels of exactly `stride` quoted plain numbers, without white space.

    Digits and points are deleted and the rest compared with what it must be: 1 ns per byte. Whether each text is a number
    ("1.2.3" is not) the conversion to columns finds out.
    """
    skeleton = side.translate(None, b"0123456789.")
    count = side.count(b"[") - 1
    return skeleton == _skeleton(stride, count)


_UNITS = {stride: b"[" + b",".join([b'""'] * stride) + b"]" for stride in range(1, 9)}


def _skeleton(stride: int, count: int) -> bytes:
    unit = _UNITS[stride]
    return b"[" + b",".join([unit] * count) + b"]"
