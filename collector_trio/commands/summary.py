"""`summary`: what has been recorded."""

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from collector_trio.commands.options import Since, data_dir_option, json_option
from collector_trio.commands.words import counted
from collector_trio.followers.review import HOUR_S, STOPPED, Period, Review
from collector_trio.followers.summary import Summary, summarize


@click.command(epilog="Example: python -m collector_trio summary --data-dir data --since 30d")
@data_dir_option
@click.option(
    "--since", "since_ns", type=Since(),
    help="Count only what was received from this time on, or in this time; and say how it went, per day or hour.",
)  # fmt: skip
@json_option
def summary(data_dir: Path, since_ns: int | None, as_json: bool) -> None:
    """Show what has been recorded: rows, times, coverage and size per table and instrument.

    With --since also how it went, day by day (up to two days: hour by hour): sockets, memory, reconnects and gaps.
    """
    found = summarize(data_dir, since_ns or 0, review_until_ns=None if since_ns is None else time.time_ns())
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
    if found.review is not None and found.review.periods:
        _print_review(console, found.review)
    for stream in found.sessions if sessions else ():
        reasons = ", ".join(f"{reason} {count}" for reason, count in stream.reasons.items())
        console.print(f"{stream.stream}: {counted(stream.sessions, 'session')}, {stream.live} live; ended: {reasons}")
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


def _print_review(console: Console, review: Review) -> None:
    rows = Table("hour (UTC)" if review.step_s == HOUR_S else "day (UTC)", box=None, pad_edge=False)
    for name in ("sockets", "close_wait", "unowned", "memory", "reconnects", "trades missing", "books unknown"):
        rows.add_column(name, justify="right")
    rows.add_column("why")
    for period in review.periods:
        counts = (period.sockets, period.close_wait, period.unowned)
        rows.add_row(
            period.start[: 16 if review.step_s == HOUR_S else 10].replace("T", " "),
            *("" if count is None else f"{count:,}" for count in counts),
            "" if period.memory_bytes is None else decimal(period.memory_bytes),
            f"{period.reconnects:,}",
            f"{period.missing_trades:,}",
            f"{period.unknown_books_s:,.1f} s",
            _why(period),
        )
    console.print(rows)
    trend = review.memory_trend_bytes_per_day
    if trend is not None:
        console.print(f"memory: {'-' if trend < 0 else '+'}{decimal(abs(round(trend)))} a day")
    console.print()


def _why(period: Period) -> str:
    """Say why sessions ended that we did not end, and what the gaps came from."""
    if not period.segments:
        return "nothing recorded"
    ended = ", ".join(f"{reason} {count:,}" for reason, count in period.ended.items() if reason != STOPPED)
    gaps = ", ".join(
        f"{table} {cause} {count:,}" for table, causes in period.gaps.items() for cause, count in causes.items()
    )
    return "; ".join(text for text in (f"ended: {ended}" if ended else "", f"gaps: {gaps}" if gaps else "") if text)
