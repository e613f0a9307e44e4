"""`demo`: the same job as `run`, against simulated exchanges."""

import shutil
import sys
from functools import partial
from pathlib import Path

import click
import trio

from collector_trio import app
from collector_trio.commands.live import LiveTable, live_table
from collector_trio.commands.options import Duration, json_option
from collector_trio.commands.run import print_report
from collector_trio.config import Config, parse_config
from collector_trio.errors import CollectorError
from collector_trio.exchanges import EXCHANGES
from collector_trio.ops.census import Owners
from collector_trio.ops.log import set_up_logging
from collector_trio.sim import BUMPY, SimServer, serve

_RECORD = """
[[record]]
exchange = "{exchange}"
market = "{market}"
symbols = ["BTC-USDT", "ETH-USDT"]
channels = ["trades", "book"]
"""
MARKETS = (("binance", "spot"), ("binance", "perp"), ("okx", "spot"), ("okx", "perp"))
MARK = "state/demo"  # in a folder that a demo made, and may empty

_CONFIG = """
[collector]
data_dir = {data_dir}

[http]
listen = "127.0.0.1:0"

[store]
segment = "10s"
min_free = "64 MiB"

{records}
{endpoints}
"""


@click.command(epilog="Example: python -m collector_trio demo --for 30s")
@click.option("--for", "for_s", type=Duration(), default=30.0, help="How long to record; default: 30s.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-data"), show_default=True,
    help="Where to record; emptied first if a demo made it.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulated market.")
@json_option
def demo(for_s: float, data_dir: Path, seed: int, as_json: bool) -> None:
    """Record simulated exchanges on this machine, with disconnects on the way. Needs no network."""
    _empty(data_dir)
    with live_table(wanted=not as_json) as table:
        set_up_logging("auto", "info")
        config, report = trio.run(partial(_record, data_dir, for_s, seed, table))
    print_report(config, report, as_json)
    if not as_json:
        click.echo("\nLook at what was recorded:")
        click.echo(
            f'  {_python()} -m collector_trio sql --data-dir {data_dir} "SELECT exchange, symbol, count(*) AS trades, '
            'avg(price) AS mean_price FROM trades GROUP BY ALL ORDER BY ALL"'
        )


def _empty(data_dir: Path) -> None:
    mark = data_dir / MARK
    if data_dir.exists() and any(data_dir.iterdir()):
        if not mark.exists():
            raise CollectorError(f"{data_dir} exists and was not made by a demo; choose another --data-dir")
        shutil.rmtree(data_dir)
    mark.parent.mkdir(parents=True)
    mark.touch()


async def _record(data_dir: Path, for_s: float, seed: int, table: LiveTable | None) -> tuple[Config, app.Report]:
    async with trio.open_nursery() as nursery:
        server: SimServer = await nursery.start(partial(serve, BUMPY, seed=seed))
        records = "".join(_RECORD.format(exchange=exchange, market=market) for exchange, market in MARKETS)
        text = _CONFIG.format(data_dir=_quoted(data_dir), records=records, endpoints=server.endpoints_toml())
        config = parse_config(text, "<demo>", {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, {})
        owners = Owners(ports={server.port: "simulator"})
        report = await app.run(config, for_s=for_s, owners=owners, watch=None if table is None else table.show)
        nursery.cancel_scope.cancel()
    return config, report


def _python() -> str:
    """Spell this interpreter so that the line works when pasted here."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)


def _quoted(path: Path) -> str:
    """Spell a path as a TOML string; its `$` are its own."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
