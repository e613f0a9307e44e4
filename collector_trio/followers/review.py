"""How it went, period by period: what an operator looks at after a day, a week and a month. From the tables alone."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite

import attrs
import duckdb

from collector_trio.followers.ledger import MISSING, STATES
from collector_trio.followers.reading import fetch

SECOND_NS = 10**9
HOUR_S = 3600
DAY_S = 86_400
HOURLY_UP_TO_S = 2 * DAY_S
LEAST_TREND_S = 6 * HOUR_S  # a process that has just started grows for a while
STOPPED = "stopped"  # why a session ended that we ended ourselves


@attrs.frozen
class Period:
    """One hour or day.

    `sockets`, `close_wait`, `unowned` and `memory_bytes` are the most that the recorder counted in any segment that
    ended in it, None where none did: nothing was recorded. `ended`: WebSocket sessions by why they ended; `reconnects`
    are those that we did not end. `gaps` began in it, by table and cause, whatever became of them; `missing_trades` of
    these are missing still, and for `unknown_books_s` seconds, over all books, a book cannot be trusted.
    """

    start: str
    segments: int
    frames: int
    rejected: int
    sockets: int | None
    close_wait: int | None
    unowned: int | None
    memory_bytes: int | None
    reconnects: int
    ended: dict[str, int]
    gaps: dict[str, dict[str, int]]
    missing_trades: int
    unknown_books_s: float


@attrs.frozen
class Review:
    """All periods, of `step_s` seconds each. `memory_trend_bytes_per_day` is the slope of a line through the memory of
    all segments; None where it is too early to tell.
    """

    step_s: int
    periods: tuple[Period, ...]
    memory_trend_bytes_per_day: float | None


@attrs.frozen
class _Signs:
    """What the segments of a period say: see `Period`."""

    segments: int = 0
    frames: int = 0
    rejected: int = 0
    sockets: int | None = None
    close_wait: int | None = None
    unowned: int | None = None
    memory_bytes: int | None = None


@attrs.frozen
class _Gap:
    table: str
    cause: str
    missing: int
    seconds: float


def review(views: duckdb.DuckDBPyConnection, since_ns: int, now_ns: int) -> Review:
    """Look back from `now_ns` to `since_ns` (nanoseconds since the epoch), or to where the recording begins."""
    _, [(first_ns, last_ns)] = fetch(
        views, "SELECT min(recv_ns), max(recv_ns) FROM segments WHERE recv_ns >= ?", [since_ns]
    )
    if first_ns is None:
        return Review(DAY_S, (), None)
    since_s, until_s = first_ns // SECOND_NS, max(now_ns, last_ns) // SECOND_NS
    step_s = HOUR_S if until_s - since_s <= HOURLY_UP_TO_S else DAY_S
    signs, ended = _signs(views, since_ns, step_s), _ended(views, since_ns, step_s)
    gaps = _gaps(views, since_ns, now_ns, step_s)
    periods = tuple(
        _period(number * step_s, signs.get(number), ended.get(number, Counter()), gaps.get(number, []))
        for number in range(since_s // step_s, until_s // step_s + 1)
    )
    return Review(step_s, periods, _trend(views, since_ns))


def _period(start_s: int, signs: _Signs | None, ended: Counter[str], gaps: Sequence[_Gap]) -> Period:
    causes: dict[str, dict[str, int]] = {}
    for gap in gaps:
        by_cause = causes.setdefault(gap.table, {})
        by_cause[gap.cause] = by_cause.get(gap.cause, 0) + 1
    return Period(
        start=datetime.fromtimestamp(start_s, UTC).isoformat(),
        **attrs.asdict(signs or _Signs()),
        reconnects=sum(count for reason, count in ended.items() if reason != STOPPED),
        ended=dict(sorted(ended.items())),
        gaps=causes,
        missing_trades=sum(gap.missing for gap in gaps if gap.table == "trades"),
        unknown_books_s=round(sum(gap.seconds for gap in gaps if gap.table == "book"), 3),
    )


def _signs(views: duckdb.DuckDBPyConnection, since_ns: int, step_s: int) -> dict[int, _Signs]:
    _, rows = fetch(
        views,
        """SELECT recv_ns // ?, count(*), sum(frames)::BIGINT, sum(rejected)::BIGINT, max(sockets), max(close_wait),
                  max(unowned), max(memory_bytes)
           FROM segments WHERE recv_ns >= ? GROUP BY ALL""",
        [step_s * SECOND_NS, since_ns],
    )
    return {number: _Signs(*rest) for number, *rest in rows}


def _ended(views: duckdb.DuckDBPyConnection, since_ns: int, step_s: int) -> dict[int, Counter[str]]:
    """Count sessions by when and why they ended; a request is none, though it has a row."""
    _, rows = fetch(
        views,
        """SELECT epoch_ns(closed_at) // ?, reason, count(*) FROM sessions
           WHERE epoch_ns(closed_at) >= ? AND stream NOT LIKE '%.rest' GROUP BY ALL""",
        [step_s * SECOND_NS, since_ns],
    )
    found: dict[int, Counter[str]] = {}
    for number, reason, count in rows:
        found.setdefault(number, Counter())[reason] += count
    return found


def _gaps(views: duckdb.DuckDBPyConnection, since_ns: int, now_ns: int, step_s: int) -> dict[int, list[_Gap]]:
    """Return the gaps that began in each period. The last row of a gap says what became of it."""
    order = ", ".join(f"'{state}'" for state in STATES)
    lacking = ", ".join(f"'{state}'" for state in MISSING)
    _, rows = fetch(
        views,
        f"""SELECT epoch_ns(coalesce(from_ts, recv)) // $1, "table", coalesce(cause, ''), coalesce(missing, 0),
                   (coalesce(epoch_ns(to_ts), $3) - epoch_ns(coalesce(from_ts, recv))) / 1e9, state IN ({lacking})
            FROM (SELECT *, row_number() OVER (PARTITION BY "table", exchange, market, symbol, gap
                      ORDER BY recv_ns DESC, list_position([{order}], state) DESC) AS age FROM gaps)
            WHERE age = 1 AND epoch_ns(coalesce(from_ts, recv)) >= $2
            ORDER BY ALL""",
        [step_s * SECOND_NS, since_ns, now_ns],
    )
    found: dict[int, list[_Gap]] = {}
    for number, table, cause, missing, seconds, is_missing in rows:
        gap = _Gap(table, cause, missing if is_missing else 0, max(0.0, seconds) if is_missing else 0.0)
        found.setdefault(number, []).append(gap)
    return found


def _trend(views: duckdb.DuckDBPyConnection, since_ns: int) -> float | None:
    _, [(slope, seconds)] = fetch(
        views,
        """SELECT regr_slope(memory_bytes, recv_ns / 1e9), (max(recv_ns) - min(recv_ns)) / 1e9 FROM segments
           WHERE recv_ns >= ? AND memory_bytes IS NOT NULL""",
        [since_ns],
    )
    if slope is None or not isfinite(slope) or seconds < LEAST_TREND_S:
        return None
    return round(float(slope) * DAY_S, 1)
