"""The real command on a disk that is full for a while: a tmpfs of its own, in a namespace of its own.

What was published and what was recorded are compared in `filling.py`, to the id and to the level; here is what is to
be seen from outside.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.small_disk import MIB, on_small_disk

from .crashing import ROOT

AT_MOST_GROWN = 20 * MIB


def fill(folder: Path, how: str) -> dict[str, Any]:
    beginning = on_small_disk(folder / "data", "32m")
    command = [*beginning, sys.executable, "-m", "tests.end_to_end.filling", str(folder), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    return found


def assert_reading_stopped_and_went_on(found: dict[str, Any], reason: str) -> None:
    code, reasons = found["ready"]
    assert code == 503
    assert [said for said in reasons if said.startswith("journal: refuses") and reason in said]
    assert found["accepted_later"] == found["accepted"]  # while it was full nothing more was claimed
    assert found["sessions_later"] == found["sessions"]  # and nobody judged
    assert found["grown_bytes"] < AT_MOST_GROWN  # from before it filled up to the end of the refusal
    assert found["struck"] == [1, 1]
    assert found["log"]["journal refuses, reading stops"] == found["log"]["journal accepts again"]
    assert found["reasons"]["reset"] == 2
    assert not found["reasons"].keys() & {"silent", "unproven", "process died"}
    assert found["causes"] == {"trades": ["backpressure"], "book": ["backpressure"]}
    assert found["open_ids"] > 0  # the exchanges could not send them: each is in the ledger, and nothing else is
    assert found["trades"] > 0
    assert found["books"] > 0
    assert found["left"] == []


def test_a_full_disk_under_the_whole_collector_costs_nothing_accepted_and_the_ledger_names_the_rest(
    tmp_path: Path,
) -> None:
    found = fill(tmp_path, "disk")

    assert_reading_stopped_and_went_on(found, "No space left on device")
    assert found["log"].get("cannot store", 0) == found["log"].get("stores again", 0)  # the follower


@pytest.mark.soak
def test_below_min_free_kept_journals_go_first_then_reading_stops_until_there_is_room(
    tmp_path: Path,
) -> None:
    found = fill(tmp_path, "floor")

    assert_reading_stopped_and_went_on(found, "less than min_free")
    assert found["stored"] > 1
    assert found["stored_left"] == []
