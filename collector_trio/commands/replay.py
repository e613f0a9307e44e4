"""`replay`: journals through today's code."""

import json
import sys
from pathlib import Path

import click

from collector_trio.commands.options import json_option
from collector_trio.errors import CollectorError
from collector_trio.journal.segments import SUFFIXES, Segment, list_segments, one_segment


@click.command(epilog="Example: python -m collector_trio replay data/journal --data-dir again")
@click.argument("journal", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where the tables go."
)
@json_option
def replay(journal: tuple[Path, ...], data_dir: Path, as_json: bool) -> None:
    """Derive the tables again from journals: files, or folders of them.

    Uses the functions that run live; the same journal gives the same rows.
    """
    from collector_trio.commands.summary import print_summary
    from collector_trio.followers.cursor import lock_cursor
    from collector_trio.followers.summary import summarize
    from collector_trio.followers.tables import prepare, store

    segments = [segment for path in journal for segment in _segments(path)]
    if not segments:
        raise CollectorError(
            f"{', '.join(map(str, journal))}: no journal segments there (files ending in {', '.join(SUFFIXES)})"
        )
    with lock_cursor(data_dir) as held:
        if not held:
            raise CollectorError(f"{data_dir} is being written by a follower; choose another --data-dir")
        prepare(data_dir)
        for index, segment in enumerate(segments, 1):
            store(data_dir, segment, segment.number or index)
    found = summarize(data_dir)
    if as_json:
        json.dump({"data_dir": str(data_dir), "segments": len(segments), **found.document()}, sys.stdout)
        click.echo()
    else:
        print_summary(found)


def _segments(path: Path) -> list[Segment]:
    if not path.is_dir():
        return [one_segment(path)]
    inner = path / "journal"
    return list_segments(inner if inner.is_dir() else path)
