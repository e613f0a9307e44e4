r"""The journal's text format: records to bytes, bytes to records. Pure.

Two kinds of record. A batch is what one read of a socket brought:

    #b <first frame number> <receive ns> <session> <frames> <bytes> <crc32>
    {"stream":"btcusdt@aggTrade","data":{…}}
    {"stream":"btcusdt@depth@100ms","data":{…}}

`bytes` counts everything behind the `#b` line, newlines included. The crc32 (eight hex digits) covers the line up to
itself and then those bytes: a flipped digit in a frame's number or time is damage too. A frame that contains a newline,
is not UTF-8, or begins with `#` or `\` stands escaped: a `\` first, then the text with `\\`, `\n`, `\r` and `\xNN` in
it.

A note is what no frame says, one line of JSON with the crc32 of everything else in it:

    #o 1732365488000000000 5f3a9c01 {"session":17,"stream":"binance.spot/1",…}

The letters are in `Letter`. Both kinds begin a line with `#`, and frames never do: after damage, reading resumes at the
next line that is a whole record.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any

import attrs
import msgspec
from isal.isal_zlib import crc32  # zlib's own takes ten times as long

FORMAT = 1
QUOTED_BYTES = 16  # of what is no record


class Letter(StrEnum):
    """What a note is about."""

    SEGMENT = "j"  # first line of every segment: format, segment number, next frame and session numbers
    PROCESS = "p"  # start, stop
    CONFIG = "c"  # what is recorded: streams and their subscriptions
    INSTRUMENTS = "i"  # terms of the instruments of one market
    OPENED = "o"  # a session begins: exchange, markets, stream, URL
    LIVE = "l"  # every subscription of a session is proven
    ENDED = "e"  # a session is over, and why
    SUBSCRIBE = "u"  # a message of ours
    REQUEST = "q"  # a REST request, written before it is sent
    FAILED = "f"  # a REST request without a usable answer
    TICK = "t"  # a second has passed
    STEP = "k"  # the wall clock jumped
    REFUSAL = "r"  # batches were not accepted: the disk was full
    VERDICT = "v"  # the recorder has found something out that no frame says
    STATE = "s"  # at the end of a segment: what the recorder takes for seen and for missing
    SEALED = "z"  # last line of a whole segment


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Frames of one read, as received; the first has number `first_frame`."""

    first_frame: int
    received_ns: int
    session: int
    frames: list[bytes]


@attrs.frozen
class Note:
    """What no frame says."""

    letter: Letter
    ns: int
    value: dict[str, Any]


@attrs.frozen
class Damage:
    """Bytes from `start` to `end` that are no records. `tail`: nothing readable is behind them."""

    start: int
    end: int
    problem: str
    tail: bool


def encode_batch(batch: Batch) -> tuple[bytes, bytes]:
    """Return the record's bytes in two parts, its head and the frames: each frame is copied once."""
    frames = batch.frames
    if [frame for frame in frames if frame[:1] in _MARKS or b"\n" in frame or not frame.isascii()]:
        frames = [_escape(frame) if _is_odd(frame) else frame for frame in frames]
    payload = b"\n".join([*frames, b""])
    head = b"#b %d %d %d %d %d " % (batch.first_frame, batch.received_ns, batch.session, len(frames), len(payload))
    return b"%s%08x\n" % (head, crc32(payload, crc32(head))), payload


def encode_note(letter: Letter, ns: int, value: dict[str, Any]) -> bytes:
    """Return the record's bytes; `value` must be JSON."""
    # A lone surrogate (an exchange's error text may hold one) has no UTF-8, but `\\udXXX` is JSON and reads back as it.
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    head = b"#%s %d " % (letter.encode(), ns)
    return b"%s%08x %s\n" % (head, crc32(text, crc32(head)), text)


def read_records(data: bytes, start: int = 0) -> Iterator[Batch | Note | Damage]:
    """Read every record from `start`; what is none becomes `Damage`, and reading resumes behind it."""
    position = start
    while position < len(data):
        try:
            record, position = _read_one(data, position)
        except ValueError as problem:
            end = _next_record(data, position)
            yield Damage(position, end, str(problem), end == len(data))
            position = end
        else:
            yield record


def read_pieces(pieces: Iterable[bytes]) -> Iterator[Batch | Note | Damage]:
    """Read every record of a text that comes piece by piece, as `read_records` does of the whole.

    Two pieces are held at a time, but from a damaged record (or one longer than a piece) on, all that is left: where
    reading resumes depends on what follows.
    """
    rest = iter(pieces)
    text, begun, position = b"", 0, 0
    for piece in rest:
        text, begun, position = text[position:] + piece, begun + position, 0
        while position < len(text):
            try:
                record, position = _read_one(text, position)
            except ValueError:
                break  # the last record of a piece is cut: it goes on in the next
            yield record
        if not position:
            text += b"".join(rest)
    for found in read_records(text, position):
        yield attrs.evolve(found, start=begun + found.start, end=begun + found.end) if type(found) is Damage else found


_HEAD = re.compile(rb"(#b (\d{1,19}) (\d{1,19}) (\d{1,19}) (\d{1,9}) (\d{1,12}) )([0-9a-f]{8})\n")
_NOTE = re.compile(rb"(#([a-z]) (\d{1,19}) )([0-9a-f]{8}) (\{.*\})", re.DOTALL)
_NOTE_HEAD = re.compile(rb"#[a-z] \d{1,19} [0-9a-f]{8} ")
_JSON = json.JSONDecoder()


def _read_one(data: bytes, position: int) -> tuple[Batch | Note, int]:
    if head := _HEAD.match(data, position):
        first, ns, session, count, size = map(int, head.group(2, 3, 4, 5, 6))
        start = head.end()
        payload = data[start : start + size]
        if len(payload) < size:
            raise ValueError(f"batch of {size} bytes ends after {len(payload)}")
        if crc32(payload, crc32(head[1])) != int(head[7], 16):
            raise ValueError("batch has another crc32 than its head says")
        frames = payload[:-1].split(b"\n") if count else []
        if len(frames) != count:
            raise ValueError(f"batch of {count} frames has {len(frames)} lines")
        if b"\\" in payload:  # rare in JSON, and one byte is found faster than two
            frames = [_unescape(frame) if frame.startswith(b"\\") else frame for frame in frames]
        return Batch(first, ns, session, frames), start + size
    end = data.find(b"\n", position)
    if end < 0:
        raise ValueError("the line has no end")
    line = data[position:end]
    if note := _NOTE.fullmatch(line):
        if crc32(note[5], crc32(note[1])) != int(note[4], 16):
            raise ValueError("note has another crc32 than it says")
        try:
            letter = Letter(note[2].decode())
        except ValueError:
            raise ValueError(f"unknown letter {note[2].decode()!r}") from None
        return Note(letter, int(note[3]), json.loads(note[5])), end + 1
    raise ValueError(f"not a record: {_quoted(line)}")


def _quoted(line: bytes) -> str:
    """Quote how a line begins, for people: text where it can be printed, else hex."""
    begins = line[:QUOTED_BYTES]
    text = begins.decode("latin-1")
    quoted = repr(text) if text.isascii() and text.isprintable() else f"hex {begins.hex(' ')}"
    return quoted + (" …" if len(line) > len(begins) else "")


def _next_record(data: bytes, position: int) -> int:
    """Return the offset of the next whole record behind the damaged one at `position`, or the end.

    Records begin lines. Where the damage is the very newline before it, the next record stands where the damaged one's
    own head, or the end of its JSON, says.
    """
    promised = _promised_end(data, position)
    if not _is_record(data, promised):
        promised = len(data)
    while 0 <= (position := data.find(b"\n#", position)) < promised:
        position += 1
        if _is_record(data, position):
            return position
    return promised


def _promised_end(data: bytes, position: int) -> int:
    """Return where the record at `position` should end, by what can still be read of it."""
    if head := _HEAD.match(data, position):
        return head.end() + int(head[6])
    line = data[position : data.find(b"\n", position)]
    if head := _NOTE_HEAD.match(line):
        with suppress(ValueError, RecursionError):
            _, length = _JSON.raw_decode(line[head.end() :].decode("latin-1"))
            return position + head.end() + length + 1
    return len(data)


def _is_record(data: bytes, position: int) -> bool:
    try:
        _read_one(data, position)
    except ValueError:
        return False
    return True


_MARKS = (b"#", b"\\")


def _is_odd(frame: bytes) -> bool:
    return b"\n" in frame or frame[:1] in _MARKS or not _is_utf8(frame)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escape(frame: bytes) -> bytes:
    text = frame.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"\\" + text.decode("utf-8", "backslashreplace").encode()


_ESCAPED = re.compile(rb"\\(?:\\|n|r|x[0-9a-f]{2})")
_PLAIN = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


def _unescape(line: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[0]) or bytes([int(found[0][2:], 16)]), line[1:])
