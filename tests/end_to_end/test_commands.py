"""The command line, as its user starts it: a process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from collector_trio.commands import COMMANDS

COMMAND = [sys.executable, "-m", "collector_trio"]
CONFIG = """
[http]
listen = "127.0.0.1:0"

[collector]
data_dir = "data"
[store]
segment = "2s"
[[record]]
exchange = "binance"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades", "book"]
[[record]]
exchange = "okx"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades", "book"]
"""


def call(*arguments: str, cwd: Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


@contextmanager
def simulated(cwd: Path, *arguments: str) -> Iterator[str]:
    """Run `sim` beside the block; yield the endpoints block it prints."""
    process = subprocess.Popen([*COMMAND, "sim", *arguments], cwd=cwd, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        block = []
        while not ("[endpoints.okx]\n" in block and block[-1].startswith("rest")):
            line = process.stdout.readline()
            assert line, "sim ended early"
            block.append(line)
        yield "".join(block)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def collecting(cwd: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the collector beside the block, logs as JSON lines on a pipe."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def events_until(process: subprocess.Popen[str], event: str, count: int = 1) -> list[dict[str, object]]:
    """Read log lines until `event` was seen `count` times."""
    assert process.stderr is not None
    seen: list[dict[str, object]] = []
    while sum(entry["event"] == event for entry in seen) < count:
        line = process.stderr.readline()
        assert line, f"the collector ended early: {seen}"
        seen.append(json.loads(line))
    return seen


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    cwd = tmp_path_factory.mktemp("demo")
    return cwd, call("demo", "--for", "10s", cwd=cwd)


def test_the_demo_ends_with_a_balanced_summary_of_both_markets_and_their_disconnects(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = demo
    assert done.returncode == 0, done.stderr
    for name in ("binance", "okx"):
        for table in ("trades", "book"):
            assert re.search(rf"^{table} +{name} +spot +BTC-USDT +\d", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"disconnects: (closed|eof|reset)", done.stdout)
    assert "(balanced)" in done.stdout
    assert "-m collector_trio sql" in done.stdout


def test_the_demo_can_be_reviewed(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, _ = demo
    done = call("summary", "--data-dir", "demo-data", "--since", "1h", "--json", cwd=cwd)
    periods = json.loads(done.stdout)["review"]["periods"]
    assert max(period["memory_bytes"] or 0 for period in periods) > 20_000_000
    assert max(period["sockets"] or 0 for period in periods) >= 1
    assert {period["unowned"] for period in periods} <= {0, None}
    assert sum(period["reconnects"] for period in periods) >= 1


def test_the_line_the_demo_ends_with_works(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, done = demo
    line = done.stdout.strip().splitlines()[-1].strip()
    answer = subprocess.run(line, shell=True, cwd=cwd, capture_output=True, text=True, check=True)
    assert len(answer.stdout.splitlines()) == 5
    assert answer.stdout.splitlines()[1].split()[:2] == ["binance", "BTC-USDT"]


def test_the_demo_empties_only_what_a_demo_made(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "demo-data").mkdir()
    (tmp_path / "demo-data" / "mine.txt").write_text("mine")
    done = call("demo", "--for", "1s", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "demo-data exists and was not made by a demo; choose another --data-dir\n"
    assert (tmp_path / "demo-data" / "mine.txt").exists()


def test_duckdb_polars_pandas_and_pyarrow_read_the_files_with_default_calls(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = demo
    for table in ("trades", "book", "sessions", "segments", "instruments"):
        folder = cwd / "demo-data" / table
        with duckdb.connect() as connection:
            (counted,) = connection.sql(f"SELECT count(*) FROM read_parquet('{folder}/**/*.parquet')").fetchall()
        assert counted[0] > 0
        assert pl.scan_parquet(f"{folder}/**/*.parquet").collect().height == counted[0]
        assert pl.scan_parquet(folder).collect().height == counted[0]
        frame = pd.read_parquet(folder)
        assert len(frame) == counted[0]
        assert {"exchange", "market", "date", "hour"} <= set(frame.columns)
        assert ds.dataset(folder).to_table().num_rows == counted[0]
        assert pq.read_table(folder).num_rows == counted[0]


def test_what_is_recorded_can_be_asked_for_as_json(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, _ = demo
    done = call("sql", "--json", "--data-dir", "demo-data", "SELECT symbol, recv FROM trades LIMIT 2", cwd=cwd)
    answer = json.loads(done.stdout)
    assert len(answer) == 2
    assert set(answer[0]) == {"symbol", "recv"}
    summary = json.loads(call("summary", "--json", "--data-dir", "demo-data", cwd=cwd).stdout)
    assert summary["frames"]["balanced"] is True
    empty = call("sql", "--data-dir", "demo-data", "SELECT count(*) FROM liquidations", cwd=cwd)
    assert empty.returncode == 1  # a table this version does not have
    holes = json.loads(call("gaps", "--json", "--data-dir", "demo-data", cwd=cwd).stdout)["holes"]
    assert {hole["cause"] for hole in holes} == {"disconnect"}


def test_a_running_collector_stops_on_sigterm_with_exit_0_and_everything_stored(tmp_path: Path) -> None:
    with simulated(tmp_path) as endpoints:
        (tmp_path / "config.toml").write_text(CONFIG + endpoints)
        with collecting(tmp_path) as process:
            events_until(process, "live", 3)
            running = call("sql", "SELECT count(*) FROM trades", cwd=tmp_path)
            assert running.returncode == 0, running.stderr
            second = call("run", cwd=tmp_path)
            assert second.returncode == 1
            assert f"data is in use by another collector (pid {process.pid})" in second.stderr
            process.send_signal(signal.SIGHUP)
            (*_, ignored) = events_until(
                process, "SIGHUP: reloading the config is not in this version; restart to apply changes"
            )
            assert ignored["level"] == "warning"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=15)
            assert time.monotonic() - began < 10
            assert process.returncode == 0
            assert "binance.spot/1" in stdout
            assert "summary --data-dir data" in stdout
    assert "(balanced)" in call("summary", cwd=tmp_path).stdout
    assert not list((tmp_path / "data" / "journal").glob("*.open"))
    checked = call("check", cwd=tmp_path)
    assert checked.returncode == 0
    assert "btcusdt@aggTrade" in checked.stdout
    assert "3 sockets" in checked.stdout
    assert re.search(r"binance spot +time +http://127.0.0.1:\d+/api/v3/time \(weight 1 every 300 s", checked.stdout)
    assert re.search(r"okx spot +instruments +\S+instType=SPOT \(weight 1 every 3600 s", checked.stdout)


def test_a_restart_begins_with_the_instruments_kept_numbers_go_on_and_it_reports_only_itself(tmp_path: Path) -> None:
    with simulated(tmp_path) as endpoints:
        (tmp_path / "config.toml").write_text(CONFIG + endpoints)
        reports = [call("run", "--for", "2s", "--json", cwd=tmp_path)]
        rest_gone = re.sub(r'rest = ".*"', 'rest = "http://127.0.0.1:9"', endpoints)
        (tmp_path / "config.toml").write_text(CONFIG + rest_gone)
        reports.append(call("run", "--for", "2s", "--json", cwd=tmp_path))
    for done in reports:
        report = json.loads(done.stdout)
        assert done.returncode == 0
        assert report["summary"]["frames"]["balanced"]
        streams = [each for each in report["summary"]["sessions"] if not each["stream"].endswith(".rest")]
        assert {each["stream"]: each["frames"] for each in streams} == {
            each["stream"]: each["frames"] for each in report["streams"]
        }
        answers = sum(each["frames"] for each in report["summary"]["sessions"] if each not in streams)
        assert report["summary"]["frames"]["received"] == sum(each["frames"] for each in streams) + answers
        assert all(table["coverage"] in (100.0, None) for table in report["summary"]["tables"])
    query = "SELECT session, count(*) AS n, min(frame) AS f FROM trades GROUP BY session ORDER BY session"
    rows = json.loads(call("sql", "--json", query, cwd=tmp_path).stdout)
    assert len(rows) == 4
    numbered = json.loads(
        call("sql", "--json", "SELECT first_frame, frames FROM segments ORDER BY segment", cwd=tmp_path).stdout
    )
    expected = 1
    for segment in numbered:
        assert segment["first_frame"] == expected
        expected += segment["frames"]


def test_without_a_network_it_keeps_trying_says_so_once_and_stops_at_once(tmp_path: Path) -> None:
    nowhere = '[endpoints.binance.spot]\nrest = "http://127.0.0.1:9"\n[endpoints.okx]\nrest = "http://127.0.0.1:9"\n'
    (tmp_path / "config.toml").write_text(CONFIG + nowhere)
    with collecting(tmp_path, "run") as process:
        logs = events_until(process, "no instruments", 2)
        time.sleep(3)  # attempts go on meanwhile; what is said about them is the question
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=15)
    assert process.returncode == 0
    logs += [json.loads(line) for line in stderr.splitlines()]
    assert [entry["event"] for entry in logs].count("no instruments") == 2
    assert "no stream could be planned" in stdout
    journal = "".join(path.read_text() for path in (tmp_path / "data" / "journal").iterdir())
    assert journal.count("\n#q ") > 2
    assert journal.count("\n#q ") == journal.count("\n#f ")


def test_a_missing_config_is_a_config_error(tmp_path: Path) -> None:
    done = call(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "config.toml: no such file; --config names another\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    done = call(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Example:" in done.stdout


@pytest.mark.parametrize("command", ["verify", "backfill", "plot"])
def test_commands_that_do_not_exist_yet_are_usage_errors_and_not_listed(command: str, tmp_path: Path) -> None:
    assert call(command, cwd=tmp_path).returncode == 2
    listed = call("--help", cwd=tmp_path).stdout
    assert not re.search(rf"^  {command} ", listed, re.MULTILINE)


def test_check_without_a_network_says_what_it_could_not_check(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    done = call("check", cwd=tmp_path)
    assert done.returncode == 0
    assert "binance spot: instruments are not known yet" in done.stdout


def test_check_finds_a_symbol_that_is_not_listed_and_run_records_the_rest(tmp_path: Path) -> None:
    with simulated(tmp_path) as endpoints:
        text = CONFIG.replace('symbols = ["BTC-USDT"]', 'symbols = ["BTC-USDT", "GONE-USDT", "ZZZ-*"]', 1)
        (tmp_path / "config.toml").write_text(text + endpoints)
        online = call("check", "--online", cwd=tmp_path)
        assert online.returncode == 1
        assert "binance spot GONE-USDT is not listed" in online.stderr
        assert "binance spot ZZZ-* is not listed" in online.stderr
        done = call("run", "--for", "2s", cwd=tmp_path)
        assert done.returncode == 0
        assert "not listed" in done.stderr
        assert "(balanced)" in done.stdout


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with simulated(tmp_path) as endpoints:
        (tmp_path / "config.toml").write_text(CONFIG + endpoints)
        with collecting(tmp_path, "run") as process:
            events_until(process, "live", 3)
            process.send_signal(signal.SIGTERM)
            events_until(process, "stopping")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=5)
            assert process.returncode in (0, 1)  # 0 if it was that quick


def test_a_killed_collector_loses_nothing_it_accepted_and_the_next_start_tells_of_it(tmp_path: Path) -> None:
    with simulated(tmp_path) as endpoints:
        (tmp_path / "config.toml").write_text(CONFIG + endpoints)
        with collecting(tmp_path, "run") as process:
            events_until(process, "live", 3)
            os.kill(process.pid, signal.SIGKILL)
        assert call("run", "--for", "2s", cwd=tmp_path).returncode == 0
    query = "SELECT reason, count(*) AS n FROM sessions WHERE stream NOT LIKE '%.rest' GROUP BY ALL ORDER BY ALL"
    reasons = {row["reason"]: row["n"] for row in json.loads(call("sql", "--json", query, cwd=tmp_path).stdout)}
    assert reasons == {"process died": 3, "stopped": 3}
    frames = json.loads(
        call(
            "sql", "--json",
            "SELECT (SELECT sum(frames) FROM sessions)::BIGINT AS a, (SELECT sum(frames) FROM segments)::BIGINT AS b",
            cwd=tmp_path,
        ).stdout
    )  # fmt: skip
    assert frames[0]["a"] == frames[0]["b"] > 0
