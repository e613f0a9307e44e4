"""`keep_tables`: hours that are older go, as whole folders, and nothing else does."""

from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from collector_trio.followers.books import BookUnknown, book_at
from collector_trio.followers.ledger import ledger
from collector_trio.followers.reading import query
from collector_trio.followers.scan import scan
from collector_trio.followers.summary import summarize
from collector_trio.followers.tables import open_tables
from collector_trio.followers.upkeep import KEPT_TABLES, Upkeep

from .hours import HOUR_S, LATER_S, HandTime, empty_tmp, hour_folders, look_after, record_hours

ONE_O_CLOCK = LATER_S // HOUR_S * HOUR_S - HOUR_S


@pytest.mark.parametrize(
    ("keep_s", "now_s", "hours"),
    [
        (None, ONE_O_CLOCK + 1e9, {"hour=12", "hour=13"}),
        (HOUR_S, ONE_O_CLOCK + HOUR_S - 1, {"hour=12", "hour=13"}),
        (HOUR_S, ONE_O_CLOCK + HOUR_S, {"hour=13"}),
        (HOUR_S, ONE_O_CLOCK + 2 * HOUR_S - 1, {"hour=13"}),
        (HOUR_S, ONE_O_CLOCK + 2 * HOUR_S, set()),
        (1.0, ONE_O_CLOCK + 1, {"hour=13"}),
        (1.0, ONE_O_CLOCK - HOUR_S, {"hour=12", "hour=13"}),
    ],
)
def test_an_hour_goes_when_its_end_is_older_than_said(
    tmp_path: Path, keep_s: float | None, now_s: float, hours: set[str]
) -> None:
    record_hours(tmp_path)

    look_after(tmp_path, keep_s, HandTime(now_s))

    for table in ("trades", "book"):
        assert {folder.rpartition("/")[2] for folder in hour_folders(tmp_path, table)} == hours
    days = {path.parent for path in tmp_path.glob("trades/*/*/date=*/hour=*")}
    assert set(tmp_path.glob("trades/*/*/date=*")) == days  # no empty ones


def test_what_is_missing_and_the_terms_in_force_are_kept_and_everything_else_goes(
    tmp_path: Path, logged: list[EventDict]
) -> None:
    record_hours(tmp_path)
    before = {name: ledger(tmp_path) for name in ("gaps",)}

    look_after(tmp_path, 1.0)

    assert {folder.split("/")[0] for folder in hour_folders(tmp_path)} == {"instruments"} <= set(KEPT_TABLES)
    assert ledger(tmp_path) == before["gaps"]
    [event] = [event for event in logged if event["event"] == "tables older than keep_tables removed"]
    assert event["before"] == "2026-11-23T14:00:00+00:00"


def test_readers_go_on_with_what_is_left(tmp_path: Path) -> None:
    record_hours(tmp_path)

    look_after(tmp_path, float(HOUR_S), HandTime(ONE_O_CLOCK + HOUR_S))

    assert query(tmp_path, "SELECT count(*) FROM trades")[1] == [(4,)]
    assert len(scan("trades", tmp_path).collect()) == 4
    found = summarize(tmp_path)
    assert {row.rows for row in found.tables if row.table == "trades"} == {1, 2}
    assert (found.frames.received, found.frames.balanced) == (7, True)
    with pytest.raises(BookUnknown):
        book_at("BTC-USDT", "2026-11-23T12:59:30Z", data_dir=tmp_path, exchange="okx")


def test_a_folder_goes_as_a_whole_and_its_files_when_nobody_can_be_listing_it(tmp_path: Path) -> None:
    record_hours(tmp_path)
    clock = HandTime()
    with Upkeep(tmp_path, 1.0, structlog.get_logger(), clock) as kept:
        while kept.step(7):
            pass
        assert any(len(list(folder.iterdir())) == 6 for folder in (tmp_path / "tmp").iterdir())
        empty_tmp(kept, clock)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_hours_grow_old_while_a_follower_runs(tmp_path: Path) -> None:
    record_hours(tmp_path)
    clock = HandTime(ONE_O_CLOCK + 1)
    open_tables(tmp_path, structlog.get_logger())
    with Upkeep(tmp_path, 90 * 60.0, structlog.get_logger(), clock) as kept:
        for now_s, hours in ((1, 2), (90 * 60 - 1, 2), (90 * 60, 1), (150 * 60, 0)):
            clock.s = ONE_O_CLOCK + now_s
            while kept.step(7):
                pass
            assert len(hour_folders(tmp_path, "book")) == 2 * hours


def test_folders_that_say_no_hour_are_nobodys(tmp_path: Path) -> None:
    record_hours(tmp_path)
    [market] = tmp_path.glob("trades/exchange=okx/market=spot")
    for name in ("date=mine/hour=12", "date=2020-01-01/hour=99", "date=2020-01-01/notes"):
        (market / name).mkdir(parents=True)

    look_after(tmp_path, 1.0)

    assert sorted(str(path.relative_to(market)) for path in market.glob("*/*")) == [
        "date=2020-01-01/hour=99", "date=2020-01-01/notes", "date=mine/hour=12",
    ]  # fmt: skip
