"""`decode`: raw frames in, the rows we make of them out."""

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from collector_trio.errors import BadAnswer, CollectorError
from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold
from collector_trio.instruments import Naming

CHUNK = 4096  # lines decoded at once
# A leading receive time: seconds to nanoseconds since the epoch, as recorders write it before the frame.
_STAMP = re.compile(rb"(\d{10}|\d{13}|\d{16}|\d{19})[ \t]+(?=\S)")
_TO_NS = {10: 1_000_000_000, 13: 1_000_000, 16: 1_000, 19: 1}


@click.command(epilog="Example: python -m collector_trio decode --exchange binance --market spot frames.txt")
@click.option("--exchange", type=click.Choice(list(EXCHANGES)), required=True)
@click.option("--market", type=click.Choice(["spot", "perp", "index"]), required=True)
@click.option(
    "--instruments", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The exchange's own answer."
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
def decode(exchange: str, market: str, instruments: Path | None, files: tuple[Path, ...]) -> None:
    """Print the rows that raw frames give, as JSON lines; exit 1 if a frame was rejected.

    Frames stand one per line in FILES (or on standard input; .gz is read too), with or without a leading receive time.
    """
    naming = Naming(unknown_market=market)
    if instruments is not None:
        try:
            naming.add(EXCHANGES[exchange].parse_instruments(market, instruments.read_bytes()))
        except BadAnswer as error:
            raise CollectorError(f"{instruments}: {error}") from None
    lines = enumerate(_lines(files), 1)
    rejected = False
    while chunk := list(islice(lines, CHUNK)):
        for printed in _decode(exchange, market, naming, chunk):
            rejected = rejected or "reject" in printed
            sys.stdout.write(json.dumps(printed, ensure_ascii=False) + "\n")
    if naming.made_up:
        click.echo(
            "symbols are the exchange's own, and contracts are not converted: no --instruments describe them", err=True
        )
    if rejected:
        raise SystemExit(1)


def _lines(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield the lines of all files in turn, numbered as one; empty lines count, and are no frames."""
    for path in list(files) or [Path("-")]:
        try:
            if str(path) == "-":
                yield from sys.stdin.buffer
            elif path.suffix == ".gz":
                with gzip.open(path, "rb") as packed:
                    yield from packed
            else:
                with path.open("rb") as file:
                    yield from file
        except (OSError, EOFError, zlib.error) as error:
            raise CollectorError(f"{path}: cannot be read: {error}") from error


def _decode(exchange: str, market: str, naming: Naming, chunk: list[tuple[int, bytes]]) -> Iterator[dict[str, Any]]:
    """Decode numbered lines; yield what is to be printed, in the order of the lines."""
    found: dict[int, list[dict[str, Any]]] = {}
    native_symbols: dict[int, list[str]] = {}  # of a line's rows, which do not keep them

    def classified(line: int, what: str, text: str) -> None:
        if what == "row":
            native_symbols.setdefault(line, []).append(text)
        else:
            found[line] = [{"line": line, what: text}]

    fold = Fold(naming, classified)
    for number, text in chunk:
        frame, received_ns = text.strip(b"\r\n"), 0
        if stamp := _STAMP.match(frame):
            frame, received_ns = frame[stamp.end() :], int(stamp[1]) * _TO_NS[len(stamp[1])]
        if frame.strip():
            fold.feed_frames(exchange, market, [frame], None, number, received_ns)
    for (table, _, _), rows in fold.take().items():
        if table != "rejects":
            for row in rows.to_pylist():
                line = row["frame"]
                spelled = _spelled(row, native_symbols[line].pop(0))
                found.setdefault(line, []).append({"table": table, "line": line, **spelled})
    for line in sorted(found):
        yield from found[line]


def _spelled(row: dict[str, Any], native_symbol: str) -> dict[str, Any]:
    """Spell a row for JSON: ISO 8601 times; what only a journal knows is null."""
    spelled = {"symbol": row["symbol"], "native_symbol": native_symbol}
    spelled |= {name: _iso(value) if isinstance(value, datetime) else value for name, value in row.items()}
    spelled |= {"session": None, "frame": None}
    if not row["recv_ns"]:
        spelled |= {"recv": None, "recv_ns": None}
    return spelled


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
