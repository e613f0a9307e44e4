from pathlib import Path

import pytest

from collector_trio.journal.segments import journal_dir

from .writing import Disk, HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(journal_dir(tmp_path))
    monkeypatch.setattr("os.write", disk.write)
    return disk
