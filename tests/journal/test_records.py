"""The text format: what is written is read, and damage costs exactly the records it lies in."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector_trio.journal.records import (
    Batch,
    Damage,
    Letter,
    Note,
    encode_batch,
    encode_note,
    read_pieces,
    read_records,
)

INT64 = st.integers(0, 2**63 - 1)
# What hurts a line format, more often than chance would bring it.
HURTS = [b"\n", b"\\", b"#", b"\r", b"\\n", b"\\x0a", b"#b 1 2 3 4 5 00000000", b"\xff", b"\xc3", b"\0", b""]
NASTY = st.sampled_from(HURTS)
PIECES = st.sampled_from([b"#", b"b", b"t", b" ", b"1", b"\n", b"{}", b"\\", b"00000000", b"\xff"])
FRAMES = st.lists(st.lists(NASTY | st.binary(max_size=8), max_size=6).map(b"".join), max_size=6)
TEXT = st.text(st.characters(), max_size=10)  # lone surrogates too: an exchange's JSON may bring them
JSON = st.none() | st.booleans() | INT64 | TEXT | st.lists(TEXT, max_size=3) | st.dictionaries(TEXT, INT64, max_size=2)

JOURNAL: list[Batch | Note] = [
    Note(Letter.SEGMENT, 1000, {"format": 1, "segment": 7, "next_frame": 1, "next_session": 1}),
    Note(Letter.OPENED, 1001, {"session": 1, "stream": "binance.spot/1"}),
    Batch(1, 1002, 1, [b'{"e":"trade"}', b"two"]),
    Batch(3, 1003, 1, [b"#b 3 1003 1 1 2 00000000", b"a\nb\\c\xff", b""]),
    Note(Letter.TICK, 1004, {}),
    Batch(6, 1005, 1, [b'{"p":"1.50","q":"0.1"}']),
    Note(Letter.ENDED, 1006, {"session": 1, "detail": "größer {}"}),
    Note(Letter.SEALED, 1007, {}),
]


def encode(record: Batch | Note) -> bytes:
    if isinstance(record, Batch):
        return b"".join(encode_batch(record))
    return encode_note(record.letter, record.ns, record.value)


def starts_of(records: Sequence[Batch | Note]) -> list[int]:
    """Return where each record begins, and where the last one ends."""
    return [0, *accumulate(len(encode(record)) for record in records)]


TEXT_OF_JOURNAL = b"".join(map(encode, JOURNAL))
STARTS = starts_of(JOURNAL)


def without_damage(records: Sequence[Batch | Note | Damage]) -> list[Batch | Note]:
    return [record for record in records if not isinstance(record, Damage)]


@given(INT64, INT64, INT64, FRAMES)
@example(1, 0, 1, [])
@example(1, 0, 1, [b""])
@example(1, 0, 1, [b"", b"", b""])
@example(1, 0, 1, [b"\\", b"#", b"\n", b"\r\n", b"\xff\xfe", b"\\\\n", b"plain\r"])
def test_any_frames_are_read_back_as_they_came(first: int, ns: int, session: int, frames: list[bytes]) -> None:
    batch = Batch(first, ns, session, frames)

    assert list(read_records(encode(batch))) == [batch]


@given(st.sampled_from(Letter), INT64, st.dictionaries(TEXT, JSON, max_size=4))
@example(Letter.ENDED, 0, {"detail": "an exchange's \ud800"})
def test_any_note_is_read_back_as_it_was(letter: Letter, ns: int, value: dict[str, object]) -> None:
    assert list(read_records(encode_note(letter, ns, value))) == [Note(letter, ns, value)]


def test_a_huge_frame_is_read_back() -> None:
    batch = Batch(1, 2, 3, [b"x" * 9_000_000, b"\n#" * 500_000])

    assert list(read_records(encode(batch))) == [batch]


def test_what_exchanges_say_stands_there_as_they_said_it() -> None:
    frame = '{"stream":"btcusdt@aggTrade","data":{"s":"比特币"}}'.encode()

    assert encode(Batch(41, 2, 3, [frame, frame])).split(b"\n")[1:] == [frame, frame, b""]


def test_no_line_but_a_records_first_begins_with_a_hash() -> None:
    frames = [b"#t 1 00000000 {}", b"x\n#b 1 2 3 4 5 00000000\n"]

    lines = encode(Batch(1, 2, 3, frames)).splitlines()

    assert [line[:1] for line in lines] == [b"#", b"\\", b"\\"]


def test_a_journal_read_whole_has_no_damage() -> None:
    assert list(read_records(TEXT_OF_JOURNAL)) == JOURNAL


@pytest.mark.parametrize("flip", [0x01, 0x02, 0x10, 0x20, 0x80, 0xFF])
def test_one_byte_damaged_anywhere_costs_the_record_it_is_in_and_no_other(flip: int) -> None:
    for offset, byte in enumerate(TEXT_OF_JOURNAL):
        check_damaged(offset, byte ^ flip)


@pytest.mark.parametrize("byte", [b"\n", b"#", b"0", b"9", b" ", b"\\", b"}", b"{", b"\0"])
def test_one_byte_that_means_something_put_anywhere_costs_the_record_it_is_in_and_no_other(byte: bytes) -> None:
    for offset in range(len(TEXT_OF_JOURNAL)):
        if TEXT_OF_JOURNAL[offset : offset + 1] != byte:
            check_damaged(offset, byte[0])


def check_damaged(offset: int, byte: int) -> None:
    data = bytearray(TEXT_OF_JOURNAL)
    data[offset] = byte
    hit = max(index for index, start in enumerate(STARTS) if start <= offset)

    found = list(read_records(bytes(data)))

    where = f"byte {offset} is {bytes([byte])!r}: {found}"
    assert without_damage(found) == JOURNAL[:hit] + JOURNAL[hit + 1 :], where
    (damage,) = (record for record in found if isinstance(record, Damage))
    assert (damage.start, damage.end) == (STARTS[hit], STARTS[hit + 1]), where
    assert damage.tail == (hit == len(JOURNAL) - 1), where
    assert found.index(damage) == hit, where


def test_a_journal_cut_off_anywhere_keeps_its_whole_records_and_says_where_it_is_torn() -> None:
    for length in range(len(TEXT_OF_JOURNAL) + 1):
        found = list(read_records(TEXT_OF_JOURNAL[:length]))

        whole = sum(start <= length for start in STARTS) - 1
        assert without_damage(found) == JOURNAL[:whole]
        damages = [record for record in found if isinstance(record, Damage)]
        if length in STARTS:
            assert damages == []
        else:
            assert [(d.start, d.end, d.tail) for d in damages] == [(STARTS[whole], length, True)]


def test_one_byte_missing_anywhere_costs_the_record_it_is_in_and_no_other() -> None:
    for offset in range(len(TEXT_OF_JOURNAL)):
        hit = max(index for index, start in enumerate(STARTS) if start <= offset)
        if offset == STARTS[hit + 1] - 1:
            continue  # a missing newline runs two records together; which is left is not promised

        found = list(read_records(TEXT_OF_JOURNAL[:offset] + TEXT_OF_JOURNAL[offset + 1 :]))

        assert without_damage(found) == JOURNAL[:hit] + JOURNAL[hit + 1 :]


@given(st.lists(st.tuples(st.integers(0, len(JOURNAL)), st.binary(min_size=1, max_size=30)), max_size=3))
def test_lines_of_junk_between_records_cost_no_record(junk: list[tuple[int, bytes]]) -> None:
    parts = [encode(record) for record in JOURNAL]
    for place, noise in sorted(junk, reverse=True):
        parts.insert(place, noise + b"\n")

    assert without_damage(list(read_records(b"".join(parts)))) == JOURNAL


@settings(max_examples=200)
@given(st.integers(0, len(TEXT_OF_JOURNAL)), st.integers(0, len(TEXT_OF_JOURNAL)), st.binary(max_size=200))
def test_any_stretch_replaced_by_anything_keeps_every_record_that_follows_a_whole_one(
    start: int, length: int, junk: bytes
) -> None:
    data = TEXT_OF_JOURNAL[:start] + junk + TEXT_OF_JOURNAL[start + length :]

    found = list(read_records(data))

    before = [record for record, end in zip(JOURNAL, STARTS[1:], strict=True) if end <= start]
    behind = [record for record, begin in zip(JOURNAL, STARTS[:-1], strict=True) if begin > start + length]
    kept = without_damage(found)
    assert kept[: len(before)] == before
    assert kept[len(kept) - len(behind) :] == behind


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(TEXT_OF_JOURNAL) - 1), st.integers(0, 255)), max_size=3),
    st.integers(0, len(TEXT_OF_JOURNAL)),
    st.integers(1, 200),
)
@example([], len(TEXT_OF_JOURNAL), 1)
@example([], 0, 1)
def test_a_text_read_in_pieces_says_what_the_whole_one_says_damage_included(
    hits: list[tuple[int, int]], length: int, size: int
) -> None:
    data = bytearray(TEXT_OF_JOURNAL)
    for offset, byte in hits:
        data[offset] = byte
    text = bytes(data[:length])
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    assert list(read_pieces(pieces)) == list(read_records(text))


def test_a_whole_text_is_asked_for_one_piece_at_a_time() -> None:
    records = [Batch(number, 2, 3, [b"x" * 10]) for number in range(1, 20)]
    starts, text, asked = starts_of(records), b"".join(map(encode, records)), 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        for start in range(0, len(text), 100):
            asked += 1
            yield text[start : start + 100]

    for end, _ in zip(starts[1:], read_pieces(pieces()), strict=True):
        assert asked == -(-end // 100)


@given(st.lists(PIECES).map(b"".join))
def test_no_bytes_make_reading_fail(data: bytes) -> None:
    found = list(read_records(data))

    assert without_damage(found) == []
    assert [(d.start, d.end, d.tail) for d in found if isinstance(d, Damage)] == [(0, len(data), True)][: len(data)]


def test_a_frame_that_is_a_whole_record_is_never_taken_for_one() -> None:
    trap = encode_note(Letter.ENDED, 5, {"session": 9}).rstrip(b"\n")
    inner = encode(Batch(999, 1, 1, [b"forged"]))
    records = [Note(Letter.TICK, 1, {}), Batch(1, 2, 3, [trap, inner, b"x" + trap]), Note(Letter.TICK, 3, {})]
    data, starts = b"".join(map(encode, records)), starts_of(records)

    assert list(read_records(data)) == records
    head_end = data.index(b"\n", starts[1])
    for offset in range(starts[1], head_end + 1):  # nor when its own batch cannot be read
        damaged = data[:offset] + b"~" + data[offset + 1 :]
        assert without_damage(list(read_records(damaged))) == [records[0], records[2]]


def test_reading_resumes_from_any_records_start() -> None:
    for index, start in enumerate(STARTS[:-1]):
        assert list(read_records(TEXT_OF_JOURNAL, start)) == JOURNAL[index:]


def test_damage_says_what_is_wrong() -> None:
    note, batch = encode(JOURNAL[4]), encode(JOURNAL[5])
    problems = {
        batch[:-3]: "batch of 23 bytes ends after 20",
        batch.replace(b"1.50", b"1.51"): "batch has another crc32 than its head says",
        note.replace(b"1004", b"1005"): "note has another crc32 than it says",
        b"hello\n": "not a record: 'hello'",
        b"0123456789abcdefg\n": "not a record: '0123456789abcdef' …",
        "三つ\t".encode() + b"\n": "not a record: hex e4 b8 89 e3 81 a4 09",
        bytes(1000) + b"\n": "not a record: hex" + 16 * " 00" + " …",
        b"#t 1": "the line has no end",
    }

    for data, problem in problems.items():
        assert list(read_records(data)) == [Damage(0, len(data), problem, True)]


def test_a_record_of_a_later_version_is_damage_and_named() -> None:
    head = b"#x 1004 "
    data = b"%s%08x {}\n" % (head, crc32(b"{}", crc32(head)))

    assert list(read_records(data)) == [Damage(0, len(data), "unknown letter 'x'", True)]
