"""What the recorder knows after a restart is what it knew before, from the journal's end, or its copy."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from collector_trio.continuity.fold import Continuity
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter
from collector_trio.journal.segments import journal_dir, list_segments, state_copy
from collector_trio.streams.live import Live, recall

from ..followers.recordings import INSTRUMENTS, Recorder, binance_depth, binance_trade, recording
from ..journal.writing import HandClock, notes


def known(continuity: Continuity) -> Any:
    return {key: track.state for key, track in (continuity.trades | continuity.books).items()}  # type: ignore[operator]


def after_trades(recorder: Recorder, *ids: int) -> None:
    session = recorder.open()
    recorder.receive(session, *(binance_trade(number) for number in ids), binance_depth(1, 5), binance_depth(6, 9))


def test_without_an_end_that_says_it_all_records_are_read(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        after_trades(recorder, 1, 2, 5)
        recorder.next_segment()
    trades = recall(tmp_path, EXCHANGES, structlog.get_logger()).trades["binance", "spot", "BTCUSDT"]
    assert trades.state == (1, 5, ((3, 4),))


@pytest.mark.parametrize("gone", [False, True])
def test_the_end_of_a_segment_says_what_was_known_even_when_the_segment_is_gone(tmp_path: Path, gone: bool) -> None:
    live = Live(Continuity(), structlog.get_logger())
    track = live.continuity.trade_track(INSTRUMENTS["binance", "spot"][0])
    for number in (7, 8, 11):
        track.take(1, number, number, 0, number, 0, None)
    with recording(tmp_path, HandClock()) as recorder:
        journal: Journal = recorder.journal
        journal.state, journal.on_note = live.continuity.dump, live.on_note
        recorder.next_segment()
    assert state_copy(tmp_path).exists()
    if gone:
        for segment in list_segments(journal_dir(tmp_path)):
            segment.path.unlink()
    again = recall(tmp_path, EXCHANGES, structlog.get_logger())
    assert known(again) == known(live.continuity)
    assert again.trades["binance", "spot", "BTCUSDT"].state == (7, 11, ((9, 10),))


def test_an_end_that_cannot_be_read_is_said_and_gaps_are_looked_for_anew(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        recorder.journal.note(Letter.STATE, {"trades": "nonsense"})
    with structlog.testing.capture_logs() as logged:
        assert recall(tmp_path, EXCHANGES, structlog.get_logger()).trades == {}
    assert [entry["event"] for entry in logged] == ["state unreadable, gaps are looked for anew"]


def test_a_book_that_the_follower_cannot_read_is_wanted_whole_once_and_both_folds_hear_of_it(tmp_path: Path) -> None:
    live = Live(Continuity(), structlog.get_logger())
    btc = INSTRUMENTS["binance", "spot"][0]
    book = live.continuity.book_track(btc, EXCHANGES["binance"].book_rules("spot"))
    book.take(1, 4, 5, 0, 1, 0, None)
    book.take_snapshot(5)
    with recording(tmp_path, HandClock()) as recorder:
        recorder.journal.on_note = live.on_note
        live.heed({"binance spot BTCUSDT": 2}, recorder.journal)  # of an earlier run
        assert book.chain.synced
        live.heed({"binance spot BTCUSDT": 3}, recorder.journal)
        assert book.wants_snapshot
        book.take(1, 5, 6, 0, 2, 0, None)
        book.take_snapshot(6)
        live.heed({"binance spot BTCUSDT": 3, "okx spot NEVER-SEEN": 1}, recorder.journal)
        assert book.chain.synced
    book_named = {"exchange": "binance", "market": "spot", "native_symbol": "BTCUSDT"}
    assert notes(tmp_path, Letter.VERDICT) == [{"verdict": "unreadable", **book_named}]
