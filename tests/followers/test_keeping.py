"""Books, where two sessions and a snapshot by REST meet: the levels follow the chain, whoever ends the waiting."""

import json
from typing import Any

import pytest

from collector_trio.continuity.book import Book
from collector_trio.continuity.fold import Continuity
from collector_trio.followers.fold import Fold
from collector_trio.followers.state import book_of, book_state
from collector_trio.instruments import Naming
from collector_trio.journal.records import Batch, Letter, Note

NS = 1_795_439_000_000_000_000


def delta(prev: int, last: int) -> bytes:
    """A change of a USD-M book that sets the size at price 1 to its own number."""
    data = {"e": "depthUpdate", "E": 1795439000000 + last, "T": 1795439000000, "s": "BTCUSDT", "U": last, "u": last}
    data |= {"pu": prev, "b": [["1.0", str(last)]], "a": [["3.0", "1"]]}
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": data}).encode()


def whole(number: int) -> bytes:
    return json.dumps({"lastUpdateId": number, "bids": [["2.0", str(number)]], "asks": [["4.0", "1"]]}).encode()


class Scene:
    """A fold of one USD-M book that two sessions bring; frames are numbered as they come."""

    def __init__(self) -> None:
        self.fold = Fold(Naming(unknown_market="perp"), continuity=Continuity())
        self.frame, self.ns = 1, NS
        for session in (1, 2):
            opened = {"session": session, "exchange": "binance", "markets": ["perp"], "stream": f"s/{session}"}
            self.fold.feed(Note(Letter.OPENED, NS, opened))

    def says(self, session: int, *frames: bytes) -> None:
        for frame in frames:
            self.ns += 1000
            self.fold.feed(Batch(self.frame, self.ns, session, [frame]))
            self.frame += 1

    def rest(self, number: int) -> None:
        request = {"session": 90 + self.frame, "exchange": "binance", "market": "perp", "native_symbol": "BTCUSDT"}
        self.fold.feed(Note(Letter.REQUEST, self.ns, request | {"url": ""}))
        self.says(90 + self.frame, whole(number))

    def note(self, letter: Letter, **value: Any) -> None:
        self.ns += 3_000_000_000
        self.fold.feed(Note(letter, self.ns, value))

    @property
    def levels(self) -> tuple[dict[float, float], dict[float, float]]:
        self.fold.flush()
        book = self.fold.book("binance", "perp", "BTCUSDT")
        return book.bids, book.asks


ENDED = {"session": 2, "reason": "eof", "detail": "", "markets": ["perp"], "exchange": "binance", "stream": "s/2"}
ENDED |= {"opened_ns": NS, "live_ns": None, "frames": 0, "bytes": 0, "peer": ""}


@pytest.mark.parametrize("ending", ["tick", "end", "duplicate"])
def test_a_snapshot_that_waits_is_loaded_when_the_waiting_for_another_session_ends(ending: str) -> None:
    scene = Scene()
    scene.says(1, delta(90, 100))
    scene.says(2, delta(90, 100))
    scene.says(1, delta(110, 120))  # 100 to 110 may still come by the other session
    scene.rest(115)
    if ending == "tick":
        scene.note(Letter.TICK)
        scene.note(Letter.TICK)
    elif ending == "end":
        scene.note(Letter.ENDED, **ENDED)
    else:
        scene.says(2, delta(110, 120))
    scene.says(1, delta(120, 130))
    assert scene.levels == ({2.0: 115.0, 1.0: 130.0}, {4.0: 1.0, 3.0: 1.0})
    rows = {table: found for (table, _, _), found in scene.fold.take().items()}
    assert rows["book"].column("last_seq").to_pylist() == [100, 120, 130]
    (stored,) = rows["book_snapshots"].select(["last_seq", "bid_price", "bid_size"]).to_pylist()
    assert stored == {"last_seq": 120, "bid_price": [2.0, 1.0], "bid_size": [115.0, 120.0]}


def test_a_gap_that_late_changes_close_leaves_the_levels_of_all_changes_and_not_of_the_snapshot_that_waited() -> None:
    scene = Scene()
    scene.says(1, delta(90, 100))
    scene.rest(100)
    scene.says(1, delta(110, 120))
    scene.rest(500)
    scene.says(1, delta(100, 110), delta(120, 130))
    assert scene.levels == ({2.0: 100.0, 1.0: 130.0}, {4.0: 1.0, 3.0: 1.0})
    states = [
        row["state"] for (table, _, _), rows in scene.fold.take().items() if table == "gaps" for row in rows.to_pylist()
    ]
    assert states == ["open", "repaired"]


def test_a_level_that_is_none_breaks_its_book_until_the_verdict_has_brought_a_whole_one() -> None:
    scene = Scene()
    scene.says(1, delta(90, 100))
    scene.rest(100)
    scene.says(1, delta(100, 110), delta(110, 120).replace(b'"120"', b'"1.2.3"'), delta(120, 130))
    assert scene.levels[0] == {2.0: 100.0, 1.0: 110.0}
    assert scene.fold.totals["unreadable"] == {"binance perp BTCUSDT": 1}
    verdict = {"verdict": "unreadable", "exchange": "binance", "market": "perp", "native_symbol": "BTCUSDT"}
    scene.note(Letter.VERDICT, **verdict)
    scene.says(1, delta(130, 140))
    scene.rest(140)
    scene.says(1, delta(140, 150))
    assert scene.levels[0] == {2.0: 140.0, 1.0: 150.0}
    gaps = [row for (table, _, _), rows in scene.fold.take().items() if table == "gaps" for row in rows.to_pylist()]
    assert [(gap["state"], gap["cause"], gap["first_missing"]) for gap in gaps] == [
        ("open", "reject", 111), ("lost", "reject", 111)
    ]  # fmt: skip


def test_a_book_that_was_packed_is_the_same_with_its_bounds_and_exact_numbers() -> None:
    texts = {("bid", 1.0): ("1.000000000000000001", "2")}
    book = Book({1.0: 2.0, 0.5: 3.0}, {4.0: 5.0}, bid_bound=0.5, ask_bound=None, texts=texts)
    assert book_of(book_state(book, None, [], None)) == book
