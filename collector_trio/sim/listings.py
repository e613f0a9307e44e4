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
# Perpetuals. Symbol: digits of Binance's tick, of its prices as printed, of its sizes; OKX's tick, lot, contract size.
PERPS = {
    "BTC-USDT": (1, 2, 3, 1, 2, "0.01"),
    "ETH-USDT": (2, 2, 3, 2, 2, "0.1"),
    "SOL-USDT": (2, 4, 2, 2, 2, "1"),
    "ZEN-USDT": (3, 3, 1, 3, 0, "1"),
    "DOGE-USDT": (5, 6, 0, 5, 2, "1000"),
    "SHIB-USDT": (8, 8, 0, 9, 1, "1000000"),
}
MADE_UP_PERP = (4, 4, 2, 4, 0, "1")

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
    """List `symbol` as Binance spot would: prices and sizes always with eight digits."""
    price, tick, lot, _, _ = KNOWN.get(symbol, MADE_UP)
    return Listing(symbol, symbol.replace("-", ""), price, tick, lot, 8, 8, trades_per_s, book_changes_per_s)


def binance_perp_listing(symbol: str, trades_per_s: float = 1.0, book_changes_per_s: float = 1.0) -> Listing:
    """List `symbol` as Binance USD-M would: sizes in the base, prices sometimes with more digits than the tick has."""
    price = KNOWN.get(symbol, MADE_UP)[0]
    tick, padded, lot, _, _, _ = PERPS.get(symbol, MADE_UP_PERP)
    native = symbol.replace("-", "")
    return Listing(symbol, native, price, tick, lot, padded, 0, trades_per_s, book_changes_per_s, "perp")


def okx_listing(symbol: str, trades_per_s: float = 1.0, book_changes_per_s: float = 1.0) -> Listing:
    """List `symbol` as OKX spot would: no trailing zeros."""
    price, _, _, tick, lot = KNOWN.get(symbol, MADE_UP)
    return Listing(symbol, symbol, price, tick, lot, None, None, trades_per_s, book_changes_per_s)


def okx_swap_listing(symbol: str, trades_per_s: float = 1.0, book_changes_per_s: float = 1.0) -> Listing:
    """List the swap of `symbol` as OKX would: sizes in contracts."""
    price = KNOWN.get(symbol, MADE_UP)[0]
    *_, tick, lot, contract = PERPS.get(symbol, MADE_UP_PERP)
    native = f"{symbol}-SWAP"
    return Listing(symbol, native, price, tick, lot, None, None, trades_per_s, book_changes_per_s, "perp", contract)


def rates(scenario: Scenario) -> dict[str, tuple[float, float]]:
    """Say for each symbol of a scenario how many trades and book changes it has per second."""
    busy = dict.fromkeys(scenario.symbols, (scenario.trades_per_s, scenario.book_changes_per_s))
    return {**busy, **dict.fromkeys(scenario.quiet_symbols, (QUIET_TRADES_PER_S, QUIET_BOOK_CHANGES_PER_S))}


def recorded_listing(exchange: str, native_symbol: str) -> Listing:
    """Make up the terms of an instrument of which only the name was recorded: the finest tick and lot there are."""
    symbol = native_symbol if exchange == "okx" else split_symbol(native_symbol)
    padded = 8 if exchange == "binance" else None
    return Listing(symbol, native_symbol, 1.0, 8, 8, padded, padded)


def split_symbol(native_symbol: str) -> str:
    """Write Binance's "BTCUSDT" as "BTC-USDT". Without a known quote the last four letters are it."""
    for quote in sorted(QUOTES, key=len, reverse=True):
        if native_symbol.endswith(quote) and len(native_symbol) > len(quote):
            return f"{native_symbol.removesuffix(quote)}-{quote}"
    return f"{native_symbol[:-4] or native_symbol}-{native_symbol[-4:]}"
