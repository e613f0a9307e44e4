"""Whole books by REST, for the exchanges whose sockets bring only changes.

Who sees that a book is not synced says so; one request per symbol is in flight, a few per market, each within the
venue's budget, so that a break of everything at once asks for one book after the other. An answer that cannot be
bridged is asked for again, after a delay that grows; what the socket brings meanwhile is kept. Requests and answers are
in the journal, as a session of their own: who reads it comes to the same conclusion.
"""

from functools import partial
from typing import NoReturn

import attrs
import trio

from collector_trio.continuity.chain import Answer
from collector_trio.continuity.tracks import BookTrack
from collector_trio.errors import HttpFailed
from collector_trio.exchanges.protocol import BookSnapshot, Exchange, Request
from collector_trio.instruments import Instrument
from collector_trio.journal.records import Letter
from collector_trio.net.budgets import Budget
from collector_trio.net.gate import Turn, host_of
from collector_trio.streams.listing import heed_weight, rest_threads, weight_budget
from collector_trio.streams.supervisor import Surroundings, backoff

AT_ONCE = 4  # requests in flight per market
WAITS_S = 30.0  # how long the changes up to a snapshot may take to come
CRASHED_S = 30.0  # how long a symbol rests after a bug


@attrs.define
class Snapshots:
    """The whole books of one market that are wanted."""

    exchange: Exchange
    market: str
    base_url: str
    _wanted: dict[str, tuple[Instrument, BookTrack]] = attrs.field(factory=dict)
    _asked: dict[str, trio.Event] = attrs.field(factory=dict)  # set when what waited for changes is of no use any more
    _news: trio.Event = attrs.field(factory=trio.Event)

    def want(self, instrument: Instrument, track: BookTrack) -> None:
        """Ask for the book of `instrument`, unless that is being done."""
        if instrument.native_symbol in self._asked:
            self._asked[instrument.native_symbol].set()
        else:
            self._wanted[instrument.native_symbol] = instrument, track
            self._news.set()

    async def keep(self, around: Surroundings) -> NoReturn:
        """Ask for what is wanted until cancelled."""
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                for native_symbol, (instrument, track) in self._wanted.items():
                    self._asked[native_symbol] = trio.Event()
                    nursery.start_soon(self._obtain, instrument, track, limiter, around)
                self._wanted.clear()

    async def _obtain(
        self, instrument: Instrument, track: BookTrack, limiter: trio.CapacityLimiter, around: Surroundings
    ) -> None:
        """Ask until the book is synced."""
        try:
            for delay_s in backoff(around.random):
                async with limiter:
                    if not _is_synced(track):
                        await self._ask(instrument, track, around)
                if _is_synced(track):
                    return
                if not track.wants_snapshot:  # it has one, which waits for changes up to it
                    news = self._asked[instrument.native_symbol] = trio.Event()
                    with trio.move_on_after(WAITS_S):
                        await news.wait()
                    if _is_synced(track):
                        return
                await trio.sleep(delay_s)
        except Exception:  # as with streams: a bug here must not end what others record
            around.log.exception("snapshot crashed", exchange=self.exchange.NAME, symbol=instrument.symbol)
            await trio.sleep(CRASHED_S)
        finally:
            del self._asked[instrument.native_symbol]

    async def _ask(self, instrument: Instrument, track: BookTrack, around: Surroundings) -> None:
        """Ask once, when it is our turn, and let the track have the answer."""
        request = self.exchange.snapshot_request(instrument)
        if request is None:
            raise ValueError(f"{self.exchange.NAME} gives no snapshots of {instrument.symbol} by REST")
        gate, weight = around.gates.get(self.exchange.NAME), weight_budget(self.exchange, self.market, around)
        async with gate.asking(host_of(self.base_url), weight, units=request.weight) as turn:
            if _is_synced(track):
                turn.give_back()
            else:
                await self._ask_now(instrument, track, request, turn, weight, around)

    async def _ask_now(
        self, instrument: Instrument, track: BookTrack, request: Request, turn: Turn, weight: Budget,
        around: Surroundings,
    ) -> None:  # fmt: skip
        exchange, journal = self.exchange, around.journal
        log = around.log.bind(exchange=exchange.NAME, market=self.market, symbol=instrument.symbol)
        session = journal.next_session()
        facts = {
            "session": session,
            "exchange": exchange.NAME,
            "market": self.market,
            "native_symbol": instrument.native_symbol,
            "url": self.base_url.rstrip("/") + request.path,
        }
        name = f"request {session}"
        journal.note(Letter.REQUEST, facts, current=name)
        reason = "cancelled"
        try:
            async with around.open_client(self.base_url) as client:
                with turn.judged():
                    said = await client.ask(request.path)
            heed_weight(exchange, self.market, said, weight)
            body = said.body
            # A deep book takes 20 ms to look through; the event loop goes on meanwhile.
            decode = partial(exchange.decode_snapshot, self.market, instrument.native_symbol, body)
            decoded = await trio.to_thread.run_sync(decode, limiter=rest_threads())
            while not journal.append(session, around.clock(), [body]):
                await journal.room()
            reason = ""  # and nothing is awaited until the track has it: the order is the journal's
        except HttpFailed as error:
            reason = str(error)
            log.debug("no snapshot", reason=reason)
            return
        finally:
            journal.forget(name)
            if reason:
                journal.note(Letter.FAILED, facts | {"reason": reason})
        if isinstance(decoded, BookSnapshot):
            answer = track.take_snapshot(decoded.last_seq)
            track.chain.apply.clear()
            around.live.settle()
            level = log.debug if answer is Answer.TOO_OLD else log.info
            level("snapshot", answer=answer.value, last_seq=decoded.last_seq)
        else:
            log.debug("snapshot of no use", reason=decoded.reason)


def _is_synced(track: BookTrack) -> bool:
    """Tell whether the book is whole by now: what others do while we wait changes it."""
    return track.chain.synced
