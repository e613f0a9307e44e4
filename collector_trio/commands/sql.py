"""`sql`: ask the recording."""

import json
import sys
from datetime import datetime
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import click
import duckdb
from rich.console import Console
from rich.table import Table

from collector_trio.commands.options import data_dir_option, json_option
from collector_trio.errors import CollectorError
from collector_trio.followers.reading import query


@click.command(
    epilog='Example: python -m collector_trio sql "SELECT symbol, count(*), avg(price) FROM trades GROUP BY symbol"'
)
@click.argument("statement")
@data_dir_option
@json_option
def sql(statement: str, data_dir: Path, as_json: bool) -> None:
    """Run one DuckDB statement; there is one view per table, the running segment included."""
    try:
        names, rows = query(data_dir, statement)
    except duckdb.Error as error:
        raise CollectorError(str(error)) from None
    if as_json:
        names = _distinct(names)
        json.dump([dict(zip(names, map(_plain, row), strict=True)) for row in rows], sys.stdout)
        click.echo()
        return
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else _text(value) for value in row))
    console.print(table)


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _plain(value: Any) -> Any:
    """Spell what JSON has no word for."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {str(name): _plain(element) for name, element in value.items()}
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _distinct(names: list[str]) -> list[str]:
    """Number the columns that share a name: an object can hold each only once."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            unique, number = f"{name}_{number}", number + 1
        found.append(unique)
    return found
