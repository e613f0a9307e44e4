"""A status says what runs: readiness, health, rates and lags with their reasons."""

import json
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from collector_trio.errors import ConnectionEnded
from collector_trio.followers.cursor import Cursor
from collector_trio.journal.records import Letter
from collector_trio.net.gate import Hold
from collector_trio.ops.lag import LoopLag
from collector_trio.ops.state import (
    LEAST_DISK_LOOKS,
    STEADY_FOLLOWER_S,
    STUCK_FOLLOWER_S,
    STUCK_JOURNAL_S,
    Sealed,
    free_bytes_per_s,
    left_s,
)
from collector_trio.streams.session import Watched
from collector_trio.streams.supervisor import _account

from ..streams.wires import EPOCH_NS
from .conftest import Recorder


async def test_a_market_without_streams_is_not_ready(recorder: Recorder, autojump_clock: MockClock) -> None:
    live = recorder.add_stream("binance")
    recorder.open_session(live, live_at=trio.current_time())
    status = recorder.observer.look()
    assert not status.ready
    assert status.not_ready == ("okx spot: no stream yet; its instruments are awaited",)


async def test_why_a_market_has_no_stream_is_said(recorder: Recorder, autojump_clock: MockClock) -> None:
    recorder.open_session(recorder.add_stream("binance"), live_at=trio.current_time())
    recorder.unlisted["okx", "spot"] = ("okx spot XRP-USDT",)
    assert recorder.observer.look().not_ready == ("okx spot: no stream yet; none of its symbols is listed",)
    recorder.unlisted["okx", "spot"] = ()
    assert recorder.observer.look().not_ready == ("okx spot: no stream yet; it is about to begin",)
    recorder.unanswered["okx", "spot"] = "https://okx.example: proxy: proxy http://p:1: refused"
    assert recorder.observer.look().not_ready == (
        "okx spot: no stream yet; its instruments cannot be had: https://okx.example: proxy: proxy http://p:1: refused",
    )  # fmt: skip


async def test_it_is_ready_when_every_stream_is_live(recorder: Recorder, autojump_clock: MockClock) -> None:
    for name in ("binance", "okx"):
        recorder.open_session(recorder.add_stream(name), live_at=trio.current_time())
    status = recorder.observer.look()
    assert (status.ready, status.not_ready, status.healthy, status.not_healthy) == (True, (), True, ())


async def test_the_reason_names_stream_state_and_how_its_last_session_ended(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    recorder.open_session(recorder.add_stream("binance"), live_at=0.0)
    stream = recorder.add_stream("okx")
    session = recorder.open_session(stream)
    session.ending = ConnectionEnded("reset", "by peer")
    stream.session, stream.last = None, session
    assert recorder.observer.look().not_ready == ("okx.public/1: backing off after reset: by peer",)


BLOCKED = Hold("okx", "www.okx.com", 451, "blocked from here (HTTP 451)", False, 3, EPOCH_NS, EPOCH_NS + 90 * 10**9)


async def test_a_venue_that_said_no_is_why_its_streams_are_not_ready(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    recorder.holds.append(BLOCKED)
    recorder.open_session(recorder.add_stream("binance"), live_at=0.0)
    okx = recorder.add_stream("okx")
    status = recorder.observer.look()
    assert status.not_ready[1:] == (
        "okx www.okx.com: nothing is asked until 2026-11-18T11:08:10.000Z; blocked from here (HTTP 451)",
    )  # fmt: skip
    (hold,) = status.holds
    assert (hold.venue, hold.host, hold.status, hold.refused) == ("okx", "www.okx.com", 451, 3)
    recorder.open_session(okx, live_at=0.0)
    assert recorder.observer.look().ready  # its open connections go on


async def test_a_session_that_crashed_and_one_that_we_ended_differ(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    stream = recorder.add_stream("okx")
    stream.session, stream.last = None, recorder.open_session(stream)
    assert recorder.observer.look().streams[0].last_ending is None
    stream.ended["crashed"] += 1
    assert recorder.observer.look().streams[0].last_ending == "crashed"


async def test_states_of_a_stream(recorder: Recorder, autojump_clock: MockClock) -> None:
    stream = recorder.add_stream("binance")

    def state() -> str:
        return recorder.observer.look().streams[0].state

    assert state() == "dialling"
    recorder.open_session(stream, peer="")
    assert state() == "dialling"
    recorder.open_session(stream)
    assert state() == "connecting"
    recorder.open_session(stream, live_at=0.0)
    assert state() == "live"
    stream.session = None
    assert state() == "backing off"
    stream.parked = True
    assert state() == "parked"


async def test_a_journal_that_refuses_is_neither_ready_nor_healthy(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    for name in ("binance", "okx"):
        recorder.open_session(recorder.add_stream(name), live_at=trio.current_time())
    recorder.journal._refuse(0, "disk full")
    status = recorder.observer.look()
    assert "refuses" in status.not_ready[0]
    assert "refuses" in status.not_healthy[0]
    recorder.journal._refused_since_ns = None


async def test_rates_are_means_over_the_last_seconds(recorder: Recorder, autojump_clock: MockClock) -> None:
    stream = recorder.add_stream("binance")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.observer.run)
        for _ in range(20):
            await trio.sleep(1)
            stream.frames_before += 7
            stream.bytes_before += 700
        status = recorder.observer.look().streams[0]
        nursery.cancel_scope.cancel()
    assert status.frames_per_s == pytest.approx(7, rel=0.3)
    assert status.bytes_per_s == pytest.approx(100 * status.frames_per_s, rel=0.01)


async def test_a_follower_lags_by_the_frames_it_has_not_stored_and_the_age_of_the_first_segment(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    recorder.journal.append(1, trio_now(recorder), [b"{}"] * 5)
    recorder.observer.parts.sealed.add(1, trio_now(recorder))
    await trio.sleep(12)
    recorder.observer.parts.sealed.add(2, trio_now(recorder))
    [follower] = recorder.observer.look().followers
    assert (follower.lag_frames, follower.lag_segments, follower.lag_s) == (5, 2, 12.0)
    recorder.cursor = Cursor(segment=2, next_frame=6)
    [follower] = recorder.observer.look().followers
    assert (follower.lag_frames, follower.lag_segments, follower.lag_s) == (0, 0, 0.0)


def trio_now(recorder: Recorder) -> int:
    return recorder.observer.parts.clock()


async def test_a_follower_that_stores_nothing_for_long_is_not_healthy(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async with recorder.running():
        for number in range(1, 20):
            recorder.observer.parts.sealed.add(number, trio_now(recorder))
            await trio.sleep(60)
            recorder.cursor = Cursor(segment=number - 3)  # behind, but it moves
        assert recorder.observer.look().not_healthy == ()
        await trio.sleep(STUCK_FOLLOWER_S + 2)
        [reason] = recorder.observer.look().not_healthy
        assert reason.startswith("follower tables: is running but has stored nothing for 30")
        recorder.cursor = Cursor(segment=19)
        assert recorder.observer.look().not_healthy == ()


async def test_a_follower_with_nothing_to_store_is_healthy_for_ever(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async with recorder.running():
        await trio.sleep(2 * STUCK_FOLLOWER_S)
        recorder.observer.parts.sealed.add(1, trio_now(recorder))
        await trio.sleep(2)
        assert recorder.observer.look().not_healthy == ()


async def test_a_follower_that_does_not_stay_up_is_not_healthy_until_it_does(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    child, look = recorder.child, recorder.observer.look
    async with recorder.running():
        for _ in range(4):  # it comes up each time, for a while
            child.pid, child.restarts = None, child.restarts + 1
            await trio.sleep(2)
            child.pid = 4242
            assert look().not_healthy == ()
            await trio.sleep(14)
        await trio.sleep(STEADY_FOLLOWER_S - 18)
        [reason] = look().not_healthy
        assert reason == "follower tables: does not stay up, it has died 4 times"
        await trio.sleep(20)
        assert look().not_healthy == ()


async def test_one_death_of_a_follower_is_healthy(recorder: Recorder, autojump_clock: MockClock) -> None:
    async with recorder.running():
        recorder.child.restarts = 1
        for _ in range(200):
            await trio.sleep(1)
            assert recorder.observer.look().not_healthy == ()


async def test_a_journal_to_which_nothing_is_appended_is_not_healthy(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.observer.run)
        nursery.start_soon(recorder.journal.run)
        await trio.sleep(STUCK_JOURNAL_S - 1)
        assert recorder.observer.look().not_healthy == ()
        await trio.sleep(3)
        assert recorder.observer.look().not_healthy == ("journal: nothing was appended for 12 s",)
        recorder.journal.note(Letter.TICK, {})
        await trio.sleep(1)
        assert recorder.observer.look().not_healthy == ()
        nursery.cancel_scope.cancel()


async def test_a_journal_that_is_not_synced_is_not_healthy_until_it_is(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    free = trio.Event()

    async def hanging_disk(work: Callable[[], None]) -> None:
        await free.wait()
        work()

    recorder.journal.offload = hanging_disk
    async with recorder.running():
        await trio.sleep(STUCK_JOURNAL_S)
        assert recorder.observer.look().not_healthy == ()
        await trio.sleep(5)
        [reason] = recorder.observer.look().not_healthy
        assert reason.startswith("journal: nothing was synced for 1")
        assert reason.endswith(" s, the disk hangs")
        free.set()
        await trio.sleep(1)
        assert recorder.observer.look().not_healthy == ()


async def test_watching_that_has_stopped_is_not_healthy(recorder: Recorder, autojump_clock: MockClock) -> None:
    with trio.move_on_after(5):
        await recorder.observer.run()
    await trio.sleep(20)
    [reason] = recorder.observer.look().not_healthy
    assert reason.startswith("watching: has stopped 2")


async def test_a_watcher_that_has_crashed_is_not_healthy_until_it_begins_again(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    crashed = {"leaks"}
    recorder.observer.parts = attrs.evolve(recorder.observer.parts, crashed=crashed)
    assert recorder.observer.look().not_healthy == ("watching: leaks has crashed, the log says why",)
    crashed.clear()
    assert recorder.observer.look().healthy


async def test_the_age_of_data_goes_on_over_sessions(recorder: Recorder, autojump_clock: MockClock) -> None:
    stream = recorder.add_stream("binance")
    assert recorder.observer.look().streams[0].last_data_age_s is None
    session = recorder.open_session(stream, live_at=trio.current_time())
    session._watched = {("book", "BTCUSDT"): Watched(stream.plan.subscriptions[0], heard_at=trio.current_time())}
    _account(stream, session)
    await trio.sleep(3)
    assert recorder.observer.look().streams[0].last_data_age_s == 3.0
    for _ in range(2):
        refused = recorder.open_session(stream)  # which has brought nothing yet
        assert recorder.observer.look().streams[0].last_data_age_s == 3.0
        _account(stream, refused)  # nor ever will
        assert recorder.observer.look().streams[0].last_data_age_s == 3.0


async def test_the_journals_size_grows_with_what_is_written(recorder: Recorder, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.observer.run)
        with trio.fail_after(5):
            while recorder.observer.look().journal.free_bytes is None:  # a thread measures
                await trio.lowlevel.checkpoint()
        before = recorder.observer.look().journal
        recorder.journal.append(1, trio_now(recorder), [b"x" * 1000])
        after = recorder.observer.look().journal
        nursery.cancel_scope.cancel()
    assert after.bytes - before.bytes == after.written_bytes - before.written_bytes >= 1000
    assert after.frames_accepted == 1


async def test_the_event_loops_lag_is_the_worst_of_the_last_seconds(autojump_clock: MockClock) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(3.5)  # as if one task had computed for three seconds
        await trio.sleep(5)
        assert lag.worst_s == pytest.approx(3.0)
        await trio.sleep(15)
        assert lag.worst_s == 0.0
        nursery.cancel_scope.cancel()


async def test_books_are_counted_by_state(recorder: Recorder, autojump_clock: MockClock) -> None:
    _none, begun, synced = recorder.add_books("binance", "BTC-USDT", "ETH-USDT", "LTC-USDT")
    [broken] = recorder.add_books("okx", "BTC-USDT")
    begun.take(1, 10, 11, 0, 1, 0, None)
    synced.take(1, 10, 11, 0, 1, 0, None)
    synced.take_snapshot(10)
    broken.take_whole(1, 10, 0, 1, None)
    broken.take(1, 12, 13, 0, 2, 0, None)
    recorder.continuity.changes()
    status = recorder.observer.look()
    binance, okx = status.books
    assert binance.states == {"none": 1, "buffering": 1, "synced": 1, "broken": 0}
    assert binance.not_synced == ("BTCUSDT", "ETHUSDT")
    assert okx.states == {"none": 0, "buffering": 0, "synced": 0, "broken": 1}
    assert status.gaps.open == 1
    assert status.gaps.seen == {"book skipped": 1}


async def test_the_document_is_json_with_stable_keys(recorder: Recorder, autojump_clock: MockClock) -> None:
    recorder.open_session(recorder.add_stream("binance"), live_at=0.0)
    recorder.totals = {"rows": {"trades binance spot": 3}, "gaps": {"trades disconnect": 1}, "missing": {"trades": 9}}
    document = json.loads(json.dumps(recorder.observer.look().document()))
    assert {"version", "pid", "ready", "not_ready", "streams", "sockets", "journal", "followers", "gaps", "books"} <= (
        document.keys()
    )
    assert document["rows"] == {"trades binance spot": 3}
    assert document["gaps"]["stored"] == {"trades disconnect": 1}
    assert document["gaps"]["missing_rows"] == {"trades": 9}
    assert document["sockets"]["by_state"]["CLOSE_WAIT"] == 0


def test_sealed_segments_are_forgotten_once_all_have_stored_them() -> None:
    sealed = Sealed()
    for number in (1, 2, 3):
        sealed.add(number, number * 10)
    assert sealed.after(1) == (2, 20)
    sealed.forget(2)
    assert sealed.after(0) == (1, 30)
    sealed.forget(3)
    assert sealed.after(0) == (0, None)


def test_the_days_that_are_left_follow_what_became_less_over_the_last_looks() -> None:
    gib = 2**30
    looks = [(30.0 * n, 100 * gib - n * gib // 4) for n in range(LEAST_DISK_LOOKS)]  # half a GiB a minute
    left = left_s(looks, gib)
    assert left is not None
    assert left == pytest.approx((looks[-1][1] - gib) / gib * 120, rel=0.001)
    assert left_s(looks[:-1], gib) is None, "too few looks"
    assert left_s([(at, free) for (at, _), (_, free) in zip(looks, reversed(looks), strict=True)], gib) is None, "more"
    assert left_s(looks, 200 * gib) == 0


def test_a_disk_that_does_not_fill_up_is_told_from_one_that_was_not_watched_for_long_enough() -> None:
    still = [(30.0 * n, 2**30) for n in range(LEAST_DISK_LOOKS)]
    assert (free_bytes_per_s(still[:-1]), left_s(still[:-1], 0)) == (None, None)
    assert (free_bytes_per_s(still), left_s(still, 0)) == (0.0, None)
    assert free_bytes_per_s([(at, free - round(at)) for at, free in still]) == pytest.approx(-1.0)
