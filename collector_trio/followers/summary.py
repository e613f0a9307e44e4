"""What has been recorded, in numbers: per table and instrument, per stream, and the frame equation."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import duckdb

from collector_trio.followers.reading import Picture, fetch, with_views
from collector_trio.followers.review import Review, review

DATA_TABLES = ("trades", "book", "book_snapshots")


@attrs.frozen
class TableSummary:
    """One table of one instrument, times in ISO 8601.

    `coverage` is in percent, by the exchange's own numbers: of trades the share of the ids between first and last, of
    books the share of the time in which each change continued the one before. `bytes` is its part of the files.
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
    """All of it. `review`: how it went over time, where that was asked for."""

    tables: tuple[TableSummary, ...]
    sessions: tuple[SessionSummary, ...]
    frames: FrameSummary
    review: Review | None

    def document(self) -> dict[str, Any]:
        """Return it as one JSON document with stable keys."""
        return attrs.asdict(self) | {"frames": attrs.asdict(self.frames) | {"balanced": self.frames.balanced}}


def summarize(
    data_dir: Path, since_ns: int = 0, first_segment: int = 0, *, review_until_ns: int | None = None
) -> Summary:
    """Count what was received from `since_ns` (nanoseconds since the epoch) and segment number `first_segment` on; with
    `review_until_ns` say how it went between these times, too.
    """

    def count(views: duckdb.DuckDBPyConnection, picture: Picture) -> Summary:
        reviewed = None if review_until_ns is None else review(views, since_ns, review_until_ns)
        return Summary(
            _tables(views, picture, since_ns), _sessions(views, since_ns), _frames(views, since_ns), reviewed
        )

    return with_views(data_dir, count, first_segment)


_TRADE_COVERAGE = "100.0 * count(DISTINCT id) / (max(id) - min(id) + 1)"
# The time between two changes is covered when the second continues the first; a later snapshot says that it does not.
_CHAINED = """
    SELECT *, CASE WHEN before IS NULL OR prev_seq = before THEN 0 ELSE recv_ns - before_ns END AS uncovered_ns FROM (
        SELECT *, lag(last_seq) OVER chain AS before, lag(recv_ns) OVER chain AS before_ns FROM book
        WHERE recv_ns >= $1 WINDOW chain AS (PARTITION BY exchange, market, symbol ORDER BY frame)
    )
"""
_BOOK_COVERAGE = "100.0 * (1 - sum(uncovered_ns)::DOUBLE / greatest(1, max(recv_ns) - min(recv_ns)))"


def _tables(views: duckdb.DuckDBPyConnection, picture: Picture, since_ns: int) -> tuple[TableSummary, ...]:
    found = []
    for name in DATA_TABLES:
        source = f"({_CHAINED})" if name == "book" else name
        coverage = {"trades": _TRADE_COVERAGE, "book": _BOOK_COVERAGE}.get(name, "NULL")
        _, groups = fetch(
            views,
            f"""SELECT exchange, market, symbol, count(*), min(recv), max(recv), {coverage}
                FROM {source} WHERE recv_ns >= $1 GROUP BY ALL ORDER BY exchange, market, symbol""",
            [since_ns],
        )
        sizes: Counter[tuple[str, str]] = Counter()
        for path in picture.files[name]:
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
