"""`gaps`: the gap ledger."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.table import Table

from collector_trio.commands.options import Since, data_dir_option, json_option
from collector_trio.followers.ledger import STATES, Hole, ledger
from collector_trio.followers.scan import moment_us


@click.command(epilog="Example: python -m collector_trio gaps --data-dir data --since 2026-11-23")
@data_dir_option
@click.option("--since", "since_ns", type=Since(), default=0, help="Leave out holes that end before this time.")
@click.option("--all", "with_all", is_flag=True, help="Show repaired and benign holes too.")
@json_option
def gaps(data_dir: Path, since_ns: int, with_all: bool, as_json: bool) -> None:
    """Show what is missing, exactly, why, and what became of it.

    Without --all only what is not there: holes that are open, and those that are lost. The totals count all.
    """
    found = [hole for hole in ledger(data_dir) if _reaches(hole, since_ns)]
    shown = [hole for hole in found if with_all or hole.is_missing]
    totals = _totals(found)
    if as_json:
        holes = [_document(hole) for hole in shown]
        json.dump({"data_dir": str(data_dir), "holes": holes, "totals": totals}, sys.stdout)
        click.echo()
    else:
        _print(shown, totals)


def _reaches(hole: Hole, since_ns: int) -> bool:
    """Tell whether a hole ends at `since_ns` or later; one that goes on does."""
    if hole.to_ts is None and hole.is_missing:
        return True
    return moment_us(hole.to_ts or hole.recv) * 1000 >= since_ns


def _totals(holes: Sequence[Hole]) -> list[dict[str, Any]]:
    """Count holes per table by state; `missing` is what is not there, as far as it can be counted."""
    found = []
    for table in sorted({hole.table for hole in holes}):
        those = [hole for hole in holes if hole.table == table]
        states = Counter(hole.state for hole in those)
        missing = sum(hole.missing or 0 for hole in those if hole.is_missing)
        found.append({"table": table, **{state: states[state] for state in STATES}, "missing": missing})
    return found


def _document(hole: Hole) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in attrs.asdict(hole).items()
    }


def _print(holes: Sequence[Hole], totals: Sequence[dict[str, Any]]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    if not totals:
        console.print("No gaps.")
        return
    names = ("table", "exchange", "market", "symbol", "missing ids", "count", "from (UTC)", "to (UTC)", "state")
    rows = Table(*names, "cause", "detail", box=None, pad_edge=False)
    rows.columns[5].justify = "right"
    for hole in holes:
        rows.add_row(
            hole.table, hole.exchange, hole.market, hole.symbol or "",
            "" if hole.first_missing is None else f"{hole.first_missing}..{_or_unknown(hole.last_missing)}",
            "" if hole.missing is None else f"{hole.missing:,}",
            _time(hole.from_ts), _time(hole.to_ts), hole.state, hole.cause or "", hole.detail or "",
        )  # fmt: skip
    console.print(rows if holes else "Nothing is missing.")
    console.print()
    for total in totals:
        counts = ", ".join(f"{total[state]:,} {state}" for state in STATES if total[state])
        console.print(f"{total['table']}: {counts}; {total['missing']:,} ids missing", soft_wrap=True)


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _or_unknown(number: int | None) -> str:
    """Spell a bound; where numbers begin again nobody can say what would have been the last."""
    return "?" if number is None else str(number)
