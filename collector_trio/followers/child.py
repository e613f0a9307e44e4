"""A follower as a child process: started, told of sealed segments, restarted when it dies, and given time to finish at
the end.

It has a session of its own, so that Ctrl-C and a supervisor's SIGTERM to the process group do not reach it: it ends
when its standard input does, after finishing what is sealed. Should the recorder be killed, that happens by itself.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.streams.supervisor import backoff

HEALTHY_S = 60.0
KILL_S = 1.0  # SIGKILL: the kernel does not make us wait for long, unless the disk hangs
TELL_S = 5.0  # a child that does not read for so long is busy with a segment, and will look for more anyway


@attrs.define
class Bell:
    """Rung when a segment is sealed. Whoever waits sees every ring, or several as one."""

    _event: trio.Event = attrs.field(factory=trio.Event)

    def ring(self) -> None:
        """Wake whoever waits."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next ring since the last wait."""
        await self._event.wait()
        self._event = trio.Event()


@attrs.define
class FollowerChild:
    """What is known of the child: its process id while it runs, and how often it had to be restarted."""

    name: str
    data_dir: Path
    log_form: str
    log_level: str
    keep_tables_s: float | None = None  # forever
    pid: int | None = None
    restarts: int = 0
    _stdin: trio.abc.SendStream | None = None

    def fds(self) -> list[int]:
        """Return the descriptors of the pipe to the child."""
        stdin = self._stdin
        return [stdin.fileno()] if isinstance(stdin, trio.lowlevel.FdStream) and stdin.fileno() >= 0 else []

    async def keep(
        self,
        bell: Bell,
        stop: trio.Event,
        finish_s: Callable[[], float],
        random_: random.Random,
        log: FilteringBoundLogger,
    ) -> None:
        """Keep the child running until `stop`; then let it finish for at most `finish_s()` seconds and return."""
        delays = backoff(random_)
        while True:  # once more after a stop that came while it was down: what is sealed wants to be stored
            started = trio.current_time()
            try:
                code = await self._run_once(bell, stop, finish_s)
            except OSError as error:  # no process could be had
                code = error.errno
            if stop.is_set():
                break
            self.restarts += 1
            if trio.current_time() - started > HEALTHY_S:
                delays = backoff(random_)
            delay_s = next(delays)
            log.error("follower died", follower=self.name, code=code, restart_in_s=round(delay_s, 1))
            with trio.move_on_after(delay_s):
                await stop.wait()

    async def _run_once(self, bell: Bell, stop: trio.Event, finish_s: Callable[[], float]) -> int | None:
        """Run one process from its start to its end; whatever ends this, the process is gone."""
        command = [sys.executable, "-m", "collector_trio", "follow", "--data-dir", str(self.data_dir)]
        command += ["--log", self.log_form, "--log-level", self.log_level]
        if self.keep_tables_s is not None:
            command += ["--keep-tables", f"{self.keep_tables_s:f}s"]
        process = await trio.lowlevel.open_process(command, stdin=PIPE, start_new_session=True)
        assert process.stdin is not None
        self.pid, self._stdin = process.pid, process.stdin
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, process.stdin, bell)
                nursery.start_soon(_end_on_stop, nursery, stop)
                await process.wait()
                nursery.cancel_scope.cancel()
            await process.stdin.aclose()
            with trio.move_on_after(finish_s()):
                await process.wait()
            return process.returncode
        finally:
            self.pid = self._stdin = None
            with trio.move_on_after(KILL_S, shield=True):
                await process.stdin.aclose()
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _tell(self, stdin: trio.abc.SendStream, bell: Bell) -> None:
        while True:
            await bell.wait()
            try:
                with trio.move_on_after(TELL_S):
                    await stdin.send_all(b"sealed\n")
            except trio.BrokenResourceError:
                await trio.sleep_forever()  # it has died; the nursery ends with it


async def _end_on_stop(nursery: trio.Nursery, stop: trio.Event) -> None:
    await stop.wait()
    nursery.cancel_scope.cancel()
