"""One instrument's trades, or its book, as several sessions bring them: what is new, and what is missing for sure.

A *leg* is a session that has brought something of the instrument and has not ended. A hole that one leg leaves may be
filled by another one, so it is *pending* until every other leg has passed it or ended, or `PATIENCE_NS` of recorded
seconds have gone by; then it is in the ledger. What comes later all the same repairs it.
"""

from collections.abc import Iterator
from typing import Any

import attrs

from collector_trio.continuity.chain import Answer, Chain, Verdict
from collector_trio.continuity.coverage import Coverage, Finding, Hole
from collector_trio.continuity.ledger import Cause, GapChange, Reason, State, gap_id

PATIENCE_NS = 2_000_000_000
# What was made so much later than the last thing seen is no duplicate of an earlier one, however low its number: the
# exchange counts from anew. One session's book changes come in the order of their time, several sessions' need not.
AGAIN_NS = 5_000_000_000
# What is so much older than what was there before it is not late: the exchange's clock went back.
OLD_NS = 60_000_000_000


@attrs.define
class Track:
    """What trades and books have in common: whose they are, who brings them, and why something may be missing next."""

    exchange: str
    market: str
    symbol: str
    native_symbol: str
    legs: set[int] = attrs.field(factory=set)
    last_frame: int = 0  # of the last new item
    reason: Reason | None = None  # what happened since
    refused_ns: tuple[int, int] = (0, 0)  # since and until when nothing was accepted the last time

    def refused(self, since_ns: int, until_ns: int) -> None:
        """Take note that nothing was accepted from `since_ns` to `until_ns`."""
        self.refused_ns = (since_ns, until_ns)
        self.happened(self._backpressure())

    def _backpressure(self) -> Reason:
        since_ns, until_ns = self.refused_ns
        return Reason(Cause.BACKPRESSURE, f"nothing was accepted for {(until_ns - since_ns) / 1e9:.1f} s")

    def _why(self, rejected: tuple[int, str] | None, from_ns: int | None, to_ns: int | None) -> Reason:
        """Return why what is between `from_ns` and `to_ns` of exchange time is missing.

        What lay in buffers when reading stopped comes first when it goes on, and follows without a hole. What the
        exchange made then, and could not send, is missing because of it all the same.
        """
        since_ns, until_ns = self.refused_ns
        ran = self.reason is None or self.reason.cause is not Cause.PROCESS_DOWN
        if ran and from_ns is not None and to_ns is not None and from_ns < until_ns and to_ns > since_ns:
            if self.reason is None or self.reason.cause is not Cause.BACKPRESSURE:
                return self._backpressure()
            return self.reason.told
        if self.reason is not None:
            return self.reason.told
        if rejected is not None and rejected[0] > self.last_frame:
            return Reason(Cause.REJECT, f"frame {rejected[0]}: {rejected[1]}")
        return Reason(Cause.SKIPPED)

    def _why_left(self, found: Reason) -> Reason:
        """Return why something is missing that a session could have brought which has just ended."""
        return self.reason.told if found.cause is Cause.SKIPPED and self.reason is not None else found

    def happened(self, reason: Reason) -> None:
        """Take note of what may be why the next item does not follow.

        That nothing ran explains more than that the disk was full, and that more than that a session ended, of which
        an announced end explains more than those that follow it. What is outweighed may have lasted longer, so it is
        told too.
        """
        order = (Cause.DISCONNECT, Cause.MAINTENANCE, Cause.DAMAGE, Cause.BACKPRESSURE, Cause.PROCESS_DOWN)
        if self.reason is None:
            self.reason = reason
        elif order.index(reason.cause) >= order.index(self.reason.cause):
            self.reason = reason.outweighing(self.reason)

    @property
    def is_pending(self) -> bool:
        """Tell whether another leg is waited for."""
        raise NotImplementedError

    def leave(self, session: int) -> None:
        """Take note that a session has ended: nobody waits for it any more."""
        raise NotImplementedError

    def wait_no_more(self, before_ns: int | None = None) -> None:
        """Give up waiting for other legs where that has gone on since `before_ns` or longer (None: everywhere)."""
        raise NotImplementedError

    def _gap(self, table: str, first: int) -> str:
        return gap_id(table, self.exchange, self.market, self.symbol, first)


@attrs.define
class TradeTrack(Track):
    """The trades of one instrument."""

    coverage: Coverage = attrs.field(factory=Coverage)
    known: list[Hole] = attrs.field(factory=list)  # as they stand in the ledger: open
    restarts: list[Hole] = attrs.field(factory=list)  # where the exchange began to count again, since the last look
    waits: bool = False  # a hole waits for another leg
    dirty: bool = False

    def take(
        self, session: int, first: int, last: int, ns: int, frame: int, received_ns: int,
        rejected: tuple[int, str] | None,
    ) -> bool:  # fmt: skip
        """Take ids `first..last` of exchange time `ns` from `session`; tell whether they are new.

        `rejected` is that session's last frame that could not be used.
        """
        coverage = self.coverage
        mark, mark_ns, epoch = coverage.mark, coverage.mark_ns, coverage.epoch
        if first == self.next_id:
            self.follow(session, last, ns, frame)
            return True
        self.legs.add(session)
        new = coverage.take(first, last, ns)
        if not new and coverage.mark_ns is not None and ns > coverage.mark_ns + AGAIN_NS:
            coverage.begin_again(first, last, ns)  # no duplicate: it was made after all that was seen
            new = True
        if coverage.epoch != epoch:
            self.restarts.append(
                Hole(mark + 1, first - 1, mark_ns, ns, Finding(self._why(rejected, mark_ns, ns), received_ns, set()))
            )
        if not new and not self.waits:
            return False
        for hole in coverage.holes:
            if hole.finding is None:
                others = self.legs - {session}
                hole.finding = Finding(self._why(rejected, hole.from_ns, hole.to_ns), received_ns, others)
            elif first > hole.last:
                _found(hole).waiting.discard(session)
        self._look()
        if coverage.mark != mark:  # what fills a hole says nothing of what happened to the sessions since
            self.last_frame, self.reason = frame, None
        return new

    @property
    def next_id(self) -> int | None:
        """The id that goes on where the last one ended; None while a hole waits, for then any one may matter."""
        return None if self.waits else self.coverage.mark + 1

    def follow(self, session: int, last: int, ns: int, frame: int) -> None:
        """Take ids from `next_id` to `last`, of exchange time `ns`: what `take` would do with them, one after another.

        `ns` and `frame` are those of the last one.
        """
        self.legs.add(session)
        self.coverage.mark, self.coverage.mark_ns = last, ns
        self.last_frame, self.reason = frame, None

    def take_number(self, session: int, number: int, frame: int, received_ns: int) -> bool:
        """Take an id that the exchange gave to what is no trade: it is not missing. Its time is nobody's."""
        ns = self.coverage.mark_ns or received_ns
        return self.take(session, number, number, ns, frame, received_ns, None)

    @property
    def is_pending(self) -> bool:
        """Tell whether a hole waits for another leg."""
        return self.waits

    def _look(self) -> None:
        self.waits = any(not _found(hole).is_open for hole in self.coverage.holes)
        self.dirty = True

    def leave(self, session: int) -> None:
        """Take note that a session has ended: nobody waits for it any more."""
        self.legs.discard(session)
        for hole in self.coverage.holes:
            finding = _found(hole)
            if session in finding.waiting:
                finding.waiting.discard(session)
                finding.reason = self._why_left(finding.reason)
        self._look()

    def wait_no_more(self, before_ns: int | None = None) -> None:
        """Give up waiting for holes found up to `before_ns` (None: all of them)."""
        for hole in self.coverage.holes:
            if before_ns is None or _found(hole).found_ns <= before_ns:
                _found(hole).waiting.clear()
        self._look()

    def changes(self) -> Iterator[GapChange]:
        """Yield what has changed in the ledger since the last call: parts that came, then what is open now."""
        self.dirty = False
        for hole in self.restarts:  # how much that was nobody can say
            change = self._change(hole, State.LOST, hole.first, hole.first)
            yield attrs.evolve(change, last_missing=None, missing=None, detail=f"numbers begin again; {change.detail}")
        self.restarts = []
        opened = [hole for hole in self.coverage.holes if _found(hole).is_open]
        now, self.coverage.forgotten = self.coverage.forgotten + opened, []
        before, self.known = self.known, [attrs.evolve(hole) for hole in opened]
        unchanged = {(hole.first, hole.last) for hole in now} & {(hole.first, hole.last) for hole in before}
        for known in before:
            if (known.first, known.last) in unchanged:
                continue
            position = known.first
            for hole in now:
                if known.first <= hole.first <= known.last:
                    if position < hole.first:
                        yield self._change(known, State.REPAIRED, position, hole.first - 1)
                    position = hole.last + 1
            if position <= known.last:
                yield self._change(known, State.REPAIRED, position, known.last)
        for hole in now:
            if (hole.first, hole.last) not in unchanged:
                yield self._change(hole, State.OPEN, hole.first, hole.last)

    def _change(self, hole: Hole, state: State, first: int, last: int) -> GapChange:
        reason = _found(hole).reason
        return GapChange(
            "trades", self.exchange, self.market, self.symbol, self._gap("trades", first), state, first, last,
            last - first + 1, hole.from_ns, hole.to_ns, reason.cause, reason.detail,
        )  # fmt: skip

    @property
    def state(self) -> tuple[Any, ...]:
        """What two folds must agree on. What a damaged journal lost only who reads it can miss."""
        holes = (hole for hole in self.coverage.holes if _found(hole).reason.cause is not Cause.DAMAGE)
        return self.coverage.start, self.coverage.mark, tuple((hole.first, hole.last) for hole in holes)


def _found(hole: Hole) -> Finding:
    assert hole.finding is not None, "set when the hole was taken note of"
    return hole.finding


@attrs.define
class BookGap:
    """A stretch in which a book cannot be trusted."""

    first: int
    last: int | None
    from_ns: int | None
    reason: Reason
    in_ledger: bool = False
    to_ns: int | None = None


@attrs.define
class BookTrack(Track):
    """The changes of one instrument's book."""

    chain: Chain = attrs.field(kw_only=True)
    in_band: bool = False
    tip_ns: int | None = None
    waiting: set[int] = attrs.field(factory=set)
    waiting_ns: int | None = None  # received: since when another leg is waited for; None: that no tick has said yet
    why: Reason | None = None  # why links have to wait
    gap: BookGap | None = None
    ended: list[tuple[BookGap, State]] = attrs.field(factory=list)  # gaps, since the last look
    dirty: bool = False

    def take(
        self, session: int, prev: int | None, last: int | None, ns: int, frame: int, received_ns: int,
        rejected: tuple[int, str] | None,
    ) -> Verdict:  # fmt: skip
        """Take a change that leads from number `prev` to `last`, of exchange time `ns`, from `session`.

        What must now be applied to the levels is in `chain.apply`, unless the change just continues a book that is
        synced: then it is nowhere but here. Changes without numbers always do.
        """
        chain = self.chain
        self.legs.add(session)
        if prev is None or last is None:
            self.last_frame, self.tip_ns = frame, ns
            return Verdict.NEXT
        if prev == self.next_prev:
            self.follow(session, last, ns, frame)
            return Verdict.NEXT
        tip, before_ns, was_ahead = chain.tip, self.tip_ns, bool(chain.ahead)
        old = before_ns is not None and before_ns - OLD_NS < ns < before_ns
        late = old and self.gap is not None and self.gap.from_ns is not None and ns > self.gap.from_ns
        others = bool(self.legs - {session})
        again = before_ns is not None and ns > before_ns + (AGAIN_NS if others else 0)
        verdict = chain.take(prev, last, ns, wait=was_ahead or others, old=old, late=late, again=again)
        if verdict is Verdict.AHEAD or (verdict is Verdict.SEEN and was_ahead and chain.waits(prev, last)):
            if not was_ahead:
                self.waiting, self.waiting_ns, self.why = (
                    set(self.legs),
                    received_ns,
                    self._why(rejected, before_ns, ns),
                )
            self.waiting.discard(session)
            self.last_frame = frame
            if not self.waiting:
                self._give_up()
            return verdict
        if verdict is Verdict.LATE:
            self._settle(State.REPAIRED)
        elif verdict is not Verdict.SEEN:
            self.tip_ns = max(ns, chain.drained_ns) if was_ahead else ns
            if verdict is Verdict.BROKEN:
                self._open(tip, before_ns, self._why(rejected, before_ns, ns))
            self._settle()
            self.last_frame, self.reason = frame, None
        return verdict

    @property
    def next_prev(self) -> int | None:
        """The number that a change must lead on from to just continue a book that is synced; None where none can."""
        chain = self.chain
        return chain.tip if chain.synced and not chain.ahead else None

    def follow(self, session: int, last: int, ns: int, frame: int) -> None:
        """Take changes from `next_prev` to `last`: what `take` would do with them, one after another.

        `ns` and `frame` are those of the last one. Where numbers may go down the chain has remembered the others.
        """
        self.legs.add(session)
        self.chain.tip = last
        if self.chain.resets:
            self.chain.remember(last)
        self.last_frame, self.tip_ns, self.reason = frame, ns, None

    def take_whole(
        self, session: int, seq: int | None, ns: int, frame: int, rejected: tuple[int, str] | None
    ) -> Verdict:
        """Take an in-band snapshot."""
        self.legs.add(session)
        if seq is None:
            self.chain.synced, self.tip_ns, self.last_frame = True, ns, frame
            return Verdict.EPOCH
        chain, others, before_ns = self.chain, self.legs - {session}, self.tip_ns
        tip = chain.tip
        old = before_ns is not None and before_ns - OLD_NS < ns < before_ns
        verdict = chain.take_whole(seq, ns, old=old, alone=not others)
        if verdict is Verdict.EPOCH:
            if tip is None or chain.tip != tip:
                self._open(tip, before_ns, self._why(rejected, before_ns, ns))
                if self.gap is not None:
                    self.gap.last, self.gap.to_ns = seq if seq >= self.gap.first else None, ns
                self.tip_ns = max(ns, chain.drained_ns) if chain.tip != seq else ns
                self.last_frame, self.reason = frame, None
            if chain.good is None:
                self._close(State.LOST)
            else:  # the others may be behind it
                self.waiting, self.waiting_ns = others, None
        return verdict

    def take_snapshot(self, seq: int) -> Answer:
        """Take the number of a whole book that REST gave."""
        answer = self.chain.take_snapshot(seq)
        self._settle()
        return answer

    def spoil(self, good: int | None, ns: int | None, reason: Reason) -> None:
        """Break the book behind number `good` of exchange time `ns`: what should follow there cannot be read."""
        self.chain.spoil(good)
        self._open(self.chain.good, ns, reason)
        self._settle()

    @property
    def is_pending(self) -> bool:
        """Tell whether another leg is waited for."""
        return self.chain.is_pending

    @property
    def wants_snapshot(self) -> bool:
        """Tell whether a whole book would help: changes are there, and nothing they could be applied to."""
        chain = self.chain
        return not chain.synced and chain.snapshot is None and chain.tip is not None

    def leave(self, session: int) -> None:
        """Take note that a session has ended."""
        self.legs.discard(session)
        if self.chain.is_pending and session in self.waiting:
            self.waiting.discard(session)
            if self.why is not None:
                self.why = self._why_left(self.why)
            if not self.waiting:
                self._give_up()

    def wait_no_more(self, before_ns: int | None = None) -> None:
        """Give up waiting for other legs, if they have been waited for since `before_ns` or longer."""
        if not self.chain.is_pending:
            return
        if before_ns is not None and self.waiting_ns is None:
            self.waiting_ns = before_ns + PATIENCE_NS
        if before_ns is None or self.waiting_ns is None or self.waiting_ns <= before_ns:
            self._give_up()

    def _give_up(self) -> None:
        self.waiting.clear()
        while self.chain.is_pending:
            tip, before_ns = self.chain.tip, self.tip_ns
            if self.chain.give_up():
                self._open(tip, before_ns, self.why or Reason(Cause.SKIPPED))
                self.tip_ns, self.reason = max(self.chain.drained_ns, before_ns or 0), None
            self._settle()

    def _open(self, good: int | None, ns: int | None, reason: Reason) -> None:
        """Begin a gap behind number `good` of time `ns`, unless one is open."""
        if self.gap is None and good is not None:
            self.gap = BookGap(good + 1, None, ns, reason)

    def _settle(self, state: State = State.LOST) -> None:
        """Let the gap follow what the chain says: its end, or that it has ended, by late links or by a snapshot."""
        gap, chain = self.gap, self.chain
        if gap is None:
            return
        if not chain.synced:
            gap.to_ns, self.dirty = None, True
        if not chain.synced or gap.to_ns is None:
            gap.last = chain.run_prev if chain.run_prev >= gap.first else None
        if chain.good is None:
            self._close(state)

    def _close(self, state: State) -> None:
        if self.gap is not None:
            self.gap.to_ns = self.gap.to_ns or self.tip_ns
            self.ended.append((self.gap, state))
            self.gap, self.dirty = None, True

    def changes(self) -> Iterator[GapChange]:
        """Yield what has changed in the ledger since the last call. What opened and was repaired since is no gap."""
        self.dirty = False
        for gap, state in self.ended:
            if gap.in_ledger or state is not State.REPAIRED:
                yield self._change(gap, state)
        self.ended.clear()
        if self.gap is not None and not self.gap.in_ledger and not self.chain.synced:
            self.gap.in_ledger = True
            yield self._change(self.gap, State.OPEN)

    def _change(self, gap: BookGap, state: State) -> GapChange:
        return GapChange(
            "book", self.exchange, self.market, self.symbol, self._gap("book", gap.first), state, gap.first, gap.last,
            None, gap.from_ns, gap.to_ns, gap.reason.cause, gap.reason.detail,
        )  # fmt: skip

    @property
    def state(self) -> tuple[Any, ...]:
        """What two folds must agree on."""
        return self.chain.tip, self.chain.synced, self.chain.good
