"""Which instrument a native symbol means. Known from the instruments notes of a journal, or from an exchange's own
answer.
"""

from collections.abc import Iterable, Sequence

from collector_trio.instruments import Instrument


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
