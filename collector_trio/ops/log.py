"""Logging: events for people on a terminal, JSON lines otherwise; always on stderr, stdout is for reports.

A line that cannot be written ends nothing: where stderr is a file on the disk that is full, the very line that says so
could not be.
"""

import json
import logging
import os
import sys
from typing import TextIO

import attrs
import structlog
from structlog.typing import Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@attrs.define(eq=False)  # structlog keeps a lock by file
class Lines:
    """The file that lines go to. The first that can be written again is followed by how many before could not."""

    file: TextIO
    as_json: bool
    unwritten: int = 0

    def write(self, text: str) -> None:
        """Write one line, or count it."""
        try:
            self.file.write(text)
            if self.unwritten:
                said = {"event": "the log could not be written for a while", "lines": self.unwritten}
                self.file.write(
                    (json.dumps(said) if self.as_json else f"{said['event']}: {said['lines']} lines") + "\n"
                )
            self.file.flush()
        except OSError:
            self.unwritten += 1
        else:
            self.unwritten = 0

    def flush(self) -> None:
        """Do nothing: each line is flushed as it is written."""


def set_up_logging(form: str, level: str) -> None:
    """Configure structlog for the process. `form` is auto, console or json; colours obey NO_COLOR and pipes."""
    terminal = sys.stderr.isatty()
    # Plain tracebacks: the pretty ones, with every local in them, take a second in which nothing is received.
    renderer: list[Processor]
    for_people = form == "console" or (form == "auto" and terminal)
    if for_people:
        colors = terminal and not os.environ.get("NO_COLOR")
        renderer = [
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    else:
        renderer = [
            structlog.processors.TimeStamper("iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    lines = Lines(sys.stderr, as_json=not for_people)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(lines),  # type: ignore[arg-type]  # all it calls is there
        cache_logger_on_first_use=False,
    )
