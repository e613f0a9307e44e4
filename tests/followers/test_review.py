"""`summary --since`: sockets, memory, reconnects by reason and gaps by cause, period by period."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from collector_trio.followers.reading import query
from collector_trio.followers.review import DAY_S, HOUR_S, Review
from collector_trio.followers.summary import summarize
from collector_trio.journal.records import Letter

from .recordings import binance_trade, recording, store
from .test_commands import Shell, shell  # noqa: F401 - a fixture
from .written import START, gap, us, write

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
MB = 10**6


def segment(time: datetime, **others: Any) -> dict[str, Any]:
    row = {"recv": time, "ts": None, "segment": 1, "first_frame": 1, "frames": 100, "rows": 100, "rejected": 0}
    return row | {"memory_bytes": 80 * MB, "sockets": 6, "close_wait": 0, "unowned": 0} | others


def session(closed: datetime, reason: str, stream: str = "binance.spot/1") -> dict[str, Any]:
    times = {"recv": closed, "ts": None, "opened_at": closed - timedelta(hours=1), "live_at": None, "closed_at": closed}
    return times | {"stream": stream, "reason": reason, "detail": "", "frames": 1, "bytes": 1, "peer": ""}


def ns(time: datetime) -> int:
    return us(time) * 1000


def review_of(data_dir: Path, since: datetime, now: datetime = NOW) -> Review:
    found = summarize(data_dir, ns(since), review_until_ns=ns(now)).review
    assert found is not None
    return found


def write_segments(data_dir: Path, times: Sequence[datetime], **others: Any) -> None:
    write(data_dir, "segments", [segment(time, **others) for time in times], exchange="all", market="all")


def test_what_ticks_say_of_the_recorder_is_kept_in_its_segments_as_the_most_of_each(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        for memory, sockets, close_wait in ((70 * MB, 8, 0), (90 * MB, 6, 2), (80 * MB, 7, 1)):
            signs = {"memory_bytes": memory, "sockets": sockets, "close_wait": close_wait, "unowned": 0}
            recorder.journal.note(Letter.TICK, signs)
            recorder.journal.note(Letter.TICK, {})
        recorder.next_segment()  # in which no tick says anything
    store(tmp_path)
    asked = "SELECT memory_bytes, sockets, close_wait, unowned FROM segments ORDER BY segment"
    assert query(tmp_path, asked)[1] == [(90 * MB, 8, 2, 0), (None, None, None, None)]


def test_a_month_is_told_by_the_day_and_two_days_by_the_hour(tmp_path: Path) -> None:
    begin = NOW - timedelta(days=29, hours=20)
    write_segments(tmp_path, [begin + timedelta(hours=6 * n) for n in range(119)])
    month = review_of(tmp_path, NOW - timedelta(days=30))
    assert (month.step_s, len(month.periods)) == (DAY_S, 31)
    assert month.periods[0].start == "2026-10-31T00:00:00+00:00"
    assert {period.segments for period in month.periods[1:-1]} == {4}
    assert {period.frames for period in month.periods[1:-1]} == {400}
    day = review_of(tmp_path, NOW - timedelta(hours=24))
    assert day.step_s == HOUR_S
    assert len(day.periods) <= 25


def test_an_hour_without_a_segment_is_one_in_which_nothing_was_recorded(tmp_path: Path) -> None:
    write_segments(tmp_path, [START, START + timedelta(hours=2)])
    periods = review_of(tmp_path, START, START + timedelta(hours=2)).periods
    assert [(period.segments, period.sockets, period.memory_bytes) for period in periods] == [
        (1, 6, 80 * MB), (0, None, None), (1, 6, 80 * MB),
    ]  # fmt: skip


def test_each_period_has_the_most_that_was_counted_in_it(tmp_path: Path) -> None:
    write_segments(tmp_path, [START], sockets=9, memory_bytes=70 * MB)
    write_segments(tmp_path, [START + timedelta(minutes=5)], close_wait=3, unowned=1)
    (period,) = review_of(tmp_path, START, START + timedelta(minutes=6)).periods
    assert (period.sockets, period.close_wait, period.unowned, period.memory_bytes) == (9, 3, 1, 80 * MB)


def test_reconnects_are_counted_by_reason_when_they_happened_and_what_we_ended_is_none(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    write_segments(tmp_path, [START + n * hour for n in range(3)])
    rows = [session(START, reason) for reason in ("eof", "eof", "silent", "stopped")]
    rows += [session(START + 2 * hour, "closed"), session(START - 9 * hour, "reset")]
    write(tmp_path, "sessions", [*rows, session(START, "answered", "binance.spot.rest")])
    periods = review_of(tmp_path, START - hour, START + 2 * hour).periods
    assert [(period.reconnects, period.ended) for period in periods] == [
        (3, {"eof": 2, "silent": 1, "stopped": 1}), (0, {}), (1, {"closed": 1}),
    ]  # fmt: skip


def test_gaps_are_counted_by_cause_where_they_began_and_what_is_missing_is_what_is_missing_still(
    tmp_path: Path,
) -> None:
    write_segments(tmp_path, [START, START + timedelta(hours=1)])
    trades = {"table": "trades", "first_missing": 1}
    rows = [
        gap(60, "open", 50, 55, gap="a", cause="disconnect", missing=7, **trades),
        gap(60, "open", 50, 55, gap="b", cause="disconnect", missing=5, **trades),
        gap(70, "repaired", 50, 55, gap="b", cause="disconnect", missing=5, **trades),
        gap(60, "open", 50, None, gap="c", cause="process down"),
        gap(80, "lost", 50, 75.5, gap="c", cause="process down"),
        gap(3600, "open", 3590, None, gap="d", cause="disconnect"),  # and goes on
    ]
    write(tmp_path, "gaps", rows)
    first, second = review_of(tmp_path, START, START + timedelta(seconds=3700)).periods
    assert first.gaps == {"book": {"process down": 1}, "trades": {"disconnect": 2}}
    assert (first.missing_trades, first.unknown_books_s) == (7, 25.5)
    assert second.gaps == {"book": {"disconnect": 1}}
    assert (second.missing_trades, second.unknown_books_s) == (0, 110.0)


def test_the_trend_of_memory_is_a_line_through_all_segments_and_not_known_of_the_first_hours(tmp_path: Path) -> None:
    for hour in range(24 * 3):
        write_segments(tmp_path, [START + timedelta(hours=hour)], memory_bytes=80 * MB + hour * MB)
    end = START + timedelta(days=3)
    assert review_of(tmp_path, START, end).memory_trend_bytes_per_day == pytest.approx(24 * MB, rel=1e-6)
    assert review_of(tmp_path, end - timedelta(hours=6), end).memory_trend_bytes_per_day is None


def test_files_of_a_version_that_did_not_count_are_read_beside_those_of_today(tmp_path: Path) -> None:
    write_segments(tmp_path, [START])
    (path,) = tmp_path.glob("segments/**/*.parquet")
    pq.write_table(
        pq.read_table(path, partitioning=None).drop_columns(["memory_bytes", "sockets", "close_wait", "unowned"]), path
    )
    assert query(tmp_path, "SELECT frames, sockets FROM segments")[1] == [(100, None)]
    write_segments(tmp_path, [START + timedelta(minutes=1)])
    assert query(tmp_path, "SELECT frames, sockets FROM segments ORDER BY recv_ns")[1] == [(100, None), (100, 6)]


def test_a_data_dir_in_which_nothing_is_has_no_periods(tmp_path: Path) -> None:
    assert review_of(tmp_path, START).periods == ()


PERIOD_KEYS = [
    "start", "segments", "frames", "rejected", "sockets", "close_wait", "unowned", "memory_bytes", "reconnects",
    "ended", "gaps", "missing_trades", "unknown_books_s",
]  # fmt: skip


def test_summary_since_a_duration_says_how_it_went(
    tmp_path: Path,
    shell: Shell,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: ns(NOW))
    write_segments(tmp_path, [NOW - timedelta(days=days, hours=1) for days in range(6)])
    write(tmp_path, "sessions", [session(NOW - timedelta(days=3), "eof"), session(NOW, "stopped")])
    write(tmp_path, "gaps", [gap(1, "open", 0, 1, recv=NOW - timedelta(days=3), cause="eof")])

    document = shell("summary", "--data-dir", tmp_path, "--since", "7d", "--json").document
    said = shell("summary", "--data-dir", tmp_path, "--since", "7d").out

    assert list(document["review"]) == ["step_s", "periods", "memory_trend_bytes_per_day"]
    assert [list(period) for period in document["review"]["periods"]] == [PERIOD_KEYS] * 6
    assert document["review"]["memory_trend_bytes_per_day"] == 0.0
    lines = [line.split() for line in said.splitlines() if line.startswith("2026-11-")]
    assert [line[0] for line in lines] == [f"2026-11-{day}" for day in range(25, 31)]
    assert lines[2] == ["2026-11-27", "6", "0", "0", "80.0", "MB", "1", "0", "0.0", "s", "ended:", "eof", "1"]
    assert "memory: +0 bytes a day" in said


def test_summary_refuses_a_duration_that_is_none(tmp_path: Path, shell: Shell) -> None:  # noqa: F811
    done = shell("summary", "--data-dir", tmp_path, "--since", "30 moons")
    assert done.code == 2
    assert "'30 moons' is not a time such as 2026-11-23" in done.err
    assert "or a duration such as 24h or 30d" in done.err


def test_frames_of_a_recording_are_in_its_review(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        recorder.receive(recorder.open(), binance_trade(1), b"what is this")
    (period,) = review_of(tmp_path, START, START).periods  # from the running journal: nothing is stored yet
    assert (period.segments, period.frames, period.rejected) == (1, 2, 1)
