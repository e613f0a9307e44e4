"""`run` ends with what this run did, in words for people."""

import pytest

from collector_trio.app import Report
from collector_trio.commands.run import print_report
from collector_trio.commands.words import counted
from collector_trio.config import Config
from collector_trio.streams.supervisor import Stream

from .streams.conftest import plan_of


def test_it_counts_in_singular_and_plural(capsys: pytest.CaptureFixture[str]) -> None:
    one, many = (Stream(plan_of(exchange, ("BTC-USDT",), ("book",))) for exchange in ("binance", "okx"))
    one.sessions, one.lived, one.frames_before = 1, 1, 1
    many.sessions, many.lived, many.frames_before = 2, 1, 12_345
    many.ended["eof"] = 2
    print_report(Config("test.toml", (), {}), Report(0, 10**9, (one, many), 1, 1, signalled=True), as_json=False)
    text = capsys.readouterr().out
    assert f"{one.plan.name}: 1 frame in 1 session (1 live), disconnects: none\n" in text
    assert f"{many.plan.name}: 12,345 frames in 2 sessions (1 live), disconnects: eof 2\n" in text
    assert "1 frame is not stored yet; the next start stores what is left.\n" in text


def test_what_has_another_plural_is_counted_too() -> None:
    assert [counted(number, "batch", "batches") for number in (0, 1, 2)] == ["0 batches", "1 batch", "2 batches"]
