"""Maintenance that an exchange tells of over REST: asked for when a session has ended, so that the ledger can say why.

What it answers is written down as a verdict, so that the recorder and whoever reads the journal hear of it at the same
record. An exchange that says so on the socket itself needs no question: its notice is in the journal already.
"""

from typing import NoReturn

import attrs
import trio

from collector_trio.errors import BadAnswer, HttpFailed
from collector_trio.exchanges.protocol import Exchange, Request
from collector_trio.journal.records import Letter
from collector_trio.net.gate import host_of
from collector_trio.streams.listing import heed_weight, weight_budget
from collector_trio.streams.supervisor import Surroundings

ASK_EVERY_S = 60.0  # at most, while sessions go on ending


@attrs.define
class Maintenance:
    """What is known of one exchange's maintenance. `market` is any of it, for whose REST limits the question counts."""

    exchange: Exchange
    market: str
    base_url: str
    request: Request
    _ended: trio.Event = attrs.field(factory=trio.Event)

    def session_ended(self) -> None:
        """Ask for why, soon."""
        self._ended.set()

    async def keep(self, around: Surroundings) -> NoReturn:
        """Ask each time sessions have ended, until cancelled. That it cannot be asked is no news: then the network is
        down, or the gate says so.
        """
        name, said = self.exchange.NAME, ""
        while True:
            await self._ended.wait()
            self._ended = trio.Event()
            try:
                notice = await self._ask(around)
            except Exception:  # as with streams: a bug here must not end what others record
                around.log.exception("maintenance crashed", exchange=name)
                notice = ""
            if notice:
                verdict = {"verdict": "maintenance", "exchange": name, "notice": notice}
                around.journal.note(Letter.VERDICT, verdict)
                if notice != said:
                    around.log.info("maintenance", exchange=name, notice=notice)
            said = notice
            await trio.sleep(ASK_EVERY_S)

    async def _ask(self, around: Surroundings) -> str:
        """Return what is being maintained now; "" if nothing is, or nothing is known of it."""
        exchange, facts = self.exchange, {"exchange": self.exchange.NAME, "url": self.base_url + self.request.path}
        weight = weight_budget(exchange, self.market, around)
        try:
            async with (
                around.gates.get(exchange.NAME).asking(
                    host_of(self.base_url), weight, units=self.request.weight
                ) as turn,
                around.open_client(self.base_url) as client,
            ):
                around.journal.note(Letter.REQUEST, facts)
                with turn.judged():
                    answer = await client.ask(self.request.path)
            heed_weight(exchange, self.market, answer, weight)
            return exchange.parse_maintenance(answer.body, around.clock() // 1_000_000)
        except (HttpFailed, BadAnswer) as error:
            around.journal.note(Letter.FAILED, facts | {"reason": str(error)})
            return ""
