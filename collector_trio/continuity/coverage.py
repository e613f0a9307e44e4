"""Which ids of a sequence were seen: a mark, and the holes below it.

Nothing here looks at sessions or time; what is known of a hole is kept with it.
"""

import attrs

from collector_trio.continuity.ledger import Reason

# An id so far below the first one was not late: the exchange counts from the beginning again.
REACH_BELOW = 100_000
# So many holes are remembered; the oldest are for the ledger alone.
MOST_HOLES = 1000


@attrs.define
class Finding:
    """What is known of a hole beside its bounds: why, since when (receive time), and which sessions may still fill it.

    Open once nobody is waited for.
    """

    reason: Reason
    found_ns: int
    waiting: set[int]

    @property
    def is_open(self) -> bool:
        """Tell whether it is missing for sure."""
        return not self.waiting

    def copy(self) -> "Finding":
        """Return the same, for another part of the hole."""
        return attrs.evolve(self, waiting=set(self.waiting))


@attrs.define
class Hole:
    """Ids `first..last` were never seen. `from_ns` and `to_ns`: exchange times of the ids before and behind.

    `finding` is for whoever feeds the coverage to set on a new hole; every part of a split hole has it.
    """

    first: int
    last: int
    from_ns: int | None
    to_ns: int | None
    finding: Finding | None = None

    @property
    def missing(self) -> int:
        """How many ids that is."""
        return self.last - self.first + 1


@attrs.define
class Coverage:
    """Everything from `start` to `mark` was seen, but for `holes` (ascending, never touching).

    `forgotten` are older holes, the ids of which count as seen now, and those from before the exchange began to count
    again; who keeps the ledger empties it.
    """

    start: int = 0
    mark: int = -1  # none yet
    start_ns: int | None = None
    mark_ns: int | None = None
    holes: list[Hole] = attrs.field(factory=list)
    forgotten: list[Hole] = attrs.field(factory=list)
    epoch: int = 0  # how often the exchange began to count again

    def take(self, first: int, last: int, ns: int | None) -> bool:
        """Take an item that covers ids `first..last`; tell whether any of them is new.

        An item above the mark may leave a hole below it, and so may a late one below the first ever seen.
        """
        if self.mark < 0 or last < self.start - REACH_BELOW:
            self.begin_again(first, last, ns)
            return True
        new = False
        if last > self.mark:
            if first > self.mark + 1:
                self.holes.append(Hole(self.mark + 1, first - 1, self.mark_ns, ns))
                while len(self.holes) > MOST_HOLES:
                    self.forgotten.append(self.holes.pop(0))
            before, self.mark, self.mark_ns = self.mark, last, ns
            if first > before:
                return True
            new = True
        if first < self.start:
            if last < self.start - 1:
                self.holes.insert(0, Hole(last + 1, self.start - 1, ns, self.start_ns))
            before, self.start, self.start_ns = self.start, first, ns
            if last < before:
                return True
            new = True
        if self.holes and first <= self.holes[-1].last:
            new = self._fill(first, last, ns) or new
        return new

    def begin_again(self, first: int, last: int, ns: int | None) -> None:
        """Count from ids `first..last` on: what was before is another sequence, and its holes stay as they are."""
        self.epoch += self.mark >= 0
        self.start, self.mark, self.start_ns, self.mark_ns = first, last, ns, ns
        self.forgotten += self.holes
        self.holes.clear()

    def _fill(self, first: int, last: int, ns: int | None) -> bool:
        """Take `first..last` out of the holes; tell whether there was anything to take."""
        left: list[Hole] = []
        filled = False
        for hole in self.holes:
            if hole.last < first or hole.first > last:
                left.append(hole)
                continue
            filled = True
            if hole.first < first:
                left.append(Hole(hole.first, first - 1, hole.from_ns, ns, hole.finding))
            if hole.last > last:
                finding = hole.finding and hole.finding.copy()
                left.append(Hole(last + 1, hole.last, ns, hole.to_ns, finding))
        if filled:
            self.holes = left
        return filled
