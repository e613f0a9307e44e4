"""Binance's answers to requests for a whole book, and what faults make of them (protocols.md 8: D5, D6)."""

from collections.abc import Callable

from collector_trio.sim.binance_tape import BinanceTape
from collector_trio.sim.fault import Prey
from collector_trio.sim.feed import BookText, Tape
from collector_trio.sim.http import Answer, Slow
from collector_trio.sim.mishaps import DELAY_S
from collector_trio.sim.truth import Struck
from collector_trio.sim.venue import Venue

AFTER_S = 0.1  # so much later than a new snapshot the diffs follow that were held back for it


def answer(venue: Venue, tape: Tape, depth: int, spelled: Callable[[BookText], Answer]) -> Answer | Slow:
    """Answer with the book as it is, or as the next fault wants it. `spelled` makes the answer of it."""
    assert isinstance(tape, BinanceTape)
    place = tape.book_place
    struck = venue.traps.spring(Prey.REQUEST, place) if venue.traps.waiting[Prey.REQUEST] else None
    if struck is None:
        return spelled(tape.book(depth))
    fault, record = struck

    def told(book: BookText) -> Answer:
        venue.truth.add_struck(record, Struck(None, place.stream, place.native_symbol, (book[0],)))
        return spelled(book)

    second = sum(one.native_symbol == place.native_symbol for one in record.did) % 2 == 1
    if fault.kind == "snapshot_new":
        releases = [venue.mishaps.hold(one) for one in venue.audience.of(place.stream, place.native_symbol)]

        def release() -> None:
            for let_go in releases:
                venue.mishaps.later.after(AFTER_S, let_go)

        return Slow(fault.delay_s or DELAY_S, lambda: told(tape.book(depth)), release)
    if fault.kind == "snapshot_old":
        return told(tape.book_before(fault.by, depth))
    if fault.kind == "snapshot_edge":
        last, bids, asks = tape.book_before(0, depth)
        return told((tape.next_first - 1 if second else last, bids, asks))
    if fault.kind == "snapshot_empty":
        return told((0 if second else -1, [], []))
    if fault.kind == "snapshot_crossed":
        last, bids, asks = tape.book(depth)
        return told((last, [(asks[min(1, len(asks) - 1)][0], bids[0][1]), *bids[1:]], asks))
    venue.truth.add_struck(record, Struck(None, place.stream, place.native_symbol, ()))
    return Answer({"code": -1008, "msg": "Server is currently overloaded. Please try again later."}, 503)
