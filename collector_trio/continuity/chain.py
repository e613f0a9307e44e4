"""How the changes of one book follow each other, and when a whole book makes them trustworthy. Knows no prices.

A change is a link from the number before it to its own. The links that hang together up to the newest one are the
*run*; its end is the *tip*. A book is *synced* when a snapshot's number lies on the run: from then on each link that
continues the tip is applied. Everything else follows from three questions about a link:

- Does it continue the tip (`previous == tip`, numbers may even go down; or it overlaps, where the exchange allows)?
  Then it is next.
- Is it old? Then it was seen, unless the book is broken and the link belongs into the gap: then it is late, and when
  the gap closes that way, the book is whole again without a snapshot.
- Else there is a gap before it. While another session may still bring what is missing, the link waits *ahead*; if not,
  the book is broken: a new run begins, and a snapshot must sync it.

A snapshot by REST (number L) syncs when `run_prev <= L <= tip`: before, it is too old to be bridged; behind, it waits
for the tip to come. That is both of Binance's rules: on spot `U <= L + 1 <= u` with `prev = U - 1`, on futures
`pu <= L <= u`.
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#how-to-manage-a-local-order-book-correctly
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/How-to-manage-a-local-order-book-correctly

A snapshot on the socket is a new tip. When other sessions bring the same book, they may be behind it, and what they
bring until they have caught up is late: the book is synced, and yet there is a gap behind it that they may close.

Where numbers may go down, their order says nothing of links that do not follow: a link is old then when the exchange
gave it an earlier time than the tip, and was seen when its number is remembered.
"""

from enum import Enum, StrEnum
from operator import itemgetter

import attrs

# Links kept while a book is not synced: more than a minute and a half at ten a second, and no snapshot is that old.
LONGEST_RUN = 1000
# Numbers remembered where they may go down and their order says nothing: half a minute at ten a second.
REMEMBERED = 300

Link = tuple[int, int]  # previous number, own number


class Verdict(Enum):
    """What a link is."""

    NEXT = "next"  # continues the tip
    SEEN = "seen"  # a duplicate
    LATE = "late"  # belongs into a gap
    AHEAD = "ahead"  # waits for what another session may bring
    BROKEN = "broken"  # what should be before it is missing
    EPOCH = "epoch"  # an in-band snapshot: begins anew


class Answer(StrEnum):
    """What a snapshot by REST is good for."""

    SYNCED = "synced"
    WAITS = "waits"  # for changes up to it
    TOO_OLD = "too old"
    NOT_NEEDED = "not needed"


@attrs.define
class Chain:
    """The links of one book. `resets`: numbers may go down; `overlap`: a link may begin before the tip."""

    overlap: bool
    resets: bool
    tip: int | None = None
    synced: bool = False
    good: int | None = None  # the end of the run before the gap, while there is one
    healable: bool = False  # the book was synced up to `good`: links that close the gap make it whole
    reach: int = 0  # links up to here were taken, or will not be any more, though they lie in the gap
    before_prev: int = 0  # where it was not: the run before the gap, which would be one with the present one
    before: list[Link] = attrs.field(factory=list)
    snapshot: int | None = None  # a whole book that waits for the tip to reach it
    run_prev: int = 0
    run: list[Link] = attrs.field(factory=list)  # only while not synced
    ahead: list[tuple[int, int, int]] = attrs.field(factory=list)  # the exchange's time, previous number, own number
    drained_ns: int = 0  # time of the last link that followed out of those
    late: list[Link] = attrs.field(factory=list)
    recent: list[int] = attrs.field(factory=list)  # the last numbers, where they may go down
    apply: list[Link] = attrs.field(factory=list)  # what is to be applied now, in this order; the caller empties it

    @property
    def is_pending(self) -> bool:
        """Tell whether links wait, or a gap behind a snapshot, for what another session may bring."""
        return bool(self.ahead) or (self.synced and self.good is not None)

    def take(
        self, prev: int, last: int, ns: int = 0, *, wait: bool = False, old: bool = False, late: bool = False,
        again: bool = False,
    ) -> Verdict:  # fmt: skip
        """Judge the link from `prev` to `last`, of exchange time `ns`.

        With `wait` somebody else may still bring what would be missing. `old`: its time is before the tip's; `late`:
        and after that of the good end of the gap. They count where numbers may go down. `again`: its time is so much
        after the tip's that it is no duplicate, whatever its number: elsewhere the exchange then counts from anew.
        """
        tip = self.tip
        if tip is None:
            self._begin(prev, last)
            self._bridge()
            return Verdict.NEXT
        if prev == tip or (self.overlap and prev < tip < last):
            self._advance(prev, last)
            if self.ahead:
                self._advance_ahead()
            self._bridge()
            return Verdict.NEXT
        if self.resets and last in self.recent:
            return Verdict.SEEN
        if self.resets and last == tip:  # that is the snapshot's, and what led to it was not taken
            old = late = True
        if not self.resets:
            again = again and last <= tip
            old = last <= tip and not again
            late = old and self.reach < last and prev < self.run_prev and (prev, last) not in self.run
        if late and self.good is not None:
            return self._take_late(prev, last)
        if old:
            return Verdict.SEEN
        if self.waits(prev, last):
            return Verdict.SEEN
        if wait and not again:
            self.ahead.append((ns, prev, last))
            return Verdict.AHEAD
        self._break(prev, last)
        self._bridge()
        return Verdict.BROKEN

    def give_up(self) -> bool:
        """Nobody will bring what belongs into the gap behind a snapshot, or else into the first one before links ahead.

        Tell whether the book is broken now. To be called until nothing is pending.
        """
        if self.synced and self.good is not None:
            self.good, self.late = None, []
            return False
        first = min(self.ahead, key=None if self.resets else itemgetter(1, 2))
        self.ahead.remove(first)
        self.drained_ns = first[0]
        broken = self.take(*first[1:]) is Verdict.BROKEN
        self._advance_ahead()
        self._bridge()
        return broken

    def waits(self, prev: int, last: int) -> bool:
        """Tell whether a link is among those ahead."""
        return any(link[1:] == (prev, last) for link in self.ahead)

    def take_whole(self, seq: int, ns: int = 0, *, old: bool = False, alone: bool = True) -> Verdict:
        """Take an in-band snapshot with number `seq`, of exchange time `ns`: a new epoch, unless it says what is known.

        `old`: its time is before the tip's; `alone`: no other session can bring what lies between the tip and it.
        """
        if not self.resets and self.tip is not None:
            old = seq < self.tip
        known = seq == self.tip or seq in self.recent
        if self.synced and (known or old):
            return Verdict.SEEN
        if not self.synced and self.tip is not None:
            path = _path(seq, self.tip, self.late + self.run, overlap=False)
            if path is not None:  # changes that follow it were faster, by another session
                self.apply = path
                self._sync()
                return Verdict.EPOCH
            if known or old:
                return Verdict.SEEN
        self.apply = []
        if alone or self.tip is None:
            self._sync()
        else:
            if self.good is None:
                self.good = self.reach = self.tip
            self.late += self.run
            self.synced, self.healable, self.snapshot, self.run, self.before = True, False, None, [], []
        self.tip = self.run_prev = seq
        passed = [(prev, last) for then, prev, last in self.ahead if then <= ns]
        self.ahead = [link for link in self.ahead if link[0] > ns]
        for link in passed:
            self._keep_late(*link)
        self._advance_ahead()
        return Verdict.EPOCH

    def take_snapshot(self, seq: int) -> Answer:
        """Take the number of a whole book that REST gave."""
        if self.synced:
            return Answer.NOT_NEEDED
        if self.tip is not None and seq < self.run_prev:
            self.snapshot = None
            return Answer.TOO_OLD
        self.snapshot = seq
        return Answer.SYNCED if self._bridge() else Answer.WAITS

    def remember(self, last: int) -> None:
        """Remember a number, to know it again when its order says nothing."""
        self.recent.append(last)
        if len(self.recent) > 2 * REMEMBERED:
            del self.recent[:REMEMBERED]

    def spoil(self, good: int | None) -> None:
        """Break the book behind number `good`: what should follow there cannot be read."""
        if self.synced:
            self.good, self.synced, self.late = good, False, []
            self.reach = self.run_prev = self.tip if self.tip is not None else 0
        elif self.tip is not None:
            self.late += self.run
            self.run_prev = self.tip
        self.healable, self.snapshot = False, None
        self.before, self.run, self.apply = [], [], []

    @property
    def kept(self) -> set[Link]:
        """Links whose changes may still be applied."""
        return {*self.before, *self.run, *self.late, *((prev, last) for _, prev, last in self.ahead)}

    def _begin(self, prev: int, last: int) -> None:
        self.run_prev, self.run, self.tip = prev, [(prev, last)], last
        if self.resets:
            self.remember(last)

    def _advance(self, prev: int, last: int) -> None:
        self.tip = last
        if self.resets:
            self.remember(last)
        if self.synced:
            self.apply.append((prev, last))
            return
        self.run.append((prev, last))
        if len(self.run) > LONGEST_RUN:
            dropped = len(self.run) - LONGEST_RUN // 2
            self.run_prev = self.reach = self.run[dropped - 1][1]
            del self.run[:dropped]
            self.late.clear()
            self.before.clear()
            self.healable = False

    def _advance_ahead(self) -> None:
        """Let the links ahead follow, as far as they do now."""
        found = True
        while found:
            found = False
            for link in self.ahead:
                assert self.tip is not None
                if link[1] == self.tip or (self.overlap and link[1] < self.tip < link[2]):
                    self.ahead.remove(link)
                    self.drained_ns = link[0]
                    self._advance(*link[1:])
                    found = True
                    break
        if not self.resets:
            passed = [link for link in self.ahead if self.tip is not None and link[2] <= self.tip]
            if passed:
                self.ahead = [link for link in self.ahead if link not in passed]
                self.late += [link[1:] for link in passed if self.good is not None]

    def _break(self, prev: int, last: int) -> None:
        assert self.tip is not None
        if self.synced:
            self.synced, self.healable = False, True
            if self.good is None:
                self.good = self.reach = self.tip
        elif self.good is None:
            self.good = self.reach = self.tip
            self.healable = False
            self.before_prev, self.before = self.run_prev, self.run
        else:  # a second gap behind the first: the run between them is late
            self.late += self.run
            del self.late[:-LONGEST_RUN]
        self._begin(prev, last)

    def _take_late(self, prev: int, last: int) -> Verdict:
        if (prev, last) in self.late:
            return Verdict.SEEN
        self._keep_late(prev, last)
        self._heal()
        return Verdict.LATE

    def _keep_late(self, prev: int, last: int) -> None:
        self.late.append((prev, last))
        if self.resets:
            self.remember(last)

    def _heal(self) -> None:
        """Close the gap if late links lead from the good end to the run."""
        assert self.good is not None
        if not self.synced and not self.healable and not self.before:
            return
        path = _path(self.good, self.run_prev, self.late, overlap=self.overlap)
        if path is None:
            return
        if self.synced:
            self.good, self.late = None, []
        elif self.healable:
            self.apply += path + self.run
            self._sync()
        else:
            self.run_prev, self.run = self.before_prev, self.before + path + self.run
            self.good, self.before, self.late = None, [], []

    def _bridge(self) -> bool:
        """Sync when the snapshot's number lies on the run; tell whether it does."""
        if self.synced or self.snapshot is None or self.tip is None or self.snapshot > self.tip:
            return False
        if self.snapshot < self.run_prev:
            self.snapshot = None
            return False
        self.apply += [link for link in self.run if link[1] > self.snapshot]
        self._sync()
        return True

    def _sync(self) -> None:
        self.synced, self.good, self.snapshot = True, None, None
        self.run, self.before, self.late = [], [], []


def _path(position: int, end: int, links: list[Link], *, overlap: bool) -> list[Link] | None:
    """Return those of `links` that lead from `position` to `end`; None if they do not."""
    links, path = [*links], []
    while position < end if overlap else position != end:
        step = next((link for link in links if link[0] == position), None)
        if step is None and overlap:
            step = next((link for link in links if link[0] < position < link[1]), None)
        if step is None:
            return None
        links.remove(step)
        path.append(step)
        position = step[1]
    return path
