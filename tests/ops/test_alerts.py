"""Alerts start when something is too much, end when it clearly is no more, and say so once each time.

The core takes looks and times as values; nothing here waits.
"""

import json
from typing import Any

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from collector_trio.ops.alerts import LOOK_EVERY_S, Alerts, log_change, message
from collector_trio.ops.findings import FINDERS
from collector_trio.ops.status import ClockStatus, Status

from .conftest import LOG, Recorder

MIB = 2**20
EPOCH_NS = 1_795_000_000_000_000_000


@pytest.fixture
def calm(recorder: Recorder) -> Status:
    """A look at a recorder whose two streams are live."""
    for name in ("binance", "okx"):
        recorder.open_session(recorder.add_stream(name), live_at=0.0)

    async def look() -> None:
        nonlocal status
        status = recorder.observer.look()

    status: Any = None
    trio.run(look)
    streams = tuple(attrs.evolve(stream, last_data_age_s=0.1) for stream in status.streams)
    return attrs.evolve(status, memory_bytes=100 * MIB, streams=streams)


@attrs.define
class Scene:
    """Plays looks to the core, and remembers what it said."""

    alerts: Alerts
    status: Status
    now: float = 0.0
    said: list[tuple[str, str, float]] = attrs.field(factory=list)

    def play(self, seconds: float, **changes: Any) -> list[tuple[str, str, float]]:
        """Let `seconds` pass in which looks show `changes`; return what was said: what, which, when."""
        said = []
        until = self.now + seconds
        while self.now < until:
            status = attrs.evolve(self.status, uptime_s=self.now, **changes)
            for change in self.alerts.take(status, self.now, EPOCH_NS + round(self.now * 1e9)):
                said.append(("starts" if change.started else "ends", change.name, self.now))
            self.now += LOOK_EVERY_S
        self.said += said
        return said

    def active(self) -> list[str]:
        return [alert.name for alert in self.alerts.statuses() if alert.active]

    def streams(self, **changes: Any) -> dict[str, Any]:
        """Change the first stream."""
        first, *others = self.status.streams
        return {"streams": (attrs.evolve(first, **changes), *others)}

    def part(self, name: str, **changes: Any) -> dict[str, Any]:
        """Change a part of the look."""
        return {name: attrs.evolve(getattr(self.status, name), **changes)}


@pytest.fixture
def scene(recorder: Recorder, calm: Status) -> Scene:
    return Scene(Alerts(recorder.observer.parts.config), calm)


def test_nothing_is_said_while_all_is_well(scene: Scene) -> None:
    assert scene.play(3600) == []
    assert [alert.name for alert in scene.alerts.statuses()] == list(FINDERS)


def test_an_alert_starts_above_its_limit_and_ends_a_tenth_below(scene: Scene) -> None:
    assert scene.play(60, memory_bytes=2048 * MIB) == []
    assert scene.play(60, memory_bytes=2049 * MIB) == [("starts", "memory", 60)]
    assert scene.play(60, memory_bytes=2000 * MIB) == []
    assert scene.play(60, memory_bytes=2100 * MIB) == []
    assert scene.active() == ["memory"]
    assert scene.play(60, memory_bytes=1843 * MIB) == [("ends", "memory", 240)]


def test_a_threshold_is_looked_at_as_often_as_the_config_says(scene: Scene) -> None:
    waiting = scene.part("sockets", open=51)
    assert scene.play(5) == []
    assert scene.play(290, **waiting) == []
    assert scene.play(10, **waiting) == [("starts", "sockets", 300)]
    assert scene.play(290) == []
    assert scene.play(10) == [("ends", "sockets", 600)]


def test_what_is_shown_is_of_the_last_look_between_two_judgements_as_well(scene: Scene) -> None:
    scene.play(5)
    assert scene.play(5, **scene.part("sockets", open=51)) == []
    [shown] = [alert for alert in scene.alerts.statuses() if alert.name == "sockets"]
    assert (shown.active, shown.value) == (False, 51)
    assert shown.detail.startswith("51 TCP sockets")


def test_sockets_are_no_alert_below_plan_and_twenty(scene: Scene) -> None:
    assert scene.play(600, **scene.part("sockets", open=120, sessions_planned=100, sessions_open=100)) == []
    assert (
        scene.play(600, **scene.part("sockets", open=121, sessions_planned=100, sessions_open=100))[0][1] == "sockets"
    )


def test_reconnects_are_counted_over_the_hour_before(scene: Scene) -> None:
    scene.play(600)
    for count in range(1, 31):
        assert scene.play(100, **scene.streams(ended={"reset": count})) == []
    [(what, name, at)] = scene.play(600, **scene.streams(ended={"reset": 20, "eof": 11}))
    assert (what, name, at) == ("starts", "reconnects", 3600)
    assert scene.play(1200, **scene.streams(ended={"reset": 31})) == [("ends", "reconnects", 4800)]


def test_a_relay_of_short_outages_is_no_stream_that_is_not_live(scene: Scene) -> None:
    first, second = scene.status.streams
    for _ in range(10):
        assert scene.play(100, streams=(attrs.evolve(first, state="dialling"), second)) == []
        assert scene.play(100, streams=(first, attrs.evolve(second, state="dialling"))) == []
    assert scene.play(60, streams=(attrs.evolve(first, state="dialling"), second)) == []
    assert scene.play(70, streams=(attrs.evolve(first, state="backing off"), second))[0][1] == "not_live"
    [alert] = [alert for alert in scene.alerts.statuses() if alert.active]
    assert alert.detail == "binance.spot/1 not live for 125 s"
    assert scene.play(5) == [("ends", "not_live", scene.now - 5)]


def test_a_market_without_streams_is_not_live(scene: Scene) -> None:
    assert scene.play(125, without_stream=("okx spot",)) == []
    assert scene.play(5, without_stream=("okx spot",))[0][:2] == ("starts", "not_live")
    assert "okx spot" in next(alert.detail for alert in scene.alerts.statuses() if alert.active)


def test_a_stream_that_promises_no_data_may_be_silent(scene: Scene) -> None:
    assert scene.play(10, **scene.streams(silence_s=None, last_data_age_s=9999.0)) == []
    assert scene.play(10, **scene.streams(silence_s=2.0, last_data_age_s=121.0)) == [("starts", "data_age", 10)]
    assert scene.play(10, **scene.streams(silence_s=2.0, last_data_age_s=0.1)) == [("ends", "data_age", 20)]


def test_a_stream_that_never_brought_data_is_as_old_as_the_run(scene: Scene) -> None:
    assert scene.play(200, **scene.streams(last_data_age_s=None)) == [("starts", "data_age", 125)]


def test_what_never_becomes_less_is_an_alert_for_a_while_after_it_became_more(scene: Scene) -> None:
    assert scene.play(100, **scene.part("gaps", divergence=3)) == []  # of an earlier run
    assert scene.play(900, **scene.part("gaps", divergence=4)) == [("starts", "divergence", 100)]
    assert scene.play(5, **scene.part("gaps", divergence=4)) == [("ends", "divergence", 1000)]
    assert scene.play(5, **scene.part("gaps", divergence=0)) == []  # begun anew
    assert scene.play(5, **scene.part("gaps", divergence=1))[0][:2] == ("starts", "divergence")


def test_a_clock_is_off_only_by_what_is_sure(scene: Scene) -> None:
    def clock(offset_s: float, error_s: float) -> dict[str, Any]:
        return {"clocks": (ClockStatus("okx", "all", offset_s, error_s, 1.0),)}

    assert scene.play(5, **clock(1.0, 0.5)) == []
    assert scene.play(5, **clock(-1.0, 0.4)) == [("starts", "clock_offset", 5)]
    assert scene.play(5, **clock(0.1, 0.9)) == [("ends", "clock_offset", 10)]


def test_what_is_not_known_changes_nothing(scene: Scene) -> None:
    near = scene.part("journal", free_bytes=scene.status.journal.min_free_bytes + MIB)
    assert scene.play(5, **scene.part("journal", free_bytes=None)) == []
    assert scene.play(5, **near) == [("starts", "disk", 5)]
    assert scene.play(5, **scene.part("journal", free_bytes=None)) == []
    assert scene.active() == ["disk"]


def test_a_journal_that_refuses_is_a_disk_at_its_floor(scene: Scene) -> None:
    assert scene.play(5, **scene.part("journal", free_bytes=10**12, refusing=True, refusal="disk full")) == [
        ("starts", "disk", 0)
    ]
    assert scene.play(5, **scene.part("journal", free_bytes=10**12)) == [("ends", "disk", 5)]


def test_start_and_end_are_a_line_each_with_what_was_found(scene: Scene) -> None:
    refusing = attrs.evolve(scene.status, not_listed=("okx spot FOO-USDT",))
    [started] = scene.alerts.take(refusing, 0.0, EPOCH_NS)
    [ended] = scene.alerts.take(scene.status, 90.0, EPOCH_NS + 90 * 10**9)
    with capture_logs() as logs:
        log_change(LOG, started, refusing)
        log_change(LOG, ended, scene.status)
    assert logs == [
        {"event": "alert", "log_level": "error", "alert": "not_listed", "value": 1, "limit": 0,
         "detail": "1 symbol not listed: okx spot FOO-USDT"},
        {"event": "alert ended", "log_level": "info", "alert": "not_listed", "value": 0, "limit": 0,
         "detail": "0 symbols not listed", "lasted_s": 90.0},
    ]  # fmt: skip


def test_what_is_said_of_a_length_of_time_is_rounded(scene: Scene) -> None:
    late = attrs.evolve(scene.status, event_loop_lag_s=5.008480937016429)
    started = next(change for change in scene.alerts.take(late, 0.0, EPOCH_NS) if change.name == "event_loop_lag")
    assert json.loads(message(started, late, "box"))["value"] == 5.008
    with capture_logs() as logs:
        log_change(LOG, started, late)
    assert logs[0]["value"] == 5.008


def test_a_webhook_is_told_in_words_and_in_values(scene: Scene) -> None:
    status = attrs.evolve(scene.status, not_listed=("okx spot FOO-USDT",))
    [started] = scene.alerts.take(status, 0.0, EPOCH_NS)
    told = json.loads(message(started, status, "box"))
    assert told["text"] == "collector_trio on box: alert not_listed started: 1 symbol not listed: okx spot FOO-USDT"
    assert (told["alert"], told["state"], told["value"], told["limit"]) == ("not_listed", "started", 1, 0)
    assert told["at"] == told["since"] == "2026-11-18T11:06:40.000Z"
    assert told["collector"].keys() == {"host", "pid", "data_dir", "version"}
