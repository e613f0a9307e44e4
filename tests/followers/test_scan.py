"""`scan`: the rows of `sql` as a Polars frame, in the order of time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import collector_trio
from collector_trio.errors import CollectorError
from collector_trio.followers import reading
from collector_trio.followers.reading import query
from collector_trio.followers.scan import scan
from collector_trio.tables import TABLES

from ..journal.writing import leave_open
from .recordings import binance_trade, record_some, recording, store
from .written import START, at, change, gap, write


def trade(seconds: float, number: int, **others: Any) -> dict[str, Any]:
    return {"symbol": "BTC-USDT", "ts": at(seconds), "frame": number, "id": number, "price": 1.5} | others


def ids(found: pl.LazyFrame) -> list[int]:
    return found.collect()["id"].to_list()


def test_rows_are_the_same_whether_they_are_in_files_or_in_the_journal(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    path = leave_open(tmp_path)
    frames = [scan(table, tmp_path).collect() for table in TABLES]
    store(tmp_path)
    some = [scan(table, tmp_path).collect() for table in TABLES]
    path.rename(path.with_suffix(".log"))
    store(tmp_path)
    stored = [scan(table, tmp_path).collect() for table in TABLES]

    for table, *three in zip(TABLES, frames, some, stored, strict=True):
        assert [len(frame) for frame in three] == [query(tmp_path, f"SELECT count(*) FROM {table}")[1][0][0]] * 3
        assert three[0].equals(three[1])
        assert three[0].equals(three[2])


def test_rows_of_the_running_segment_are_there_as_soon_as_they_are_accepted(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        for number in range(1, 4):
            recorder.receive(session, binance_trade(number))
            assert ids(scan("trades", tmp_path)) == list(range(1, number + 1))


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_has_the_columns_of_a_full_one(tmp_path: Path, table: str) -> None:
    empty = scan(table, tmp_path)
    write(tmp_path, table, [{"ts": START}])
    stored = scan(table, tmp_path)

    assert empty.collect().schema == stored.collect().schema == empty.collect_schema() == stored.collect_schema()
    assert list(empty.collect_schema()) == list(TABLES[table].columns)
    assert len(empty.collect()) == 0


def test_rows_are_in_the_order_of_the_exchanges_time(tmp_path: Path) -> None:
    write(tmp_path, "trades", [trade(5, 7), trade(60, 9), trade(1, 3, recv=at(500)), trade(60, 8, recv=at(500))])
    write(tmp_path, "trades", [trade(4, 5)], "okx")

    assert ids(scan("trades", tmp_path)) == [3, 5, 7, 8, 9]


def test_rows_without_a_time_of_the_exchange_are_where_they_were_received(tmp_path: Path) -> None:
    rows = [change(1, 1, 2), change(2, 2, 3, ts=None, recv=at(2)), change(3, 3, 4)]
    write(tmp_path, "book", rows)
    write(tmp_path, "gaps", [gap(n, "open", None, None, gap=str(n)) for n in (9, 6, 7)])

    assert scan("book", tmp_path).collect()["last_seq"].to_list() == [2, 3, 4]
    assert scan("book", tmp_path, start=at(2), end=at(3)).collect()["last_seq"].to_list() == [3]
    assert scan("gaps", tmp_path, start=at(7)).collect()["gap"].to_list() == ["7", "9"]


def test_filters_choose_rows_stored_or_not(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    path = leave_open(tmp_path)
    store(tmp_path)
    assert path.exists()
    whole = scan("trades", tmp_path).collect()

    for wanted in ({"exchange": "okx"}, {"symbol": "ETH-USDT"}, {"exchange": "binance", "symbol": "BTC-USDT"}):
        expected = whole.filter(*(pl.col(name) == value for name, value in wanted.items()))
        assert 0 < len(expected) < len(whole)
        assert scan("trades", tmp_path, **wanted).collect().equals(expected)  # type: ignore[arg-type]
    assert scan("trades", tmp_path, market="spot").collect().equals(whole)
    assert len(scan("trades", tmp_path, market="perp").collect()) == 0


def test_a_stretch_of_time_begins_at_its_start_and_ends_before_its_end(tmp_path: Path) -> None:
    write(tmp_path, "trades", [trade(seconds, seconds) for seconds in (1, 2, 3, 4)])

    assert ids(scan("trades", tmp_path, start=at(2), end=at(4))) == [2, 3]
    assert ids(scan("trades", tmp_path, start="2026-11-23T12:30:03")) == [3, 4]
    assert ids(scan("trades", tmp_path, end="2026-11-23T13:30:02+01:00")) == [1]


def test_what_was_received_days_after_it_happened_is_found_where_it_happened(tmp_path: Path) -> None:
    day = 86_400
    write(tmp_path, "trades", [trade(n * day, n) for n in range(4)] + [trade(5, 9, recv=at(3 * day))])

    assert ids(scan("trades", tmp_path, start=at(0), end=at(day))) == [0, 9]
    assert ids(scan("trades", tmp_path, start=at(2.5 * day))) == [3]


def test_rows_received_before_they_happened_are_found(tmp_path: Path) -> None:
    """Our clock was wrong by hours."""
    write(tmp_path, "trades", [trade(0, 1, recv=at(-10 * 3600))])

    assert ids(scan("trades", tmp_path, start=at(0))) == [1]


def test_only_the_files_that_may_hold_rows_are_opened(tmp_path: Path) -> None:
    day = 86_400
    write(tmp_path, "trades", [trade(n * day, n) for n in range(5)])
    write(tmp_path, "trades", [trade(4 * day, 4)], "okx")
    for path in tmp_path.glob("trades/**/*.parquet"):
        if "exchange=okx" in path.parts or "date=2026-11-23" in path.parts:
            path.write_bytes(b"not to be read")

    assert ids(scan("trades", tmp_path, exchange="binance", start=at(3 * day))) == [3, 4]


def test_files_with_fewer_or_more_columns_are_read(tmp_path: Path) -> None:
    """An earlier version wrote them, or a later one."""
    write(tmp_path, "trades", [trade(1, 1), trade(61, 2), trade(121, 3)])
    first, second, _ = sorted(tmp_path.glob("trades/**/*.parquet"))
    rows = pq.read_table(first, partitioning=None)
    pq.write_table(rows.drop_columns(["source", "side"]), first)
    pq.write_table(rows.append_column("novelty", [[1]]), second)

    found = scan("trades", tmp_path).collect()

    assert found["id"].to_list() == [1, 1, 3]
    assert list(found.columns) == list(TABLES["trades"].columns)


def test_a_path_with_a_quote_and_brackets_in_it_is_a_path(tmp_path: Path) -> None:
    data_dir = tmp_path / "it's [here] *"
    record_some(data_dir, 2)
    store(data_dir)

    assert len(scan("trades", str(data_dir)).collect()) == 8


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("trade", "there is no table 'trade'; did you mean 'trades'?"),
        ("x", "there is no table 'x'; there are trades, "),
    ],
)
def test_a_table_that_is_none_is_an_error(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(CollectorError) as error:
        scan(table, tmp_path)
    assert str(error.value).startswith(says)


def test_a_place_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="nowhere: no such folder"):
        scan("trades", tmp_path / "nowhere")


def test_a_segment_that_vanishes_is_looked_for_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 2)
    real, looks = reading.look, []

    def looking(*asked: Any) -> reading.Picture:
        picture = real(*asked)
        looks.append(1)
        if len(looks) == 1:
            store(tmp_path)
            for segment in picture.unstored:
                segment.path.unlink()
        return picture

    monkeypatch.setattr(reading, "look", looking)

    assert len(scan("trades", tmp_path).collect()) == 8
    assert len(looks) == 2


def test_a_frame_collected_after_its_file_went_raises_and_a_new_one_does_not(tmp_path: Path) -> None:
    """As the documentation says."""
    write(tmp_path, "trades", [trade(1, 1)])
    found = scan("trades", tmp_path)
    [path] = tmp_path.glob("trades/**/*.parquet")
    path.rename(path.with_name("trades-000000000001-000000000009.parquet"))

    with pytest.raises(FileNotFoundError):
        found.collect()
    assert ids(scan("trades", tmp_path)) == [1]


def test_the_package_offers_reading_without_importing_it(tmp_path: Path) -> None:
    assert collector_trio.scan is scan
    assert {"scan", "book_at", "Book", "BookUnknown", "__version__"} <= set(dir(collector_trio))
    with pytest.raises(AttributeError, match="module 'collector_trio' has no attribute 'scann'"):
        _ = collector_trio.scann  # type: ignore[attr-defined]
    program = (
        "import sys, collector_trio, collector_trio.app;"
        "print(sorted({'polars', 'pyarrow', 'duckdb', 'numpy'} & sys.modules.keys()));"
        "print(collector_trio.scan.__module__, collector_trio.book_at.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "collector_trio.followers.scan collector_trio.followers.books"]
