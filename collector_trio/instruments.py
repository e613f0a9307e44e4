"""What is traded: one instrument's terms, under the name every table uses and under the exchange's own."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import attrs


@attrs.frozen
class Instrument:
    """One instrument as its exchange describes it.

    `symbol` is BASE-QUOTE in every market; `native_symbol` is the exchange's spelling and unique within a market.
    Numbers stay the exchange's text (base units, quote units); `contract_size` is what one contract is worth: in base
    units, or in quote units when `inverse`; None where the exchange counts in base units itself.
    """

    exchange: str
    market: str
    symbol: str
    native_symbol: str
    base: str
    quote: str
    status: str
    tradable: bool
    tick_size: str | None = None
    lot_size: str | None = None
    contract_size: str | None = None
    inverse: bool = False


# A pattern such as "*-USDT"; "!" in front excludes.
SYMBOL_PATTERN = re.compile(r"!?[^\s!]+-[^\s!]+")


def select(patterns: Sequence[str], instruments: Iterable[Instrument]) -> tuple[list[Instrument], list[str]]:
    """Choose the instruments that `patterns` name, in listing order; return them and the patterns nothing answers to.

    A plain name selects its instrument whatever its status, a pattern only what is traded; exclusions ("!X") win over
    both.
    """
    listed = list(instruments)
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    chosen = [
        instrument
        for instrument in listed
        if any(
            fnmatchcase(instrument.symbol, pattern) and (instrument.tradable or pattern == instrument.symbol)
            for pattern in wanted
        )
        and not any(fnmatchcase(instrument.symbol, pattern) for pattern in excluded)
    ]
    names = [instrument.symbol for instrument in listed]
    missing = [pattern for pattern in wanted if not any(fnmatchcase(name, pattern) for name in names)]
    return chosen, missing


def is_pattern(symbol: str) -> bool:
    """Tell whether `symbol` may stand for several instruments."""
    return any(character in symbol for character in "*?[")
