"""Tells a webhook of alerts. It is never in the way: what it is told waits in a bounded queue, in the order in which it
happened, and leaving the scope ends a request at whatever it hangs.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import NoReturn

import attrs
import trio
from structlog.typing import FilteringBoundLogger

from collector_trio.errors import HttpFailed
from collector_trio.ops.status import WebhookStatus

WAITING = 100  # messages; the oldest goes first
POST_S = 10.0
TRIES = 5
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0

Post = Callable[[bytes], Awaitable[None]]  # sends one message; raises HttpFailed


@attrs.define
class Webhook:
    """Sends what `put` is given, one message at a time. `where` names the webhook without its secrets."""

    post: Post
    where: str
    log: FilteringBoundLogger
    _waiting: deque[bytes] = attrs.field(factory=deque)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _sending: bool = False
    _sent: int = 0
    _failed: int = 0
    _dropped: int = 0

    def put(self, body: bytes) -> None:
        """Have `body` sent, some time; if too much waits already, the oldest is dropped."""
        if len(self._waiting) == WAITING:
            self._waiting.popleft()
            self._dropped += 1
            self.log.warning("webhook message dropped, too many wait", webhook=self.where, waiting=WAITING)
        self._waiting.append(body)
        self._news.set()

    def status(self) -> WebhookStatus:
        """Say what became of the messages so far."""
        return WebhookStatus(self._sent, self._failed, self._dropped)

    async def run(self) -> NoReturn:
        """Send until cancelled; then say what was not sent."""
        try:
            while True:
                while self._waiting:
                    self._sending = True
                    await self._deliver(self._waiting.popleft())
                    self._sending = False
                self._news = trio.Event()
                await self._news.wait()
        finally:
            left = len(self._waiting) + self._sending
            if left:
                self.log.warning("webhook not told of everything", webhook=self.where, left=left)

    async def _deliver(self, body: bytes) -> None:
        problem = await self._send(body)
        if problem is None:
            self._sent += 1
        else:
            self._failed += 1
            self.log.error("webhook message given up", webhook=self.where, problem=problem)

    async def _send(self, body: bytes) -> str | None:
        """Try `TRIES` times, and return what the last one failed with; None once one did not."""
        delay_s, problem = FIRST_DELAY_S, ""
        for attempt in range(TRIES):
            if attempt:
                await trio.sleep(delay_s)
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            try:
                with trio.fail_after(POST_S):
                    await self.post(body)
                return None
            except trio.TooSlowError:
                problem = f"no answer within {POST_S:g} s"
            except HttpFailed as error:
                problem, refusal = error.problem, error.refusal
                if refusal is not None:
                    if 400 <= refusal.status < 500 and refusal.status not in (408, 429):
                        return problem  # it will not like the same any better
                    delay_s = max(delay_s, min(refusal.retry_after_s or 0.0, LONGEST_DELAY_S))
            self.log.debug("webhook message tried", webhook=self.where, attempt=attempt + 1, problem=problem)
        return problem
