"""`journal` says what a folder holds, what cannot be read, and which frames that costs: exactly."""

import json
import os
from io import FileIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector_trio.commands import cli
from collector_trio.errors import CollectorError
from collector_trio.journal.report import inspect

from ..followers.recordings import record_some, store
from .writing import HandClock, journal_in, leave_open, segments, tidy


def call(data_dir: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["journal", "--data-dir", str(data_dir), *options])


def test_a_whole_journal_is_told_segment_by_segment_and_ends_well(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    tidy(tmp_path, 1, "forever", 0, 0.0)
    store(tmp_path)
    leave_open(tmp_path)

    done = call(tmp_path, "--json")

    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [(s["number"], s["form"], s["stored"], s["first_frame"], s["frames"]) for s in said["segments"]] == [
        (1, "packed", True, 1, 7), (2, "sealed", True, 8, 7), (3, "open", True, 15, 7),
    ]  # fmt: skip
    assert all(s["batches"] == 3 and s["notes"] > 1 and s["hour"] == "2026-11-23T12" for s in said["segments"])
    assert [s["bytes"] for s in said["segments"]] == [segment.path.stat().st_size for segment in segments(tmp_path)]
    assert said["segments"][0]["first_at"].startswith("2026-11-23T12:38:00.000")
    assert said["segments"][0]["last_at"] <= said["segments"][1]["first_at"]
    assert said["missing"] == said["others"] == []
    assert said["totals"]["frames"] == 21
    assert said["totals"]["whole"]
    text = call(tmp_path).stdout
    assert "3 segments (1 open, 1 sealed, 1 packed): 21 frames in 9 batches" in text
    assert "Everything can be read." in text


def test_damage_is_told_with_its_bytes_its_problem_and_the_frames_that_were_in_it(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    path = segments(tmp_path)[1].path
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"id":1}', b'"id":2}'))
    start = data.index(b"#b 8 ")

    done = call(tmp_path, "--json")

    assert done.exit_code == 1
    said = json.loads(done.stdout)
    (damage,) = said["segments"][1]["damages"]
    assert damage["start"] == start
    assert data[damage["end"] :].startswith(b"#b 12 ")
    assert "crc32" in damage["problem"]
    assert (damage["first_missing"], damage["last_missing"]) == (8, 11)
    where = f"damage: bytes {start}..{damage['end']} of segment 2"
    assert said["missing"] == [{"first": 8, "last": 11, "why": where}]
    text = call(tmp_path).stdout
    assert f"segment 2, bytes {start}..{damage['end']} cannot be read: {damage['problem']}; " in text
    assert "frames 8..11 (4) are missing" in text
    assert "4 frames missing." in text


def test_damage_that_hit_a_note_costs_no_frame(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    path = segments(tmp_path)[1].path
    path.write_bytes(path.read_bytes().replace(b"#t ", b"#T ", 1).replace(b'"event":"start"', b'"event":"stort"', 1))

    found = inspect(tmp_path, 0, 1)

    assert found.missing == []
    assert {damage.first_missing for damage in found.segments[1].damages} == {None}
    assert not found.is_whole


def test_segments_that_are_gone_are_missed_but_not_those_that_were_old_enough(tmp_path: Path) -> None:
    record_some(tmp_path, 5)
    gone = [segments(tmp_path)[n].path for n in (0, 2, 3)]
    for path in gone:
        path.unlink()

    found = inspect(tmp_path, 0, 1)

    assert [(m.first, m.last, m.why) for m in found.missing] == [(15, 28, "segments 3..4 are not there")]


def test_what_was_in_the_first_segment_is_known_for_frames_begin_at_one(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    segments(tmp_path)[0].path.write_bytes(os.urandom(3000))

    found = inspect(tmp_path, 0, 1)

    assert [(m.first, m.last) for m in found.missing] == [(1, 7)]
    assert {(damage.first_missing, damage.last_missing) for damage in found.segments[0].damages} == {(1, 7)}


def test_what_was_in_the_oldest_segment_left_is_said_to_be_unknown(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    segments(tmp_path)[0].path.unlink()
    segments(tmp_path)[0].path.write_bytes(b"x" * 3000)

    done = call(tmp_path)

    assert done.exit_code == 1
    assert "how many frames were in it is not known" in done.stdout


def test_segments_that_are_gone_before_they_were_stored_are_missed_to_the_last(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    for segment in segments(tmp_path)[:2]:
        segment.path.unlink()

    found = inspect(tmp_path, 1, 8)
    assert [(m.first, m.last, m.why) for m in found.missing] == [(8, 14, "segment 2 is not there")]
    segments(tmp_path)[0].path.unlink()
    found = inspect(tmp_path, 1, 8)
    assert [(m.first, m.last, m.why) for m in found.missing] == [(8, 21, "segments 2..3 are not there")]


def test_the_last_segment_is_missed_by_its_number(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    segments(tmp_path)[2].path.unlink()

    found = inspect(tmp_path, 0, 1)

    assert [(m.first, m.last, m.why) for m in found.missing] == [(15, 21, "segment 3 is not there")]


def test_an_end_that_was_cut_off_between_two_records_is_missed_too(tmp_path: Path) -> None:
    record_some(tmp_path, 3)
    path = segments(tmp_path)[1].path
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"#b ")])

    found = inspect(tmp_path, 0, 1)

    assert found.segments[1].problem == "its end is gone: no last record"
    assert [(m.first, m.last, m.why) for m in found.missing] == [(14, 14, "the end of segment 2 is gone")]


def test_what_the_end_of_the_last_segment_held_is_known_from_the_numbers_kept_beside(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    path = segments(tmp_path)[1].path
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"#b ") + 20])

    found = inspect(tmp_path, 0, 1)

    (damage,) = found.segments[1].damages
    assert (damage.first_missing, damage.last_missing) == (14, 14)


def test_the_running_segment_may_end_in_a_record_that_is_just_being_written(tmp_path: Path, clock: HandClock) -> None:
    with journal_in(tmp_path, clock) as (journal, _):
        journal.append(1, clock(), [b"whole"])
        with segments(tmp_path)[0].path.open("ab") as file:
            file.write(b"#b 2 17")
        done = call(tmp_path)
        assert done.exit_code == 0, done.output
        assert "7 bytes behind the last whole record: being written" in done.stdout
        os.truncate(segments(tmp_path)[0].path, segments(tmp_path)[0].path.stat().st_size - 7)


def test_other_files_are_named_and_left_alone(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    folder = tmp_path / "journal"
    (folder / "notes.txt").write_text("mine")
    (folder / "000000000009-20261123T123800Z.damaged").write_bytes(b"\0" * 10)
    (folder / "000000000001-20261123T123800Z.log.zst.4711.part").write_bytes(b"half")
    (folder / "000000000007-20261123T123800Z.log").mkdir()
    os.mkfifo(folder / "000000000008-20261123T123800Z.open")
    (folder / "000000000006-20261123T123800Z.log").symlink_to("nowhere")
    (folder / "current").symlink_to("000000000002-20261123T123800Z.open")

    done = call(tmp_path, "--json")

    assert done.exit_code == 0
    said = {other["name"]: (other["bytes"], other["what"]) for other in json.loads(done.stdout)["others"]}
    assert said.pop("000000000008-20261123T123800Z.open")[1] == "a pipe"
    assert said.pop("000000000007-20261123T123800Z.log")[1] == "a folder"
    assert said.pop("000000000006-20261123T123800Z.log")[1] == "a link to nothing, or to what is no file"
    assert said == {
        "notes.txt": (4, "not a journal"),
        "000000000009-20261123T123800Z.damaged": (10, "set aside at a start: as it was when damage was found"),
        "000000000001-20261123T123800Z.log.zst.4711.part": (4, "a copy half written: the next start removes it"),
    }
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_segment_nobody_may_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(tmp_path, 3)
    path = segments(tmp_path)[1].path

    def forbid(name: Path) -> FileIO:
        if name == path:
            raise PermissionError(13, "Permission denied", str(path))
        return FileIO(name)

    monkeypatch.setattr("collector_trio.journal.segments.FileIO", forbid)

    found = inspect(tmp_path, 0, 1)

    assert found.segments[1].problem == "Permission denied"
    assert [(m.first, m.last, m.why) for m in found.missing] == [(8, 14, "segment 2 cannot be read")]


def test_frames_that_stand_in_two_segments_are_told(tmp_path: Path) -> None:
    record_some(tmp_path, 2)
    first = segments(tmp_path)[0].path
    first.with_name(first.name.replace("000000000001", "000000000003")).write_bytes(first.read_bytes())

    found = inspect(tmp_path, 0, 1)

    assert found.segments[2].problem == "frame 1 and what follows stands in an earlier segment, too"


def test_a_place_without_a_journal_is_one_clear_error(tmp_path: Path) -> None:
    done = call(tmp_path)

    assert isinstance(done.exception, CollectorError)
    assert "no such folder" in str(done.exception)


def test_an_empty_journal_is_whole(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()

    done = call(tmp_path)

    assert done.exit_code == 0
    assert done.stdout.startswith("No segments.")
