"""What the simulated exchanges list: known instruments with their real number of digits, others made up."""

from collector_trio.sim.market import Listing
from collector_trio.sim.scenario import Scenario

# Symbol: a price; digits of price and size at Binance; the same at OKX.
KNOWN = {
    "BTC-USDT": (61234.5, 2, 5, 1, 8),
    "ETH-USDT": (2987.4, 2, 4, 2, 6),
    "SOL-USDT": (163.27, 2, 3, 2, 6),
    "ZEN-USDT": (24.13, 3, 2, 3, 4),
    "DOGE-USDT": (0.12345, 5, 0, 5, 2),
    "SHIB-USDT": (0.00002471, 8, 0, 9, 0),
}
MADE_UP = (17.5, 4, 2, 4, 4)

QUIET_TRADES_PER_S = 1 / 3600
QUIET_BOOK_CHANGES_PER_S = 1 / 90

# What Binance symbols end in; a longer quote is tried before a shorter one.
# fmt: off
QUOTES = (
    "USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USDP", "USD1", "USDS", "EURI", "DAI", "PAX", "VAI", "BIDR", "BKRW",
    "IDRT", "BVND", "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "DOT", "SOL", "USD", "EUR", "GBP", "AUD", "TRY", "BRL",
    "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "JPY", "MXN", "CZK", "COP", "IDR",
)
# fmt: on


def binance_listing(symbol: str, trades_per_s: float = 1.0, book_changes_per_s: float = 1.0) -> Listing:
    """List `symbol` as Binance would: prices and sizes always with eight digits."""
    price, tick, lot, _, _ = KNOWN.get(symbol, MADE_UP)
    return Listing(symbol, symbol.replace("-", ""), price, tick, lot, 8, trades_per_s, book_changes_per_s)


def okx_listing(symbol: str, trades_per_s: float = 1.0, book_changes_per_s: float = 1.0) -> Listing:
    """List `symbol` as OKX would: no trailing zeros."""
    price, _, _, tick, lot = KNOWN.get(symbol, MADE_UP)
    return Listing(symbol, symbol, price, tick, lot, None, trades_per_s, book_changes_per_s)


def rates(scenario: Scenario) -> dict[str, tuple[float, float]]:
    """Say for each symbol of a scenario how many trades and book changes it has per second."""
    busy = dict.fromkeys(scenario.symbols, (scenario.trades_per_s, scenario.book_changes_per_s))
    return {**busy, **dict.fromkeys(scenario.quiet_symbols, (QUIET_TRADES_PER_S, QUIET_BOOK_CHANGES_PER_S))}


def recorded_listing(exchange: str, native_symbol: str) -> Listing:
    """Make up the terms of an instrument of which only the name was recorded: the finest tick and lot there are."""
    symbol = native_symbol if exchange == "okx" else split_symbol(native_symbol)
    return Listing(symbol, native_symbol, 1.0, 8, 8, 8 if exchange == "binance" else None, 1.0, 1.0)


def split_symbol(native_symbol: str) -> str:
    """Write Binance's "BTCUSDT" as "BTC-USDT". Without a known quote the last four letters are it."""
    for quote in sorted(QUOTES, key=len, reverse=True):
        if native_symbol.endswith(quote) and len(native_symbol) > len(quote):
            return f"{native_symbol.removesuffix(quote)}-{quote}"
    return f"{native_symbol[:-4] or native_symbol}-{native_symbol[-4:]}"
