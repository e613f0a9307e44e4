"""The levels of a whole batch of book messages, from their JSON to numbers.

Level by level this would cost more than all else a follower does. So the sides of a batch are joined, and what must
hold of each is asked of the whole text: without digits and points, a side of so many levels has one spelling only
(brackets, quotes, commas), known beforehand. Then these are taken away too, and Arrow splits and converts the rest.

A side that is spelled another way ("1e-8", a number without quotes, white space) is read the careful way and spelled
plainly; what that cannot read either is bad, and `BadSides` says which and why.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from collector_trio.exchanges.wire import parse_levels
from collector_trio.followers.columns import SAFE_LENGTH, SAFE_VALUE, is_exact

LONGEST = 300  # digits of a number that is certainly finite in float64


class BadSides(ValueError):
    """Some sides of a batch of books are not lists of levels: `problems` by row."""

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__(f"{len(problems)} of a batch")
        self.problems = problems


class Levels:
    """One side of a batch of books: prices and sizes, message after message; message `n` has those from `offsets[n]`.

    `price_texts` and `size_texts` have, by position, the numbers that float64 cannot hold.
    """

    def __init__(self, sides: Sequence[Raw | bytes], stride: int) -> None:
        """`sides` are JSON texts such as `[["1.2","3"],["1.1","0"]]`, one per message. Raises BadSides."""
        plain, counts = sides, _counts(sides, stride)
        if None in counts:
            plain = _spelled_plainly(sides, stride, [count is not None for count in counts])
            counts = _counts(plain, stride)
        flat, numbers = _numbers(plain, counts)
        if numbers is None:  # "1.2.3" or "" stands somewhere: bad, unless it is in an element nobody reads
            owners = np.repeat(np.arange(len(plain)), np.array(counts, dtype=np.int64) * stride)
            doubtful = set(owners[~_are_numbers(flat)].tolist())
            respelled = _spelled_plainly(sides, stride, [row not in doubtful for row in range(len(sides))])
            plain = [respelled[row] if row in doubtful else side for row, side in enumerate(plain)]
            flat, numbers = _numbers(plain, counts)
        assert numbers is not None, "all are spelled plainly now"
        self._flat, self._stride = flat, stride
        self.offsets = np.concatenate(([0], np.cumsum(np.array(counts, dtype=np.int64)))).astype(np.int32)
        grid = numbers.reshape(-1, stride)
        self.prices, self.sizes = np.ascontiguousarray(grid[:, 0]), np.ascontiguousarray(grid[:, 1])
        self.price_texts = self.size_texts = dict[int, str]()
        lengths = pc.binary_length(flat)
        if (pc.max(lengths).as_py() or 0) > SAFE_LENGTH or numbers.max(initial=0) >= SAFE_VALUE:
            doubtful_texts = (lengths.to_numpy() > SAFE_LENGTH) | (numbers >= SAFE_VALUE)
            self.price_texts = _inexact(flat, np.flatnonzero(doubtful_texts[0::stride]), stride, 0)
            self.size_texts = _inexact(flat, np.flatnonzero(doubtful_texts[1::stride]), stride, 1)

    @property
    def counts(self) -> np.ndarray[Any, Any]:
        """How many levels each message has."""
        return np.diff(self.offsets)

    def text(self, position: int, element: int) -> str:
        """Return the text of one level's price (0) or size (1)."""
        text: str = self._flat[position * self._stride + element].as_py()
        return text

    def lists(self, values: np.ndarray[Any, Any]) -> pa.Array:
        """Return `values` (one per level) as one list per message."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(values))


def _inexact(flat: pa.Array, positions: np.ndarray[Any, Any], stride: int, element: int) -> dict[int, str]:
    texts = flat.take(pa.array(positions * stride + element)).to_pylist()
    return {
        position: text for position, text in zip(positions.tolist(), texts, strict=True) if text and not is_exact(text)
    }


# How sides look without their digits and points is kept for so many levels.
MOST_KEPT = 200


def _skeleton(stride: int, count: int) -> bytes:
    level = b"[" + b",".join([b'""'] * stride) + b"]"
    return b"[" + b",".join([level] * count) + b"]"


@cache
def _skeletons(stride: int) -> dict[bytes, int]:
    return {_skeleton(stride, count): count for count in range(1, MOST_KEPT + 1)}


def _counts(sides: Sequence[Raw | bytes], stride: int) -> list[int | None]:
    """Return how many levels each side has; None where it is not spelled plainly.

    The sides are joined by a line end, which none of them holds if there are as many parts as sides.
    """
    parts = b"\n".join(sides).translate(None, b"0123456789.").split(b"\n")
    if len(parts) != len(sides):
        return [_counts([side], stride)[0] if b"\n" not in bytes(side) else None for side in sides]
    counts = list(map(_skeletons(stride).get, parts))
    if None in counts:
        for row, (count, part) in enumerate(zip(counts, parts, strict=True)):
            if count is None:
                counts[row] = _count(part, bytes(sides[row]), stride)
    return counts


def _count(part: bytes, side: bytes, stride: int) -> int | None:
    if part == b"[]":
        return 0 if side == part else None  # "[5]" looks like it too
    count = part.count(b"[") - 1
    return count if count > MOST_KEPT and part == _skeleton(stride, count) else None


# All sides become one list of numbers.
_TO_COMMAS = bytes.maketrans(b"\n", b",")


def _numbers(
    sides: Sequence[Raw | bytes], counts: Sequence[int | None]
) -> tuple[pa.Array, np.ndarray[Any, Any] | None]:
    """Return the texts in `sides` and the numbers they are; None if there is one that is not, or that float64 lacks."""
    if 0 in counts:
        sides = [side for side, count in zip(sides, counts, strict=True) if count]
    text = b"\n".join(sides).translate(_TO_COMMAS, b'[]"')
    flat = pc.list_flatten(pc.split_pattern(pa.array([text] if text else [], pa.string()), ","))
    try:
        numbers = pc.cast(flat, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return flat, None
    return flat, numbers if np.isfinite(numbers).all() else None


def _are_numbers(texts: pa.Array) -> np.ndarray[Any, Any]:
    """Tell of each text whether it is a plain number that float64 can hold."""
    spelled = pc.match_substring_regex(texts, r"^(\d+\.?\d*|\.\d+)$")
    fitting = pc.less_equal(pc.binary_length(texts), LONGEST)
    both: np.ndarray[Any, Any] = pc.and_(spelled, fitting).to_numpy(zero_copy_only=False)
    return both


def _spelled_plainly(sides: Sequence[Raw | bytes], stride: int, plain: Sequence[bool]) -> list[Raw | bytes]:
    """Spell the sides that are not plain yet the plain way; what cannot be is bad."""
    spelled, problems = list(sides), {}
    for row, side in enumerate(sides):
        if not plain[row]:
            try:
                spelled[row] = _respelled(bytes(side), stride)
            except ValueError as error:
                problems[row] = str(error)
    if problems:
        raise BadSides(problems)
    return spelled


def _respelled(side: bytes, stride: int) -> bytes:
    padding = b',"0"' * (stride - 2)
    levels = [(_plain(price).encode(), _plain(size).encode()) for price, size in parse_levels(side)]
    return b"[" + b",".join([b'["%s","%s"%s]' % (price, size, padding) for price, size in levels]) + b"]"


def _plain(number: str) -> str:
    return format(Decimal(number), "f")
