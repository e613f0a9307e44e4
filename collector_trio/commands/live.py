"""The table that `run` and `demo` show on a terminal: what each stream is doing, once a second, with the log above it.

It is drawn on stderr, and only there where a person sees it; the log is written through it, so that a line never lands
in the table. A terminal that takes nothing now (Ctrl-S, a hanging ssh) is not written to: it would hold the event loop
up.
"""

import io
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import attrs
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from collector_trio.commands.status import STATE_STYLES, duration
from collector_trio.ops.status import Status

EVERY_S = 1.0


@contextmanager
def live_table(*, wanted: bool = True) -> Iterator["LiveTable | None"]:
    """Yield the table where there is a terminal to show it on, else None; what is written to stderr inside the block
    appears above it.

    Set up logging inside the block: a logger keeps the stderr that it was made with.
    """
    terminal = sys.stderr
    console = Console(file=terminal, highlight=False, markup=False, emoji=False)
    if not wanted or not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
    with live:
        sys.stderr = _Above(live, terminal)
        try:
            yield LiveTable(live, terminal)
        finally:
            sys.stderr = terminal


@attrs.frozen
class LiveTable:
    """Draws. Made by `live_table`."""

    _live: Live
    _terminal: TextIO

    async def show(self, look: Callable[[], Status]) -> NoReturn:
        """Draw what `look` says once a second, until cancelled."""
        while True:
            if _takes(self._terminal):
                with suppress(OSError):  # the terminal was closed; the recording goes on
                    self._live.update(view(look()), refresh=True)
            await trio.sleep(EVERY_S)


def view(status: Status) -> Text:
    """Lay a look out as text.

    Not by rich's Table: laying out 30 streams takes it 33 ms, in which nothing is received; this takes 1 ms.
    """
    rows = [("stream", "state", "frames", "frames/s", "last data", "reconnects")]
    for stream in status.streams:
        age_s = stream.last_data_age_s
        rows.append(
            (
                stream.name,
                stream.state,
                f"{stream.frames:,}",
                f"{stream.frames_per_s:.1f}",
                "" if age_s is None else f"{duration(age_s)} ago",
                str(sum(stream.ended.values())),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, state, *numbers in rows:
        text.append(f"\n{name:<{widths[0]}}  ")
        text.append(f"{state:<{widths[1]}}", "bold" if state == "state" else STATE_STYLES.get(state, "yellow"))
        text.append("".join(f"  {number:>{width}}" for number, width in zip(numbers, widths[2:], strict=True)))
    text.append(f"\n{_summary(status)}", "dim")
    active = [alert.name for alert in status.alerts if alert.active]
    if active:
        text.append(f"\nalerts: {', '.join(active)}", "bold red")
    return text


def _summary(status: Status) -> str:
    missing = ", ".join(f"{count:,} {table}" for table, count in status.gaps.missing_rows.items() if count)
    followers = "".join(
        f" · {follower.name} {'down, ' if follower.pid is None else ''}{follower.lag_frames:,} frames to store"
        + (f", {duration(follower.lag_s)} behind" if follower.lag_segments else "")
        for follower in status.followers
    )
    so_far = sum((status.gaps.stored or status.gaps.seen).values())
    gaps = f"{status.gaps.open} holes open, {so_far} gaps so far, missing {missing or 'nothing'}"
    return f"up {duration(status.uptime_s)} · {gaps}{followers}"


class _Above(io.TextIOBase):
    """A stderr that writes whole lines above the table."""

    def __init__(self, live: Live, terminal: TextIO) -> None:
        self._live = live
        self._terminal = terminal
        self._begun = ""

    def write(self, text: str) -> int:
        """Write what is whole of it; the rest waits for its end of line."""
        *lines, self._begun = (self._begun + text).split("\n")
        with suppress(OSError):  # as above
            for line in lines:
                self._live.console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Flush the terminal."""
        self._terminal.flush()

    def isatty(self) -> bool:
        """Tell that a person reads it."""
        return True

    def fileno(self) -> int:
        """Return the terminal's."""
        return self._terminal.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


def _takes(terminal: TextIO) -> bool:
    """Tell whether writing would not wait, and somebody is still there."""
    poller = select.poll()
    poller.register(terminal.fileno(), select.POLLOUT)
    return poller.poll(0) == [(terminal.fileno(), select.POLLOUT)]
