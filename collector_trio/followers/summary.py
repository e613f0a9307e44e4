"""What has been recorded, in numbers: per table and instrument, per stream, and the frame equation."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import duckdb

from collector_trio.followers.cursor import load_cursor
from collector_trio.followers.reading import fetch, open_views, stored_files

DATA_TABLES = ("trades", "book", "book_snapshots")


@attrs.frozen
class TableSummary:
    """One table of one instrument. Times are ISO 8601; `coverage` is the share in percent of what the exchange's own
    numbers say was published between first and last row, None where they say nothing; `bytes` is the Parquet files'
    part.
    """

    table: str
    exchange: str
    market: str
    symbol: str
    rows: int
    first: str
    last: str
    coverage: float | None
    bytes: int


@attrs.frozen
class FrameSummary:
    """Every frame received is in exactly one class."""

    received: int
    rows: int
    control: int
    duplicate: int
    ignored: int
    rejected: int
    ignored_reasons: dict[str, int]

    @property
    def balanced(self) -> bool:
        """Tell whether the classes add up."""
        return self.received == self.rows + self.control + self.duplicate + self.ignored + self.rejected


@attrs.frozen
class SessionSummary:
    """Connections of one stream that are over: how many, how many of them were live, and why they ended."""

    stream: str
    sessions: int
    live: int
    frames: int
    reasons: dict[str, int]


@attrs.frozen
class Summary:
    """All of it."""

    tables: tuple[TableSummary, ...]
    sessions: tuple[SessionSummary, ...]
    frames: FrameSummary

    def document(self) -> dict[str, Any]:
        """Return it as one JSON document with stable keys."""
        return attrs.asdict(self) | {"frames": attrs.asdict(self.frames) | {"balanced": self.frames.balanced}}


def summarize(data_dir: Path, since_ns: int = 0) -> Summary:
    """Count what was received at `since_ns` (nanoseconds since the epoch) or later."""
    with open_views(data_dir) as views:
        return Summary(_tables(views, data_dir, since_ns), _sessions(views, since_ns), _frames(views, since_ns))


_TRADE_COVERAGE = "100.0 * count(DISTINCT id) / (max(id) - min(id) + 1)"
# A change is covered when the one before it is there. The first needs none; a later snapshot says that something was
# missed.
_CHAINED = """
    SELECT *, prev_seq IS NULL OR before IS NULL OR prev_seq = before AS chained FROM (
        SELECT *, lag(last_seq) OVER (PARTITION BY exchange, market, symbol ORDER BY frame) AS before FROM book
    )
"""
_BOOK_COVERAGE = "100.0 * count(*) FILTER (chained) / count(*)"


def _tables(views: duckdb.DuckDBPyConnection, data_dir: Path, since_ns: int) -> tuple[TableSummary, ...]:
    cursor = load_cursor(data_dir).segment
    found = []
    for name in DATA_TABLES:
        source = f"({_CHAINED})" if name == "book" else name
        coverage = {"trades": _TRADE_COVERAGE, "book": _BOOK_COVERAGE}.get(name, "NULL")
        _, groups = fetch(
            views,
            f"""SELECT exchange, market, symbol, count(*), min(recv), max(recv), {coverage}
                FROM {source} WHERE recv_ns >= ? GROUP BY ALL ORDER BY exchange, market, symbol""",
            [since_ns],
        )
        sizes: Counter[tuple[str, str]] = Counter()
        for path in stored_files(data_dir, name, cursor):
            keys = dict(part.split("=", 1) for part in path.parts if "=" in part)
            if path.stat().st_mtime_ns >= since_ns:
                sizes[keys["exchange"], keys["market"]] += path.stat().st_size
        rows_of: Counter[tuple[str, str]] = Counter()
        for exchange, market, _, rows, *_ in groups:
            rows_of[exchange, market] += rows
        for exchange, market, symbol, rows, first, last, covered in groups:
            part = sizes[exchange, market] * rows // rows_of[exchange, market]
            found.append(
                TableSummary(
                    name, exchange, market, symbol, rows, first.isoformat(), last.isoformat(),
                    None if covered is None else round(covered, 4), part,
                )
            )  # fmt: skip
    return tuple(found)


def _sessions(views: duckdb.DuckDBPyConnection, since_ns: int) -> tuple[SessionSummary, ...]:
    streams: dict[str, list[tuple[str, int, int, int]]] = {}
    _, rows = fetch(
        views,
        """SELECT stream, reason, count(*), count(live_at), sum(frames)::BIGINT FROM sessions
           WHERE recv_ns >= ? GROUP BY ALL ORDER BY stream, reason""",
        [since_ns],
    )
    for stream, *rest in rows:
        streams.setdefault(stream, []).append(tuple(rest))
    return tuple(
        SessionSummary(
            stream,
            sum(count for _, count, _, _ in found),
            sum(live for _, _, live, _ in found),
            sum(frames for _, _, _, frames in found),
            {reason: count for reason, count, _, _ in found},
        )
        for stream, found in streams.items()
    )


def _frames(views: duckdb.DuckDBPyConnection, since_ns: int) -> FrameSummary:
    names = ("frames", "rows", "control", "duplicate", "ignored", "rejected")
    sums = ", ".join(f"coalesce(sum({name}), 0)::BIGINT" for name in names)
    _, [row] = fetch(views, f"SELECT {sums} FROM segments WHERE recv_ns >= ?", [since_ns])
    reasons: Counter[str] = Counter()
    _, texts = fetch(
        views, "SELECT ignored_reasons FROM segments WHERE recv_ns >= ? AND ignored_reasons IS NOT NULL", [since_ns]
    )
    for (text,) in texts:
        reasons.update(json.loads(text))
    received, with_rows, control, duplicate, ignored, rejected = row
    return FrameSummary(received, with_rows, control, duplicate, ignored, rejected, dict(reasons))
