"""Binance's `exchangeInfo`, symbol by symbol (protocols.md 1.8, 2.8)."""

from collections.abc import Iterable
from typing import Any

from collector_trio.sim.market import Listing

NEVER_MS = 4133404800000  # the delivery date of what is never delivered
DELIVERY, DELIVERY_MS = "261225", 1798185600000


def spot_symbol(listing: Listing) -> dict[str, Any]:
    """Describe one spot symbol."""
    tick, lot = listing.tick, listing.lot
    return {
        "symbol": listing.native_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000.00000000", "stepSize": lot},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
    }


def perp_symbols(listings: Iterable[Listing]) -> list[dict[str, Any]]:
    """Describe the perpetuals, and one contract with a delivery date, which the real list has, too."""
    listed = list(listings)
    return [_contract(one) for one in listed] + [_contract(one, delivered=True) for one in listed[:1]]


def _contract(listing: Listing, *, delivered: bool = False) -> dict[str, Any]:
    native, tick, lot = listing.native_symbol, listing.tick, listing.lot
    return {
        "symbol": f"{native}_{DELIVERY}" if delivered else native,
        "pair": native,
        "contractType": "CURRENT_QUARTER" if delivered else "PERPETUAL",
        "deliveryDate": DELIVERY_MS if delivered else NEVER_MS,
        "onboardDate": 1569398400000,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.quote,
        "pricePrecision": listing.price_padded or listing.tick_digits,
        "quantityPrecision": listing.lot_digits,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["PoW"],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4529764", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "1000", "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": "120", "stepSize": lot},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "100"},
            {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500"},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }
