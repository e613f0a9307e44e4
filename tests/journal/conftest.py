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
    monkeypatch.setattr("os.writev", disk.writev)
    monkeypatch.setattr("os.pwrite", disk.pwrite)
    return disk


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, so nothing needs to be synced; it would take most of the time."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr("os.fdatasync", lambda fd: None)
