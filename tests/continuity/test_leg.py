"""Changes of books taken together: what is seen and missing then is what taking them one by one gives."""

import random
from collections.abc import Iterable, Iterator

import pytest
from msgspec import Raw

from collector_trio.continuity.fold import Continuity
from collector_trio.continuity.leg import Leg
from collector_trio.continuity.runs import Run, chains, runs
from collector_trio.exchanges.protocol import BookDelta, BookRules, Links
from collector_trio.instruments import Instrument

from .books import FUTURES, MS, OKX, SPOT

NAMES = ("ONE", "TWO")
INSTRUMENTS = {name: Instrument("x", "spot", name, name, name, "", "TRADING", True) for name in NAMES}


def tape(draw: random.Random, rules: BookRules, reads: int) -> Iterator[list[BookDelta]]:
    """Reads of one session: two books, whose changes are lost, doubled, out of order or, where they may be, reset."""
    tips = dict.fromkeys(NAMES, 1000)
    ns = 0
    for _ in range(reads):
        read: list[BookDelta] = []
        for _ in range(draw.randrange(1, 12)):
            name = draw.choice(NAMES)
            prev, ns = tips[name], ns + draw.choice((0, MS, 100 * MS))
            last = draw.randrange(1, 50) if rules.resets and draw.random() < 0.02 else prev + draw.randrange(1, 9)
            first = prev + (0 if rules.overlap and draw.random() < 0.05 else 1)
            tips[name] = last
            if draw.random() < 0.97:
                read.append(BookDelta(name, ns, first, last, first - 1, False, Raw(), Raw(), 2))
            if draw.random() < 0.02:
                read.append(read[-1] if read else BookDelta(name, ns, first, last, prev, False, Raw(), Raw(), 2))
        if draw.random() < 0.05:
            draw.shuffle(read)
        yield read


def links(read: list[BookDelta]) -> Links:
    rows = [(row.native_symbol, row.prev_seq, row.last_seq, row.exchange_ns) for row in read]
    return Links(*map(list, zip(*rows, strict=True)))  # type: ignore[arg-type]


def mend(leg: Leg, rules: BookRules, frame: int) -> None:
    """Give whole books where they are missing, at the number the book is at."""
    for name, (_, track) in list(leg.unsynced.items()):
        assert track.chain.tip is not None
        if rules.in_band:
            whole = BookDelta(name, track.tip_ns or 0, None, track.chain.tip, -1, True, Raw(), Raw(), 2)
            leg.take([whole], frame, (track.tip_ns or 0) + MS)
        else:
            track.take_snapshot(track.chain.tip)


@pytest.mark.parametrize("rules", [SPOT, FUTURES, OKX], ids=["spot", "futures", "okx"])
@pytest.mark.parametrize("sessions", [1, 2])
def test_taken_together_or_one_by_one_the_same_is_known(rules: BookRules, sessions: int) -> None:
    together = 0
    for seed in range(40):
        print(f"seed {seed}")  # shown when it fails
        draw = random.Random(seed)
        folds = Continuity(), Continuity()
        many, single = (
            [Leg(n, fold, INSTRUMENTS.get, lambda market: rules) for n in range(sessions)] for fold in folds
        )
        frame = 1
        for read in filter(None, tape(draw, rules, 80)):
            n, mends = draw.randrange(sessions), draw.random() < 0.5
            left = many[n].take_links(links(read), frame, range(len(read)))
            together += not left
            take_each(many[n], read, frame, left)
            take_each(single[n], read, frame, range(len(read)))
            frame += len(read)
            for leg in (many[n], single[n]):
                if mends:
                    mend(leg, rules, frame)
                leg.unsynced.clear()
            assert folds[0].dump() == folds[1].dump()
            assert folds[0].changes() == folds[1].changes()
    assert together > 100


def take_each(leg: Leg, read: list[BookDelta], first: int, where: Iterable[int]) -> None:
    for n in where:
        leg.take([read[n]], first + n, read[n].exchange_ns + MS)


def test_a_change_that_does_not_lead_on_makes_no_chain_and_leaves_that_of_others_alone() -> None:
    assert chains(["A", "A"], [1, 2], [2, 3]) == {"A": Run(1, 1)}
    assert chains(["A", "A"], [1, 3], [2, 4]) == {"A": None}
    assert chains(["A", "B", "A"], [1, 7, 2], [2, 8, 3]) == {"A": Run(1, 2), "B": Run(7, 1)}
    assert chains(["A", "B", "A"], [1, 7, 3], [2, 8, 4]) == {"A": None, "B": Run(7, 1)}
    assert runs(["A", "B", "A"], [1, 7, 3]) == {"A": None, "B": Run(7, 1)}
    assert runs(["A", "B", "A"], [1, 7, 2]) == {"A": Run(1, 2), "B": Run(7, 1)}
