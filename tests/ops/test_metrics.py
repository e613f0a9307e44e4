"""The metrics are what the contract names, in a form that Prometheus reads."""

import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from trio.testing import MockClock

from collector_trio.ops.fds import STATES
from collector_trio.ops.findings import FINDERS
from collector_trio.ops.lag import BOUNDS_S, LagHistogram
from collector_trio.ops.metrics import Metrics

from .conftest import Recorder
from .test_state import BLOCKED

# contract.md, section 4
CONTRACT = {
    "collector_sockets": {"state", "owner"},
    "collector_open_sessions": {"exchange", "market"},
    "collector_reconnects_total": {"stream", "reason"},
    "collector_frames_total": {"stream"},
    "collector_rows_total": {"table", "exchange", "market"},
    "collector_gaps_total": {"table", "cause"},
    "collector_missing_rows": {"table"},
    "collector_rejects_total": {"reason"},
    "collector_last_data_age_seconds": {"stream"},
    "collector_exchange_lag_seconds_bucket": {"exchange", "le"},
    "collector_exchange_lag_seconds_count": {"exchange"},
    "collector_exchange_lag_seconds_sum": {"exchange"},
    "collector_event_loop_lag_seconds": set(),
    "collector_follower_lag_seconds": {"follower"},
    "collector_follower_lag_frames": {"follower"},
    "collector_journal_bytes": set(),
    "collector_inexact_values_total": set(),
    "collector_resident_memory_bytes": set(),
    "collector_continuity_divergence": set(),
    "collector_books": {"exchange", "market", "state"},
    "collector_open_fds": {"owner"},
    "collector_leaked_fds_total": {"kind"},
    "collector_alert": {"name"},
}


def fill(recorder: Recorder) -> Metrics:
    stream = recorder.add_stream("binance")
    recorder.open_session(stream, live_at=0.0)
    stream.ended["reset"] = 2
    recorder.totals = {
        "rows": {"trades binance spot": 10, "inexact": 3},
        "gaps": {"trades process down": 1},
        "missing": {"trades": 4},
        "rejects": {'bad "json"\n': 1},
        "divergence": 0,
    }
    recorder.add_books("binance", "BTC-USDT")
    recorder.holds.append(BLOCKED)
    lags = recorder.observer.parts.lags
    lags["binance"].observe_ns(7_000_000)
    return Metrics(recorder.observer.look, lags)


async def test_every_name_of_the_contract_is_there_with_its_labels(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    text, content_type = fill(recorder).render("")
    assert content_type.startswith("text/plain")
    samples = {sample.name: set(sample.labels) for family in parse(text.decode()) for sample in family.samples}
    assert {name: samples.get(name) for name in CONTRACT} == CONTRACT
    assert all(name.startswith("collector_") for name in samples)


async def test_values_are_those_of_the_status(recorder: Recorder, autojump_clock: MockClock) -> None:
    metrics = fill(recorder)
    await trio.sleep(3)
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(metrics.render("")[0].decode())
        for sample in family.samples
    }
    assert values["collector_reconnects_total", ("reason", "reset"), ("stream", "binance.spot/1")] == 2
    assert values["collector_gaps_total", ("cause", "process down"), ("table", "trades")] == 1
    assert values["collector_rows_total", ("exchange", "binance"), ("market", "spot"), ("table", "trades")] == 10
    held = ("host", "www.okx.com"), ("status", "451"), ("venue", "okx")
    assert values["collector_venue_held", *held] == 1
    assert values["collector_inexact_values_total",] == 3
    assert values["collector_rejects_total", ("reason", 'bad "json"\n')] == 1
    assert values["collector_open_sessions", ("exchange", "binance"), ("market", "spot")] == 1
    assert values["collector_books", ("exchange", "binance"), ("market", "spot"), ("state", "broken")] == 0
    for owner in ("none", "http", "rest", "webhook", "binance.spot/1"):
        for state in STATES:
            assert ("collector_sockets", ("owner", owner), ("state", state)) in values


async def test_a_market_without_streams_is_a_stream_that_is_not_live(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    metrics = fill(recorder)

    def gauges(name: str) -> dict[tuple[str, ...], float]:
        families = {family.name: family for family in parse(metrics.render("")[0].decode())}
        return {tuple(sample.labels.values()): sample.value for sample in families[name].samples}

    assert gauges("collector_stream_live") == {("okx spot",): 0, ("binance.spot/1",): 1}
    assert gauges("collector_open_sessions") == {("okx", "spot"): 0, ("binance", "spot"): 1}
    recorder.open_session(recorder.add_stream("okx"), live_at=0.0)
    assert gauges("collector_stream_live") == {("binance.spot/1",): 1, ("okx.public/1",): 1}
    assert gauges("collector_open_sessions") == {("binance", "spot"): 1, ("okx", "spot"): 1}


async def test_every_alert_is_there_whether_it_is_active_or_not(recorder: Recorder, autojump_clock: MockClock) -> None:
    metrics, observer = fill(recorder), recorder.observer

    def gauges() -> dict[str, float]:
        families = parse(metrics.render("")[0].decode())
        return {
            sample.labels["name"]: sample.value
            for family in families
            if family.name == "collector_alert"
            for sample in family.samples
        }

    assert gauges() == dict.fromkeys(FINDERS, 0)
    recorder.streams[0].parked = True
    recorder.alerts.take(observer.look(), trio.current_time(), observer.parts.clock())
    assert gauges() == dict.fromkeys(FINDERS, 0) | {"parked": 1}


async def test_who_accepts_openmetrics_gets_it(recorder: Recorder, autojump_clock: MockClock) -> None:
    text, content_type = fill(recorder).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert list(parse_openmetrics(text.decode()))


async def test_two_recorders_in_one_process_do_not_meet(recorder: Recorder, autojump_clock: MockClock) -> None:
    first = fill(recorder)
    second = Metrics(recorder.observer.look, {})
    assert first.render("")[0]
    assert b'collector_exchange_lag_seconds_bucket{exchange="binance"' not in second.render("")[0]


def test_a_lag_is_counted_in_every_bucket_that_is_no_shorter() -> None:
    lag = LagHistogram()
    for ns in (-5_000_000, 0, 5_000_000, 5_000_001, 3_600_000_000_000):
        lag.observe_ns(ns)
    buckets = dict(lag.cumulative())
    assert buckets["0.0"] == 2
    assert buckets["0.005"] == 3
    assert buckets["0.01"] == 4
    assert buckets["60.0"] == 4
    assert buckets["+Inf"] == 5
    assert len(buckets) == len(BOUNDS_S) + 1
    assert lag.sum_ns == 3_600_010_000_001
