"""A log on a disk that is full ends nothing, and says afterwards that lines are missing."""

import errno
import io
import json
import os
from collections.abc import Iterator

import pytest
import structlog

from collector_trio.ops.log import set_up_logging


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_lines_that_cannot_be_written_end_nothing_and_are_counted_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk()
    monkeypatch.setattr("sys.stderr", disk)
    set_up_logging("json", "info")
    log = structlog.get_logger()
    log.info("before")
    disk.full = True
    for _ in range(3):
        log.error("journal refuses, reading stops")
    disk.full = False
    log.info("after")
    log.info("later")

    lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "before", "after", "the log could not be written for a while", "later",
    ]  # fmt: skip
    assert lines[2]["lines"] == 3
