"""A follower on a full disk: nothing half written is published, and it goes on with what there is room for."""

import json
import subprocess
import sys
from pathlib import Path

from tests.small_disk import on_small_disk

ROOT = Path(__file__).parents[2]


def test_a_disk_that_is_full_at_any_point_of_storing_and_merging_leaves_whole_files_and_all_rows(
    tmp_path: Path,
) -> None:
    """What is compared is in `filling.py`: every file, after each try with a page more."""
    command = [*on_small_disk(tmp_path / "data", "16m"), sys.executable, "-m", "tests.followers.filling", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"].keys() == {"No space left on device"}
    assert found["tries"]["store"] > 10
    assert found["tries"]["merge"] > 3
    assert found["said"].keys() == {"hours not merged: [Errno 28] No space left on device"}
