"""Venues that say no, over whole runs: what they allow is never exceeded in any window of their own clock, who is told
to wait asks nothing meanwhile, and a maintenance that was announced is the cause of its gaps.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.exchanges import EXCHANGES, binance, okx
from collector_trio.plan import Limits, Rate
from collector_trio.sim import Asked, Fault, Scenario, SimServer

from .ledger import check
from .world import MARKETS, no_threads, now_ns, recorder, simulate

SPOT, PERP, OKX = (("binance", "spot"),), (("binance", "perp"),), (("okx", "spot"),)
SLOW = {"symbols": ("BTC-USDT",), "quiet_symbols": (), "trades_per_s": 1.0, "book_changes_per_s": 2.0}
# Everything that makes a recorder dial and ask: ends of every kind, refusals with and without words, broken books.
STORM = (
    Fault("close", at_s=3, every_s=7.3),
    Fault("drop", "binance", at_s=4, every_s=11.1),
    Fault("abort", "okx", at_s=4, every_s=3.7),
    Fault("refuse", at_s=11, every_s=31, status=503),
    Fault("refuse", "okx", at_s=40, every_s=50, status=429, retry_after_s=4),
    Fault("deny", "binance", at_s=17, every_s=31, count=2, status=503),
    Fault("deny", "binance.perp", at_s=60, every_s=70, status=429, retry_after_s=3),
    Fault("lose", "binance", channel="book", at_s=2, every_s=1.3),
    Fault("snapshot_fail", chance=0.3),
    Fault("snapshot_empty", chance=0.3),
)


def most_in_any_window(asked: Sequence[Asked], window_s: float) -> int:
    times = [(one.at_ns / 1e9, one.weight) for one in asked]
    return max((sum(w for at, w in times if start <= at < start + window_s - 1e-6) for start, _ in times), default=0)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exchanges allow so little that everything that is asked must wait for its turn."""
    messages = Rate(3, 1.0)
    monkeypatch.setitem(binance._LIMITS, "spot", Limits(Rate(9, 60.0), messages, Rate(1100, 60.0), "binance.spot"))
    monkeypatch.setitem(binance._LIMITS, "perp", Limits(Rate(9, 60.0), messages, Rate(90, 60.0), "binance.futures"))
    monkeypatch.setattr(okx, "_LIMITS", Limits(Rate(3, 5.0), Rate(400, 3600.0), Rate(2, 2.0), "okx"))


def test_whatever_happens_no_window_holds_more_than_the_venue_allows_two_processes_together(
    narrow: None, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    storm(2, seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_no_window_holds_more_over_many_seeds_however_many_processes_share_it(
    seed: int, processes: int, narrow: None, tmp_path: Path
) -> None:
    storm(processes, seed, tmp_path)


def storm(processes: int, seed: int, tmp_path: Path) -> None:
    """Record in a storm, each process with its share, and judge what came to the exchanges."""
    share = 1 / processes

    async def run() -> SimServer:
        server = SimServer(Scenario(**SLOW, faults=STORM), seed=seed, now_ns=now_ns)

        async def record(number: int) -> None:
            folder = tmp_path / str(number)
            folder.mkdir()
            options = {"share": share, "latency_s": 9.0}
            async with recorder(folder, server, seed + number, ("BTC-USDT",), MARKETS, **options):
                await trio.sleep(200)

        async with trio.open_nursery() as exchanges:
            exchanges.start_soon(server.run)
            async with trio.open_nursery() as recorders:
                for number in range(processes):
                    recorders.start_soon(record, number)
            exchanges.cancel_scope.cancel()
        return server

    with no_threads():
        truth = trio.run(run, clock=MockClock(autojump_threshold=0)).truth
    of = {pool: [one for one in truth.asked if one.pool == pool] for pool in ("binance.spot", "binance.perp", "okx")}
    dials = {pool: [one for one in asked if one.what == "dial"] for pool, asked in of.items()}
    rest = {pool: [one for one in asked if one.what == "rest"] for pool, asked in of.items()}
    limits = {"binance.spot": binance.limits("spot"), "binance.perp": binance.limits("perp"), "okx": okx.limits("spot")}
    both = sorted(dials["binance.spot"] + dials["binance.perp"])
    for asked, rate in [
        (both, limits["binance.spot"].dials),
        (dials["okx"], limits["okx"].dials),
        (rest["binance.spot"], limits["binance.spot"].weight),
        (rest["binance.perp"], limits["binance.perp"].weight),
    ]:
        assert most_in_any_window(asked, rate.period_s) <= rate.limit
    # It could have been too much, if there were no budgets.
    assert len(both) > limits["binance.spot"].dials.limit
    assert len(dials["okx"]) > limits["okx"].dials.limit
    assert any(sum(one.weight for one in rest[pool]) > limits[pool].weight.limit for pool in rest)
    assert not [one.ended for one in truth.connections if "Too many" in one.ended]


@pytest.mark.parametrize("told", [True, False])
def test_a_venue_that_bans_us_is_asked_by_one_at_a_time_and_seldom_and_recorded_again_when_it_ends(
    told: bool, tmp_path: Path
) -> None:
    ban_s = 200.0
    faults = (
        Fault("ban", "binance", at_s=10, duration_s=ban_s, status=418, told=told),
        Fault("close", "binance", at_s=11),
    )
    with capture_logs() as logs:
        world = simulate(tmp_path, Scenario(**SLOW, faults=faults), 7, 270.0 if told else 440.0, markets=(*SPOT, *PERP))
    asked = sorted(world.server.truth.asked)
    began = asked[0].at_ns / 1e9
    during = [one.at_ns / 1e9 - began for one in asked if 10.5 < one.at_ns / 1e9 - began < 10 + ban_s]
    # Told: those that were on their way when the first was refused. Else one more try, after our own two minutes.
    assert len(during) <= (3 if told else 4)
    assert all(stream.lived >= 2 for stream in world.streams)
    said = [entry["event"] for entry in logs if entry["event"] in ("nothing is asked of", "answers again")]
    assert said == ["nothing is asked of", "answers again"]
    (why,) = [entry for entry in logs if entry["event"] == "nothing is asked of"]
    assert "this address is banned for asking too often (HTTP 418" in why["reason"]


def test_somebody_elses_weight_at_our_address_is_heeded(tmp_path: Path) -> None:
    """The venue's own count says so; who trusts his own only is refused."""
    faults = (
        Fault("spend", "binance.spot", at_s=2, every_s=5, count=400),
        Fault("lose", "binance.spot", channel="book", at_s=3, every_s=0.7),
    )
    scenario = Scenario(**SLOW, faults=faults, enforce_limits=True)
    world = simulate(tmp_path, scenario, 7, 200.0, markets=SPOT)
    answers = Counter({status: n for (path, status), n in world.server.truth.rest.items() if "depth" in path})
    assert answers[200] > 5
    assert set(answers) == {200}


@pytest.mark.parametrize(
    ("markets", "told", "notice"),
    [
        (SPOT, True, "serverShutdown"),
        (OKX, True, "The connection will soon be closed"),
        (OKX, False, "WebSocket upgrade"),  # REST says so
    ],
)
def test_an_announced_maintenance_is_the_cause_of_its_gaps_and_both_folds_say_so(
    markets: tuple[tuple[str, str], ...], told: bool, notice: str, tmp_path: Path
) -> None:
    faults = (Fault("shutdown", at_s=6, duration_s=8, told=told), Fault("drop", at_s=40))
    world = simulate(tmp_path, Scenario(**SLOW, faults=faults), 5, 100.0, markets=markets)
    fold, rows = world.fold()
    assert fold.divergence == 0
    assert check(world, rows, 5).trades > 0
    gaps = rows["gaps"].select(["from_ts", "cause", "detail"]).to_pylist()
    causes = [gap["cause"] for gap in sorted(gaps, key=lambda gap: gap["from_ts"])]
    assert set(causes) == {"maintenance", "disconnect"}
    assert causes == sorted(causes, reverse=True)  # the announced one was the first
    assert all((notice in gap["detail"]) is (gap["cause"] == "maintenance") for gap in gaps)
    assert sum(count for (_, cause), count in world.live.continuity.gaps.items() if cause == "maintenance") == sum(
        count for (_, cause), count in fold.continuity.gaps.items() if cause == "maintenance"
    )


def test_every_exchange_has_its_limits_below_what_the_simulated_ones_police() -> None:
    from collector_trio.sim.police import DIALS, WEIGHTS

    pools = {("binance", "spot"): "binance.spot", ("binance", "perp"): "binance.perp", ("okx", "spot"): "okx"}
    for (name, market), pool in pools.items():
        ours = EXCHANGES[name].limits(market)
        for rate, police in ((ours.dials, DIALS[pool]), (ours.weight, WEIGHTS[pool])):
            assert rate.period_s == police.window_s
            assert rate.limit < police.units
