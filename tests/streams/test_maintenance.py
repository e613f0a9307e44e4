"""Whether an exchange is in maintenance is asked when sessions end, seldom, and what it says is written down."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.errors import HttpFailed
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.net.budgets import Budgets
from collector_trio.net.http import HttpAnswer
from collector_trio.streams.maintenance import ASK_EVERY_S, Maintenance
from collector_trio.streams.supervisor import Surroundings

from .test_session import notes
from .wires import Network, Wishes, live, trio_clock

OKX = EXCHANGES["okx"]


class Rest:
    base_url = "https://example.org"

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.says: list[str | None] = []

    @asynccontextmanager
    async def open_client(self, url: str) -> AsyncIterator[Any]:
        yield self

    async def ask(self, path: str) -> HttpAnswer:
        await trio.lowlevel.checkpoint()
        assert path == "/api/v5/system/status"
        self.asked.append(trio.current_time())
        title = self.says.pop(0)
        if title is None:
            raise HttpFailed(path, "no answer")
        rows = [{"title": title, "state": "ongoing", "serviceType": "0"}] if title else []
        return HttpAnswer(json.dumps({"code": "0", "msg": "", "data": rows}).encode(), httpx.Headers(), 0.0, 0.0)


async def test_it_is_asked_when_sessions_end_and_once_a_minute_at_most_and_told_once(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest = Rest()
    request = OKX.maintenance_request()
    assert request is not None
    asks = Maintenance(OKX, "spot", "https://example.org", request)
    surroundings = Surroundings(
        journal, trio_clock, random.Random(1), Network().connect, rest.open_client, Budgets(), 1.0,  # type: ignore[arg-type]
        structlog.get_logger(), live(), Wishes(),
    )  # fmt: skip
    rest.says = ["Upgrade", "Upgrade", None, ""]  # and then it crashes, for there is no more
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks.keep, surroundings)
            await trio.sleep(5)
            assert rest.asked == []
            for _ in range(140):  # sessions end all the time
                asks.session_ended()
                await trio.sleep(2)
            nursery.cancel_scope.cancel()
    assert rest.asked == [5, 5 + ASK_EVERY_S, 5 + 2 * ASK_EVERY_S, 5 + 3 * ASK_EVERY_S, 5 + 4 * ASK_EVERY_S]
    written = [note for note in notes(journal) if note.letter in (Letter.REQUEST, Letter.FAILED, Letter.VERDICT)]
    assert "".join(note.letter for note in written) == "qvqvqfqq"
    assert written[1].value == {"verdict": "maintenance", "exchange": "okx", "notice": "Upgrade"}
    assert [entry["event"] for entry in logs] == ["maintenance", "maintenance crashed"]
    assert logs[0]["notice"] == "Upgrade"
