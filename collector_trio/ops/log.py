"""Logging: events for people on a terminal, JSON lines otherwise; always on stderr, stdout is for reports."""

import logging
import os
import sys

import structlog
from structlog.typing import Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_logging(form: str, level: str) -> None:
    """Configure structlog for the process. `form` is auto, console or json; colours obey NO_COLOR and pipes."""
    terminal = sys.stderr.isatty()
    # Plain tracebacks: the pretty ones, with every local in them, take a second in which nothing is received.
    renderer: list[Processor]
    if form == "console" or (form == "auto" and terminal):
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
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
