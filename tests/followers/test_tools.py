"""The tables' folders, read as any user's tool reads them: with its defaults."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from .recordings import record_some, store

# What pandas and `pq.read_table` use; plain "hive" would infer text for the key and find it a dictionary in the files.
HIVE = ds.HivePartitioning.discover(infer_dictionary=True)
KEYS = {("binance", "spot"): 9, ("okx", "spot"): 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("data")
    record_some(data_dir, 3)
    store(data_dir)
    return data_dir


def test_duckdb_reads_a_tables_tree(data_dir: Path) -> None:
    source = f"read_parquet('{data_dir}/trades/**/*.parquet')"
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT exchange, market, count(*) FROM {source} GROUP BY ALL").fetchall()
        assert {(exchange, market): count for exchange, market, count in found} == KEYS
        where = (
            f"SELECT sum(price * size) FROM {source} WHERE exchange = 'okx' AND ts >= TIMESTAMPTZ '2026-11-23 12:38Z'"
        )
        assert connection.execute(where).fetchone() == (3 * 7.5 * 0.125,)
        types = dict(
            connection.execute(f"SELECT name, type FROM (DESCRIBE FROM {source}) t(name, type, a, b, c, d)").fetchall()
        )
        assert types["ts"] == types["recv"] == "TIMESTAMP WITH TIME ZONE"
        assert (types["price"], types["id"], types["recv_ns"]) == ("DOUBLE", "BIGINT", "BIGINT")
        levels = connection.execute(f"SELECT bid_price[1] FROM read_parquet('{data_dir}/book/**/*.parquet')").fetchall()
        assert Counter(levels) == {(100.1,): 3, (7.5,): 3}


def test_polars_reads_a_tables_tree(data_dir: Path) -> None:
    for source in (data_dir / "trades", data_dir / "trades" / "**" / "*.parquet"):
        frame = pl.scan_parquet(source)
        found = frame.group_by("exchange", "market").len().collect()
        assert {(exchange, market): count for exchange, market, count in found.rows()} == KEYS
        assert frame.filter(pl.col("exchange") == "okx").select(pl.col("id").sum()).collect().item() == 6
        assert frame.collect_schema()["ts"] == pl.Datetime("us", "UTC")


def test_pandas_reads_a_tables_tree(data_dir: Path) -> None:
    frame = pd.read_parquet(data_dir / "trades")

    assert frame.groupby(["exchange", "market"], observed=True).size().to_dict() == KEYS
    assert str(frame["ts"].dtype) == "datetime64[us, UTC]"
    assert frame["ts"].min() == pd.Timestamp("2026-11-23 12:38:00", tz="UTC") - pd.Timedelta(1, "ms")


def test_pyarrow_reads_a_tables_tree(data_dir: Path) -> None:
    for partitioning in (None, HIVE):
        table = ds.dataset(data_dir / "trades", partitioning=partitioning).to_table(
            columns=["exchange", "market", "id"]
        )
        pairs = zip(table["exchange"].to_pylist(), table["market"].to_pylist(), strict=True)
        assert Counter(pairs) == KEYS
    assert len(pq.read_table(data_dir / "trades")) == 12


@pytest.mark.parametrize("table", ["book", "sessions", "instruments", "segments"])
def test_every_table_is_read_by_every_tool(data_dir: Path, table: str) -> None:
    expected = {"book": 6, "sessions": 2, "instruments": 3, "segments": 3}[table]

    counted = duckdb.sql(f"SELECT count(*) FROM read_parquet('{data_dir}/{table}/**/*.parquet')").fetchall()
    assert counted == [(expected,)]
    assert pl.scan_parquet(data_dir / table / "**" / "*.parquet").select(pl.len()).collect().item() == expected
    assert len(pd.read_parquet(data_dir / table)) == expected
    assert ds.dataset(data_dir / table).count_rows() == expected


def test_types_are_the_contracts(data_dir: Path) -> None:
    time, key = pa.timestamp("us", tz="UTC"), pa.dictionary(pa.int32(), pa.string())
    levels = pa.list_(pa.field("element", pa.float64()))
    (path, *_) = (data_dir / "trades").glob("**/*.parquet")
    schema = pq.read_table(path, partitioning=None).schema
    expected = {
        "exchange": key, "market": key, "symbol": pa.string(), "ts": time, "recv": time, "recv_ns": pa.int64(),
        "session": pa.int64(), "frame": pa.int64(), "exact": pa.string(), "id": pa.int64(), "price": pa.float64(),
        "size": pa.float64(), "side": pa.string(), "contracts": pa.float64(), "first_id": pa.int64(),
        "last_id": pa.int64(), "source": pa.string(),
    }  # fmt: skip
    assert dict(zip(schema.names, schema.types, strict=True)) == expected
    (path, *_) = (data_dir / "book").glob("**/*.parquet")
    schema = pq.read_table(path, partitioning=None).schema
    assert {schema.field(f"{side}_{what}").type for side in ("bid", "ask") for what in ("price", "size")} == {levels}
    assert schema.field("snapshot").type == pa.bool_()


def test_a_filter_on_the_path_opens_no_other_exchanges_file(data_dir: Path) -> None:
    dataset = ds.dataset(data_dir / "trades", partitioning=HIVE)

    chosen = [fragment.path for fragment in dataset.get_fragments(ds.field("exchange") == "okx")]

    assert len(chosen) == 3
    assert all("/exchange=okx/" in path for path in chosen)


def test_times_are_the_exchanges_to_the_millisecond(data_dir: Path) -> None:
    found = pl.scan_parquet(data_dir / "trades").sort("recv_ns", "frame").select("ts").head(3).collect()["ts"].to_list()

    begun = datetime(2026, 11, 23, 12, 38, tzinfo=UTC)
    assert [(time - begun).total_seconds() for time in found] == [0, -0.001, 0]
