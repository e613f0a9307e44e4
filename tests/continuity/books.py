"""A made-up exchange's book, sessions that bring it badly, and who keeps its levels as a follower would.

Every number of the book sets one of seven keys to itself, so a book that lacks any change is not the truth's.
"""

import json
from collections.abc import Iterator, Sequence
from random import Random

import attrs

from collector_trio.continuity.chain import Answer, Chain, Link, Verdict
from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.ledger import Cause, GapChange, Reason, State
from collector_trio.continuity.tracks import PATIENCE_NS, BookTrack
from collector_trio.exchanges.protocol import BookRules
from collector_trio.instruments import Instrument

BTC = Instrument("somewhere", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "", True)
SPOT = BookRules(in_band=False, overlap=True, resets=False)
FUTURES = BookRules(in_band=False, overlap=False, resets=False)
OKX = BookRules(in_band=True, overlap=False, resets=True)
KEYS = 7
MS = 1_000_000

Levels = dict[int, int]


@attrs.frozen
class Change:
    """What the exchange published `index`-th, a millisecond after what was before."""

    index: int
    prev: int
    last: int
    sets: tuple[int, ...]
    is_torn: bool = False

    @property
    def ns(self) -> int:
        return (self.index + 1) * MS

    @property
    def link(self) -> Link:
        return self.prev, self.last


@attrs.define
class Truth:
    """All changes of one book, in their order."""

    changes: list[Change]

    @classmethod
    def spot(cls, overlaps: Sequence[int]) -> "Truth":
        """Publish changes of one to four ids, the first of which lie as many before the last one's end as is said."""
        changes, last = list[Change](), 100
        for index, overlap in enumerate(overlaps):
            prev, last = last - overlap, last + 1 + (index + overlap) % 4
            changes.append(Change(index, prev, last, tuple(range(prev + 1, last + 1))))
        return cls(changes)

    @classmethod
    def futures(cls, length: int) -> "Truth":
        """Publish changes whose ids jump."""
        changes, last = list[Change](), 100
        for index in range(length):
            prev, last = last, last + (3, 1, 7)[index % 3]
            changes.append(Change(index, prev, last, tuple(range(prev + 1, last + 1))))
        return cls(changes)

    @classmethod
    def okx(cls, kinds: Sequence[str]) -> "Truth":
        """Publish changes whose numbers grow ("next"), go down ("reset"), or begin anew without a link ("torn")."""
        changes, last, used, random = list[Change](), 1_000_000, {1_000_000}, Random(1)
        for index, kind in enumerate(kinds):
            prev, last = last, last + random.randrange(3, 960)
            if kind != "next":
                last = min(used) - random.randrange(20_000, 90_000)
                prev = prev if kind == "reset" else last - 7
            used |= {prev, last}
            changes.append(Change(index, prev, last, (index,), kind == "torn"))
        return cls(changes)

    def book(self, count: int) -> Levels:
        """Return the book after `count` changes."""
        levels: Levels = {}
        for change in self.changes[:count]:
            levels.update((value % KEYS, value) for value in change.sets)
        return levels

    def book_at(self, number: int) -> Levels:
        """Return the book at `number` where numbers only grow."""
        return {value % KEYS: value for change in self.changes for value in change.sets if value <= number}


@attrs.define
class Recorder:
    """Feeds one book's track, keeps its levels by what the track says, and holds both against the truth."""

    truth: Truth
    rules: BookRules
    fold: Continuity = attrs.field(factory=Continuity)
    levels: Levels = attrs.field(factory=dict)
    whole: Levels | None = None  # a snapshot that waits
    held: dict[Link, Change] = attrs.field(factory=dict)
    plain: list[Change] = attrs.field(factory=list)  # applied without a detour since the book was synced
    reloads: bool = False  # after each step, as if another process went on
    accepted: set[int] = attrs.field(factory=set)
    doubted: list[int] = attrs.field(factory=list)  # never accepted, yet called seen
    rows: list[GapChange] = attrs.field(factory=list)
    verdicts: list[Verdict] = attrs.field(factory=list)
    frame: int = 0
    ns: int = 0

    @property
    def track(self) -> BookTrack:
        return self.fold.book_track(BTC, self.rules)

    @property
    def chain(self) -> Chain:
        return self.track.chain

    def take(self, session: int, change: Change) -> Verdict:
        """Take one change."""
        self._next()
        chain = self.chain
        plain = change.prev == chain.tip and chain.synced
        verdict = self.track.take(session, *change.link, change.ns, self.frame, self.ns, None)
        self.verdicts.append(verdict)
        if verdict is Verdict.SEEN:
            if change.index not in self.accepted:
                self.doubted.append(change.index)
        else:
            assert change.index not in self.accepted, f"accepted twice: {change}"
            self.accepted.add(change.index)
            self.held[change.link] = change
        if plain and not chain.apply:
            assert verdict is Verdict.NEXT
            self._set(change)
            self.plain.append(change)
        self.check(healed=verdict is Verdict.LATE)
        return verdict

    def take_whole(self, session: int, count: int) -> Verdict:
        """Take an in-band snapshot of the book after `count` changes (at least one)."""
        self._next()
        change = self.truth.changes[count - 1]
        verdict = self.track.take_whole(session, change.last, change.ns, self.frame, None)
        self.verdicts.append(verdict)
        if verdict is Verdict.EPOCH:
            self.levels, self.whole = self.truth.book(count), None
        else:
            assert verdict is Verdict.SEEN
        self.check()
        return verdict

    def take_snapshot(self, number: int) -> Answer:
        """Take a snapshot that REST gives."""
        answer = self.track.take_snapshot(number)
        if answer is not Answer.NOT_NEEDED:
            self.whole = None if answer is Answer.TOO_OLD else self.truth.book_at(number)
        self.check()
        return answer

    def spoil(self, number: int) -> None:
        """Find that one of the last changes of a synced book cannot be read."""
        if self.chain.synced and self.plain:
            change = self.plain[-min(number, len(self.plain))]
            self.track.spoil(change.prev, change.ns - MS, Reason(Cause.REJECT, "no number"))
            self.check()

    def end(self, session: int) -> None:
        """Let a session end."""
        self.fold.session_ended(session, "silent", "")
        self.check()

    def tick(self, ns: int = 1000 * MS) -> None:
        """Let time pass."""
        self.ns += ns
        self.fold.tick(self.ns)
        self.check()

    def wait(self) -> None:
        """Let so much time pass that nobody is waited for any more."""
        self.tick()
        self.tick(PATIENCE_NS)

    def look(self) -> list[GapChange]:
        """Take what is new in the ledger."""
        rows = self.fold.changes()
        self.rows += rows
        return rows

    def _next(self) -> None:
        self.frame += 1
        self.ns += MS

    def _set(self, change: Change) -> None:
        self.levels.update((value % KEYS, value) for value in change.sets)

    def check(self, *, healed: bool = False) -> None:
        """Apply what can be applied, to the snapshot that waited unless late changes did without it.

        Then a synced book must be the truth's.
        """
        chain = self.chain
        if chain.synced and self.whole is not None:
            self.levels, self.whole = self.levels if healed else self.whole, None
        links, chain.apply = chain.apply, []
        for link in links:
            self._set(self.held[link])
        kept = chain.kept
        self.held = {link: change for link, change in self.held.items() if link in kept}
        if links or not chain.synced:
            self.plain.clear()
        if self.reloads:
            assert self.fold.divergence(self.fold.dump()) == 0
            self.fold = Continuity.load(json.loads(json.dumps(self.fold.dump())))
            chain = self.chain
        assert not chain.synced or not self.track.wants_snapshot
        if not chain.synced:
            return
        assert chain.tip is not None
        if self.rules.resets:
            here = next(change.index for change in self.truth.changes if change.last == chain.tip)
            assert self.levels == self.truth.book(here + 1)
        else:
            assert self.levels == self.truth.book_at(chain.tip)

    def check_ledger(self) -> None:
        """Hold the whole ledger against what was accepted; nobody may be waited for any more."""
        self.look()
        stretches, open_gaps = list[tuple[float, float]](), set[str]()
        lasts: dict[str, GapChange] = {}
        for row in self.rows:
            lasts[row.gap] = row
            open_gaps.discard(row.gap)
            if row.state is State.OPEN:
                assert not open_gaps, "two gaps open"
                assert row.to_ns is None
                open_gaps.add(row.gap)
                continue
            assert row.from_ns is not None
            assert row.to_ns is not None
            assert row.to_ns >= row.from_ns
            if row.state is State.LOST:
                stretches.append((row.from_ns, row.to_ns))
            else:
                between = [change.index for change in self.truth.changes if row.from_ns < change.ns <= row.to_ns]
                assert not {*between} & {*self.missing()}, "repaired, but something is missing"
        for row in lasts.values():
            if row.state is State.OPEN:
                stretches.append((row.from_ns or 0, float("inf")))
        for index in self.missing():
            change = self.truth.changes[index]
            assert any(start <= change.ns <= end for start, end in stretches), f"{change} is nowhere"

    def missing(self) -> Iterator[int]:
        """Yield what was published after the first that was accepted, and before the last, and never was accepted."""
        if not self.accepted:
            return
        for index in range(min(self.accepted), max(self.accepted)):
            change = self.truth.changes[index]
            covered = {value for other in self.accepted for value in self.truth.changes[other].sets}
            if index not in self.accepted and not covered.issuperset(change.sets):
                yield index


@attrs.define
class Player:
    """One session of the exchange: where it is in the truth, and what it holds back."""

    session: int
    at: int
    stash: list[int] = attrs.field(factory=list)


@attrs.define
class Play:
    """Sessions that bring a book as a script says: each step is what happens, to which of them, and a number."""

    recorder: Recorder
    players: list[Player]
    sessions: int = 10

    def step(self, what: str, who: int, number: int) -> None:
        recorder, player = self.recorder, self.players[who % len(self.players)]
        changes = recorder.truth.changes
        if what == "next":
            self._bring(player, number)
        elif what == "drop":
            player.at = min(player.at + number, len(changes))
        elif what == "hold" and player.at < len(changes):
            player.stash.append(player.at)
            player.at += 1
        elif what == "release" and player.stash:
            recorder.take(player.session, changes[player.stash.pop(number % len(player.stash))])
        elif what == "again" and player.at:
            recorder.take(player.session, changes[max(player.at - number, 0)])
        elif what == "snapshot":
            self._snapshot(player, number)
        elif what == "end":
            recorder.end(player.session)
            self.sessions += 1
            player.session, player.stash = self.sessions, []
            player.at = max(player.at, min(max(one.at for one in self.players) - number // 2, len(changes)))
            if recorder.rules.in_band and player.at:
                recorder.take_whole(player.session, player.at)
        elif what == "start":
            recorder.fold.process_started()
            recorder.check()
        elif what == "spoil":
            recorder.spoil(number)
        elif what == "tick":
            recorder.tick()
        elif what == "look":
            recorder.look()

    def _bring(self, player: Player, number: int) -> None:
        changes = self.recorder.truth.changes
        for change in changes[player.at : player.at + number]:
            self.recorder.take(player.session, change)
        player.at = min(player.at + number, len(changes))

    def _snapshot(self, player: Player, number: int) -> None:
        """Give a whole book: by REST at about where the session is, else on the socket at where it is."""
        recorder, changes = self.recorder, self.recorder.truth.changes
        if not recorder.rules.in_band:
            here = changes[min(player.at, len(changes) - 1)].prev
            recorder.take_snapshot(here + (0, 1, -1, 2, -2, 4, -5, 9)[number % 8])
        elif player.at:
            recorder.take_whole(player.session, player.at)

    def heal(self) -> None:
        """Let all go well again until the book is synced, with no more than two snapshots for each tear."""
        recorder, changes = self.recorder, self.recorder.truth.changes
        for player in self.players:
            for index in player.stash:
                recorder.take(player.session, changes[index])
        recorder.wait()
        at, torn = max(player.at for player in self.players), 0
        for asked in range(len(changes)):
            torn += changes[at].is_torn
            for player in self.players:
                self._bring(player, max(0, at + 1 - player.at))
            recorder.wait()
            recorder.look()
            if recorder.chain.synced:
                return
            assert asked <= torn + 1, f"not synced: {recorder.chain}"
            if recorder.rules.in_band:
                recorder.take_whole(self.players[0].session, self.players[0].at)
            elif recorder.track.wants_snapshot:
                recorder.take_snapshot(changes[at].last)
            at += 1
        raise AssertionError("never synced")
