"""The gate of a venue: closed by what an answer says, tried by one, opened for all."""

import random
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock

from collector_trio.errors import ConnectionEnded, HttpFailed, Refusal
from collector_trio.net.budgets import Budget
from collector_trio.net.gate import Gates, Hold, host_of
from collector_trio.plan import Rate

EPOCH_NS = 1_795_000_000_000_000_000
BANNED = ConnectionEnded("refused", "HTTP 418", Refusal(418, 30))
BUSY = HttpFailed("x", "HTTP 429", Refusal(429, 60))
BLOCKED = HttpFailed("x", "HTTP 451", Refusal(451))


class Least(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return a


@attrs.define
class Venue:
    """A gate with a budget that never runs out, and what was asked when."""

    asked: list[tuple[float, str]] = attrs.Factory(list)
    said: list[tuple[str, str]] = attrs.Factory(list)
    budget: Budget = attrs.Factory(lambda: Budget(Rate(1000, 1)))
    gates: Gates = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.gates = Gates(lambda: EPOCH_NS + round(trio.current_time() * 1e9), Least(), self._say)

    def _say(self, before: Hold | None, now: Hold | None) -> None:
        hold = now or before
        assert hold is not None
        self.said.append(("closed" if now else "open", f"{hold.what} {hold.status}"))

    async def ask(
        self, host: str = "a", answer: Exception | None = None, takes_s: float = 0, venue: str = "binance"
    ) -> None:
        async with self.gates.get(venue).asking(host, self.budget) as turn:
            self.asked.append((trio.current_time(), host))
            with turn.judged():
                await trio.sleep(takes_s)
                if answer is not None:
                    raise answer

    async def fail(self, answer: Exception, host: str = "a", takes_s: float = 0) -> None:
        with pytest.raises(type(answer)) as raised:
            await self.ask(host, answer, takes_s)
        assert raised.value is answer


@pytest.fixture
def venue() -> Venue:
    return Venue()


@pytest.mark.parametrize("answer", [BANNED, BUSY])
async def test_a_venue_that_says_no_is_asked_nothing_by_anyone_until_the_time_is_over(
    answer: Exception, venue: Venue, autojump_clock: MockClock
) -> None:
    await venue.fail(answer)
    async with trio.open_nursery() as nursery:
        for host in "abcabc":
            nursery.start_soon(venue.ask, host)
        await trio.sleep(1)
        await venue.ask("d", venue="okx")  # another venue has said nothing
    times = sorted(at for at, host in venue.asked[1:] if host != "d")
    wait = 30 if answer is BANNED else 60
    assert times == [wait] * 6


async def test_a_block_concerns_its_host_alone(venue: Venue, autojump_clock: MockClock) -> None:
    await venue.fail(BLOCKED, "a")
    await venue.ask("b")
    await venue.ask("a")
    assert venue.asked == [(0, "a"), (0, "b"), (300, "a")]


async def test_one_goes_first_and_a_ban_that_goes_on_costs_one_question(
    venue: Venue, autojump_clock: MockClock
) -> None:
    await venue.fail(BANNED)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(venue.ask, "a", None, 2)
    assert [at for at, _ in venue.asked] == [0, 30] + [32] * 39


async def test_who_goes_first_and_is_refused_again_waits_longer_and_the_others_with_him(
    venue: Venue, autojump_clock: MockClock
) -> None:
    busy = HttpFailed("x", "HTTP 429", Refusal(429))
    for _ in range(6):
        await venue.fail(busy)
    await venue.ask()
    times = [at for at, _ in venue.asked]
    assert [after - before for before, after in pairwise(times)] == [60, 120, 240, 480, 600, 600]
    await venue.fail(busy)  # it answered in between, so this is a first time again
    await venue.ask()
    assert venue.asked[-1][0] - venue.asked[-2][0] == 60


async def test_answers_to_what_was_asked_before_the_gate_closed_count_once(
    venue: Venue, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(venue.fail, HttpFailed("x", "HTTP 429", Refusal(429)), "a", 1 + n / 8)
    (hold,) = venue.gates.holds
    assert hold.refused == 1
    await venue.ask()
    assert venue.asked[-1][0] == pytest.approx(61 + 7 / 8)
    assert venue.said == [("closed", "binance 429"), ("open", "binance 429")]


async def test_who_goes_first_and_learns_nothing_lets_the_next_one_try(venue: Venue, autojump_clock: MockClock) -> None:
    await venue.fail(BANNED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(venue.fail, ConnectionEnded("timeout", ""), "a", 10)
        await trio.sleep(31)
        await venue.ask()
    assert [at for at, _ in venue.asked] == [0, 30, 40]
    assert not venue.gates.holds


async def test_who_is_cancelled_while_going_first_lets_the_next_one_try(
    venue: Venue, autojump_clock: MockClock
) -> None:
    await venue.fail(BANNED)
    with trio.move_on_after(40):
        await venue.ask(takes_s=100)
    await venue.ask()
    assert [at for at, _ in venue.asked] == [0, 30, 40]


async def test_a_gate_that_closes_while_a_budget_is_waited_for_costs_nothing(autojump_clock: MockClock) -> None:
    venue = Venue(budget=Budget(Rate(2, 100)))
    await venue.ask()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(venue.fail, HttpFailed("x", "", Refusal(429, 300)), "a", 50)
        await trio.sleep(1)
        nursery.start_soon(venue.ask)
    assert [at for at, _ in venue.asked] == [0, 0, 350]


async def test_a_ban_that_becomes_a_block_of_one_host_leaves_the_others_free(
    venue: Venue, autojump_clock: MockClock
) -> None:
    await venue.fail(BANNED)
    await venue.fail(BLOCKED)
    await venue.ask("b")
    assert venue.asked[-1] == (30, "b")
    assert venue.said == [("closed", "binance 418"), ("closed", "binance a 451"), ("open", "binance 418")]


async def test_it_is_said_once_that_nothing_is_asked_why_and_that_it_answers_again(
    venue: Venue, autojump_clock: MockClock
) -> None:
    for _ in range(5):
        await venue.fail(BLOCKED)
    assert venue.said == [("closed", "binance a 451")]
    (hold,) = venue.gates.holds
    assert (hold.venue, hold.host, hold.status, hold.told, hold.refused) == ("binance", "a", 451, False, 5)
    assert hold.since_ns == EPOCH_NS
    assert hold.until_ns == EPOCH_NS + round((300 + 600 + 1200 + 2400 + 3600) * 1e9)
    await venue.ask()
    assert venue.said[1:] == [("open", "binance a 451")]
    assert venue.gates.holds == ()


async def test_what_a_refusal_leaves_to_the_asker_closes_nothing(venue: Venue, autojump_clock: MockClock) -> None:
    await venue.fail(HttpFailed("x", "HTTP 503", Refusal(503)))
    await venue.fail(HttpFailed("x", "no answer"))
    await venue.ask()
    assert trio.current_time() == 0
    assert venue.said == []


def test_a_host_is_known_with_its_port_and_without_a_password() -> None:
    assert host_of("wss://me:secret@stream.binance.com:9443/ws") == "stream.binance.com:9443"
    assert host_of("https://www.okx.com") == "www.okx.com"
