"""`replay`: journals through today's code."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import structlog

from collector_trio.commands.options import json_option
from collector_trio.errors import CollectorError, JournalError
from collector_trio.journal.records import Note, read_records
from collector_trio.journal.segments import (
    SUFFIXES,
    Segment,
    first_line,
    journal_dir,
    list_segments,
    one_segment,
    state_dir,
    write_whole,
)
from collector_trio.ops.log import set_up_logging


@click.command(epilog="Example: python -m collector_trio replay data/journal --data-dir again")
@click.argument("journal", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where the tables go."
)
@json_option
def replay(journal: tuple[Path, ...], data_dir: Path, as_json: bool) -> None:
    """Derive the tables again from journals: files, or folders of them.

    Uses the functions that run live; the same journal gives the same rows, also a second time into the same folder.
    Exit 1 if a part of a journal could not be read.
    """
    from collector_trio.commands.summary import print_summary
    from collector_trio.followers.cursor import lock_cursor
    from collector_trio.followers.summary import summarize
    from collector_trio.followers.tables import open_tables

    set_up_logging("auto", "info")
    log = structlog.get_logger()
    segments = [segment for path in journal for segment in _segments(path)]
    if not segments:
        raise CollectorError(
            f"{', '.join(map(str, journal))}: no journal segments there (files ending in {', '.join(SUFFIXES)})"
        )
    if list_segments(journal_dir(data_dir)):
        raise CollectorError(
            f"{data_dir} has a journal of its own, which its follower keeps the tables of; choose another --data-dir"
        )
    with lock_cursor(data_dir) as held:
        if not held:
            raise CollectorError(f"{data_dir} is being written by a follower; choose another --data-dir")
        numbered = _claim(data_dir, segments)
        tables = open_tables(data_dir, log)
        damaged = sum(not tables.store(segment, number) for number, segment in numbered)
    found = summarize(data_dir)
    if as_json:
        counts = {"segments": len(segments), "damaged": damaged}
        json.dump({"data_dir": str(data_dir), **counts, **found.document()}, sys.stdout)
        click.echo()
    else:
        print_summary(found)
    if damaged:
        raise CollectorError(f"{damaged} of {len(segments)} segments could not be read whole")


def _segments(path: Path) -> list[Segment]:
    if not path.is_dir():
        return [one_segment(path)]
    inner = path / "journal"
    return list_segments(inner if inner.is_dir() else path)


def _claim(data_dir: Path, segments: Iterable[Segment]) -> list[tuple[int, Segment]]:
    """Number the segments, and write down which they are: one journal's segment 3 must not replace another's.

    The number is what the first line says; where that is damaged, what the name says, or the place in the list.
    """
    path = state_dir(data_dir) / "replayed.json"
    claims: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    numbered = []
    for place, segment in enumerate(segments, 1):
        try:
            head = first_line(segment)
        except JournalError:
            head = b""  # `store` will say so
        record = next(read_records(head), None)
        said = record.value.get("segment", 0) if isinstance(record, Note) else 0
        number = said or segment.number or place
        text = head.decode("utf-8", "backslashreplace")
        if claims.setdefault(str(number), text) != text:
            held = f"{data_dir} holds another journal's segment {number}"
            raise CollectorError(f"{segment.path}: {held}; replay it into a folder of its own")
        numbered.append((number, segment))
    write_whole(path, json.dumps(claims).encode())
    return numbered
