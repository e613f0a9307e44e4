"""`journal`: what a journal's folder holds, and what of it cannot be read."""

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from collector_trio.commands.options import data_dir_option, json_option
from collector_trio.commands.words import counted
from collector_trio.errors import CollectorError
from collector_trio.followers.cursor import load_cursor
from collector_trio.journal.report import JournalFound, SegmentFound, inspect
from collector_trio.journal.segments import journal_dir, needing


@click.command(epilog="Example: python -m collector_trio journal --data-dir data")
@data_dir_option
@json_option
@click.pass_context
def journal(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """Show what the journal holds, segment by segment, and what of it cannot be read.

    Reads every segment, also of a running collector, and changes nothing. Exit 1 if something cannot be read or is
    missing.
    """
    with needing(data_dir, "read"):
        if not journal_dir(data_dir).is_dir():
            raise CollectorError(
                f"{journal_dir(data_dir)}: no such folder; --data-dir names the folder a collector records"
            )
        cursor = load_cursor(data_dir)
        found = inspect(data_dir, cursor.segment, cursor.next_frame)
    totals = _totals(found)
    if as_json:
        json.dump({"data_dir": str(data_dir), **_document(found), "totals": totals}, sys.stdout)
        click.echo()
    else:
        _print(found, totals)
    if not found.is_whole:
        context.exit(1)


def _totals(found: JournalFound) -> dict[str, Any]:
    segments = found.segments
    forms = Counter(segment.form for segment in segments)
    return {
        "segments": len(segments),
        **{form: forms[form] for form in ("open", "sealed", "packed")},
        "not_stored": sum(not segment.stored for segment in segments),
        "frames": sum(segment.frames for segment in segments),
        "batches": sum(segment.batches for segment in segments),
        "notes": sum(segment.notes for segment in segments),
        "bytes": sum(segment.bytes for segment in segments),
        "damages": sum(len(segment.damages) for segment in segments),
        "damaged_bytes": sum(damage.end - damage.start for segment in segments for damage in segment.damages),
        "with_problems": sum(segment.problem is not None for segment in segments),
        "missing_frames": sum(missing.last - missing.first + 1 for missing in found.missing),
        "whole": found.is_whole,
    }


def _document(found: JournalFound) -> dict[str, Any]:
    document = attrs.asdict(found)
    for segment in document["segments"]:
        for name in ("first", "last"):
            ns = segment.pop(f"{name}_ns")
            segment[f"{name}_at"] = None if ns is None else _time(ns, "T")
    return document


def _print(found: JournalFound, totals: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table("segment", "file", "state", "stored", box=None, pad_edge=False)
    for name in ("first frame", "frames", "batches", "notes", "size"):
        table.add_column(name, justify="right")
    for name in ("first (UTC)", "last (UTC)", "problem"):
        table.add_column(name)
    for segment in found.segments:
        table.add_row(
            str(segment.number), segment.name, segment.form, "yes" if segment.stored else "no",
            "" if segment.first_frame is None else f"{segment.first_frame:,}", f"{segment.frames:,}",
            f"{segment.batches:,}", f"{segment.notes:,}", decimal(segment.bytes),
            _time(segment.first_ns), _time(segment.last_ns), _problems(segment),
        )  # fmt: skip
    console.print(table if found.segments else "No segments.")
    for segment in found.segments:
        for damage in segment.damages:
            lost = "how many frames were in it is not known" if damage.unknown else "no frame was in it"
            if damage.first_missing is not None:
                lost = f"frames {damage.first_missing}..{damage.last_missing} are missing"
            where = f"segment {segment.number}, bytes {damage.start}..{damage.end}"
            console.print(f"{where} cannot be read: {damage.problem}; {lost}", soft_wrap=True)
    for missing in found.missing:
        count = missing.last - missing.first + 1
        console.print(f"frames {missing.first}..{missing.last} ({count:,}) are missing: {missing.why}", soft_wrap=True)
    for other in found.others:
        console.print(f"{other.name} ({decimal(other.bytes)}): {other.what}", soft_wrap=True)
    console.print()
    console.print(_words(totals), soft_wrap=True)


def _problems(segment: SegmentFound) -> str:
    said = [segment.problem] if segment.problem else []
    if segment.damages:
        said.append(f"damaged in {counted(len(segment.damages), 'place')}")
    if segment.torn_bytes:
        said.append(f"{segment.torn_bytes} bytes behind the last whole record: being written, or cut off at a start")
    return "; ".join(said)


def _words(totals: dict[str, Any]) -> str:
    forms = ", ".join(f"{totals[form]:,} {form}" for form in ("open", "sealed", "packed"))
    held = f"{counted(totals['frames'], 'frame')} in {counted(totals['batches'], 'batch', 'batches')}"
    said = f"{counted(totals['segments'], 'segment')} ({forms}): {held}, {counted(totals['notes'], 'note')}, "
    said += f"{decimal(totals['bytes'])}; {totals['not_stored']:,} not stored yet. "
    if totals["whole"]:
        return said + "Everything can be read."
    parts = []
    if totals["damages"]:
        parts.append(f"{counted(totals['damaged_bytes'], 'byte')} in {counted(totals['damages'], 'place')}")
    if totals["with_problems"]:
        parts.append(counted(totals["with_problems"], "segment") + " with a problem")
    missing = f"; {counted(totals['missing_frames'], 'frame')} missing." if totals["missing_frames"] else "."
    return said + "Cannot be read: " + (", ".join(parts) or "what is not there") + missing


def _time(ns: int | None, between: str = " ") -> str:
    if ns is None:
        return ""
    text = datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime(f"%Y-%m-%d{between}%H:%M:%S")
    return f"{text}.{ns % 1_000_000_000 // 1_000_000:03d}" + ("Z" if between == "T" else "")
