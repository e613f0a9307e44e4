"""What stands in deploy/: as far as it can be tried without a systemd or a Docker of its own."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "collector-trio.service"
PROGRAM = DEPLOY / "supervisord" / "collector_trio.conf"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
ENTRYPOINT = DEPLOY / "docker" / "entrypoint.sh"


# systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_finds_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    text, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text())
    assert count == 1
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert (done.returncode, ours) == (0, [])


def commands() -> Iterator[tuple[str, list[str]]]:
    (line,) = re.findall(r"(?m)^ExecStart=(.+)$", UNIT.read_text())
    yield "systemd", shlex.split(line)
    parser = configparser.RawConfigParser()
    parser.read(PROGRAM)
    yield "supervisord", shlex.split(parser["program:collector_trio"]["command"])
    yield "docker", ["", "-m", "collector_trio", *json.loads(dict(instructions())["CMD"])]


# Docker


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: name, and what follows it, continued lines in one."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    found = [line.strip().split(None, 1) for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()]
    return [(name, rest) for name, rest in found]


def test_all_three_start_one_command_that_we_understand() -> None:
    found = {name: command[1:] for name, command in commands()}
    assert found["systemd"] == found["supervisord"] == found["docker"]
    done = subprocess.run(  # it says its help instead of doing anything
        [sys.executable, *found["systemd"], "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_image_copies_only_files_that_are_there_and_sent_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    copied = 0
    for name, rest in instructions():
        if name != "COPY":
            continue
        words = [word for word in rest.split() if not word.startswith("--")]
        if "--from=build" in rest:
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            sent = False
            for rule in rules:  # the last one that fits decides
                if fnmatch(source, rule.removeprefix("!")):
                    sent = rule.startswith("!")
            assert sent, f"{source} is left out by .dockerignore"
            copied += 1
    assert copied >= 5


def test_no_step_of_the_image_is_a_word_that_docker_does_not_know() -> None:
    known = {
        "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT",
        "CMD",
    }  # fmt: skip
    names = [name for name, _ in instructions()]
    assert set(names) == known
    for name, rest in instructions():
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    assert dict(instructions())["USER"] == "collector"
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")


CONFIG = """
[collector]
data_dir = "data"
log = "json"
[http]
listen = "127.0.0.1:0"
[store]
min_free = "0 B"
[[record]]
exchange = "binance"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades"]
[endpoints.binance.spot]
ws = "ws://127.0.0.1:1/stream"
rest = "http://127.0.0.1:1"
"""


def health_check(port: int) -> int:
    """Run what the image is asked for its health with, against another port."""
    (rest,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    command = json.loads(rest[rest.index("CMD") + 3 :])
    assert command[0] == "python"
    assert ":8087/" in command[2]
    text = command[2].replace(":8087/", f":{port}/")
    return subprocess.run([sys.executable, command[1], text], capture_output=True, timeout=60).returncode


def test_the_health_check_is_green_while_a_recorder_runs_and_red_when_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    command, environ = [sys.executable, "-m", "collector_trio", "run"], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            url = next(entry["url"] for entry in map(json.loads, process.stderr) if entry["event"] == "http")
            port = int(url.rpartition(":")[2])
            assert health_check(port) == 0  # no exchange answers; it makes progress all the same
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0
    assert health_check(port) == 1


@contextmanager
def contained(folder: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the entrypoint, with a `collector-trio` that does what `program` says."""
    (folder / "collector-trio").write_text(f"#!/bin/sh\n{program}\n")
    (folder / "collector-trio").chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["sh", str(ENTRYPOINT), *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("code", [0, 1, 137])
def test_the_container_ends_as_its_recorder_does(tmp_path: Path, code: int) -> None:
    with contained(tmp_path, f'echo "$@"; exit {code}', "run", "--config", "x") as process:
        assert process.communicate(timeout=30)[0] == "run --config x\n"
    assert process.returncode == code


def test_a_stop_of_the_container_reaches_the_recorder_which_ends_in_its_own_time(tmp_path: Path) -> None:
    program = "trap 'echo draining; sleep 0.3; echo done; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with contained(tmp_path, program, "run") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "draining\ndone\n"
    assert process.returncode == 0


def test_a_wrong_config_holds_the_container_until_it_is_stopped_and_other_commands_just_fail(tmp_path: Path) -> None:
    with contained(tmp_path, "echo started; exit 2", "run") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert process.stdout.readline().startswith("not started again before the config is corrected")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 2
    with contained(tmp_path, "echo started; exit 2", "check") as process:
        assert process.communicate(timeout=30)[0] == "started\n"
    assert process.returncode == 2
