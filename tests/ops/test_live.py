"""The live table is drawn for people only, and the log stays whole above it."""

import os
import pty
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
import trio
from trio.testing import MockClock

from collector_trio.commands.live import live_table, view
from collector_trio.ops.log import set_up_logging

from .conftest import Recorder


@contextmanager
def terminal() -> Iterator[int]:
    """Let stderr be a terminal; the value is the fd on which a person would read it.

    Not a fixture: pytest puts its own stderr back between a test's setup and the test.
    """
    person, program = pty.openpty()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(program, "w") as stderr:
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        patch.setattr(sys, "stderr", stderr)
        yield person
    os.close(person)
    structlog.reset_defaults()


def shown(person: int) -> str:
    """Return everything that was written by now."""
    written = b""
    while select.select([person], [], [], 0.1)[0]:
        written += os.read(person, 65_536)
    return written.decode()


async def test_the_table_and_the_log_share_a_terminal(recorder: Recorder, autojump_clock: MockClock) -> None:
    recorder.open_session(recorder.add_stream("binance"), live_at=0.0)
    with terminal() as person, live_table() as table:
        assert table is not None
        set_up_logging("auto", "info")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.show, recorder.observer.look)
            await trio.sleep(1.5)
            assert "binance.spot/1" in shown(person)
            structlog.get_logger().info("connected", peer="192.0.2.1:443", text="x" * 200)
            said = shown(person)
            nursery.cancel_scope.cancel()
        table._live.stop()
        assert shown(person).endswith("\x1b[2K")  # and gone in the end
    assert "connected" in said
    assert "x" * 200 in said  # not broken into lines
    assert said.index("connected") < said.index("binance.spot/1")  # drawn again below it


async def test_a_terminal_that_takes_nothing_is_not_waited_for(recorder: Recorder, autojump_clock: MockClock) -> None:
    with terminal() as person, live_table() as table:
        assert table is not None
        shown(person)
        os.set_blocking(sys.stderr.fileno(), False)
        while True:  # nobody reads: fill it
            try:
                os.write(sys.stderr.fileno(), b"x" * 1000)
            except BlockingIOError:
                break
        os.set_blocking(sys.stderr.fileno(), True)
        with trio.move_on_after(5):
            await table.show(recorder.observer.look)
        shown(person)


def test_where_it_is_not_wanted_there_is_none() -> None:
    with terminal(), live_table(wanted=False) as table:
        assert table is None


def test_without_a_terminal_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with live_table() as table:
        assert table is None


async def test_the_view_names_what_matters(recorder: Recorder, autojump_clock: MockClock) -> None:
    stream = recorder.add_stream("binance")
    stream.ended["reset"] = 3
    text = view(recorder.observer.look()).plain
    assert text.splitlines()[1].split() == ["stream", "state", "frames", "frames/s", "last", "data", "reconnects"]
    assert text.splitlines()[2].split() == ["binance.spot/1", "dialling", "0", "0.0", "3"]
    assert "0 holes open, 0 gaps so far, missing nothing · tables 0 frames to store" in text
