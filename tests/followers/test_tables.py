"""From sealed segments to Parquet: every row once, under names that say whence it came, whatever dies in between."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from structlog.typing import EventDict

from collector_trio.continuity.fold import Continuity
from collector_trio.followers import state, tables
from collector_trio.followers.cursor import (
    Checkpoint,
    Cursor,
    load_checkpoint,
    load_cursor,
    lock_cursor,
    save_checkpoint,
)
from collector_trio.followers.fold import Fold
from collector_trio.followers.intake import MOST_REASONS, OTHER_REASONS, Intake
from collector_trio.followers.publish import publish
from collector_trio.followers.reads import Read
from collector_trio.instruments import Naming
from collector_trio.journal.records import Batch, Letter, Note
from collector_trio.journal.segments import journal_dir
from collector_trio.tables import TABLES
from tests.journal.writing import tidy

from ..journal.writing import HandClock, leave_open, segments
from .recordings import binance_trade, okx_trade, record_some, recording, store


def files(data_dir: Path, table: str = "*") -> dict[str, bytes]:
    """Return every Parquet file by its path below the data dir."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes() for path in sorted(data_dir.glob(f"{table}/**/*.parquet"))
    }


def rows(data_dir: Path, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table, in the order of receiving."""
    found = [pq.read_table(path, partitioning=None).to_pylist() for path in (data_dir / table).glob("**/*.parquet")]
    return sorted((row for part in found for row in part), key=lambda row: (row["recv_ns"], row["frame"] or 0))


def test_each_row_says_what_its_frame_said(tmp_path: Path) -> None:
    record_some(tmp_path, 1)

    store(tmp_path)

    first, second, ether, okx = rows(tmp_path, "trades")
    assert (first["id"], first["symbol"], first["side"]) == (2, "BTC-USDT", "sell")
    assert (second["id"], second["price"], second["size"], second["side"]) == (1, 0.5, 2.25, "buy")
    assert (ether["id"], ether["symbol"], ether["exchange"], ether["market"]) == (1, "ETH-USDT", "binance", "spot")
    assert (okx["id"], okx["exchange"], okx["price"], okx["size"], okx["source"]) == (1, "okx", 7.5, 0.125, "ws")
    assert [row["frame"] for row in (first, second, ether, okx)] == [2, 3, 4, 5]
    assert [row["session"] for row in (first, second, ether, okx)] == [1, 1, 1, 2]
    assert first["recv_ns"] == second["recv_ns"] < okx["recv_ns"]
    assert first["recv"].timestamp() == first["recv_ns"] // 1000 / 1e6
    snapshot, change = rows(tmp_path, "book")
    assert (snapshot["snapshot"], snapshot["prev_seq"], snapshot["bid_price"]) == (True, -1, [7.5, 7.4])
    assert (change["first_seq"], change["last_seq"], change["prev_seq"]) == (1, 10, 0)
    assert (change["bid_price"], change["bid_size"]) == ([100.1, 100.0], [1.5, 0.0])
    assert (change["ask_price"], change["ask_size"]) == ([100.2], [3.0])


def test_a_file_is_named_by_what_is_in_it_and_lies_in_the_hour_of_receiving(tmp_path: Path) -> None:
    record_some(tmp_path, 2)

    store(tmp_path)

    here = "date=2026-11-23/hour=12"
    assert list(files(tmp_path)) == sorted(
        [f"{table}/exchange={exchange}/market=spot/{here}/{table}-{segment:012d}.parquet"
         for table in ("trades", "book") for exchange in ("binance", "okx") for segment in (1, 2)]
        + [f"instruments/exchange={exchange}/market=spot/{here}/instruments-000000000001.parquet"
           for exchange in ("binance", "okx")]
        + [f"book_snapshots/exchange=okx/market=spot/{here}/book_snapshots-000000000001.parquet"]
        + [f"sessions/exchange={exchange}/market=spot/{here}/sessions-000000000002.parquet"
           for exchange in ("binance", "okx")]
        + [f"segments/exchange=all/market=spot/{here}/segments-{segment:012d}.parquet" for segment in (1, 2)]
    )  # fmt: skip


def test_rows_lie_in_the_hour_they_were_received_in_whatever_their_own_time(tmp_path: Path) -> None:
    clock = HandClock()
    clock.advance(22 * 60 - 1)
    with recording(tmp_path, clock) as recorder:
        session = recorder.open()
        recorder.receive(session, binance_trade(1, time_ms=1_600_000_000_000))
        clock.advance(2)
        recorder.receive(session, binance_trade(2, time_ms=1_600_000_000_000))

    store(tmp_path)

    assert [path.split("/")[3:5] for path in files(tmp_path, "trades")] == [
        ["date=2026-11-23", "hour=12"],
        ["date=2026-11-23", "hour=13"],
    ]


def test_rows_of_a_file_are_sorted_by_symbol_and_exchange_time(tmp_path: Path) -> None:
    record_some(tmp_path, 1)

    store(tmp_path)

    (path,) = (tmp_path / "trades/exchange=binance").glob("**/*.parquet")
    found = [(row["symbol"], row["ts"], row["id"]) for row in pq.read_table(path, partitioning=None).to_pylist()]
    assert found == sorted(found)
    assert [row[2] for row in found] == [1, 2, 1]


def test_storing_twice_writes_the_same_bytes_under_the_same_names(tmp_path: Path) -> None:
    record_some(tmp_path)
    store(tmp_path)
    before = files(tmp_path)

    save_checkpoint(tmp_path, Checkpoint())
    assert store(tmp_path) == 3

    assert files(tmp_path) == before


def test_a_file_says_which_schema_and_which_decoder_made_it(tmp_path: Path) -> None:
    record_some(tmp_path, 1)

    store(tmp_path)

    for path in tmp_path.glob("*/**/*.parquet"):
        metadata = pq.read_schema(path).metadata
        assert metadata[b"collector_trio.schema"] == b"1"
        assert metadata[b"collector_trio.version"]


# The cursor


def test_only_sealed_segments_are_stored_and_each_once(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    open_ = leave_open(tmp_path)

    assert store(tmp_path) == 2
    assert load_cursor(tmp_path) == Cursor(2, 15)
    assert store(tmp_path) == 0
    assert not [path for path in files(tmp_path) if path.endswith("-000000000003.parquet")]

    open_.rename(open_.with_suffix(".log"))
    assert store(tmp_path) == 1
    assert load_cursor(tmp_path) == Cursor(3, 22)
    assert [row["frame"] for row in rows(tmp_path, "trades")] == [2, 3, 4, 5, 9, 10, 11, 12, 16, 17, 18, 19]


def test_the_cursor_moves_only_when_the_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 2)
    there: list[list[str]] = []

    def save(data_dir: Path, checkpoint: Checkpoint) -> None:
        ending = f"-{checkpoint.cursor.segment:012d}.parquet"
        there.append([path for path in files(data_dir, "trades") if path.endswith(ending)])
        save_checkpoint(data_dir, checkpoint)

    monkeypatch.setattr(tables, "save_checkpoint", save)

    store(tmp_path)

    assert [len(found) for found in there] == [2, 2]


class Died(Exception):
    pass


def die(*arguments: Any, **options: Any) -> None:
    raise Died


def die_at(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return `real`, but dying at its n-th call."""
    calls = iter(range(1, 1000))

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise Died
        return real(*arguments, **options)

    return dying


def test_rows_are_stored_once_when_the_follower_dies_between_files_and_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 2)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(tables, "save_checkpoint", die)
            with pytest.raises(Died):
                store(tmp_path)
    assert files(tmp_path, "trades")
    assert load_cursor(tmp_path) == Cursor()

    assert store(tmp_path) == 2

    found = Counter((row["exchange"], row["symbol"], row["id"]) for row in rows(tmp_path, "trades"))
    assert set(found.values()) == {1}
    assert len(found) == 8


def test_rows_are_stored_once_wherever_in_publishing_the_follower_dies(tmp_path: Path) -> None:
    record_some(tmp_path / "whole", 2)
    store(tmp_path / "whole")
    for step in ("pathlib.Path.rename", "pyarrow.parquet.write_table", "collector_trio.followers.publish.sync_folder"):
        for call in (1, 2, 6, 8):
            data_dir = tmp_path / f"{step}-{call}"
            record_some(data_dir, 2)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(step, die_at(call, _find(step)))
                with pytest.raises(Died):
                    store(data_dir)
            for path in data_dir.glob("[!jst]*/**/*.parquet"):
                pq.read_table(path)  # what is visible is whole

            store(data_dir)

            assert files(data_dir) == files(tmp_path / "whole")
            assert not (data_dir / "tmp").exists() or not list((data_dir / "tmp").iterdir())


def _find(name: str) -> Any:
    return {
        "pathlib.Path.rename": Path.rename,
        "pyarrow.parquet.write_table": pq.write_table,
        "collector_trio.followers.publish.sync_folder": lambda folder: None,
    }[name]


def test_nothing_half_built_is_ever_in_a_tables_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 1)
    written: list[str] = []
    write = pq.write_table

    def watch(table: pa.Table, file: Any, **options: Any) -> None:
        written.append(str(Path(file.name).relative_to(tmp_path)))
        assert set(files(tmp_path)) & set(written) == set()
        write(table, file, **options)

    monkeypatch.setattr(pq, "write_table", watch)

    store(tmp_path)

    assert len(written) == len(files(tmp_path))
    assert all(path.startswith("tmp/") for path in written)


def test_what_a_crash_left_half_built_is_removed(tmp_path: Path) -> None:
    record_some(tmp_path, 1)
    half = tmp_path / "tmp" / "000000000001" / "trades-binance-spot"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"PAR1 half")

    tables.open_tables(tmp_path, structlog.get_logger())

    assert not (tmp_path / "tmp").exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"segment": 2}', b"[2, 3]"])
def test_a_cursor_that_cannot_be_read_means_storing_all_again_under_the_same_names(
    tmp_path: Path, content: bytes
) -> None:
    record_some(tmp_path, 2)
    store(tmp_path)
    before = files(tmp_path)
    (tmp_path / "state" / "tables.cursor").write_bytes(content)

    assert store(tmp_path) == 2
    assert files(tmp_path) == before


def test_the_cursor_can_be_held_once(tmp_path: Path) -> None:
    with lock_cursor(tmp_path) as first, lock_cursor(tmp_path) as second:
        assert (first, second) == (True, False)
    with lock_cursor(tmp_path) as third:
        assert third


def test_a_new_folder_is_synced_into_the_one_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 1)
    synced: list[Path] = []
    monkeypatch.setattr("collector_trio.followers.publish.sync_folder", synced.append)
    monkeypatch.setattr("collector_trio.journal.segments.sync_folder", synced.append)

    store(tmp_path)

    for path in tmp_path.glob("[!jst]*/**/*"):
        assert path.parent in synced


# Damage


def damage(data_dir: Path, number: int, old: bytes, new: bytes) -> Path:
    (segment,) = (segment for segment in segments(data_dir) if segment.number == number)
    data = segment.read()
    assert data.count(old) == 1
    segment.path.write_bytes(data.replace(old, new))
    return segment.path


def test_a_damaged_segment_does_not_stop_the_follower_and_is_reported_with_its_bounds(
    tmp_path: Path, logged: list[EventDict]
) -> None:
    record_some(tmp_path, 3)
    path = damage(tmp_path, 2, b'"id":1}', b'"id":2}')
    text = path.read_bytes()

    assert store(tmp_path) == 3

    event, missing = [event for event in logged if event["log_level"] == "error"]
    assert missing["event"] == "frames are not in the journal"
    assert (missing["first_missing"], missing["last_missing"]) == (8, 11)
    assert (event["event"], event["segment"], event["path"]) == ("journal damaged", 2, str(path))
    assert text[event["start"] : event["end"]].startswith(b"#b 8 ")
    assert text[event["end"] :].startswith(b"#b 12 ")
    assert "crc32" in event["problem"]
    assert [row["frame"] for row in rows(tmp_path, "trades")] == [2, 3, 4, 5, 12, 16, 17, 18, 19]
    assert [(row["segment"], row["frames"]) for row in rows(tmp_path, "segments")] == [(1, 7), (2, 3), (3, 7)]
    assert load_cursor(tmp_path) == Cursor(3, 22)


def test_after_damage_the_cursor_still_says_which_frame_comes_next(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    damage(tmp_path, 2, b'"id":1}', b'"id":2}')

    store(tmp_path)

    assert load_cursor(tmp_path).next_frame == 15


@pytest.mark.parametrize(
    ("damaged", "lost"), [("nothing", 0), ("a batch of four", 4), ("a segment", 7)], ids=lambda value: str(value)
)
def test_accepted_frames_that_no_class_counts_are_counted_over_restarts(
    tmp_path: Path, damaged: str, lost: int
) -> None:
    record_some(tmp_path, 4)
    if damaged == "a batch of four":
        damage(tmp_path, 2, b'"id":1}', b'"id":2}')
    elif damaged == "a segment":
        segments(tmp_path)[1].path.write_bytes(b"\0" * 1000)

    store(tmp_path)
    assert load_checkpoint(tmp_path).totals["unbalanced"] == lost

    with recording(tmp_path) as recorder:
        recorder.open()
    store(tmp_path)
    assert load_checkpoint(tmp_path).totals["unbalanced"] == lost


def test_a_frame_that_falls_into_no_class_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_reads = Intake.take_reads

    def forgetful(intake: Intake, reads: Sequence[Read]) -> None:
        take_reads(intake, reads)
        intake.counts["rows"] -= 1

    monkeypatch.setattr(Intake, "take_reads", forgetful)
    record_some(tmp_path, 1)
    store(tmp_path)
    assert load_checkpoint(tmp_path).totals["unbalanced"] > 0


def test_a_segment_that_lost_its_head_lies_in_its_hour_and_its_frames_are_kept_as_rejects(
    tmp_path: Path, logged: list[EventDict]
) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.next_segment()
        recorder.receive(session, binance_trade(1))
    (segment, *_) = segments(tmp_path)[1:]
    data = segment.read()
    batch = data.index(b"#b")
    segment.path.write_bytes(b"\0" * (batch - 1) + data[batch - 1 : data.index(b"#z")])
    segments(tmp_path)[0].path.unlink()  # nor does anything else say who spoke

    store(tmp_path)

    (reject,) = rows(tmp_path, "rejects")
    assert (reject["reason"], reject["frame"], reject["text"]) == ("unknown session", 1, binance_trade(1).decode())
    assert list(files(tmp_path, "rejects")) == [
        "rejects/exchange=all/market=all/date=2026-11-23/hour=12/rejects-000000000002.parquet"
    ]
    assert [event["start"] for event in logged if event["event"] == "journal damaged"] == [0]


def test_a_segment_of_which_nothing_can_be_read_is_reported_and_passed(tmp_path: Path, logged: list[EventDict]) -> None:
    record_some(tmp_path, 3)
    paths = [segment.path for segment in segments(tmp_path)]
    paths[1].write_bytes(b"\0" * 1000)

    store(tmp_path)

    event, missing = [event for event in logged if event["log_level"] == "error"]
    assert missing["event"] == "frames are not in the journal"
    assert (missing["first_missing"], missing["last_missing"]) == (8, 14)
    assert (event["path"], event["start"], event["end"]) == (str(paths[1]), 0, 1000)
    assert load_cursor(tmp_path) == Cursor(3, 22)
    assert {path.split("/")[3] for path in files(tmp_path)} == {"date=2026-11-23"}  # and nothing in 1970


def test_a_compressed_segment_that_is_cut_short_is_reported_and_passed(tmp_path: Path, logged: list[EventDict]) -> None:
    record_some(tmp_path, 3)
    tidy(tmp_path, 3, "forever", 0, 0.0)
    path = segments(tmp_path)[1].path
    path.write_bytes(path.read_bytes()[:-10])

    assert store(tmp_path) == 3

    event, missing = [event for event in logged if event["log_level"] == "error"]
    assert missing["event"] == "frames are not in the journal"
    assert (missing["first_missing"], missing["last_missing"]) == (8, 14)
    assert event["event"] == "segment unreadable"
    assert str(path) in event["problem"]
    assert "cut short" in event["problem"]
    assert [row["segment"] for row in rows(tmp_path, "segments")] == [1, 3]
    assert load_cursor(tmp_path) == Cursor(3, 22)


def test_a_whole_journal_is_stored_without_a_complaint(tmp_path: Path, logged: list[EventDict]) -> None:
    record_some(tmp_path, 3)

    store(tmp_path)

    assert logged == []


# What is no row


def test_a_frame_nobody_understands_is_kept_whole_with_the_reason(tmp_path: Path) -> None:
    odd = [b'{"stream":"btcusdt@trade","data":{"e":"trade","s":1}}', b"\xff\xfe not text", b"#b 1 2\nx", b""]
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.receive(session, binance_trade(1), *odd)

    store(tmp_path)

    found = rows(tmp_path, "rejects")
    assert [row["text"] for row in found] == [odd[0].decode(), "\\xff\\xfe not text", "#b 1 2\nx", ""]
    assert all(row["reason"] for row in found)
    assert [row["frame"] for row in found] == [2, 3, 4, 5]
    assert {(row["exchange"], row["market"], row["session"]) for row in found} == {("binance", "spot", session)}


def test_a_frame_of_an_instrument_nobody_described_is_a_reject_that_names_it(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        recorder.receive(recorder.open(), binance_trade(1, "DOGEUSDT"))

    store(tmp_path)

    (row,) = rows(tmp_path, "rejects")
    assert row["reason"] == "unknown instrument DOGEUSDT"
    assert row["text"] == binance_trade(1, "DOGEUSDT").decode()


def test_reasons_that_quote_are_counted_apart_up_to_a_bound_and_every_frame_keeps_its_own() -> None:
    fold = Fold(Naming(), continuity=Continuity())
    opened = {"session": 1, "exchange": "binance", "markets": ["spot"], "stream": "s"}
    fold.feed(Note(Letter.OPENED, 1, opened))
    frames = [b'{"stream":"x","data":{"e":"unheard of %d"}}' % n for n in range(MOST_REASONS + 50)]
    fold.feed(Batch(1, 1, 1, [*frames, frames[0]]))
    rejects = fold.totals["rejects"]
    assert len(rejects) == MOST_REASONS + 1
    assert rejects[OTHER_REASONS] == 50
    assert rejects["unknown event type 'unheard of 0'"] == 2
    (rows,) = fold.take().values()
    assert rows.column("reason").to_pylist()[:150] == [f"unknown event type 'unheard of {n}'" for n in range(150)]


def test_the_frames_of_each_segment_add_up(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        kline = b'{"stream":"btcusdt@kline_1m","data":{"e":"kline"}}'
        recorder.receive(session, binance_trade(1), b'{"result":null,"id":1}', kline, kline, b"?")
        recorder.next_segment()
        recorder.next_segment()
        recorder.receive(session, binance_trade(2), binance_trade(3))

    store(tmp_path)

    first, second, third = rows(tmp_path, "segments")
    names = ("segment", "first_frame", "frames", "rows", "control", "duplicate", "ignored", "rejected")
    assert [first[name] for name in names] == [1, 1, 5, 1, 1, 0, 2, 1]
    assert [second[name] for name in names] == [2, 6, 0, 0, 0, 0, 0, 0]
    assert [third[name] for name in names] == [3, 6, 2, 2, 0, 0, 0, 0]
    assert json.loads(first["ignored_reasons"]) == {"channel not recorded: kline": 2}
    assert second["ignored_reasons"] is None


# Sessions and instruments


def test_a_sessions_row_tells_its_story(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.live(session)
        recorder.receive(session, binance_trade(1), binance_trade(2))
        recorder.next_segment()
        recorder.receive(session, binance_trade(3))
        recorder.end(session, "reset", "ECONNRESET")
        unborn = recorder.open("okx")
        recorder.end(unborn, "dial", "refused")

    store(tmp_path)

    row, unborn_row = rows(tmp_path, "sessions")
    facts = recorder.sessions[session]
    assert (row["session"], row["stream"], row["exchange"], row["market"]) == (
        session,
        "binance.spot/1",
        "binance",
        "spot",
    )
    assert row["opened_at"].timestamp() == facts["opened_ns"] // 1000 / 1e6
    assert row["live_at"].timestamp() == facts["live_ns"] // 1000 / 1e6
    assert row["closed_at"] == row["recv"] > row["live_at"]
    assert (row["reason"], row["detail"], row["peer"]) == ("reset", "ECONNRESET", "192.0.2.1:443")
    assert (row["frames"], row["bytes"]) == (3, sum(len(binance_trade(n)) for n in (1, 2, 3)))
    assert row["frame"] is None
    assert (unborn_row["session"], unborn_row["live_at"], unborn_row["reason"]) == (unborn, None, "dial")


def test_a_session_whose_process_died_is_ended_by_the_next_start(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.live(session)
        recorder.receive(session, binance_trade(1))
        recorder.next_segment()
        recorder.receive(session, binance_trade(2))
        died_ns = recorder.clock.ns
    leave_open(tmp_path)
    later = HandClock()
    later.advance(3000)

    with recording(tmp_path, later):
        pass
    store(tmp_path)

    (row,) = rows(tmp_path, "sessions")
    assert (row["session"], row["reason"], row["frames"], row["bytes"]) == (session, "process died", 2, 303)
    assert row["closed_at"].timestamp() == died_ns // 1000 / 1e6
    assert row["recv"].timestamp() >= row["closed_at"].timestamp() + 2900
    assert row["live_at"] is not None
    assert [trade["id"] for trade in rows(tmp_path, "trades")] == [1, 2]


def test_a_session_over_several_markets_is_said_to_concern_all(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open("okx", ("spot", "perp"))
        recorder.receive(session, okx_trade(1), b"?")
        recorder.end(session)

    store(tmp_path)

    assert [row["market"] for row in rows(tmp_path, "sessions")] == ["all"]
    assert [row["market"] for row in rows(tmp_path, "rejects")] == ["all"]
    assert [row["market"] for row in rows(tmp_path, "trades")] == ["spot"]


def test_instruments_are_written_when_they_are_learned_and_not_at_every_head(tmp_path: Path) -> None:
    record_some(tmp_path, 3)

    store(tmp_path)

    found = rows(tmp_path, "instruments")
    assert [(row["exchange"], row["symbol"]) for row in found] == [
        ("binance", "BTC-USDT"),
        ("binance", "ETH-USDT"),
        ("okx", "BTC-USDT"),
    ]
    bitcoin = found[0]
    assert (bitcoin["native_symbol"], bitcoin["base"], bitcoin["quote"], bitcoin["status"]) == (
        "BTCUSDT", "BTC", "USDT", "TRADING",
    )  # fmt: skip
    assert (bitcoin["tick_size"], bitcoin["lot_size"], bitcoin["contract_size"]) == (0.01, 0.00001, None)
    assert bitcoin["valid_from"] <= bitcoin["recv"]


def test_a_segment_without_a_frame_is_a_row_of_segments_and_nothing_else(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        recorder.next_segment()

    store(tmp_path)

    assert sorted({path.split("/")[0] for path in files(tmp_path)}) == ["instruments", "segments"]
    assert load_cursor(tmp_path) == Cursor(2, 1)


def test_every_table_a_file_was_written_for_is_known(tmp_path: Path) -> None:
    record_some(tmp_path, 1)
    store(tmp_path)

    folders = {path.name for path in tmp_path.iterdir()} - {"journal", "state", "tmp"}

    assert folders <= TABLES.keys()
    assert journal_dir(tmp_path).is_dir()


def test_publishing_nothing_is_nothing(tmp_path: Path) -> None:
    publish(tmp_path, 1, {}, 0)

    assert not files(tmp_path)


def test_a_state_of_another_version_means_that_gaps_begin_anew_and_nothing_ends(
    tmp_path: Path, logged: list[EventDict]
) -> None:
    record_some(tmp_path, 2)
    store(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    known = state.decode(checkpoint.state)
    del known.continuity["trades"][0]["exchange"]
    save_checkpoint(tmp_path, attrs.evolve(checkpoint, state=state.encode(known)))
    assert tables.open_tables(tmp_path, structlog.get_logger()).cursor == checkpoint.cursor
    assert [event["event"] for event in logged] == ["state unreadable; gaps and books begin anew"]


def test_what_the_disk_no_longer_gives_of_a_segment_is_damage_and_what_it_gave_is_stored(
    tmp_path: Path, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_some(tmp_path, 3)
    path = segments(tmp_path)[1].path
    whole = path.read_bytes()
    size = whole.rindex(b"\n#b ") + 1

    class Failing(FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.name == path and self.tell():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    monkeypatch.setattr("collector_trio.journal.segments.FileIO", Failing)
    monkeypatch.setattr("collector_trio.followers.tables.PIECE_BYTES", size)

    store(tmp_path)

    event, missing = [event for event in logged if event["log_level"] == "error"]
    assert missing["event"] == "frames are not in the journal"
    assert (event["event"], event["segment"], event["start"]) == ("journal damaged", 2, size)
    assert event["problem"] == "Input/output error"
    by_segment = {row["segment"]: row["frames"] for row in rows(tmp_path, "segments")}
    assert 0 < by_segment[2] < by_segment[1]
    assert load_cursor(tmp_path) == Cursor(3, 22)
