"""`book`: one order book at one instant."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.table import Table

from collector_trio.commands.options import Instant, data_dir_option, json_option
from collector_trio.followers.books import Book, Level, book_at

LEVELS = 10


@click.command(
    epilog="Example: python -m collector_trio book --symbol BTC-USDT --at 2026-11-23T12:30:00 --exchange okx"
)
@click.option("--symbol", required=True, help="BASE-QUOTE, as in the tables.")
@click.option("--at", "at_ns", type=Instant(), required=True, help="The exchange's time; UTC where it names no zone.")
@click.option("--depth", type=click.IntRange(1), help=f"Levels a side; default: {LEVELS}, with --json all.")
@click.option("--exchange", help="Where the symbol was recorded, if on more than one.")
@click.option("--market", help="Its market (spot, perp), if it was recorded on more than one.")
@data_dir_option
@json_option
def book(
    symbol: str,
    at_ns: int,
    depth: int | None,
    exchange: str | None,
    market: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Rebuild an order book as it was at one instant.

    Says how deep it can be trusted. Exit 1 with the reason where the recording cannot tell.
    """
    found = book_at(symbol, at_ns, data_dir=data_dir, exchange=exchange, market=market)
    if as_json:
        json.dump(_document(found, depth), sys.stdout)
        click.echo()
    else:
        _print_ladder(found, depth or LEVELS)


def _document(found: Book, depth: int | None) -> dict[str, Any]:
    document = attrs.asdict(found)
    for name in ("at", "ts"):
        document[name] = document[name].isoformat()
    for name in ("bids", "asks"):
        document[name] = document[name][:depth]
    return document


def _print_ladder(found: Book, depth: int) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    number = "" if found.last_seq is None else f", number {found.last_seq}"
    console.print(f"{found.symbol} on {found.exchange} {found.market} at {_time(found.at)}", soft_wrap=True)
    console.print(f"last change {_time(found.ts)}{number}\n", soft_wrap=True)
    asks, bids = found.asks[:depth], found.bids[:depth]
    rows = [
        *reversed([("ask", price, size, index < found.trusted_asks) for index, (price, size) in enumerate(asks)]),
        *(("bid", price, size, index < found.trusted_bids) for index, (price, size) in enumerate(bids)),
    ]
    ladder = Table(box=None, pad_edge=False)
    for name in ("", "price", "size"):
        ladder.add_column(name, justify="right")
    ladder.add_column("")
    prices, sizes = _aligned([row[1] for row in rows]), _aligned([row[2] for row in rows])
    for (side, _, _, trusted), price, size in zip(rows, prices, sizes, strict=True):
        ladder.add_row(side, price, size, "" if trusted else "not certain")
    console.print(ladder)
    console.print(f"\ncertain: {_depth('asks', found.asks, found.trusted_asks)}", soft_wrap=True)
    console.print(f"         {_depth('bids', found.bids, found.trusted_bids)}", soft_wrap=True)


def _depth(side: str, levels: Sequence[Level], trusted: int) -> str:
    if trusted == len(levels):
        return f"all {trusted} {side}"
    edge = f", to {_aligned([levels[trusted - 1][0]])[0]}" if trusted else ""
    return f"the best {trusted} of {len(levels)} {side}{edge}"


def _aligned(numbers: Sequence[float]) -> list[str]:
    """Spell numbers without exponents, all with as many decimals as the one that needs most."""
    texts = [format(Decimal(repr(number)), "f").removesuffix(".0") for number in numbers]
    places = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [f"{Decimal(text):.{places}f}" for text in texts]


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S.%f} UTC"
