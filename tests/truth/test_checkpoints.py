"""Folding twice, or in parts through a checkpoint anywhere, gives the same rows; what a restart missed is in the
ledger.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from collector_trio.followers import state
from collector_trio.followers.fold import Fold
from collector_trio.followers.tables import new_fold
from collector_trio.journal.records import Batch, Letter, Note, read_records
from collector_trio.journal.segments import journal_dir, list_segments
from collector_trio.sim import Scenario

from .catalogue import MIXED
from .world import simulate

Rows = dict[str, list[Any]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Batch | Note]:
    """A journal of a few seconds in which much goes wrong; made once."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    data_dir = tmp_path_factory.mktemp("mixed")
    simulate(data_dir, Scenario(symbols=("BTC-USDT",), quiet_symbols=(), faults=MIXED, book_levels=40), seed, 12.0)
    found = [record for segment in list_segments(journal_dir(data_dir)) for record in read_records(segment.read())]
    assert all(isinstance(record, (Batch, Note)) for record in found)
    return found  # type: ignore[return-value]


def rows_of(fold: Fold, into: Rows) -> None:
    for (table, exchange, market), found in fold.take().items():
        into[f"{table} {exchange} {market}"] += [tuple(map(str, row.values())) for row in found.to_pylist()]


def folded(records: Iterable[Batch | Note]) -> Rows:
    fold, rows = new_fold(), defaultdict(list)
    for record in records:
        fold.feed(record)
    rows_of(fold, rows)
    return dict(rows)


def reloaded(fold: Fold) -> Fold:
    return Fold.load(state.decode(state.encode(fold.dump())))


def in_parts(records: Sequence[Batch | Note], cuts: set[int]) -> Rows:
    """Fold, going on from a checkpoint at each of `cuts`."""
    fold, rows = new_fold(), defaultdict(list)
    for index, record in enumerate(records):
        if index in cuts:
            rows_of(fold, rows)
            fold = reloaded(fold)
        fold.feed(record)
    rows_of(fold, rows)
    return dict(rows)


def test_folding_twice_gives_the_same_rows(records: list[Batch | Note]) -> None:
    assert folded(records) == folded(records)


def test_going_on_from_a_checkpoint_at_every_record_gives_the_same_rows(records: list[Batch | Note]) -> None:
    part = records[: len(records) // 3]
    assert in_parts(part, set(range(len(part)))) == folded(part)


def test_two_halves_give_the_same_rows_wherever_they_are_cut(records: list[Batch | Note]) -> None:
    whole = folded(records)
    for cut in random.Random(1).sample(range(1, len(records)), 4):
        assert in_parts(records, {cut}) == whole


@pytest.mark.soak
def test_two_halves_give_the_same_rows_cut_at_many_records(records: list[Batch | Note]) -> None:
    whole = folded(records)
    for cut in random.Random(2).sample(range(1, len(records)), 150):
        assert in_parts(records, {cut}) == whole


def test_rows_do_not_depend_on_how_many_wait_to_become_columns(
    records: list[Batch | Note], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = folded(records)
    monkeypatch.setattr("collector_trio.followers.intake.CHUNK", 3)
    assert folded(records) == whole


def test_a_kill_between_any_two_records_is_a_gap_process_down_with_the_right_bounds(tmp_path: Path) -> None:
    """The journal of an undisturbed run, cut anywhere; then another process goes on, later in the same market."""
    simulate(tmp_path, Scenario(symbols=("BTC-USDT",), quiet_symbols=(), book_levels=40), 5, 6.0)
    records = [r for segment in list_segments(journal_dir(tmp_path)) for r in read_records(segment.read())]
    data = [index for index, record in enumerate(records) if isinstance(record, Batch)]
    draw = random.Random(2)
    for cut in draw.sample(data[len(data) // 4 : -len(data) // 4], 25):
        later = cut + draw.choice((0, 1, 5, 40))
        start = Note(
            Letter.PROCESS, records[later - 1].ns if isinstance(records[later - 1], Note) else 0, {"event": "start"}
        )
        opened = [
            r for r in records[:cut] if isinstance(r, Note) and r.letter is Letter.OPENED and "again" not in r.value
        ]
        dead = [Note(Letter.ENDED, start.ns, _ending(note.value) | {"reason": "process died"}) for note in opened]
        again = [
            Note(Letter.OPENED, start.ns, note.value | {"session": note.value["session"] + 1000}) for note in opened
        ]
        rest = [
            Batch(r.first_frame, r.received_ns, r.session + 1000, r.frames)
            for r in records[later:]
            if isinstance(r, Batch) and any(r.session == note.value["session"] for note in opened)
        ]
        head = [r for r in records[:cut] if isinstance(r, Batch) or r.letter is not Letter.ENDED]
        fold = new_fold()
        for record in [*head, start, *dead, *again, *rest]:
            fold.feed(record)
        before, after = _ids(head), _ids(rest)
        expected = {
            key: (max(ids) + 1, min(after[key]) - 1)
            for key, ids in before.items()
            if key in after and min(after[key]) > max(ids) + 1
        }
        found = {}
        for (table, exchange, market), gaps in fold.take().items():
            for gap in gaps.to_pylist() if table == "gaps" else ():
                assert gap["cause"] == "process down"
                if gap["table"] == "trades":
                    found[exchange, market] = (gap["first_missing"], gap["last_missing"])
                elif market == "spot" and exchange == "binance":
                    assert gap["state"] == "open"
        assert found == expected


def _ending(value: dict[str, Any]) -> dict[str, Any]:
    return {"live_ns": None, "peer": "", "detail": "", "frames": 0, "bytes": 0} | {
        name: item for name, item in value.items() if name != "again"
    }


def _ids(records: Iterable[Any]) -> dict[tuple[str, str], list[int]]:
    """Read trade ids plainly, by exchange and market."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in records:
        for frame in record.frames if isinstance(record, Batch) else ():
            message = json.loads(frame) if frame[:1] == b"{" else {}
            if "@aggTrade" in message.get("stream", ""):
                found["binance", "perp" if "st" in message["data"] else "spot"].append(message["data"]["a"])
            elif message.get("arg", {}).get("channel") == "trades-all" and "data" in message:
                swap = message["arg"]["instId"].endswith("SWAP")
                found["okx", "perp" if swap else "spot"] += [int(trade["tradeId"]) for trade in message["data"]]
    return found
