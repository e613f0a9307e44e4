"""What is traded: one instrument's terms, under the name every table uses and under the exchange's own; and which
instrument an exchange's own name means.
"""

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


class Naming:
    """Finds the instrument behind a native symbol."""

    def __init__(self, *, unknown_market: str | None = None) -> None:
        """With `unknown_market`, a symbol nobody described is an instrument of that market under its native name."""
        self._known: dict[tuple[str, str, str], Instrument] = {}
        self._unknown_market = unknown_market
        self.made_up = 0

    def add(self, instruments: Iterable[Instrument]) -> None:
        """Learn `instruments`; of two with one native symbol in one market the later wins."""
        for instrument in instruments:
            self._known[instrument.exchange, instrument.market, instrument.native_symbol] = instrument

    def knows(self, instruments: Iterable[Instrument]) -> bool:
        """Tell whether all `instruments` are known, with the same terms."""
        return all(self._known.get((i.exchange, i.market, i.native_symbol)) == i for i in instruments)

    def find(self, exchange: str, markets: Sequence[str], native_symbol: str) -> Instrument | None:
        """Return the instrument of one of `markets`, None where nobody described it."""
        for market in markets:
            found = self._known.get((exchange, market, native_symbol))
            if found is not None:
                return found
        if self._unknown_market is None:
            return None
        made_up = Instrument(exchange, self._unknown_market, native_symbol, native_symbol, "", "", "", True)
        self.add([made_up])
        self.made_up += 1
        return made_up

    @property
    def instruments(self) -> list[Instrument]:
        """All that are known."""
        return list(self._known.values())
