"""What a service manager hears of us: systemd's protocol, a datagram of words to the socket that NOTIFY_SOCKET names.

- READY=1: the journal is open and the streams' supervisor runs. Not: the streams are live. An exchange may be down for
  a day, and a recorder that waits for it is as ready as it can be; whether streams are live, /readyz says.
- WATCHDOG=1: the journal makes progress. Its ticks are written and its syncs come back, or it refuses (a full disk) and
  tries again, which no restart would do better. Who says so runs in the event loop, so that turns, too.
- STATUS=…: one line for `systemctl status`.
- STOPPING=1: the drain has begun.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import socket
from collections.abc import Callable, Mapping

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.journal.append import RETRY_S, TICK_S, Journal
from collector_trio.ops.status import Status

LOOK_S = 1.0
SAY_EVERY_S = 10.0


@attrs.define
class Notifier:
    """Tells a service manager, if there is one. After `watchdog_s` in silence it ends us; None: it does not."""

    address: str | None
    watchdog_s: float | None
    log: FilteringBoundLogger
    _trouble: str = ""

    def tell(self, **words: str | int) -> None:
        """Send `words`, such as READY=1, at once. What cannot be sent is logged once, and nothing waits for it."""
        if self.address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in words.items())
        try:
            # Opened for one datagram, as systemd's own library does: so there is no socket for anyone to own.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), _spelled(self.address))
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self.log.warning("service manager not told", socket=self.address, problem=self._trouble)

    async def feed(self, journal: Journal) -> None:
        """Feed the watchdog twice in its time, but only while `journal` makes progress, until cancelled."""
        if self.address is None or self.watchdog_s is None:
            return
        every_s = self.watchdog_s / 2
        progress, fed_at, before = Progress(journal, trio.current_time()), float("-inf"), None
        while True:
            now = trio.current_time()
            problem = progress.problem(now, every_s)
            if problem is None and now >= fed_at + every_s:
                self.tell(WATCHDOG=1)
                fed_at = now
            if problem is not None and before is None:
                self.log.error("watchdog not fed", problem=problem)
            elif problem is None and before is not None:
                self.log.info("watchdog fed again")
            before = problem
            await trio.sleep(min(LOOK_S, every_s))

    async def describe(self, look: Callable[[], Status]) -> None:
        """Say what is going on in one line, again whenever that has changed, until cancelled."""
        if self.address is None:
            return
        said = ""
        while True:
            line = one_line(look())
            if line != said:
                self.tell(STATUS=line)
                said = line
            await trio.sleep(SAY_EVERY_S)


def find_notifier(environ: Mapping[str, str], pid: int, log: FilteringBoundLogger) -> Notifier:
    """Return who tells the service manager that started process `pid`, as its environment says. Nothing in there is
    worth not recording for: what cannot be understood is logged and left.
    """
    address, usec = environ.get("NOTIFY_SOCKET", ""), environ.get("WATCHDOG_USEC", "")
    if not address:
        return Notifier(None, None, log)
    if address[0] not in "/@" or len(address) < 2:
        log.warning("service manager not told", socket=address, problem="NOTIFY_SOCKET is no path and no @name")
        return Notifier(None, None, log)
    watchdog_s = None
    if usec and environ.get("WATCHDOG_PID", str(pid)) == str(pid):  # else the watchdog is another process's
        if usec.isascii() and usec.isdigit() and int(usec) > 0:
            watchdog_s = int(usec) / 1e6
        else:
            log.warning("watchdog not fed", problem=f"WATCHDOG_USEC={usec!r} is no number of microseconds")
    return Notifier(address, watchdog_s, log)


@attrs.define
class Progress:
    """Remembers when a journal was last seen to move."""

    journal: Journal
    _written_at: float
    _turned_at: float = attrs.field(init=False)
    _written: int = -1
    _turns: int = -1

    def __attrs_post_init__(self) -> None:
        self._turned_at = self._written_at

    def problem(self, now: float, patience_s: float) -> str | None:
        """Say why it makes no progress, None: it does. It is late when nothing happens for `patience_s` longer than it
        should take.
        """
        journal = self.journal
        if journal.turns != self._turns:
            self._turns, self._turned_at = journal.turns, now
        if journal.bytes_written != self._written or journal.is_refusing:
            self._written, self._written_at = journal.bytes_written, now
        turn_s = RETRY_S if journal.is_refusing else journal.sync_every_s
        if now - self._turned_at > turn_s + patience_s:
            return f"the journal was not synced for {now - self._turned_at:.0f} s"
        if now - self._written_at > TICK_S + patience_s:
            return f"nothing was written to the journal for {now - self._written_at:.0f} s"
        return None


def one_line(status: Status) -> str:
    """Write a status as `systemctl status` shows it: "5 of 5 streams live, 812 frames/s, 0 open gaps"."""
    live = sum(stream.state == "live" for stream in status.streams)
    frames_per_s = sum(stream.frames_per_s for stream in status.streams)
    gaps = f"{status.gaps.open} open gap{'' if status.gaps.open == 1 else 's'}"
    said = f"{live} of {len(status.streams)} streams live, {frames_per_s:.0f} frames/s, {gaps}"
    return said + (f"; not healthy: {status.not_healthy[0]}" if status.not_healthy else "")


def _spelled(address: str) -> str:
    """Spell an address as the kernel wants it: a name in no file system begins with a zero byte."""
    return "\0" + address[1:] if address.startswith("@") else address
