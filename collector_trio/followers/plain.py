"""Trades that just follow one another, many at a time.

That is what nearly all trades do: their frames are plain, and their numbers go on where the last one's ended. Then one
look at the numbers of many says as much as a look at each. `plain_trades` either finds that the trades of some reads
are such, or says nothing at all, and they are taken one by one: what is stored and what is missing comes out the same.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, repeat

import attrs

from collector_trio.continuity.runs import runs
from collector_trio.continuity.tracks import TradeTrack
from collector_trio.exchanges import EXCHANGES
from collector_trio.exchanges.protocol import Trades
from collector_trio.followers.chunks import WaitingTrades
from collector_trio.followers.reads import Read, Speaker


@attrs.define(eq=False)
class TradeSlot:
    """Where the trades of one instrument go, and what is known of their numbers."""

    waiting: WaitingTrades
    track: TradeTrack | None


Find = Callable[[Speaker, str], TradeSlot | None]  # by native symbol; None where nobody described the instrument
Numbered = Iterable[tuple[int, bytes]]  # frames, each with its number


@attrs.frozen
class PlainTrades:
    """The trades of one session, each from a frame of its own; which frames is said by stretches, as in `Waiting`.

    `last` has of each instrument the position of its last trade.
    """

    session: int
    trades: Trades
    firsts: list[int]
    counts: list[int]
    received_ns: list[int]
    last: list[tuple[TradeSlot, int]]

    def take(self) -> None:
        """Let them wait to become columns."""
        trades = self.trades
        ends = list(accumulate(self.counts))
        for slot, n in self.last:
            assert slot.track is not None, "only such are found to follow"
            stretch = bisect_right(ends, n)
            number = self.firsts[stretch] + self.counts[stretch] - (ends[stretch] - n)
            slot.track.follow(self.session, trades.ids[n], trades.exchange_ns[n], number)
        waiting = {id(slot.waiting): slot.waiting for slot, _ in self.last}
        if len(waiting) == 1:
            self.last[0][0].waiting.extend(trades, self.session, self.firsts, self.counts, self.received_ns)
            return
        numbers = [number + n for number, count in zip(self.firsts, self.counts, strict=True) for n in range(count)]
        received_ns = list(chain.from_iterable(map(repeat, self.received_ns, self.counts)))
        whose = {trades.native_symbols[n]: id(slot.waiting) for slot, n in self.last}
        for place, own in waiting.items():
            mine = [n for n, native in enumerate(trades.native_symbols) if whose[native] == place]
            lines = [numbers[n] for n in mine], [1] * len(mine), [received_ns[n] for n in mine]
            own.extend(trades.at(mine), self.session, *lines)


def plain_trades(reads: Sequence[Read], find: Find) -> tuple[list[PlainTrades], list[Numbered | None]] | None:
    """Return the trades of `reads`, and of each read its other frames (None: all), which are to be taken after them.

    None: some trade is not plain, or does not follow, and all must be looked at one by one. Nothing has changed then.
    """
    plain: list[PlainTrades] = []
    others: list[Numbered | None] = [()] * len(reads)
    of_session: dict[int | None, list[int]] = {}
    for index, read in enumerate(reads):
        of_session.setdefault(read.session, []).append(index)
    taken: set[int] = set()
    for session, indices in of_session.items():
        own = [reads[index] for index in indices]
        frames = own[0].frames if len(own) == 1 else list(chain.from_iterable(read.frames for read in own))
        found = EXCHANGES[own[0].speaker.exchange].decode_trades(frames) if frames and session is not None else None
        if found is None or session is None:
            return None
        trades, where = found
        if not where:
            for index in indices:
                others[index] = None
            continue
        last = _followers(trades, own[0].speaker, find, taken)
        if last is None:
            return None
        firsts, counts = [read.first for read in own], [len(read.frames) for read in own]
        received_ns = [read.received_ns for read in own]
        if len(where) < len(frames):
            firsts = [n for read in own for n in range(read.first, read.first + len(read.frames))]
            received_ns = list(chain.from_iterable(map(repeat, received_ns, counts)))
            firsts, counts, received_ns = [firsts[n] for n in where], [1] * len(where), [received_ns[n] for n in where]
            is_trade = set(firsts)
            for index, read in zip(indices, own, strict=True):
                others[index] = [each for each in enumerate(read.frames, read.first) if each[0] not in is_trade]
        plain.append(PlainTrades(session, trades, firsts, counts, received_ns, last))
    return plain, others


def _followers(trades: Trades, speaker: Speaker, find: Find, taken: set[int]) -> list[tuple[TradeSlot, int]] | None:
    """Return of each instrument the position of its last trade, if all of them go on where the last one ended.

    `taken` are the instruments (by id) that another session has brought: who comes first is for a closer look.
    """
    found: list[tuple[TradeSlot, int]] = []
    for native, run in runs(trades.native_symbols, trades.ids).items():
        slot = find(speaker, native)
        if run is None or slot is None or slot.track is None:
            return None
        if slot.track.next_id != run.first or id(slot.track) in taken:
            return None
        taken.add(id(slot.track))
        found.append((slot, run.last_at))
    return found
