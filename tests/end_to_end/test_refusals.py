"""Folders that cannot be recorded into: one clear error from the real command, at once, and exit 1."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collector_trio.followers.publish import file_name

from .crashing import COMMAND, ROOT
from .recorder import config_text

ENDPOINTS = """
[endpoints.binance.spot]
ws = "ws://127.0.0.1:1/stream"
rest = "http://127.0.0.1:1"
"""
IN_NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="this machine allows no mounts in a user namespace")


def write_config(folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(config_text(folder / "data", ENDPOINTS, exchanges=("binance",)))
    return path


def assert_one_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert all(word in line for word in words), line


def run(config: Path, before: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the collector, where `before` says so in a mount namespace of its own."""
    return command("run", "--config", str(config), "--for", "5s", before=before)


def command(*arguments: str, before: str | None = None) -> subprocess.CompletedProcess[str]:
    line = [*COMMAND, *arguments]
    if before is not None:
        line = [*IN_NAMESPACE, f'{before}; exec "$@"', "sh", *line]
    return execute(line)


def without_privileges(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody for whom permissions hold."""
    line = [*COMMAND, *arguments]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("permissions do not hold for root, and there is no setpriv to be somebody else with")
        line = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=0", *line]
    return execute(line)


def execute(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


HOLD = """
import pathlib, sys
from collector_trio.journal.recover import lock_data_dir
with lock_data_dir(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_collector_on_the_same_folder_is_told_who_is_there(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    hold = [sys.executable, "-c", HOLD, str(tmp_path / "data")]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        assert_one_error(run(config), str(tmp_path / "data"), "in use by another collector", f"pid {holder.pid}")
        assert time.monotonic() - began < 30
        assert holder.stdin is not None
        holder.stdin.close()


@needs_mounts
@pytest.mark.parametrize("new", [True, False], ids=["new", "recorded into before"])
def test_a_read_only_file_system_is_one_clear_error(new: bool, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    if not new:
        for name in ("state", "journal"):
            (tmp_path / "data" / name).mkdir(parents=True)
    done = run(config, f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}")
    assert_one_error(done, str(tmp_path / "data"), "cannot be recorded into", "Read-only file system")


@needs_mounts
def test_a_journal_alone_on_a_read_only_file_system_is_one_clear_error(tmp_path: Path) -> None:
    """Its data dir could be written into: the collector would start, and its disk refuse for ever."""
    config, journal = write_config(tmp_path), tmp_path / "data" / "journal"
    journal.mkdir(parents=True)
    done = run(config, f"mount --bind {journal} {journal}; mount -o remount,bind,ro {journal}")
    assert_one_error(done, str(journal), "cannot be recorded into", "Read-only file system")


@pytest.mark.parametrize("which", ["data", "data/state", "data/journal"])
def test_a_folder_without_permission_is_one_clear_error(which: str, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / which
    for name in ("state", "journal"):
        (tmp_path / "data" / name).mkdir(parents=True)
    folder.chmod(0o555)
    done = without_privileges("run", "--config", str(config), "--for", "5s")
    folder.chmod(0o755)
    assert_one_error(done, str(folder), "cannot be recorded into", "Permission denied")


@needs_mounts
@pytest.mark.parametrize("new", [True, False], ids=["new", "recorded into before"])
def test_a_follower_on_a_read_only_file_system_says_one_clear_error(new: bool, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir if new else data_dir / "state").mkdir(parents=True)
    ro = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}"
    done = command("follow", "--data-dir", str(data_dir), before=ro)
    assert_one_error(done, f"{data_dir} cannot be stored into", "Read-only file system")


@pytest.mark.parametrize(
    ("name", "which"),
    [("journal", "data/journal"), ("gaps", "data/gaps"), ("gaps", "data/state"), ("summary", "data/gaps")],
)
def test_a_folder_that_cannot_be_read_is_one_clear_error(name: str, which: str, tmp_path: Path) -> None:
    data_dir, folder = tmp_path / "data", tmp_path / which
    for made in ("state", "journal", "gaps"):
        (data_dir / made).mkdir(parents=True)
    folder.chmod(0o000)
    done = without_privileges(name, "--data-dir", str(data_dir))
    folder.chmod(0o755)
    assert_one_error(done, f"{data_dir} cannot be read", "Permission denied")


@pytest.mark.parametrize("name", ["gaps", "summary"])
def test_a_file_that_cannot_be_read_is_one_clear_error(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    file = data_dir / "gaps" / "exchange=okx" / "market=spot" / "date=2026-11-23" / "hour=00" / file_name("gaps", 1, 1)
    file.parent.mkdir(parents=True)
    file.touch(mode=0o000)
    done = without_privileges(name, "--data-dir", str(data_dir))
    assert_one_error(done, f"{data_dir} cannot be read", "Permission denied", str(file))
