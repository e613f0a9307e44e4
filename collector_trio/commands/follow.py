"""`follow`: what `run` starts as child processes."""

import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog
from structlog.typing import FilteringBoundLogger

from collector_trio.commands.options import Duration, data_dir_option
from collector_trio.errors import CollectorError
from collector_trio.ops.log import LEVELS, set_up_logging

if TYPE_CHECKING:  # else every command would import pyarrow
    from collector_trio.followers.tables import Tables
    from collector_trio.followers.upkeep import Upkeep

LOOK_EVERY_S = 1.0  # when nobody says that a segment was sealed
NICENESS = 10  # the recorder goes first


@click.command(epilog="Example: python -m collector_trio follow --data-dir data < /dev/null")
@data_dir_option
@click.option("--log", "log_form", type=click.Choice(["auto", "console", "json"]), default="auto", show_default=True)
@click.option("--log-level", type=click.Choice(list(LEVELS)), default="info", show_default=True)
@click.option(
    "--keep-tables", "keep_tables_s", type=Duration(), help="Remove hours that are older, as in the config; else none."
)
def follow(data_dir: Path, log_form: str, log_level: str, keep_tables_s: float | None) -> None:
    """Turn sealed journal segments into Parquet until standard input ends; merge the files of hours that are over.

    `run` starts this by itself. Alone it stores what a stopped or running collector has sealed; at the end of its input
    (at once with `< /dev/null`, or on Ctrl-D) it finishes and exits.
    """
    if not data_dir.is_dir():
        raise CollectorError(f"{data_dir}: no such folder; --data-dir names the folder a collector records into")
    # Read when Arrow is loaded. Its own allocators keep 50 MB and more of what was freed.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    from collector_trio.followers.cursor import lock_cursor
    from collector_trio.followers.tables import open_tables
    from collector_trio.followers.upkeep import Upkeep
    from collector_trio.garbage import spare_collections

    set_up_logging(log_form, log_level)
    log = structlog.get_logger().bind(follower="tables")
    os.nice(NICENESS)
    spare_collections()
    waiting = False
    while True:
        with lock_cursor(data_dir) as held:
            if held:
                tables = open_tables(data_dir, log)
                with Upkeep(data_dir, keep_tables_s, log, time.time) as upkeep:
                    _work(tables, upkeep, log)
                return
        if not waiting:
            log.warning("another follower holds the cursor; waiting")
            waiting = True
        if not _input_goes_on(LOOK_EVERY_S):
            raise CollectorError(f"{data_dir}: another follower holds the cursor to the end; nothing was done")


def _work(tables: "Tables", upkeep: "Upkeep", log: FilteringBoundLogger) -> None:
    """Store what is sealed, and look after old hours in between, until standard input ends."""
    ended, refused = False, ""
    while True:
        try:
            stored = tables.store_sealed()
        except OSError as error:  # such as a full disk: what is sealed stays, and is tried again
            if refused != str(error):
                refused = str(error)
                log.error("cannot store", reason=refused)
        else:
            if refused:
                refused = ""
                log.info("stores again")
            if stored:
                log.debug("stored", segments=stored)
        if ended:
            if refused:
                raise CollectorError(f"{tables.data_dir}: cannot store: {refused}")
            return
        is_busy = upkeep.step(tables.cursor.segment)
        ended = not _input_goes_on(0.0 if is_busy else LOOK_EVERY_S)


def _input_goes_on(for_s: float) -> bool:
    """Wait for a line, the end of standard input, or `for_s` seconds; tell whether there may be more."""
    readable, _, _ = select.select([sys.stdin], [], [], for_s)
    return not readable or bool(os.read(sys.stdin.fileno(), 65_536))
