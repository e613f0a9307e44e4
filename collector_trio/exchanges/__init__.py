"""The exchanges this version knows, by name. A new one is one module here, its recorded frames and its line below."""

from collector_trio.exchanges import binance, okx
from collector_trio.exchanges.protocol import Exchange

EXCHANGES: dict[str, Exchange] = {binance.NAME: binance, okx.NAME: okx}
