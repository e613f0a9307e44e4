"""All instruments together: why books have gaps, what the ledger says of them, and going on from a dump."""

import json

import pytest
from hypothesis import strategies as st

from collector_trio.continuity.chain import Answer, Verdict
from collector_trio.continuity.fold import ANNOUNCED_NS, Continuity
from collector_trio.continuity.ledger import Cause, GapChange, Reason, State
from collector_trio.continuity.tracks import PATIENCE_NS, BookTrack

from .books import BTC, FUTURES, MS, OKX
from .soak import tried
from .tape import SECOND, A, B, Tape

NEXT, SEEN, LATE, AHEAD, BROKEN, EPOCH = Verdict


class Futures:
    """A synced book at number 100, of exchange time 100 ms, which session A has brought."""

    def __init__(self) -> None:
        self.fold = Continuity()
        self.frame = 0
        self.take(A, 90, 100)
        assert self.track.take_snapshot(100) is Answer.SYNCED

    @property
    def track(self) -> BookTrack:
        return self.fold.book_track(BTC, FUTURES)

    def take(self, session: int, prev: int, last: int) -> Verdict:
        """Take a link; its own number is its time, in milliseconds."""
        self.frame += 10
        rejected = self.fold.rejected.get(session)
        return self.track.take(session, prev, last, last * MS, self.frame, self.frame * MS, rejected)

    def rows(self) -> list[tuple[str, int | None, int | None]]:
        return [(row.state.value, row.first_missing, row.last_missing) for row in self.fold.changes()]

    def row(self) -> GapChange:
        (row,) = self.fold.changes()
        return row


def test_a_break_opens_a_gap_and_a_snapshot_ends_it_as_lost() -> None:
    book = Futures()
    book.take(A, 110, 120)
    opened = book.row()
    assert (opened.state, opened.first_missing, opened.last_missing, opened.missing) == (State.OPEN, 101, 110, None)
    assert (opened.from_ns, opened.to_ns, opened.cause) == (100 * MS, None, Cause.SKIPPED)
    book.take(A, 120, 130)
    assert book.track.take_snapshot(125) is Answer.SYNCED
    lost = book.row()
    assert (lost.gap, lost.state, lost.from_ns, lost.to_ns) == (opened.gap, State.LOST, 100 * MS, 130 * MS)


def test_a_gap_that_late_links_close_is_repaired() -> None:
    book = Futures()
    book.take(A, 110, 120)
    gap = book.row().gap
    assert book.take(A, 100, 110) is LATE
    row = book.row()
    assert (row.gap, row.state, row.to_ns) == (gap, State.REPAIRED, 120 * MS)


def test_a_gap_that_closes_before_anyone_looks_is_none() -> None:
    book = Futures()
    book.take(A, 110, 120)
    book.take(A, 100, 110)
    assert book.rows() == []


def test_a_second_break_makes_the_gap_longer_and_no_second_one() -> None:
    book = Futures()
    book.take(A, 110, 120)
    book.take(A, 130, 140)
    assert book.rows() == [("open", 101, 130)]
    book.track.take_snapshot(140)
    assert book.rows() == [("lost", 101, 130)]


def test_a_break_that_the_snapshot_which_waits_bridges_at_once_is_in_the_ledger() -> None:
    fold = Continuity()
    track = fold.book_track(BTC, FUTURES)
    track.take(A, 90, 100, 100 * MS, 1, 1, None)
    assert track.take_snapshot(110) is Answer.WAITS
    track.take(A, 105, 120, 120 * MS, 2, 2, None)
    assert track.chain.synced
    (row,) = fold.changes()
    assert (row.state, row.first_missing, row.last_missing) == (State.LOST, 101, 105)
    assert (row.from_ns, row.to_ns) == (100 * MS, 120 * MS)


def test_a_link_waits_for_another_session_until_that_one_has_passed_too() -> None:
    book = Futures()
    book.take(B, 90, 100)
    assert book.take(A, 110, 120) is AHEAD
    assert book.take(A, 120, 130) is AHEAD
    assert book.rows() == []
    assert book.take(B, 120, 130) is SEEN
    assert book.rows() == [("open", 101, 110)]
    assert book.track.chain.tip == 130


def test_the_time_of_the_book_is_that_of_the_link_which_waited_for_another_session() -> None:
    book = Futures()
    book.take(B, 90, 100)
    book.take(A, 110, 120)
    assert book.take(B, 100, 110) is NEXT
    assert book.track.tip_ns == 120 * MS
    book.take(A, 130, 140)
    book.take(B, 130, 140)
    assert book.row().from_ns == 120 * MS


def test_a_link_that_only_the_last_session_brings_ahead_is_not_lost() -> None:
    """A brought one and ended, B another: the gap is before the first of them."""
    book = Futures()
    book.take(B, 90, 100)
    assert book.take(A, 110, 120) is AHEAD
    book.fold.session_ended(A, "silent", "")
    assert book.take(B, 120, 130) is AHEAD
    row = book.row()
    assert (row.first_missing, row.last_missing, row.from_ns) == (101, 110, 100 * MS)
    assert (book.track.chain.tip, book.track.tip_ns) == (130, 130 * MS)


def test_links_wait_no_longer_than_two_seconds_of_ticks() -> None:
    book = Futures()
    book.take(B, 90, 100)
    book.take(A, 110, 120)
    since = book.frame * MS
    book.fold.tick(since + PATIENCE_NS - 1)
    assert book.rows() == []
    book.fold.tick(since + PATIENCE_NS)
    assert book.rows() == [("open", 101, 110)]


@pytest.mark.parametrize("end", ["tick", "leave", "seen"])
def test_giving_up_may_sync_the_book_with_the_snapshot_that_waited(end: str) -> None:
    fold = Continuity()
    track = fold.book_track(BTC, FUTURES)
    for session in (A, B):
        track.take(session, 90, 100, 100 * MS, 1, 1, None)
    assert track.take(A, 110, 120, 120 * MS, 2, 2, None) is AHEAD
    assert track.take_snapshot(115) is Answer.WAITS
    if end == "tick":
        fold.tick(2 + PATIENCE_NS)
    elif end == "leave":
        fold.session_ended(B, "closed", "")
    else:
        assert track.take(B, 110, 120, 120 * MS, 3, 3, None) is SEEN
    assert (track.chain.synced, track.chain.apply) == (True, [(110, 120)])
    (row,) = fold.changes()
    assert (row.state, row.first_missing, row.last_missing) == (State.LOST, 101, 110)


# Why


def test_a_book_breaks_because_the_session_before_ended() -> None:
    book = Futures()
    book.fold.session_ended(A, "closed", "1006")
    book.take(B, 110, 120)
    row = book.row()
    assert (row.cause, row.detail) == (Cause.DISCONNECT, "session 1: closed: 1006")


NOTICE = "serverShutdown"


def test_a_session_that_ends_as_the_exchange_announced_leaves_a_gap_of_maintenance() -> None:
    book = Futures()
    book.fold.session_notice(A, 100 * MS, NOTICE)
    book.fold = Continuity.load(json.loads(json.dumps(book.fold.dump())))
    book.fold.session_ended(A, "closed", "1001")
    book.fold.session_ended(B, "refused", "HTTP 503")  # it never brought anything
    book.take(B + 1, 110, 120)
    row = book.row()
    assert (row.cause, row.detail) == (Cause.MAINTENANCE, "session 1: closed: 1001; announced: serverShutdown")
    assert not book.fold.announced


@pytest.mark.parametrize(
    ("session", "reason", "later_ns"), [(B, "closed", 0), (A, "stopped", 0), (A, "closed", ANNOUNCED_NS + MS)]
)
def test_a_notice_explains_the_end_of_its_own_session_soon_after_and_no_end_that_is_ours(
    session: int, reason: str, later_ns: int
) -> None:
    book = Futures()
    book.fold.session_notice(session, 100 * MS, NOTICE)
    book.fold.tick(100 * MS + later_ns)
    book.fold.session_ended(A, reason, "")
    book.take(B, 110, 120)
    assert book.row().cause is Cause.DISCONNECT


def test_a_shorter_outage_after_an_announced_one_does_not_hide_why_it_all_began() -> None:
    book = Futures()
    book.fold.session_notice(A, 100 * MS, NOTICE)
    book.take(B, 90, 100)
    book.fold.session_ended(A, "closed", "1001")
    book.fold.session_ended(B, "reset", "")
    book.take(B + 1, 110, 120)
    assert book.row().cause is Cause.MAINTENANCE


def test_what_an_exchange_says_of_its_maintenance_explains_why_sessions_ended_just_before() -> None:
    book = Futures()
    book.fold.maintained(BTC.exchange, "too early: nothing has ended")
    book.fold.session_ended(A, "eof", "")
    book.fold.maintained("okx", "another one's")
    book.fold.maintained(BTC.exchange, "WebSocket upgrade")
    book.take(B, 110, 120)
    row = book.row()
    assert (row.cause, row.detail) == (Cause.MAINTENANCE, "session 1: eof; announced: WebSocket upgrade")


def test_a_book_breaks_because_the_session_that_was_waited_for_ended() -> None:
    book = Futures()
    book.take(B, 110, 120)
    book.fold.session_ended(A, "closed", "")
    assert book.row().cause is Cause.DISCONNECT


def test_a_book_breaks_because_nothing_ran() -> None:
    book = Futures()
    book.fold.process_started()
    book.fold.session_ended(A, "process died", "")
    book.take(B, 110, 120)
    assert book.row().cause is Cause.PROCESS_DOWN


def test_an_outage_that_a_restart_ends_is_still_told() -> None:
    book = Futures()
    book.fold.session_ended(A, "reset", "by peer")
    for _ in range(3):
        book.fold.process_started()
        book.fold = Continuity.load(json.loads(json.dumps(book.fold.dump())))
    book.take(B, 110, 120)
    row = book.row()
    assert (row.cause, row.detail) == (Cause.PROCESS_DOWN, "after disconnect: session 1: reset: by peer")


@pytest.mark.parametrize("twin", [False, True])
def test_a_book_breaks_because_a_frame_could_not_be_used(twin: bool) -> None:
    book = Futures()
    if twin:
        book.take(B, 90, 100)
    book.fold.rejected[A] = book.frame + 5, "no JSON"
    book.take(A, 110, 120)
    if twin:
        book.take(B, 110, 120)
    assert book.row().cause is Cause.REJECT


def test_what_broke_the_book_once_does_not_explain_the_next_break() -> None:
    book = Futures()
    book.fold.session_ended(A, "closed", "")
    book.take(B, 110, 120)
    book.track.take_snapshot(120)
    book.fold.changes()
    book.take(B, 130, 140)
    assert book.row().cause is Cause.SKIPPED


def test_what_explained_a_break_that_was_waited_for_does_not_explain_the_next() -> None:
    book = Futures()
    book.take(B, 90, 100)
    book.fold.session_ended(B, "closed", "")
    book.take(B + 1, 90, 100)
    for session in (A, B + 1):
        book.take(session, 110, 120)
    assert book.row().cause is Cause.DISCONNECT
    book.track.take_snapshot(120)
    book.fold.changes()
    for session in (A, B + 1):
        book.take(session, 130, 140)
    assert book.row().cause is Cause.SKIPPED


def test_what_a_session_could_not_use_is_forgotten_with_it() -> None:
    fold = Continuity()
    fold.rejected[A] = 1, "no JSON"
    fold.session_ended(A, "closed", "")
    assert not fold.rejected


def test_a_change_that_cannot_be_read_opens_a_gap_behind_the_one_before() -> None:
    book = Futures()
    book.take(A, 100, 110)
    book.take(A, 110, 120)
    book.track.spoil(100, 100 * MS, Reason(Cause.REJECT, "no number"))
    row = book.row()
    assert (row.cause, row.first_missing, row.from_ns) == (Cause.REJECT, 101, 100 * MS)
    assert book.track.wants_snapshot


# Snapshots on the socket


class Okx(Futures):
    """A synced book at number 100, of exchange time 100 ms, which session A has brought."""

    def __init__(self) -> None:
        self.fold = Continuity()
        self.frame = 0
        assert self.whole(A, 100) is EPOCH

    @property
    def track(self) -> BookTrack:
        return self.fold.book_track(BTC, OKX)

    def whole(self, session: int, number: int, ms: int | None = None) -> Verdict:
        self.frame += 10
        return self.track.take_whole(session, number, (ms or number) * MS, self.frame, self.fold.rejected.get(session))


def test_a_snapshot_after_a_reconnect_names_what_lies_between() -> None:
    book = Okx()
    book.fold.session_ended(A, "closed", "")
    assert book.whole(B, 130) is EPOCH
    row = book.row()
    assert (row.state, row.first_missing, row.last_missing, row.cause) == (State.LOST, 101, 130, Cause.DISCONNECT)
    assert (row.from_ns, row.to_ns) == (100 * MS, 130 * MS)


def test_a_snapshot_that_says_what_is_known_opens_no_gap() -> None:
    book = Okx()
    book.take(A, 100, 110)
    assert book.whole(B, 110) is SEEN
    assert book.whole(B, 110) is SEEN
    assert book.rows() == []


def test_a_new_sessions_snapshot_may_be_ahead_of_the_old_one_and_nothing_is_lost() -> None:
    book = Okx()
    assert book.whole(B, 130) is EPOCH
    assert book.take(B, 130, 140) is NEXT
    assert book.rows() == []
    assert [book.take(A, 100, 120), book.take(A, 120, 130), book.take(A, 130, 140)] == [LATE, LATE, SEEN]
    assert not book.track.is_pending
    assert book.take(A, 140, 150) is NEXT
    assert book.rows() == []


def test_a_new_sessions_snapshot_may_be_behind_the_old_one_and_nothing_is_lost() -> None:
    book = Okx()
    book.take(A, 100, 130)
    assert book.whole(B, 115) is SEEN
    assert book.take(B, 115, 130) is SEEN
    assert book.take(B, 130, 140) is NEXT
    assert book.rows() == []


def test_what_nobody_brings_of_before_a_snapshot_is_lost_after_two_seconds_of_ticks() -> None:
    book = Okx()
    book.whole(B, 130)
    book.take(B, 130, 140)
    book.fold.tick(10 * SECOND)
    book.fold.tick(10 * SECOND + PATIENCE_NS - 1)
    assert book.rows() == []
    book.fold.tick(10 * SECOND + PATIENCE_NS)
    row = book.row()
    assert (row.state, row.first_missing, row.last_missing) == (State.LOST, 101, 130)
    assert (row.from_ns, row.to_ns) == (100 * MS, 130 * MS)
    assert book.track.chain.synced


def test_a_gap_that_a_snapshot_and_late_links_close_before_anyone_looks_is_none() -> None:
    book = Okx()
    book.take(A, 120, 130)
    book.whole(B, 140)
    assert book.rows() == []
    assert [book.take(A, 100, 120), book.take(A, 130, 140)] == [LATE, LATE]
    assert book.rows() == []
    assert not book.track.is_pending


def test_what_the_session_that_ended_did_not_bring_of_before_a_snapshot_is_lost() -> None:
    book = Okx()
    book.whole(B, 130)
    book.fold.session_ended(A, "closed", "")
    assert book.rows() == [("lost", 101, 130)]


def test_a_snapshot_whose_numbers_begin_anew_is_an_epoch_with_no_last_missing_number() -> None:
    book = Okx()
    assert book.whole(A, 7, ms=140) is EPOCH
    assert book.rows() == [("lost", 101, None)]
    assert book.take(A, 7, 150) is NEXT


def test_a_link_of_before_the_gap_is_not_late() -> None:
    book = Okx()
    book.take(A, 120, 130)
    assert book.take(B, 80, 90) is SEEN


def test_a_link_that_is_remembered_was_seen_however_late_it_comes_again() -> None:
    book = Okx()
    book.take(A, 100, 110)
    book.take(A, 110, 1_000_000)
    assert book.take(B, 100, 110) is SEEN


def test_a_link_of_long_before_is_not_taken_for_late_when_the_exchanges_clock_went_back() -> None:
    book = Okx()
    book.take(A, 100, 1_000_000)
    book.take(A, 1_000_000, 1_000_001)
    assert book.take(A, 120, 130) is BROKEN


# Going on


def test_what_is_pending_goes_on_being_waited_for_after_a_dump() -> None:
    book = Futures()
    book.take(B, 90, 100)
    book.take(A, 110, 120)
    book.fold = Continuity.load(json.loads(json.dumps(book.fold.dump())))
    assert book.take(B, 100, 110) is NEXT
    assert (book.track.chain.tip, book.rows()) == (120, [])


STEPS = st.lists(
    st.tuples(st.sampled_from(["next", "next", "skip", "back", "end", "tick", "reject", "look"]), st.integers(1, 3)),
    max_size=40,
)


@tried(60, STEPS)
def test_who_goes_on_from_a_dump_of_trades_says_the_same_as_who_never_stopped(steps: list[tuple[str, int]]) -> None:
    stayed, went, at = Tape(), Tape(), {1: 50, 2: 50, 3: 50}
    for what, session in steps:
        said = list[object]()
        for tape in (stayed, went):
            if what in ("next", "skip", "back"):
                first = at[session] + {"next": 0, "skip": 3, "back": -9}[what]
                said.append(tape.take(session, first, first + 1))
            elif what == "end":
                said.append(tape.end(session))
            elif what == "tick":
                said.append(tape.tick())
            elif what == "reject":
                said.append(tape.reject(session))
            else:
                said.append(tape.ledger())
            assert tape.fold.divergence(tape.fold.dump()) == 0
        assert said[0] == said[1]
        at[session] += {"next": 2, "skip": 5}.get(what, 0)
        went.fold = Continuity.load(json.loads(json.dumps(went.fold.dump())))
        assert went.fold.divergence(stayed.fold.dump()) == 0
    assert went.ledger() == stayed.ledger()
    assert went.rows == stayed.rows
    assert went.fold.missing["trades"] == stayed.fold.missing["trades"]


@pytest.mark.parametrize("dropped", [1, 5, 8])
def test_two_folds_diverge_once_one_of_them_has_missed_a_trade(dropped: int) -> None:
    one, other = Tape(), Tape()
    for id_ in range(10):
        one.take(A, id_)
        if id_ != dropped:
            other.take(A, id_)
    assert one.fold.divergence(other.fold.dump()) == 1
    assert other.fold.divergence(one.fold.dump()) == 1
    other.take(A, dropped)
    assert one.fold.divergence(other.fold.dump()) == 0


def test_two_folds_diverge_once_one_of_them_has_missed_a_change_or_knows_a_book_more() -> None:
    one, other = Futures(), Futures()
    one.take(A, 100, 110)
    assert one.fold.divergence(other.fold.dump()) == 1
    assert Continuity().divergence(one.fold.dump()) == 1
    assert one.fold.divergence(Continuity().dump()) == 1
