"""`sim`: the simulated exchanges alone."""

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import click
import trio

from collector_trio.sim import BUILT_IN, Fault, Scenario, run_sim

_KEYS = ", ".join(field.name for field in attrs.fields(Scenario) if field.name != "faults")
_FAULT_KEYS = ", ".join(field.name for field in attrs.fields(Fault))


@click.command(epilog="Example: python -m collector_trio sim --port 9000 --scenario bumpy --seed 7")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Where to listen on loopback; default: any free port."
)
@click.option(
    "--scenario", help=f"{', '.join(BUILT_IN)}, or a TOML file: {_KEYS}, and tables [[faults]]: {_FAULT_KEYS}."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same market.")
@click.option(
    "--replay", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="Serve recorded frames instead of a made-up market: a recording, or a journal. May be repeated; "
    "files may also follow each other behind one --replay.",
)  # fmt: skip
@click.option("--fast", is_flag=True, help="Replay as fast as the collector takes it, not with the recorded timing.")
@click.option(
    "--truth", type=click.Path(path_type=Path, dir_okay=False), help="Write what was sent to whom here, JSON lines."
)
@click.option(
    "--tls", nargs=2, type=click.Path(path_type=Path, exists=True), help="Certificate chain and key (PEM): wss, https."
)
@click.argument("more", nargs=-1, type=click.Path(path_type=Path, exists=True))
def sim(
    port: int,
    scenario: str | None,
    seed: int,
    replay: tuple[Path, ...],
    fast: bool,
    truth: Path | None,
    tls: tuple[Path, Path] | None,
    more: tuple[Path, ...],
) -> None:
    """Start simulated exchanges and print the [endpoints] block to paste into a config; ends on Ctrl-C or SIGTERM."""
    if more and not replay:
        raise click.UsageError(f"{more[0]}: files are for --replay")
    serve = partial(
        run_sim,
        port=port,
        scenario=scenario,
        seed=seed,
        replay=[*replay, *more],
        fast=fast,
        truth_path=truth,
        tls=tls,
        announce=click.echo,
    )
    trio.run(_until_signalled, serve)


async def _until_signalled(serve: Callable[[], Awaitable[None]]) -> None:
    """Serve until SIGINT or SIGTERM, then end as something that did what it should."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
