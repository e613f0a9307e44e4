"""The simulated exchanges behind one port: connections are told apart by their path, hosts are not looked at.

A request's head is read first; REST is answered and the connection closed, a WebSocket handshake begins a `Connection`
with the session of its exchange. `serve` listens on loopback; `SimServer.run` and `SimServer.serve_connection` do the
same for any stream, such as memory streams under a MockClock.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import trio
from wsproto.utilities import RemoteProtocolError

from collector_trio.sim.binance import BinanceSession, BinanceTape
from collector_trio.sim.binance_rest import BinanceRest
from collector_trio.sim.connection import Connection, Session
from collector_trio.sim.faults import Faults
from collector_trio.sim.feed import Clock, Feed, Tape
from collector_trio.sim.http import Answer, Request, read_request, respond
from collector_trio.sim.listings import binance_listing, okx_listing, rates, recorded_listing
from collector_trio.sim.market import Listing, Market
from collector_trio.sim.okx import OkxSession, OkxTape
from collector_trio.sim.okx_rest import OkxRest
from collector_trio.sim.recordings import Recording
from collector_trio.sim.replay import Replay
from collector_trio.sim.scenario import CALM, Fault, Scenario
from collector_trio.sim.truth import ConnectionRecord, Truth
from collector_trio.sim.venue import Venue, seeded

ENDPOINTS = {"/stream": "binance.spot", "/ws/v5/public": "okx.public", "/ws/v5/business": "okx.business"}
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
        self._faults = Faults(self.truth, now_ns)
        self._replay: Replay | None = None
        if recordings is None:
            pace = rates(scenario)
            self._binance = Venue([binance_listing(symbol, *pace[symbol]) for symbol in pace], self._clock)
            self._okx = Venue([okx_listing(symbol, *pace[symbol]) for symbol in pace], self._clock)
            for listing in self._binance.listings:
                self._binance.add_feed(self._feed("binance", BinanceTape, self._binance, listing))
            for listing in self._okx.listings:
                self._okx.add_feed(self._feed("okx", OkxTape, self._okx, listing))
        else:
            names = {(frame.exchange, frame.native_symbol): None for one in recordings for frame in one.frames}
            venues = {
                exchange: Venue([recorded_listing(*name) for name in names if name[0] == exchange], self._clock)
                for exchange in ("binance", "okx")
            }
            self._binance, self._okx = venues["binance"], venues["okx"]
            self._replay = Replay(recordings, venues, speed=speed, announce=announce, done=self.replay_done)
        self._rest: Mapping[str, Callable[[Request], Answer]] = {
            "/api/v3/": BinanceRest(self._binance).answer,
            "/api/v5/": OkxRest(self._okx).answer,
        }

    def endpoints_toml(self) -> str:
        """Return the block to paste into a collector's config."""
        s = "s" if self.tls else ""
        ws, rest = f"ws{s}://{self.host}:{self.port}", f"http{s}://{self.host}:{self.port}"
        return (
            f'[endpoints.binance.spot]\nws = "{ws}/stream"\nrest = "{rest}"\n'
            f'[endpoints.okx]\nws_public = "{ws}/ws/v5/public"\nws_business = "{ws}/ws/v5/business"\nrest = "{rest}"\n'
        )

    def inject(self, fault: Fault) -> int:
        """Let a fault happen now; its times are not looked at. Returns how many open connections it struck."""
        return self._faults.strike(fault)

    def book(self, exchange: str, native_symbol: str) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the true book now, as REST would show it: sequence number, bids and asks, best first."""
        venue = {"binance": self._binance, "okx": self._okx}[exchange]
        return venue.feeds[native_symbol].tape.book(10**6)

    async def run(self) -> None:
        """Let the markets' time pass and the faults strike, or replay, until cancelled."""
        async with trio.open_nursery() as nursery:
            for feed in (*self._binance.feeds.values(), *self._okx.feeds.values()):
                nursery.start_soon(feed.run)
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
            await respond(stream, self._rest_answer(request))
        elif refusal := self._faults.refusal(endpoint):
            await respond(stream, refusal)
        else:
            await self._serve_websocket(stream, request, endpoint)

    def _rest_answer(self, request: Request) -> Answer:
        call = next((call for prefix, call in self._rest.items() if request.path.startswith(prefix)), None)
        if request.method != "GET":
            answer = Answer({"code": -1000, "msg": "only GET is simulated"}, 405)
        elif call is None:
            answer = Answer({"code": -1000, "msg": f"No such path: {request.path}"}, 404)
        else:
            answer = call(request)
        self.truth.rest[request.path, answer.status] += 1
        return answer

    async def _serve_websocket(self, stream: trio.abc.Stream, request: Request, endpoint: str) -> None:
        number = self.truth.opened + 1
        record = ConnectionRecord(number, endpoint.split(".")[0], endpoint, request.target, self._now_ns())
        connection = Connection(stream, request, record, self.truth, self._faults.fed)
        session: Session
        ended = "cancelled"
        self.truth.add_opened(record)
        self._faults.connections.add(connection)
        if endpoint == "binance.spot":
            session = BinanceSession(self._binance, connection, request.target)
        else:
            session = OkxSession(self._okx, connection)
        try:
            ended = await connection.converse(session)
        except RemoteProtocolError as error:
            ended = f"bad handshake: {error}"
            await respond(stream, Answer({"code": -1000, "msg": str(error)}, 400))
        finally:
            session.left()
            self._faults.connections.discard(connection)
            self.truth.add_closed(record, self._now_ns(), ended)

    def _feed(self, exchange: str, tape: Callable[..., Tape], venue: Venue, listing: Listing) -> Feed:
        market = Market(listing, seeded(self._seed, exchange, listing.symbol, "market"))
        times = seeded(self._seed, exchange, listing.symbol, "times")
        return Feed(tape(market, venue.audience, self.truth, self._clock), times)


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
