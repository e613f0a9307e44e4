"""The running segment: rotation, heads, numbers, sealing beside the event loop."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from collector_trio.journal.append import in_thread, open_journal
from collector_trio.journal.records import Batch, Letter, Note, read_records
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.journal.segments import Segment, journal_dir, one_segment

from .writing import HandClock, batches, everything, journal_in, notes, numbered, records, segments


def opened(session: int) -> dict[str, object]:
    return {"session": session, "stream": "binance.spot/1", "frames": 0, "bytes": 0}


def frames_of(segment: Segment) -> list[bytes]:
    return [frame for record in records(segment) if isinstance(record, Batch) for frame in record.frames]


def test_frames_are_numbered_through_batches_and_segments(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        assert journal.append(1, clock(), [b"a", b"b"])
        assert journal.append(2, clock(), [b"c"])
        clock.advance(61)
        assert journal.append(1, clock(), [b"d"])

    assert numbered(tmp_path) == [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")]
    assert [batch.session for batch in batches(tmp_path)] == [1, 2, 1]


def test_what_was_appended_can_be_read_at_once(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"a"])
        journal.note(Letter.TICK, {"n": 1})

        (segment,) = segments(tmp_path)
        assert segment.is_open
        assert segment.read().endswith(b'\na\n#t %d %b {"n":1}\n' % (clock.ns, segment.read().split()[-2]))


def test_a_segment_ends_when_it_is_old_enough(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        begun = clock()
        for age_ns in (0, 60 * 10**9 - 1, 60 * 10**9):
            journal.append(1, begun + age_ns, [b"%d" % age_ns])

    assert [frames_of(segment) for segment in segments(tmp_path)] == [[b"0", b"59999999999"], [b"60000000000"]]


def test_a_segment_ends_when_it_is_large_enough(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.segment_bytes = 1000
        for _ in range(4):
            journal.append(1, clock(), [b"x" * 600])

    assert [len(frames_of(segment)) for segment in segments(tmp_path)] == [2, 2]


def test_a_segment_never_holds_two_utc_hours(tmp_path: Path, clock: HandClock) -> None:
    clock.ns = int(datetime(2026, 11, 23, 12, 59, 59, tzinfo=UTC).timestamp()) * 10**9
    with journal_in(tmp_path, clock, segment_s=3600) as (journal, _):
        journal.append(1, clock.ns + 10**9 - 1, [b"before"])
        journal.append(1, clock.ns + 10**9, [b"after"])

    before, after = segments(tmp_path)
    assert (frames_of(before), frames_of(after)) == ([b"before"], [b"after"])
    assert before.path.name == "000000000001-20261123T125959Z.log"
    assert after.path.name == "000000000002-20261123T130000Z.log"


def test_a_batch_read_before_the_hour_but_appended_after_it_lies_in_its_own_hour(
    tmp_path: Path, clock: HandClock
) -> None:
    clock.ns = hour_ns = int(datetime(2026, 11, 23, 13, tzinfo=UTC).timestamp()) * 10**9
    with journal_in(tmp_path, clock) as (journal, _):
        journal.note(Letter.TICK, {})
        journal.append(1, hour_ns - 1, [b"late"])
        journal.append(1, hour_ns + 5, [b"next"])

    assert [frames_of(segment) for segment in segments(tmp_path)] == [[], [b"late"], [b"next"]]
    assert ["T12" in segment.path.name for segment in segments(tmp_path)] == [False, True, False]


def test_a_tick_alone_ends_a_segment_in_which_nothing_comes(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"a"])
        clock.advance(61)
        journal.note(Letter.TICK, {})

        assert len(segments(tmp_path)) == 2


def test_each_segment_opens_with_all_that_is_current_and_can_be_read_alone(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.note(Letter.CONFIG, {"record": []}, current="config")
        journal.note(Letter.OPENED, opened(7), current="session 7")
        journal.note(Letter.OPENED, opened(8), current="session 8")
        journal.append(7, clock(), [b"a"])
        journal.update("session 7", live_ns=5)
        journal.note(Letter.ENDED, {"session": 8})
        journal.forget("session 8")
        clock.advance(61)
        journal.append(7, clock(), [b"b"])

    first, second = (records(segment) for segment in segments(tmp_path))
    again = [record for record in second if isinstance(record, Note) and "again" in record.value]
    assert [(note.letter, note.value.get("session"), note.value.get("live_ns")) for note in again] == [
        (Letter.CONFIG, None, None),
        (Letter.OPENED, 7, 5),
    ]
    assert not [record for record in first if isinstance(record, Note) and "again" in record.value]
    assert isinstance(second[0], Note)
    assert second[0].letter is Letter.SEGMENT
    assert second[0].value == {"format": 1, "segment": 2, "next_frame": 2, "next_session": 1}
    assert second.index(again[-1]) < second.index(batches(tmp_path)[-1])


def test_a_head_says_how_much_of_each_open_session_came_before_it(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.note(Letter.OPENED, opened(7), current="session 7")
        for frame in (b"four", b"and five", b""):
            journal.append(7, clock(), [frame, b"x"])
            clock.advance(61)
        journal.note(Letter.TICK, {})

    heads = [value for value in notes(tmp_path, Letter.OPENED) if "again" in value]
    assert [(head["frames"], head["bytes"]) for head in heads] == [(2, 5), (4, 14), (6, 15)]


def test_every_whole_segment_says_that_it_is(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        for _ in range(3):
            journal.append(1, clock(), [b"a"])
            clock.advance(61)

    for segment in segments(tmp_path):
        last = records(segment)[-1]
        assert isinstance(last, Note)
        assert last.letter is Letter.SEALED
        assert segment.path.suffix == ".log"


def test_a_journal_into_which_nothing_was_written_has_no_segment(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock):
        pass

    assert segments(tmp_path) == []


def test_numbers_go_on_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    sessions = []
    for _ in range(3):
        with journal_in(tmp_path, clock) as (journal, _):
            sessions += [journal.next_session(), journal.next_session()]
            journal.append(sessions[-1], clock(), [b"a", b"b"])

    assert [number for number, _ in numbered(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert sessions == [1, 2, 3, 4, 5, 6]
    assert [segment.number for segment in segments(tmp_path)] == [1, 2, 3]


def test_numbers_go_on_when_all_segments_were_deleted(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        session = journal.next_session()
        journal.append(session, clock(), [b"a", b"b"])
    for segment in segments(tmp_path):
        segment.path.unlink()

    with journal_in(tmp_path, clock) as (journal, _):
        assert journal.next_session() == session + 1
        journal.append(session + 1, clock(), [b"c"])

    assert numbered(tmp_path) == [(3, b"c")]
    assert [segment.number for segment in segments(tmp_path)] == [2]


async def test_segments_are_sealed_beside_the_loop_in_their_order(
    tmp_path: Path, clock: HandClock, autojump_clock: MockClock
) -> None:
    heard: list[tuple[int, str]] = []

    def on_sealed(number: int) -> None:
        (segment,) = (segment for segment in segments(tmp_path) if segment.number == number)
        heard.append((number, segment.path.suffix))

    with journal_in(tmp_path, clock, on_sealed) as (journal, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            for _ in range(3):
                journal.append(1, clock(), [b"a"])
                clock.advance(61)
            assert [segment.is_open for segment in segments(tmp_path)] == [True, True, True]
            await trio.sleep(1.5)
            assert heard == [(1, ".log"), (2, ".log")]
            nursery.cancel_scope.cancel()

    assert heard == [(1, ".log"), (2, ".log"), (3, ".log")]


async def test_nothing_is_lost_when_it_is_cancelled_while_its_thread_works(tmp_path: Path, clock: HandClock) -> None:
    sealed: list[int] = []
    with (
        lock_data_dir(tmp_path),
        open_journal(
            tmp_path,
            recover(tmp_path).numbers,
            clock=clock,
            segment_s=1e-8,
            sync_every_s=0.0001,
            offload=in_thread(trio.CapacityLimiter(1)),
            on_sealed=sealed.append,
        ) as journal,
    ):
        for round_ in range(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                for turn in range(round_ % 7):
                    journal.append(1, clock(), [b"%d %d" % (round_, turn)])
                    clock.advance(1)
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    assert sealed == list(range(1, len(sealed) + 1))
    assert [number for number, _ in numbered(tmp_path)] == list(range(1, len(sealed) + 1))
    assert not [segment for segment in segments(tmp_path) if segment.is_open]


def test_an_odd_note_of_an_exchanges_error_does_not_break_the_journal(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.note(Letter.ENDED, {"session": 1, "detail": "they said \ud800\n#b"})

    assert notes(tmp_path, Letter.ENDED) == [{"session": 1, "detail": "they said \ud800\n#b"}]


def test_the_journal_is_text_that_can_be_followed(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b'{"stream":"btcusdt@aggTrade"}', b"pong"])

    lines = segments(tmp_path)[0].read().decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["#j", "#b", '{"stream":"btcusdt@aggTrade"}', "pong", "#z"]
    assert list(read_records("\n".join([*lines, ""]).encode())) == everything(tmp_path)
    assert journal_dir(tmp_path) == segments(tmp_path)[0].path.parent


def test_a_link_leads_to_the_running_segment(tmp_path: Path, clock: HandClock) -> None:
    current = journal_dir(tmp_path) / "current"
    with journal_in(tmp_path, clock) as (journal, _):
        for number in (1, 2):
            journal.append(1, clock(), [b"frame %d" % number])
            clock.advance(61)

            assert b"\nframe %d\n" % number in current.read_bytes()
            assert one_segment(current).number == number
            assert one_segment(current).is_open
            assert [segment.number for segment in segments(tmp_path)] == [1, 2][:number]


@pytest.mark.parametrize("how_many", [0, 1, 5])
def test_sessions_that_are_forgotten_are_not_repeated(tmp_path: Path, clock: HandClock, how_many: int) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        for session in range(5):
            journal.note(Letter.OPENED, opened(session), current=f"session {session}")
        for session in range(how_many):
            journal.forget(f"session {session}")
            journal.forget(f"session {session}")  # twice does no harm
        clock.advance(61)
        journal.note(Letter.TICK, {})

    repeated = [value["session"] for value in notes(tmp_path, Letter.OPENED) if "again" in value]
    assert repeated == list(range(how_many, 5))
