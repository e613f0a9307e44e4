"""Which stored changes lead from one number of a book to an instant: the reader's side of `continuity.chain`, which
judges changes as they come; here all of them are there, in whatever order they were stored. Knows no prices.
"""

from collections.abc import Sequence

import attrs

from collector_trio.exchanges.protocol import BookRules

# Changes that wait for one before them; a late session is behind by seconds.
MOST_WAITING = 1000


@attrs.frozen
class Change:
    """What links one row of `book` to the others. `time` is in microseconds; `row` is its place among the rows."""

    time: int
    frame: int | None
    prev: int | None
    last: int | None
    row: int


@attrs.frozen
class Path:
    """The changes to apply, in their order, and the number they lead to.

    `is_continued`: the next change is there, so nothing happened between them and the instant. `unlinked`: the first
    change that nothing leads to, so something is missing before it.
    """

    applied: list[Change]
    tip: int
    is_continued: bool = False
    unlinked: Change | None = None


def follow(rules: BookRules, tip: int, since: int | None, changes: Sequence[Change], until: int) -> Path:
    """Follow the links from number `tip` as far as changes are not later than `until`.

    `since` is the exchange's time of `tip`, None if unknown. `changes` may hold some that lead to `tip`, and should
    hold some that are later than `until`.
    """
    passed, applied, waiting = {tip}, list[Change](), list[Change]()

    def follows(change: Change) -> bool:
        if change.prev is None or change.last is None:
            return False
        # The first change after a whole book may begin before it, and is applied whole: sizes are absolute.
        return change.prev == tip or ((rules.overlap or not applied) and change.prev < tip < change.last)

    def is_old(change: Change) -> bool:
        if change.last is None:
            return False
        if not rules.resets:
            return change.last <= tip
        return change.last in passed or (since is not None and change.time <= since)

    for change in sorted(changes, key=_by_time):
        waiting.append(change)
        while (found := next(filter(follows, waiting), None)) is not None:
            if found.time > until:
                return Path(applied, tip, is_continued=True)
            waiting.remove(found)
            applied.append(found)
            assert found.last is not None
            tip = found.last
            passed.add(tip)
        if len(waiting) > MOST_WAITING:
            waiting = [one for one in waiting if not is_old(one)]
            if len(waiting) > MOST_WAITING:
                break
    return Path(applied, tip, unlinked=next((one for one in waiting if not is_old(one)), None))


def _by_time(change: Change) -> tuple[int, int]:
    return change.time, -1 if change.frame is None else change.frame
