"""`sql`, `summary` and `replay`, called as the shell calls them."""

import json
import shutil
from pathlib import Path
from typing import Any

import attrs
import pyarrow.parquet as pq
import pytest
import structlog

from collector_trio.commands import main
from collector_trio.followers.cursor import Cursor, load_cursor, lock_cursor
from collector_trio.journal.segments import journal_dir
from collector_trio.tables import TABLES
from tests.journal.writing import tidy

from ..journal.writing import START_NS, HandClock, leave_open, segments
from .recordings import binance_depth, binance_trade, record_some, recording, store


@attrs.frozen
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, out, err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("collector_trio.commands.replay.set_up_logging", lambda form, level: None)
    return Shell(capsys)


def everything(data_dir: Path) -> dict[str, list[Any]]:
    """Return all stored rows of all tables, in an order of their own."""
    found: dict[str, list[Any]] = {name: [] for name in TABLES}
    for path in data_dir.glob("*/exchange=*/**/*.parquet"):
        found[path.relative_to(data_dir).parts[0]] += pq.read_table(path, partitioning=None).to_pylist()
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


# sql


def test_sql_prints_a_table(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 1)

    done = shell("sql", "SELECT exchange, count(*) AS n FROM trades GROUP BY 1 ORDER BY 1", "--data-dir", tmp_path)

    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [["exchange", "n"], ["binance", "3"], ["okx", "1"]]


def test_sql_prints_one_json_document(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 1)
    asked = (
        "SELECT symbol, ts, side, contracts, 1.5::DECIMAL(9, 2) AS d, 'nan'::DOUBLE AS odd, [1.0 / 0, 2] AS list, "
        "DATE '2026-11-23' AS day, id, id FROM trades ORDER BY recv_ns, frame LIMIT 1"
    )

    done = shell("sql", asked, "--data-dir", tmp_path, "--json")

    assert done.code == 0
    assert done.document == [
        {
            "symbol": "BTC-USDT", "ts": "2026-11-23T12:38:00+00:00", "side": "sell", "contracts": None, "d": 1.5,
            "odd": None, "list": [None, 2.0], "day": "2026-11-23", "id": 2, "id_1": 2,
        }
    ]  # fmt: skip


def test_sql_prints_texts_as_they_are(tmp_path: Path, shell: Shell) -> None:
    done = shell("sql", "SELECT '[/x] :bomb: [red]a' AS \"[b]\", NULL AS nothing", "--data-dir", tmp_path)

    assert [line.rstrip() for line in done.out.splitlines()] == ["[b]                 nothing", "[/x] :bomb: [red]a"]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("SELEC 1", "Parser Error: syntax error at or near"),
        ("SELECT * FROM trade", 'Did you mean "trades"?'),
        ("SELECT prize FROM trades", "prize"),
        ("SELECT * FROM read_parquet('/nowhere.parquet')", "/nowhere.parquet"),
    ],
)
def test_sql_that_cannot_be_run_says_why(tmp_path: Path, shell: Shell, statement: str, says: str) -> None:
    done = shell("sql", statement, "--data-dir", tmp_path)

    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [("sql", "SELECT 1"), ("summary",), ("follow",)])
def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path, shell: Shell, command: tuple[str, ...]) -> None:
    done = shell(*command, "--data-dir", tmp_path / "nowhere")

    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"{tmp_path}/nowhere: no such folder; --data-dir names the folder a collector record")
    assert not (tmp_path / "nowhere").exists()


def test_sql_that_is_no_question_answers_with_nothing(tmp_path: Path, shell: Shell) -> None:
    assert shell("sql", "SET threads = 1", "--data-dir", tmp_path, "--json").document == []
    assert shell("sql", "", "--data-dir", tmp_path).code == 0


# summary

TABLE_KEYS = ["table", "exchange", "market", "symbol", "rows", "first", "last", "coverage", "bytes"]
FRAME_KEYS = ["received", "rows", "control", "duplicate", "ignored", "rejected", "ignored_reasons", "balanced"]


def test_summary_counts_what_was_recorded_under_stable_keys(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 3)

    document = shell("summary", "--data-dir", tmp_path, "--json").document

    assert list(document) == ["data_dir", "tables", "sessions", "frames", "review"]
    assert document["review"] is None  # which is of a time that was asked for
    assert document["data_dir"] == str(tmp_path)
    assert all(list(table) == TABLE_KEYS for table in document["tables"])
    assert [[table[key] for key in ("table", "exchange", "symbol", "rows")] for table in document["tables"]] == [
        ["trades", "binance", "BTC-USDT", 6],
        ["trades", "binance", "ETH-USDT", 3],
        ["trades", "okx", "BTC-USDT", 3],
        ["book", "binance", "BTC-USDT", 3],
        ["book", "okx", "BTC-USDT", 3],
        ["book_snapshots", "okx", "BTC-USDT", 1],
    ]
    assert {table["coverage"] for table in document["tables"]} == {100.0, None}
    assert document["tables"][0]["first"] == "2026-11-23T12:38:00+00:00"
    assert list(document["frames"]) == FRAME_KEYS
    assert [document["frames"][key] for key in FRAME_KEYS] == [21, 18, 3, 0, 0, 0, {}, True]
    assert document["sessions"] == [
        {"stream": "binance.spot/1", "sessions": 1, "live": 1, "frames": 15, "reasons": {"eof": 1}},
        {"stream": "okx.spot/1", "sessions": 1, "live": 0, "frames": 6, "reasons": {"closed": 1}},
    ]


def test_summary_is_the_same_before_and_after_the_rows_were_stored_but_for_their_size(
    tmp_path: Path, shell: Shell
) -> None:
    record_some(tmp_path, 3)
    before = shell("summary", "--data-dir", tmp_path, "--json").document
    store(tmp_path)

    after = shell("summary", "--data-dir", tmp_path, "--json").document

    sizes = [table.pop("bytes") for table in after["tables"]]
    assert [table.pop("bytes") for table in before["tables"]] == [0] * 6
    assert all(sizes)
    assert sum(sizes) <= sum(path.stat().st_size for path in tmp_path.glob("*/exchange=*/**/*.parquet"))
    assert after == before


def test_summary_says_what_is_missing_in_the_ids(tmp_path: Path, shell: Shell) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.receive(session, *(binance_trade(trade) for trade in (11, 12, 13, 20)))
        for first, last in ((1, 5), (6, 9), (20, 25), (26, 30)):  # 10…19 are missing for 30 of 90 seconds
            recorder.receive(session, binance_depth(first, last))
            recorder.clock.ns = recorder.clock.ns - recorder.clock.ns % 10**9 + 30 * 10**9

    document = shell("summary", "--data-dir", tmp_path, "--json").document

    trades, book = document["tables"]
    assert trades["coverage"] == 40.0
    assert book["coverage"] == pytest.approx(66.6667, abs=0.001)


def test_summary_since_counts_only_what_came_later(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 3)
    store(tmp_path)

    document = shell("summary", "--data-dir", tmp_path, "--json", "--since", "2026-11-23T12:39:30Z").document

    assert [table["rows"] for table in document["tables"]] == [2, 1, 1, 1, 1]
    assert document["frames"]["received"] == 14  # frames are counted by the segment: the second ended later
    assert document["frames"]["balanced"]
    empty = shell("summary", "--data-dir", tmp_path, "--json", "--since", "2030-01-01").document
    assert (empty["tables"], empty["sessions"], empty["frames"]["received"]) == ([], [], 0)


def test_summary_since_does_not_count_a_hole_before_it(tmp_path: Path, shell: Shell) -> None:
    with recording(tmp_path) as recorder:
        session = recorder.open()
        recorder.receive(session, binance_depth(1, 5))
        recorder.clock.advance(30)
        since = START_NS // 10**9 + 29
        recorder.receive(session, binance_depth(20, 25))
        recorder.clock.advance(10)
        recorder.receive(session, binance_depth(26, 30))

    asked = shell("summary", "--data-dir", tmp_path, "--json", "--since", f"2026-11-23T12:38:{since % 60:02}Z")

    assert [(table["rows"], table["coverage"]) for table in asked.document["tables"]] == [(2, 100.0)]


def test_summary_shows_people_the_same(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 3)

    done = shell("summary", "--data-dir", tmp_path)

    assert done.out.splitlines()[1].split()[:8] == [
        "trades", "binance", "spot", "BTC-USDT", "6", "2026-11-23", "12:38:00", "2026-11-23",
    ]  # fmt: skip
    equation = "21 received = 18 with rows + 3 control + 0 duplicate + 0 ignored + 0 rejected (balanced)"
    assert f"frames: {equation}" in done.out
    assert "binance.spot/1: 1 session, 1 live; ended: eof 1" in done.out
    assert shell("summary", "--data-dir", journal_dir(tmp_path)).out.startswith("No rows yet.")


def test_summary_refuses_a_time_that_is_none(tmp_path: Path, shell: Shell) -> None:
    done = shell("summary", "--data-dir", tmp_path, "--since", "yesterday")

    assert done.code == 2
    assert "'yesterday' is not a time such as 2026-11-23" in done.err


# replay


def replayed(shell: Shell, *journals: Path, into: Path) -> Outcome:
    return shell("replay", *journals, "--data-dir", into, "--json")


def test_a_replayed_journal_gives_the_rows_of_the_live_follower(tmp_path: Path, shell: Shell) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    record_some(live, 4)
    store(live)

    done = replayed(shell, live / "journal", into=again)

    assert done.code == 0
    assert done.document["segments"] == 4
    assert done.document["damaged"] == 0
    assert done.document["frames"]["balanced"]
    rows = everything(live)
    assert everything(again) == rows
    assert sum(map(len, rows.values())) > 30
    files = [{str(path.relative_to(place)): path.read_bytes() for path in place.glob("*/exchange=*/**/*.parquet")}
             for place in (live, again)]  # fmt: skip
    assert files[0] == files[1]


def test_a_compressed_journal_gives_the_same_rows_and_so_does_its_data_dir(tmp_path: Path, shell: Shell) -> None:
    live = tmp_path / "live"
    record_some(live, 4)
    store(live)
    rows = everything(live)
    tidy(live, 3, "forever", 0, 0.0)
    assert {segment.path.suffix for segment in segments(live)} == {".zst", ".log"}

    assert replayed(shell, live, into=tmp_path / "again").code == 0

    assert everything(tmp_path / "again") == rows


def test_a_replay_into_the_same_folder_changes_nothing(tmp_path: Path, shell: Shell) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    record_some(live, 4)
    replayed(shell, live, into=again)
    rows = everything(again)

    assert replayed(shell, live, into=again).code == 0
    assert everything(again) == rows
    (first, *_) = segments(live)
    assert replayed(shell, first.path, first.path, into=again).code == 0  # one of them alone, twice
    assert everything(again) == rows
    assert load_cursor(again) == Cursor(4, 29)


def test_a_journal_replayed_in_parts_is_the_journal(tmp_path: Path, shell: Shell) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    record_some(live, 4)
    store(live)
    (tmp_path / "moved").mkdir()
    paths = [segment.path for segment in segments(live)]
    moved = [shutil.copy(path, tmp_path / "moved" / f"copy of {n}") for n, path in enumerate(paths)]

    for part in (moved[2:3], moved[3:], moved[:2]):
        assert replayed(shell, *part, into=again).code == 0

    assert everything(again) == everything(live)


def test_a_journal_that_went_on_since_is_replayed_to_its_new_end(tmp_path: Path, shell: Shell) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    record_some(live, 2)
    store(live)
    whole = segments(live)[-1].read()
    path = leave_open(live)
    path.write_bytes(whole[: whole.rindex(b"#b")])
    assert replayed(shell, live, into=again).code == 0
    assert len(everything(again)["trades"]) == 8
    path.write_bytes(whole)

    assert replayed(shell, live, into=again).code == 0

    assert everything(again) == everything(live)


def test_two_journals_are_not_mixed(tmp_path: Path, shell: Shell) -> None:
    """Their segments have the same numbers: the one would replace the other's rows."""
    later = HandClock()
    later.advance(60)
    record_some(tmp_path / "one", 2)
    record_some(tmp_path / "two", 2, later)
    first = segments(tmp_path / "two")[0].path

    together = replayed(shell, tmp_path / "one", tmp_path / "two", into=tmp_path / "both")
    assert (together.code, together.out) == (1, "")
    assert together.err == (
        f"{first}: {tmp_path}/both holds another journal's segment 1; replay it into a folder of its own\n"
    )
    assert not list((tmp_path / "both").glob("**/*.parquet"))

    assert replayed(shell, tmp_path / "one", into=tmp_path / "again").code == 0
    rows = everything(tmp_path / "again")
    assert replayed(shell, tmp_path / "two", into=tmp_path / "again").code == 1
    assert everything(tmp_path / "again") == rows


def test_a_replay_into_a_recorders_own_folder_is_refused(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path, 3)
    store(tmp_path)
    rows = everything(tmp_path)

    done = replayed(shell, tmp_path / "journal", into=tmp_path)

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"{tmp_path} has a journal of its own, which its follower keeps the tables of; choose another --data-dir\n"
    )
    assert everything(tmp_path) == rows


def test_a_replay_while_another_runs_is_refused(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path / "live", 1)
    with lock_cursor(tmp_path / "again") as held:
        assert held
        done = replayed(shell, tmp_path / "live", into=tmp_path / "again")

    assert (done.code, done.err) == (
        1, f"{tmp_path}/again is being written by a follower; choose another --data-dir\n",
    )  # fmt: skip


def test_a_replay_of_a_damaged_journal_stores_the_rest_and_is_no_success(tmp_path: Path, shell: Shell) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    record_some(live, 4)
    tidy(live, 1, "forever", 0, 0.0)
    first, second, *_ = segments(live)
    first.path.write_bytes(first.path.read_bytes()[:-5])
    second.path.write_bytes(second.read().replace(b'"id":1}', b'"id":2}'))

    with structlog.testing.capture_logs() as logged:
        done = replayed(shell, live, into=again)

    assert done.code == 1
    assert done.err == "2 of 4 segments could not be read whole\n"
    assert done.document["damaged"] == 2
    assert [(event["event"], event["segment"]) for event in logged] == [
        ("segment unreadable", 1),
        ("journal damaged", 2),
        ("frames are not in the journal", 2),
        ("frames are not in the journal", 2),
    ]
    assert logged[1]["path"] == str(second.path)
    assert [(event["first_missing"], event["last_missing"]) for event in logged[2:]] == [(1, 7), (8, 11)]
    assert len(everything(again)["trades"]) == 1 + 4 + 4


def test_a_file_that_is_no_journal_is_no_success(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "letter.txt").write_text("Dear journal,\nnothing happened.\n")

    with structlog.testing.capture_logs() as logged:
        done = replayed(shell, tmp_path / "letter.txt", into=tmp_path / "again")

    assert done.code == 1
    assert logged[0]["problem"] == "not a record: 'Dear journal,'"
    assert not list((tmp_path / "again").glob("**/*.parquet"))


def test_a_folder_without_a_journal_is_one_clear_line(tmp_path: Path, shell: Shell) -> None:
    done = replayed(shell, tmp_path, into=tmp_path / "again")

    assert (done.code, done.err) == (
        1, f"{tmp_path}: no journal segments there (files ending in .open, .log, .log.zst)\n",
    )  # fmt: skip


def test_a_torn_running_segment_is_replayed_to_its_last_whole_record(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path / "live", 2)
    path = leave_open(tmp_path / "live")
    path.write_bytes(path.read_bytes() + b"#b 15 179")

    done = replayed(shell, tmp_path / "live", into=tmp_path / "again")

    assert done.code == 0
    assert len(everything(tmp_path / "again")["trades"]) == 8


def test_replay_shows_people_a_summary(tmp_path: Path, shell: Shell) -> None:
    record_some(tmp_path / "live", 2)

    done = shell("replay", tmp_path / "live", "--data-dir", tmp_path / "again")

    assert done.code == 0
    assert "(balanced)" in done.out
