"""The loop around sessions: backoff that cannot storm, crashes that stay where they are."""

import random
from collections import deque
from contextlib import suppress
from itertools import pairwise

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.errors import ConnectionEnded, Refusal
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.net.budgets import Budgets
from collector_trio.streams.supervisor import HEALTHY_S, Stream, Surroundings, backoff, keep_stream

from .conftest import plan_of
from .test_session import depth, notes, trade
from .wires import Network, Wire, Wishes, live, trio_clock

SEED = 20261123


def around(journal: Journal, network: Network) -> Surroundings:
    def no_rest(url: str) -> object:
        raise AssertionError("streams ask no REST")

    return Surroundings(
        journal, trio_clock, random.Random(SEED), network.connect, no_rest, Budgets(), 1.0, structlog.get_logger(),  # type: ignore[arg-type]
        live(), Wishes(),
    )  # fmt: skip


def talk(wire: Wire) -> None:
    wire.receive(depth(), trade())


async def keep_for(seconds: float, journal: Journal, network: Network) -> Stream:
    print(f"seed {SEED}")
    stream = Stream(plan_of("binance", ("BTC-USDT",)))
    with trio.move_on_after(seconds):
        await keep_stream(stream, EXCHANGES["binance"], around(journal, network))
    return stream


def most_in_any_window(times: list[float], window_s: float) -> int:
    inside: deque[float] = deque()
    most = 0
    for at in times:
        inside.append(at)
        while inside[0] <= at - window_s + 1e-6:
            inside.popleft()
        most = max(most, len(inside))
    return most


def test_delays_are_drawn_below_a_bound_that_doubles_from_one_to_thirty_seconds() -> None:
    print(f"seed {SEED}")
    bounds = [1, 2, 4, 8, 16, 30, 30, 30]
    draws = [[delay for delay, _ in zip(backoff(random.Random(SEED + n)), bounds, strict=False)] for n in range(500)]
    for index, bound in enumerate(bounds):
        column = [draw[index] for draw in draws]
        assert 0 <= min(column) < bound * 0.05
        assert bound * 0.95 < max(column) <= bound


async def test_the_first_dial_is_at_once(journal: Journal, autojump_clock: MockClock) -> None:
    network = Network(on_open=talk)
    start = trio.current_time()
    await keep_for(1, journal, network)
    assert network.dialled_at == [start]


async def test_a_day_without_a_network_is_retried_for_a_day_and_said_once(
    journal: Journal, autojump_clock: MockClock
) -> None:
    network = Network(refuse=lambda attempt: ConnectionEnded("dns", "Name or service not known"))
    with capture_logs() as logs:
        stream = await keep_for(86_400, journal, network)
    assert [entry["log_level"] for entry in logs if entry["event"] == "ended"].count("warning") == 1
    assert stream.ended["dns"] > 86_400 / 30
    assert network.dialled_at[-1] > 86_400 - 31
    assert most_in_any_window(network.dialled_at, 60) <= 10


async def test_no_stream_dials_more_than_ten_times_a_minute_however_lucky_the_draws(
    journal: Journal, autojump_clock: MockClock
) -> None:
    class NoDelay(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 0.0

    network = Network(refuse=lambda attempt: ConnectionEnded("refused", "HTTP 503"))
    surroundings = around(journal, network)
    surroundings = Surroundings(
        journal, trio_clock, NoDelay(), network.connect, surroundings.open_client, Budgets(), 1.0, surroundings.log,
        live(), Wishes(),
    )  # fmt: skip
    with trio.move_on_after(600):
        await keep_stream(Stream(plan_of("binance", ("BTC-USDT",))), EXCHANGES["binance"], surroundings)
    assert 90 <= len(network.dialled_at) <= 100
    assert most_in_any_window(network.dialled_at, 60) <= 10


async def test_every_ending_is_followed_by_a_new_session_and_only_one_socket_is_ever_open(
    journal: Journal, autojump_clock: MockClock
) -> None:
    most_open = 0
    reasons = ["closed", "eof", "reset", "protocol", "refused"]

    def play(wire: Wire) -> None:
        nonlocal most_open
        most_open = max(most_open, len(network.open_wires))
        talk(wire)
        wire.end(reasons[len(network.wires) % 4], "")

    network = Network(on_open=play, refuse=lambda n: ConnectionEnded("refused", "HTTP 503") if n % 5 == 0 else None)
    stream = await keep_for(3600, journal, network)
    assert most_open == 1
    assert not network.open_wires
    assert set(stream.ended) == set(reasons)
    assert sum(stream.ended.values()) >= stream.sessions - 1
    ends = [note.value for note in notes(journal) if note.letter == "e"]
    assert [end["session"] for end in ends] == list(range(1, stream.sessions + 1))


async def test_a_session_that_dies_young_counts_as_a_failure_however_politely_it_was_closed(
    journal: Journal, autojump_clock: MockClock
) -> None:
    def play(wire: Wire) -> None:
        talk(wire)
        wire.end("closed", "1000")

    network = Network(on_open=play)
    await keep_for(3600, journal, network)
    assert len(network.dialled_at) < 3600 / 10


async def test_a_minute_of_health_makes_the_next_delay_short_again(journal: Journal, autojump_clock: MockClock) -> None:
    wires: list[Wire] = []

    async def live_for(wire: Wire, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while True:
                wire.receive(depth(), trade())
                await trio.sleep(1)
        wire.end("closed", "1001")

    async with trio.open_nursery() as nursery:

        def play(wire: Wire) -> None:
            wires.append(wire)
            nursery.start_soon(live_for, wire, HEALTHY_S + 2)

        network = Network(on_open=play)
        with trio.move_on_after(3600):
            stream = Stream(plan_of("binance", ("BTC-USDT",)))
            await keep_stream(stream, EXCHANGES["binance"], around(journal, network))
        nursery.cancel_scope.cancel()
    gaps = [later.opened_at - earlier.closed_at for earlier, later in pairwise(wires) if earlier.closed_at is not None]
    assert len(gaps) > 50
    assert max(gaps) <= 1.0


async def test_a_crash_is_logged_with_its_traceback_and_restarts_only_its_own_stream(
    journal: Journal, autojump_clock: MockClock
) -> None:
    def crash(wire: Wire) -> None:
        raise ZeroDivisionError("a bug")

    broken, healthy = Network(on_open=crash), Network(on_open=talk)
    with capture_logs() as logs, trio.move_on_after(2):
        async with trio.open_nursery() as nursery:
            for network in (broken, healthy):
                stream = Stream(plan_of("binance", ("BTC-USDT",)))
                nursery.start_soon(keep_stream, stream, EXCHANGES["binance"], around(journal, network))
    assert len(broken.dialled_at) > 1
    assert len(healthy.dialled_at) == 1
    crashes = [entry for entry in logs if entry["event"] == "crashed"]
    assert crashes
    assert all(entry.get("exc_info") for entry in crashes)
    assert "crashed" in {note.value["reason"] for note in notes(journal) if note.letter == "e"}


async def test_a_stream_that_keeps_crashing_is_parked(journal: Journal, autojump_clock: MockClock) -> None:
    def crash(wire: Wire) -> None:
        raise ZeroDivisionError("a bug")

    network = Network(on_open=crash)
    with capture_logs() as logs:
        stream = await keep_for(86_400, journal, network)
    assert [entry["event"] for entry in logs].count("parked") == 1
    assert stream.parked
    assert len(network.dialled_at) == 5


async def test_live_again_is_said_once_for_each_time_it_was_not(journal: Journal, autojump_clock: MockClock) -> None:
    network = Network(
        on_open=talk, refuse=lambda attempt: None if attempt in (1, 20) else ConnectionEnded("dial", "refused")
    )

    async def cut() -> None:
        await trio.sleep(3)
        with suppress(IndexError):
            network.wires[0].end("eof", "")

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            await keep_for(400, journal, network)
            nursery.cancel_scope.cancel()
    said = [(entry["event"], entry["log_level"]) for entry in logs if entry["event"] in ("live", "ended")]
    assert [entry for entry in said if entry[1] != "debug"][:3] == [
        ("live", "info"),
        ("ended", "warning"),
        ("live", "info"),
    ]
    assert said.count(("ended", "debug")) >= 18


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
async def test_streams_of_one_venue_share_its_dial_budget(
    exchange: str, journal: Journal, autojump_clock: MockClock
) -> None:
    network = Network(refuse=lambda attempt: ConnectionEnded("refused", "HTTP 503"))
    surroundings = around(journal, network)
    rate = EXCHANGES[exchange].limits("spot").dials
    with trio.move_on_after(rate.period_s * 3):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                stream = Stream(plan_of(exchange, ("BTC-USDT",), ("book",)))
                nursery.start_soon(keep_stream, stream, EXCHANGES[exchange], surroundings)
    assert most_in_any_window(network.dialled_at, rate.period_s) <= rate.limit


async def test_a_venue_that_bans_one_stream_is_dialled_by_none_until_the_time_is_over_and_it_is_said_once(
    journal: Journal, autojump_clock: MockClock
) -> None:
    def refuse(attempt: int) -> ConnectionEnded | None:
        return ConnectionEnded("refused", "HTTP 418", Refusal(418, 100)) if attempt <= 2 else None

    network = Network(on_open=talk, refuse=refuse)
    surroundings = around(journal, network)
    streams = [Stream(plan_of("binance", ("BTC-USDT",))) for _ in range(10)]
    with capture_logs() as logs, trio.move_on_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_stream, streams[0], EXCHANGES["binance"], surroundings)
            await trio.sleep(1)
            for stream in streams[1:]:
                nursery.start_soon(keep_stream, stream, EXCHANGES["binance"], surroundings)
            await trio.sleep(200)
            assert len(network.dialled_at) == 2
            (hold,) = surroundings.gates.holds
            assert (hold.what, hold.status, hold.refused) == ("binance", 418, 2)
    first, second, *others = network.dialled_at
    assert 100 <= second - first <= 101
    assert others[0] - second >= 120  # told 100 s, and refused when it came: our own two minutes at least
    assert all(stream.lived or stream.is_live for stream in streams)
    assert surroundings.gates.holds == ()
    events = [entry["event"] for entry in logs if entry["event"] in ("nothing is asked of", "answers again")]
    assert events == ["nothing is asked of", "answers again"]
