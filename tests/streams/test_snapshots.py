"""Whole books by REST: one request a symbol, a few a market, within the budget, again with a backoff."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
import structlog
import trio
from trio.testing import MockClock

from collector_trio.continuity.tracks import BookTrack
from collector_trio.errors import HttpFailed, Refusal
from collector_trio.exchanges import EXCHANGES
from collector_trio.instruments import Instrument
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.net.budgets import Budgets
from collector_trio.net.http import HttpAnswer
from collector_trio.streams import snapshots
from collector_trio.streams.snapshots import AT_ONCE, Snapshots
from collector_trio.streams.supervisor import Surroundings

from .test_session import notes
from .wires import Network, Wishes, live, trio_clock

BINANCE = EXCHANGES["binance"]


class Rest:
    """Answers requests for whole books after `takes_s`: with number 100, unless `says` has something else for it."""

    base_url = "https://example.org"

    def __init__(self, takes_s: float = 0.5) -> None:
        self.takes_s = takes_s
        self.asked: list[tuple[float, str]] = []
        self.in_flight = self.most = 0
        self.says: list[int | HttpFailed] = []

    @asynccontextmanager
    async def open_client(self, url: str) -> AsyncIterator[Any]:
        yield self

    async def ask(self, path: str) -> HttpAnswer:
        self.asked.append((trio.current_time(), path))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.in_flight -= 1
        said = self.says.pop(0) if self.says else 100
        if isinstance(said, HttpFailed):
            raise said
        book = {"lastUpdateId": said, "bids": [["1.0", "1"]], "asks": [["2.0", "1"]]}
        return HttpAnswer(json.dumps(book).encode(), httpx.Headers(), 0.0, 0.0)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not stop an autojumping clock."""

    async def run_sync(work: Any, *arguments: Any, **options: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


class Longest(random.Random):
    """Draws the longest delay a backoff may have."""

    def uniform(self, a: float, b: float) -> float:
        return b


def around(journal: Journal, rest: Rest, share: float = 1.0) -> Surroundings:
    return Surroundings(
        journal, trio_clock, Longest(), Network().connect, rest.open_client, Budgets(), share, structlog.get_logger(),
        live(), Wishes(),
    )  # fmt: skip


def unsynced(surroundings: Surroundings, symbol: str, tip: int = 100) -> tuple[Instrument, BookTrack]:
    """Return a book whose changes up to `tip` have come, and nothing they could be applied to."""
    instrument = Instrument("binance", "spot", symbol, symbol.replace("-", ""), *symbol.split("-"), "TRADING", True)
    track = surroundings.live.continuity.book_track(instrument, BINANCE.book_rules("spot"))
    track.take(1, 90, tip, 0, 1, 0, None)
    assert track.wants_snapshot
    return instrument, track


async def kept_for(seconds: float, desk: Snapshots, surroundings: Surroundings) -> None:
    with trio.move_on_after(seconds):
        await desk.keep(surroundings)


async def test_a_book_is_asked_for_once_however_often_it_is_wanted(journal: Journal, autojump_clock: MockClock) -> None:
    rest, desk = Rest(), Snapshots(BINANCE, "spot", "https://example.org")
    surroundings = around(journal, rest)
    instrument, track = unsynced(surroundings, "BTC-USDT")

    async def insist() -> None:
        for _ in range(50):
            if track.wants_snapshot:
                desk.want(instrument, track)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(insist)
        nursery.start_soon(kept_for, 10, desk, surroundings)
    assert [path for _, path in rest.asked] == ["/api/v3/depth?symbol=BTCUSDT&limit=5000"]
    assert track.chain.synced


async def test_a_break_of_everything_asks_for_a_few_at_a_time_and_within_the_budget(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest, desk = Rest(), Snapshots(BINANCE, "spot", "https://example.org")
    surroundings = around(journal, rest)
    books = [unsynced(surroundings, f"C{number}-USDT") for number in range(60)]
    for instrument, track in books:
        desk.want(instrument, track)
    await kept_for(600, desk, surroundings)
    assert rest.most == AT_ONCE
    assert len(rest.asked) == 60
    times = [at for at, _ in rest.asked]
    weight, limits = 250, BINANCE.limits("spot").weight
    assert max(sum(start <= at < start + limits.period_s for at in times) for start in times) * weight <= limits.limit
    assert all(track.chain.synced for _, track in books)


async def test_what_cannot_be_bridged_or_had_is_asked_for_again_after_delays_that_grow(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest, desk = Rest(takes_s=0.0), Snapshots(BINANCE, "spot", "https://example.org")
    rest.says = [
        50,
        HttpFailed("x", "HTTP 503"),
        60,
        -1,
        HttpFailed("x", "HTTP 429", Refusal(429, 40)),
        100,
    ]
    surroundings = around(journal, rest)
    instrument, track = unsynced(surroundings, "BTC-USDT")
    desk.want(instrument, track)
    await kept_for(600, desk, surroundings)
    times = [at for at, _ in rest.asked]
    assert [round(after - before, 3) for before, after in pairwise(times)] == [1, 2, 4, 8, 41]
    assert track.chain.synced
    written = [note for note in notes(journal) if note.letter in (Letter.REQUEST, Letter.FAILED)]
    assert "".join(note.letter for note in written) == "qqfqqqfq"
    assert len({note.value["session"] for note in written}) == 6


async def test_a_book_that_was_mended_otherwise_is_not_asked_for(journal: Journal, autojump_clock: MockClock) -> None:
    rest, desk = Rest(), Snapshots(BINANCE, "spot", "https://example.org")
    surroundings = around(journal, rest)
    instrument, track = unsynced(surroundings, "BTC-USDT")
    desk.want(instrument, track)
    track.take_snapshot(95)
    await kept_for(10, desk, surroundings)
    assert rest.asked == []


async def test_a_stop_in_the_midst_of_a_request_is_written_down(journal: Journal, autojump_clock: MockClock) -> None:
    rest, desk = Rest(takes_s=100.0), Snapshots(BINANCE, "spot", "https://example.org")
    surroundings = around(journal, rest)
    desk.want(*unsynced(surroundings, "BTC-USDT"))
    await kept_for(1, desk, surroundings)
    assert [note.value["reason"] for note in notes(journal) if note.letter is Letter.FAILED] == ["cancelled"]


async def test_a_bug_with_one_symbol_is_logged_and_the_others_are_asked_for(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, desk = Rest(), Snapshots(BINANCE, "spot", "https://example.org")
    surroundings = around(journal, rest)
    ask = Snapshots._ask

    async def crash(self: Snapshots, instrument: Instrument, *arguments: Any) -> None:
        if instrument.symbol == "BAD-USDT":
            raise ZeroDivisionError
        await ask(self, instrument, *arguments)

    monkeypatch.setattr(Snapshots, "_ask", crash)
    monkeypatch.setattr(snapshots, "CRASHED_S", 5.0)
    bad, good = unsynced(surroundings, "BAD-USDT"), unsynced(surroundings, "BTC-USDT")
    desk.want(*bad)
    desk.want(*good)
    with structlog.testing.capture_logs() as logged:
        await kept_for(3, desk, around(journal, rest))
    assert good[1].chain.synced
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["snapshot crashed"]


async def test_an_answer_that_is_never_reached_is_asked_for_again_after_a_while_and_at_once_when_it_is_of_no_use(
    journal: Journal, autojump_clock: MockClock
) -> None:
    rest, desk = Rest(takes_s=0.0), Snapshots(BINANCE, "spot", "https://example.org")
    rest.says = [10**9, 10**9, 200]
    surroundings = around(journal, rest)
    instrument, track = unsynced(surroundings, "BTC-USDT")
    desk.want(instrument, track)

    async def lose_a_change() -> None:
        await trio.sleep(40)
        track.take(1, 2 * 10**9, 2 * 10**9 + 1, 0, 2, 0, None)  # the number waited for lies in what was lost
        assert track.wants_snapshot
        desk.want(instrument, track)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_a_change)
        nursery.start_soon(kept_for, 60, desk, surroundings)
    assert [at for at, _ in rest.asked][:3] == [0, snapshots.WAITS_S + 1, 40 + 2]
