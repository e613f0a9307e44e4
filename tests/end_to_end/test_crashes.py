"""kill -9 of the recorder, of its follower, of both, at any moment and under load: nothing accepted is lost, nothing is
stored twice, and nobody who reads the tables meanwhile sees half of anything.
"""

import os
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from collector_trio.sim import Scenario, SimServer, serve
from tests.truth.ledger import Report

from .crashing import (
    Accepted,
    assert_every_frame_is_accounted_for,
    assert_tables_are_the_truth,
    assert_the_journal_says_the_same,
    draw_seed,
    followers_of,
    is_free,
    kill,
    reading,
    running,
    stop_cleanly,
    until,
    write_config,
)
from .recorder import store_what_is_left

KINDS = ("recorder", "follower", "both")
LOAD = Scenario(symbols=("BTC-USDT", "ETH-USDT"), quiet_symbols=(), trades_per_s=60.0, book_changes_per_s=10.0)


@attrs.define
class Outcome:
    """What was done to a collector, and what was found when it had stopped."""

    server: SimServer
    kills: Counter[str]
    while_following: int  # of the kills, how many found a follower at work
    frames: int = 0
    seen: dict[str, Any] = attrs.field(factory=dict)  # by who read all the time
    report: Report = attrs.field(factory=Report)


async def crash(folder: Path, kinds: list[str], draw: random.Random, longest_s: float) -> Outcome:
    """Record under load, with one kill for each of `kinds` at random moments, then stop cleanly and store the rest."""
    data_dir, log = folder / "data", folder / "log"
    accepted = Accepted()
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, LOAD, seed=draw.randrange(10**6)))
        config = write_config(folder, server.endpoints_toml(), markets=("spot", "perp"), segment="1s")
        outcome = Outcome(server, Counter(), 0)
        with reading(data_dir) as outcome.seen:
            left = list(kinds)
            while left:
                async with running(config, log) as process:
                    while left:
                        kind = left.pop(0)
                        await trio.sleep(draw.uniform(0.1, longest_s))
                        assert process.poll() is None, f"it ended by itself: {log.read_text()[-2000:]}"
                        followers = followers_of(process.pid)
                        outcome.while_following += bool(followers)
                        struck = followers if kind != "recorder" else []
                        if kind != "follower":
                            assert kill(process.pid)
                            await process.wait()
                        outcome.kills[kind] += kind != "follower" or any(followers)
                        for pid in struck:
                            kill(pid)
                        accepted.look(data_dir)
                        if kind != "follower":
                            break
            async with running(config, log) as process:
                await stop_cleanly(server, process, data_dir, log)
        nursery.cancel_scope.cancel()
    await until(lambda: is_free(data_dir), "the last follower has ended")
    store_what_is_left(data_dir)
    last = accepted.look(data_dir)
    outcome.frames = assert_every_frame_is_accounted_for(data_dir)
    assert last - 1 <= outcome.frames
    return outcome


def assert_nothing_is_lost(folder: Path, outcome: Outcome, seed: int) -> None:
    """Everything that can be held against anything else is."""
    assert outcome.seen["problems"] == []
    assert outcome.seen["looks"] > 0
    outcome.report = assert_tables_are_the_truth(folder / "data", outcome.server, seed)
    assert outcome.report.trades > 0
    assert outcome.report.books > 0
    assert_the_journal_says_the_same(folder / "data", folder / "again")


async def test_recorder_follower_and_both_are_killed_and_nothing_accepted_is_lost_or_doubled(tmp_path: Path) -> None:
    seed = draw_seed()
    draw = random.Random(seed)
    kinds = draw.sample(KINDS, 3)
    outcome = await crash(tmp_path, kinds, draw, 3.0)
    assert_nothing_is_lost(tmp_path, outcome, seed)


@pytest.mark.soak
async def test_fifty_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path) -> None:
    seed = draw_seed()
    draw = random.Random(seed)
    kinds = [draw.choice(KINDS) for _ in range(int(os.environ.get("CRASH_KILLS", "75")))]
    outcome = await crash(tmp_path, kinds, draw, 5.0)
    assert_nothing_is_lost(tmp_path, outcome, seed)
    print(outcome.kills, outcome.while_following, outcome.frames, outcome.seen, outcome.report)
    assert outcome.kills.total() >= 50
