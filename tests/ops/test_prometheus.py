"""The Prometheus rules say what the built-in alerts say, by metrics that exist, and fire when they should."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from trio.testing import MockClock

from collector_trio.config import Alerts
from collector_trio.ops.findings import FINDERS
from collector_trio.streams.clocks import Offset

from .conftest import Recorder
from .test_metrics import fill

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = (FOLDER / "collector_trio.rules.yml").read_text(encoding="utf-8")
CASES = (FOLDER / "collector_trio.test.yml").read_text(encoding="utf-8")
FETCH_S = 60


@pytest.fixture(scope="module")
def promtool(request: pytest.FixtureRequest) -> str:
    """Find Prometheus' own tool: on the PATH, or in Debian's package, which is unpacked into pytest's cache."""
    if found := shutil.which("promtool"):
        return found
    cache = getattr(request.config, "cache", None)
    folder = None if cache is None else cache.mkdir("promtool")
    if folder is None or not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("no promtool on the PATH, and no Debian package to take it from")
    tool = folder / "usr" / "bin" / "promtool"
    if not tool.exists():
        try:
            subprocess.run(
                ["apt-get", "download", "prometheus"], cwd=folder, check=True, capture_output=True, timeout=FETCH_S
            )
            [package, *_] = folder.glob("prometheus_*.deb")
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True, capture_output=True, timeout=60)
        except (subprocess.SubprocessError, ValueError) as error:
            pytest.skip(f"no promtool on the PATH, and Debian's package cannot be had: {error}")
    return str(tool)


def rules() -> dict[str, str]:
    """Return the text of each rule by its alert."""
    return {text.split()[0]: text for text in RULES.split("- alert: ")[1:]}


def rule_of(alert: str) -> str:
    return "Collector" + "".join(word.capitalize() for word in alert.split("_"))


def test_promtool_accepts_the_rules_and_their_tests_pass(promtool: str) -> None:
    for command in (["check", "rules", "collector_trio.rules.yml"], ["test", "rules", "collector_trio.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_rule_and_one_tells_that_the_collector_is_gone() -> None:
    assert rules().keys() == {rule_of(alert) for alert in FINDERS} | {"CollectorGone"}


def test_every_rule_is_seen_to_fire_and_to_be_quiet_before_and_after() -> None:
    for case in CASES.split("  - name: ")[1:]:
        asked = re.findall(r"eval_time: (\d+)m,?\s*alertname: (\w+)\}?\n?\s*(exp_alerts)?", case)
        assert [bool(fires) for _, _, fires in asked][:2] == [False, True], case
    for alert in rules():
        # Of each: before, while, after; one case in the file shows a limit only, and not its end.
        states = re.findall(rf"alertname: {alert}(\}}?)\n?\s*(exp_alerts)?", CASES)
        assert [bool(fires) for _, fires in states][:3] == [False, True, False], alert


async def test_every_metric_in_the_rules_is_one_of_ours(recorder: Recorder, autojump_clock: MockClock) -> None:
    metrics = fill(recorder)
    recorder.observer.parts.offsets["okx", "all"] = Offset(0, 0, 0.0)  # type: ignore[index]  # a dict, in tests
    recorder.observer._free.append((0.0, 10**12))
    samples = {
        sample.name: set(sample.labels) for family in parse(metrics.render("")[0].decode()) for sample in family.samples
    }
    expressions = re.findall(r"expr: (.*(?:\n {10,}.*)*)", re.sub(r"#.*", "", RULES))
    assert len(expressions) == len(rules())
    used = set(re.findall(r"\bcollector_\w+", " ".join(expressions)))
    assert used - samples.keys() == set()
    for name, matched in re.findall(r"(collector_\w+)\{(\w+)=", " ".join(expressions)):
        assert matched in samples[name]


def test_the_rules_limits_are_the_defaults_of_the_config() -> None:
    """PromQL cannot read our config; these are the numbers that stand in both."""
    alerts, text = Alerts(), rules()
    said = {
        "CollectorSockets": f"+ 20, {alerts.sockets.alert_above})",
        "CollectorCloseWait": f"> {alerts.close_wait.alert_above}",
        "CollectorReconnects": f"> {alerts.reconnects.alert_above}",
        "CollectorMemory": f"> {alerts.memory.alert_above // 2**30} * 2^30",
        "CollectorOffPlan": f"for: {alerts.off_plan_s / 60:g}m",
        "CollectorNotLive": f"for: {alerts.not_live_s / 60:g}m",
        "CollectorDataAge": f"> {alerts.data_age_s:g} ",
        "CollectorOpenGaps": f"for: {alerts.open_gaps_s / 60:g}m",
        "CollectorFollowerLag": f"> {alerts.follower_lag_s:g}\n",
        "CollectorDisk": "< 2^30 ",
        "CollectorEventLoopLag": f"> {alerts.event_loop_lag_s:g}\n",
        "CollectorClockOffset": f"> {alerts.clock_offset_s:g}\n",
    }
    assert {name for name, words in said.items() if words not in text[name]} == set()
    assert alerts.disk_bytes == 2**30
    for minutes in (5, 10, 1):
        group = RULES.split(f"collector_trio_{minutes}m")[1]
        assert f"interval: {minutes}m" in group[:40]
    every = {alerts.sockets.every_s, alerts.close_wait.every_s}
    assert (every, alerts.reconnects.every_s, alerts.memory.every_s) == ({300.0}, 600.0, 60.0)


def test_what_to_do_about_every_alert_is_written_down() -> None:
    text = (FOLDER.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in text.split("\n### ")[1:]}
    assert sections.keys() >= FINDERS.keys()
    assert {name for name in FINDERS if "*Do*: " not in sections[name]} == set()
