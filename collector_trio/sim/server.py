"""The simulated exchanges behind one port: connections are told apart by their path, hosts are not looked at.

A request's head is read first; REST is answered and the connection closed, a WebSocket handshake begins a `Connection`
with the session of its exchange. `serve` listens on loopback; `SimServer.run` and `SimServer.serve_connection` do the
same for any stream, such as memory streams under a MockClock.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio
from wsproto.utilities import RemoteProtocolError

from collector_trio.sim import binance_rest
from collector_trio.sim.binance import BinanceSession
from collector_trio.sim.binance_rest import BinanceRest
from collector_trio.sim.binance_tape import BinanceTape
from collector_trio.sim.connection import Connection, Session
from collector_trio.sim.fault import Fault, Prey
from collector_trio.sim.faults import Faults
from collector_trio.sim.feed import BookText, Clock, Feed
from collector_trio.sim.http import Answer, Request, Slow, read_request, respond
from collector_trio.sim.later import Later
from collector_trio.sim.listings import (
    binance_listing,
    binance_perp_listing,
    okx_listing,
    okx_swap_listing,
    rates,
    recorded_listing,
)
from collector_trio.sim.market import Listing, Market, seeded
from collector_trio.sim.mishaps import Mishaps
from collector_trio.sim.okx import OkxSession
from collector_trio.sim.okx_rest import OkxRest
from collector_trio.sim.okx_tape import OkxTape
from collector_trio.sim.police import Police
from collector_trio.sim.recordings import Recording
from collector_trio.sim.replay import Replay
from collector_trio.sim.scenario import CALM, Scenario
from collector_trio.sim.traps import Traps
from collector_trio.sim.truth import ConnectionRecord, Truth
from collector_trio.sim.venue import Venue

ENDPOINTS = {
    "/stream": "binance.spot",
    "/public/stream": "binance.perp.public",
    "/market/stream": "binance.perp.market",
    "/ws/v5/public": "okx.public",
    "/ws/v5/business": "okx.business",
}
LISTERS: Mapping[tuple[str, str], Callable[[str, float, float], Listing]] = {
    ("binance", "spot"): binance_listing,
    ("binance", "perp"): binance_perp_listing,
    ("okx", "spot"): okx_listing,
    ("okx", "perp"): okx_swap_listing,
}
CLOSE_S = 1.0


class SimServer:
    """Simulated Binance and OKX: a random market under a scenario or, with `recordings`, what was recorded.

    `speed` is the pace of a replay: 1.0 as recorded, None as fast as possible. `replay_done` is set once all of it was
    sent.
    """

    def __init__(
        self,
        scenario: Scenario = CALM,
        *,
        seed: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        recordings: Sequence[Recording] | None = None,
        speed: float | None = 1.0,
        announce: Callable[[str], None] = lambda text: None,
        keep_truth: bool = True,
    ) -> None:
        self.port = 0
        self.host = "127.0.0.1"
        self.tls = False
        self.truth = Truth(keep=keep_truth)
        self.replay_done = trio.Event()
        self._scenario = scenario
        self._seed = seed
        self._now_ns = now_ns
        self._clock = Clock(now_ns)
        self._later = Later()
        self._mishaps = Mishaps(Traps(seed, self.truth, now_ns), self._later)
        self._replay: Replay | None = None
        recorded = {(frame.exchange, frame.native_symbol): None for one in recordings or () for frame in one.frames}
        pace = {} if recordings is not None else rates(scenario)
        self._spot, self._perp, self._okx = [
            Venue(
                [recorded_listing(*name) for name in recorded if name[0] == exchange and "spot" in markets]
                + [
                    LISTERS[exchange, market](symbol, *pace[symbol])
                    for market in markets
                    if market in scenario.markets
                    for symbol in pace
                ],
                self._clock,
                self.truth,
                self._mishaps,
            )
            for exchange, markets in (("binance", ("spot",)), ("binance", ("perp",)), ("okx", ("spot", "perp")))
        ]
        self._venues = (self._spot, self._perp, self._okx)
        self._police = Police(self.truth, now_ns, scenario.enforce_limits)
        self._faults = Faults(self.truth, now_ns, self._mishaps, self._venues, self._police)
        self._police.also = partial(self._faults.refusal, prey=Prey.CALL)
        for fault in scenario.faults:
            if fault.chance is not None and fault.at_s is None:
                self._faults.strike(fault)  # now, so that it does not depend on whose task runs first
        if recordings is None:
            for exchange, venue in (("binance", self._spot), ("binance", self._perp), ("okx", self._okx)):
                for listing in venue.listings.values():
                    venue.add_feed(self._feed(exchange, venue, listing))
        else:
            by_exchange = {"binance": self._spot, "okx": self._okx}
            self._replay = Replay(recordings, by_exchange, speed=speed, announce=announce, done=self.replay_done)
        self._rest: Mapping[str, Callable[[Request], Answer | Slow]] = {
            "/api/v3/": BinanceRest(self._spot, binance_rest.SPOT, self._police).answer,
            "/fapi/v1/": BinanceRest(self._perp, binance_rest.FUTURES, self._police).answer,
            "/api/v5/": OkxRest(self._okx, self._police, partial(self._faults.maintained_ns, "okx")).answer,
        }

    def endpoints_toml(self) -> str:
        """Return the block to paste into a collector's config."""
        s = "s" if self.tls else ""
        ws, rest = f"ws{s}://{self.host}:{self.port}", f"http{s}://{self.host}:{self.port}"
        perp = (
            f'[endpoints.binance.perp]\nws_public = "{ws}/public/stream"\nws_market = "{ws}/market/stream"\n'
            f'rest = "{rest}"\n'
        )
        return (
            f'[endpoints.binance.spot]\nws = "{ws}/stream"\nrest = "{rest}"\n'
            f"{perp if 'perp' in self._scenario.markets else ''}"
            f'[endpoints.okx]\nws_public = "{ws}/ws/v5/public"\nws_business = "{ws}/ws/v5/business"\nrest = "{rest}"\n'
        )

    def inject(self, fault: Fault, conn: int | None = None) -> int:
        """Let a fault happen now; its times are not looked at. With `conn` only to that connection.

        Returns how many open connections it struck or waits for, or how many instruments if it is what an exchange
        publishes that goes wrong.
        """
        return self._faults.strike(fault, conn)

    def book(self, exchange: str, market: str, native_symbol: str) -> BookText:
        """Return the true book now, as REST would show it: sequence number, bids and asks, best first."""
        venue = {"binance": {"spot": self._spot, "perp": self._perp}[market], "okx": self._okx}[exchange]
        return venue.feeds[native_symbol].tape.book(10**6)

    async def run(self) -> None:
        """Let the markets' time pass and the faults strike, or replay, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._later.run)
            nursery.start_soon(self._faults.run, self._scenario.faults)
            if self._replay is not None:
                nursery.start_soon(self._replay.run)

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted stream until it is over, and close it."""
        try:
            request = await read_request(stream)
            if request is not None:
                await self._serve_request(stream, request)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client left in the middle of REST or of its handshake
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await stream.aclose()

    async def _serve_request(self, stream: trio.abc.Stream, request: Request) -> None:
        endpoint = ENDPOINTS.get(request.path)
        if not request.wants_websocket or endpoint is None:
            await self._serve_rest(stream, request)
        elif refusal := self._police.dial(endpoint) or self._faults.refusal(endpoint, Prey.HANDSHAKE):
            await respond(stream, refusal)
        else:
            await self._serve_websocket(stream, request, endpoint)

    async def _serve_rest(self, stream: trio.abc.Stream, request: Request) -> None:
        call = next((call for prefix, call in self._rest.items() if request.path.startswith(prefix)), None)
        answer: Answer | Slow
        if request.method != "GET":
            answer = Answer({"code": -1000, "msg": "only GET is simulated"}, 405)
        elif call is None:
            answer = Answer({"code": -1000, "msg": f"No such path: {request.path}"}, 404)
        else:
            answer = call(request)
        if isinstance(answer, Answer):
            self.truth.rest[request.path, answer.status] += 1
            await respond(stream, answer)
            return
        try:
            await trio.sleep(answer.delay_s)
            late = answer.answer()
            self.truth.rest[request.path, late.status] += 1
            await respond(stream, late)
        finally:
            answer.sent()

    async def _serve_websocket(self, stream: trio.abc.Stream, request: Request, endpoint: str) -> None:
        number = self.truth.opened + 1
        record = ConnectionRecord(number, endpoint.split(".")[0], endpoint, request.target, self._now_ns())
        connection = Connection(stream, request, record, self.truth, self._faults.fed)
        session: Session
        ended = "cancelled"
        self.truth.add_opened(record)
        self._faults.connections.add(connection)
        if record.exchange == "okx":
            session = OkxSession(self._okx, connection)
        else:
            venue = self._spot if endpoint == "binance.spot" else self._perp
            session = BinanceSession(venue, connection, request.target)
        try:
            ended = await connection.converse(session)
        except RemoteProtocolError as error:
            ended = f"bad handshake: {error}"
            await respond(stream, Answer({"code": -1000, "msg": str(error)}, 400))
        finally:
            session.left()
            self._faults.connections.discard(connection)
            self._mishaps.traps.forget(connection)
            self.truth.add_closed(record, self._now_ns(), ended)

    def _feed(self, exchange: str, venue: Venue, listing: Listing) -> Feed:
        names = (self._seed, exchange, listing.market, listing.symbol)
        market = Market(listing, seeded(*names, "market"), self._scenario.book_levels)
        tape = OkxTape if exchange == "okx" else BinanceTape
        return Feed(tape(market, venue, seeded(*names, "tape")), seeded(*names, "times"), self._later)


async def serve(
    scenario: Scenario = CALM,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    seed: int = 0,
    ssl_context: ssl.SSLContext | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    truth_path: Path | None = None,
    recordings: Sequence[Recording] | None = None,
    speed: float | None = 1.0,
    announce: Callable[[str], None] = lambda text: None,
    keep_truth: bool = True,
    task_status: trio.TaskStatus[SimServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Listen and serve until cancelled: `server = await nursery.start(partial(serve, scenario, seed=7))`.

    Port 0 lets the system choose; `server.port` says which. `announce` is told the endpoints block, then how a replay
    goes. With `truth_path` the truth is also written there as JSON lines; without `keep_truth` only there. Raises
    `OSError` for a port or a path that cannot be had.
    """
    server = SimServer(
        scenario,
        seed=seed,
        now_ns=now_ns,
        recordings=recordings,
        speed=speed,
        announce=announce,
        keep_truth=keep_truth,
    )
    with server.truth.written_to(truth_path):
        listeners = await trio.open_tcp_listeners(port, host=host)
        server.port, server.host, server.tls = listeners[0].socket.getsockname()[1], host, ssl_context is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            if ssl_context is None:
                await nursery.start(trio.serve_listeners, server.serve_connection, listeners)
            else:
                wrapped = [trio.SSLListener(listener, ssl_context, https_compatible=True) for listener in listeners]
                await nursery.start(trio.serve_listeners, server.serve_connection, wrapped)
            announce(server.endpoints_toml().rstrip())
            task_status.started(server)
            await trio.sleep_forever()
