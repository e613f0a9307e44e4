"""From contracts to base units: the float64 next to the exact product, and its text where float64 cannot hold it.

Numbers of up to 15 digits are exact in float64, so most products need no decimals: made whole, two of them are
multiplied without error, and one division by a power of ten is rounded once.
"""

from collections.abc import Mapping, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

import numpy as np

from collector_trio.followers.columns import SAFE_VALUE, is_exact
from collector_trio.instruments import Instrument

# Behind the point, of sizes in contracts: few first, so that large sizes stay whole numbers of 15 digits.
PLACES = (2, 8)
MOST_PLACES = 22  # 10**22 is the last power of ten that float64 holds
# Two numbers that decoding lets pass have up to 300 digits each.
_EXACT = Context(prec=1000, Emax=MAX_EMAX, Emin=MIN_EMIN)


def base_units(
    contracts: Any, texts: Mapping[int, str], prices: Any, instruments: Sequence[Instrument], whose: Any
) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
    """Return sizes in base units and, by position, the exact texts of those that float64 cannot hold.

    `texts` has those of `contracts` that it cannot hold; `whose[n]` is the index of an instrument. One without a
    contract size counts in base units already. What an inverse contract is worth depends on the price: a quotient,
    rounded to 15 digits, has no exact text; at price 0 it has no worth either, and stays as it is.
    """
    sizes = np.array(contracts, dtype=np.float64)
    exact: dict[int, str] = {}
    inexact = np.zeros(len(sizes), dtype=np.bool_)
    inexact[list(texts)] = True
    for index, instrument in enumerate(instruments):
        mine = np.flatnonzero(whose == index)
        if not len(mine):
            continue
        if instrument.contract_size is None:
            exact |= {position: texts[position] for position in mine[inexact[mine]].tolist()}
        elif instrument.inverse:
            worth, at = sizes[mine] * float(instrument.contract_size), prices[mine]
            np.divide(worth, at, out=worth, where=at > 0)
            sizes[mine] = [float(f"{value:.15g}") for value in worth]
        else:
            factor = Decimal(instrument.contract_size)
            products, sure = _multiplied(sizes[mine], factor)
            for place in np.flatnonzero(~sure | inexact[mine]).tolist():
                position = int(mine[place])
                text = texts.get(position) or repr(contracts[position].item())
                product = format(_EXACT.multiply(Decimal(text), factor).normalize(_EXACT), "f")
                products[place] = float(product)
                if not is_exact(product):
                    exact[position] = product
            sizes[mine] = products
    return sizes, exact


def _multiplied(values: Any, factor: Decimal) -> tuple[Any, Any]:
    """Multiply by a decimal as decimals do; tell of which products it is sure that they are exact."""
    exact = factor.normalize(_EXACT)
    exponent = exact.as_tuple().exponent
    assert isinstance(exponent, int), "a number, as instruments are read"
    digits = max(0, -exponent)
    whole = int(exact.scaleb(digits, _EXACT))
    products, sure = np.zeros(len(values)), np.zeros(len(values), dtype=np.bool_)
    if digits + max(PLACES) > MOST_PLACES or whole >= SAFE_VALUE:
        return products, sure
    for places in PLACES:
        with np.errstate(over="ignore"):
            lots = np.rint(values * 10.0**places)
            wholes = lots * whole
        fits = (wholes < SAFE_VALUE) & (lots < SAFE_VALUE) & (lots / 10.0**places == values) & ~sure
        products[fits] = wholes[fits] / 10.0 ** (digits + places)
        sure |= fits
        if sure.all():
            break
    return products, sure
