"""Runs the whole collector against simulated exchanges in this process, on real sockets, with its real follower."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import attrs
import duckdb
import structlog
import trio

from collector_trio import app
from collector_trio.config import Config, parse_config
from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.cursor import lock_cursor
from collector_trio.followers.tables import open_tables
from collector_trio.ops.census import Owners
from collector_trio.ops.status import Status
from collector_trio.sim import Fault, SimServer, serve
from collector_trio.streams.supervisor import Stream

OFFERS = {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PATIENCE_S = 60.0


def config_text(
    data_dir: Path,
    endpoints: str,
    *,
    symbols: tuple[str, ...] = ("BTC-USDT", "ETH-USDT"),
    exchanges: tuple[str, ...] = ("binance", "okx"),
    markets: tuple[str, ...] = ("spot",),
    segment: str = "2s",
    min_free: str = "0 B",
    listen: str = "",
    store: str = "",
) -> str:
    listed = ", ".join(f'"{symbol}"' for symbol in symbols)
    records = "".join(
        f'[[record]]\nexchange = "{name}"\nmarket = "{market}"\nsymbols = [{listed}]\nchannels = ["trades", "book"]\n'
        for name in exchanges
        for market in markets
    )
    kept = f'[store]\nsegment = "{segment}"\nkeep_journal = "forever"\nmin_free = "{min_free}"\n{store}'
    return f'[collector]\ndata_dir = "{data_dir}"\n[http]\nlisten = "{listen}"\n{kept}{records}{endpoints}'


def config_for(data_dir: Path, endpoints: str, **options: Any) -> Config:
    """Return what `config_text` says, as the collector reads it."""
    return parse_config(config_text(data_dir, endpoints, **options), "test.toml", OFFERS, {})


@attrs.define
class Running:
    """A collector at work, and the exchanges it works on."""

    server: SimServer
    config: Config
    stop: trio.Event
    streams: list[Stream]
    owners: Owners
    report: app.Report | None = None
    look: Callable[[], Status] | None = None  # at the recorder, once it runs

    async def watch(self, look: Callable[[], Status]) -> NoReturn:
        self.look = look
        await trio.sleep_forever()

    async def until(self, condition: Any, what: str) -> None:
        """Wait until `condition()` holds, looking often."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in sockets and other processes
                await trio.sleep(0.02)
            return
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")

    async def quiesce(self) -> None:
        """Let the simulated market fall silent, and the collector read what is on the way."""
        self.server.inject(Fault("stall", duration_s=3600))
        before = None
        while before != (now := (self.frames(), self.sent())) or now[0] != now[1]:
            before = now
            await trio.sleep(0.3)

    def sent(self) -> int:
        """Count the frames, control included, that the exchanges have sent."""
        return sum(connection.data + connection.control for connection in self.server.truth.connections)

    def all_live(self) -> bool:
        return bool(self.streams) and all(stream.is_live for stream in self.streams)

    def frames(self) -> int:
        return sum(stream.frames for stream in self.streams)


@asynccontextmanager
async def recording(
    data_dir: Path, *, serve_with: dict[str, Any], ours: tuple[int, ...] = (), **config: Any
) -> AsyncIterator[Running]:
    """Record beside the block; when it is left the collector has stopped and everything is stored. `ours`: ports at
    which the test itself listens.
    """
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, **serve_with))
        running = Running(server, config_for(data_dir, server.endpoints_toml(), **config), trio.Event(), [], Owners())
        running.owners.ports |= dict.fromkeys((server.port, *ours), "test")

        async def run() -> None:
            running.report = await app.run(
                running.config, stop=running.stop, streams=running.streams, owners=running.owners, watch=running.watch
            )

        async with trio.open_nursery() as collector:
            collector.start_soon(run)
            yield running
            running.stop.set()
        nursery.cancel_scope.cancel()
    store_what_is_left(data_dir)


def store_what_is_left(data_dir: Path) -> None:
    """Do what the next start would: on a slow machine a stop does not wait until everything is stored."""
    with lock_cursor(data_dir) as held:
        assert held, "the follower is over when the collector is"
        open_tables(data_dir, structlog.get_logger()).store_sealed()


NO_REST = "stream NOT LIKE '%.rest'"


def rows(
    data_dir: Path, table: str, columns: str = "*", order: str = "frame", where: str = "true"
) -> list[tuple[Any, ...]]:
    """Read a table from its Parquet files alone, as any DuckDB user would."""
    files = f"{data_dir}/{table}/**/*.parquet"
    query = f"SELECT {columns} FROM read_parquet('{files}') WHERE {where} ORDER BY {order}"
    with duckdb.connect() as connection:
        found = connection.sql(query).to_arrow_table()
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))
