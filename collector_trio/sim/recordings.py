"""Reads recorded frames, whoever wrote them: hftbacktest, cryptofeed, plain frames one a line, or a collector's own
journal.

The formats are told apart by how a file begins; `.gz` and `.zst` are unpacked. Only what names an instrument of a spot
market can be served; everything else is counted in `Recording.skipped` under the reason.
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import zstandard

from collector_trio.errors import CollectorError
from collector_trio.sim.audience import kind_of

BATCH = re.compile(rb"#b (\d+) (\d+) (\d+) (\d+) (\d+) (\w+)")
SEGMENTS = (".open", ".log", ".log.zst")  # of a journal; what else lies beside them is no part of it
TIMED = re.compile(rb"(\d{13,19}) +(.*)", re.DOTALL)
ESCAPE = re.compile(rb"\\(?:\\|n|r|x[0-9a-fA-F]{2})")
ESCAPED = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


@attrs.frozen
class RecordedFrame:
    """One frame as it was received.

    `kind` is trades, book or other; `at_ns` when it was received, None if nobody wrote it down.
    """

    exchange: str
    endpoint: str
    native_symbol: str
    stream: str
    text: bytes
    at_ns: int | None

    @property
    def kind(self) -> str:
        """Return "trades", "book" or "other"."""
        return kind_of(self.stream)

    def row(self, micro: bool) -> dict[str, Any]:
        """Return it as the truth has it: whole."""
        return {
            "exchange": self.exchange,
            "endpoint": self.endpoint,
            "market": "spot",
            "channel": self.kind,
            "native_symbol": self.native_symbol,
            "frame": self.text.decode("utf-8", "replace"),
        }


@attrs.frozen
class Recording:
    """The servable frames of one file or folder, in recorded order, and how many were skipped for which reason."""

    path: Path
    frames: tuple[RecordedFrame, ...]
    skipped: Counter[str]


def load_recordings(paths: Iterable[Path]) -> list[Recording]:
    """Read each path; a folder is a journal.

    Raises `CollectorError` for what cannot be read or has no frame to serve.
    """
    recordings = []
    for path in paths:
        try:
            skipped: Counter[str] = Counter()
            frames = tuple(_frames(path, skipped))
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise CollectorError(f"{path}: cannot be read: {error}") from error
        if not frames:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "it is empty"
            raise CollectorError(f"{path}: no frame of a spot market of binance or okx in it ({reasons})")
        recordings.append(Recording(path, frames, skipped))
    return recordings


def _frames(path: Path, skipped: Counter[str]) -> Iterator[RecordedFrame]:
    for at_ns, text in _texts(path, skipped):
        frame = _recognise(text, at_ns)
        if isinstance(frame, RecordedFrame):
            yield frame
        else:
            skipped[frame] += 1


def _texts(path: Path, skipped: Counter[str]) -> Iterator[tuple[int | None, bytes]]:
    """Give what was received, with its time in nanoseconds if it is known."""
    if path.is_dir():
        segments = [file for file in sorted(path.rglob("*")) if file.name.endswith(SEGMENTS) and not file.is_symlink()]
        yield from _journal([_content(file) for file in segments], skipped)
        return
    content = _content(path)
    if content.startswith(b"#"):
        yield from _journal([content], skipped)
        return
    for line in content.splitlines():
        if timed := TIMED.fullmatch(line):
            yield _nanoseconds(int(timed[1])), timed[2]
        elif line.strip():
            yield from _row(line, skipped)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
            return reader.read()
    return content


def _nanoseconds(time: int) -> int:
    """Tell the unit by the magnitude: 13 digits are milliseconds, 16 microseconds, 19 nanoseconds."""
    return int(time * 10 ** (19 - len(str(time))))


class _Row(msgspec.Struct):
    """A line of cryptofeed's, or of any file that keeps its frames under this name."""

    frame: str | None = None
    kind: str = "ws_recv"
    url: str | None = None
    ts_ns: int | None = None


def _row(line: bytes, skipped: Counter[str]) -> Iterator[tuple[int | None, bytes]]:
    try:
        row = msgspec.json.decode(line, type=_Row)
    except msgspec.DecodeError:
        row = _Row()
    if row.frame is None and row.kind == "ws_recv":
        yield None, line  # the line is the frame
    elif row.frame is None or row.kind != "ws_recv":
        skipped[row.kind] += 1
    elif row.url is not None and re.search(r"://[fd]stream\.", row.url):
        skipped["another market"] += 1
    else:
        yield row.ts_ns, row.frame.encode()


class _Opened(msgspec.Struct):
    """What we need of a journal's `#o`."""

    session: int
    stream: str = ""


def _journal(contents: list[bytes], skipped: Counter[str]) -> Iterator[tuple[int | None, bytes]]:
    """Read journal files in the order of their frame numbers. What is torn at the end is skipped, and counted."""
    batches: list[tuple[int, int, int, list[bytes]]] = []
    streams: dict[int, str] = {}
    for content in contents:
        position = 0
        while position < len(content):
            end = content.find(b"\n", position)
            line = content[position : end if end >= 0 else len(content)]
            position += len(line) + 1
            if batch := BATCH.fullmatch(line):
                first, at_ns, session, count, size = (int(number) for number in batch.groups()[:5])
                body = content[position : position + size]
                position += size
                if len(body) < size:
                    skipped["torn"] += count
                else:
                    batches.append((first, at_ns, session, body.split(b"\n")[:count]))
            elif line.startswith(b"#o "):
                opened = msgspec.json.decode(line.split(b" ", 3)[3], type=_Opened)
                streams[opened.session] = opened.stream
    for _, at_ns, session, lines in sorted(batches):
        if any(market in streams.get(session, "") for market in (".perp", ".index")):
            skipped["another market"] += len(lines)
            continue
        for line in lines:
            yield at_ns, ESCAPE.sub(_unescape, line[1:]) if line.startswith(b"\\") else line


def _unescape(match: re.Match[bytes]) -> bytes:
    return ESCAPED.get(match[0]) or bytes([int(match[0][2:], 16)])


class _Arg(msgspec.Struct):
    channel: str = ""
    inst_id: str = msgspec.field(name="instId", default="")


class _Head(msgspec.Struct):
    """As much of a frame as tells whose it is; everything else is left alone."""

    stream: str | None = None
    arg: _Arg | None = None
    event: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    kind: str = msgspec.field(name="e", default="")
    symbol: str = msgspec.field(name="s", default="")


_decode_head = msgspec.json.Decoder(_Head).decode


def _recognise(text: bytes, at_ns: int | None) -> RecordedFrame | str:
    """Say which exchange, endpoint and instrument a frame belongs to, or why it cannot be served."""
    try:
        head = _decode_head(text)
    except msgspec.DecodeError:
        return "not a frame"
    if head.event is not None or (head.arg is not None and not bytes(head.data)):
        return "control"
    if head.arg is not None:
        native = head.arg.inst_id
        if native.count("-") != 1:
            return "another market" if native else "no symbol"
        endpoint = "okx.business" if head.arg.channel == "trades-all" or "candle" in head.arg.channel else "okx.public"
        return RecordedFrame("okx", endpoint, native, head.arg.channel, text, at_ns)
    if head.stream is not None:
        symbol, _, stream = head.stream.partition("@")
        if not stream or symbol.startswith("!"):
            return "no symbol"
        return RecordedFrame("binance", "binance.spot", symbol.upper(), stream, text, at_ns)
    if head.symbol:
        return RecordedFrame("binance", "binance.spot", head.symbol, head.kind, text, at_ns)
    return "no symbol"
