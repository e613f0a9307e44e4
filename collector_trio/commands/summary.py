"""`summary`: what has been recorded."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from collector_trio.commands.options import Instant, data_dir_option, json_option
from collector_trio.followers.summary import Summary, summarize


@click.command(epilog="Example: python -m collector_trio summary --data-dir data --since 2026-11-23")
@data_dir_option
@click.option("--since", "since_ns", type=Instant(), default=0, help="Count only what was received from this time on.")
@json_option
def summary(data_dir: Path, since_ns: int, as_json: bool) -> None:
    """Show what has been recorded: rows, times, coverage and size per table and instrument."""
    found = summarize(data_dir, since_ns)
    if as_json:
        json.dump({"data_dir": str(data_dir), **found.document()}, sys.stdout)
        click.echo()
    else:
        print_summary(found)


def print_summary(found: Summary, *, sessions: bool = True) -> None:
    """Print the tables, what became of the sessions, and the frame equation for people."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 120
    rows = Table("table", "exchange", "market", "symbol", box=None, pad_edge=False)
    for name in ("rows", "first (UTC)", "last (UTC)", "coverage", "size"):
        rows.add_column(name, justify="right")
    for table in found.tables:
        covered = "" if table.coverage is None else f"{table.coverage:.4g} %"
        first, last = (time[:19].replace("T", " ") for time in (table.first, table.last))
        rows.add_row(
            table.table,
            table.exchange,
            table.market,
            table.symbol,
            f"{table.rows:,}",
            first,
            last,
            covered,
            decimal(table.bytes),
        )
    console.print(rows if found.tables else "No rows yet.")
    console.print()
    for stream in found.sessions if sessions else ():
        reasons = ", ".join(f"{reason} {count}" for reason, count in stream.reasons.items())
        console.print(f"{stream.stream}: {stream.sessions} sessions, {stream.live} live; ended: {reasons}")
    frames = found.frames
    ignored = ", ".join(f"{reason} {count:,}" for reason, count in frames.ignored_reasons.items())
    console.print(
        f"frames: {frames.received:,} received = {frames.rows:,} with rows + {frames.control:,} control + "
        f"{frames.duplicate:,} duplicate + {frames.ignored:,} ignored + {frames.rejected:,} rejected"
        f" ({'balanced' if frames.balanced else 'NOT BALANCED'})",
        soft_wrap=True,
    )
    if ignored:
        console.print(f"ignored: {ignored}", soft_wrap=True)
