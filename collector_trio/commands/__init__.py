"""The command line: one module per command."""

import sys
from collections.abc import Sequence

import click

from collector_trio import __version__
from collector_trio.commands.check import check
from collector_trio.commands.decode import decode
from collector_trio.commands.demo import demo
from collector_trio.commands.follow import follow
from collector_trio.commands.replay import replay
from collector_trio.commands.run import run
from collector_trio.commands.sim import sim
from collector_trio.commands.sql import sql
from collector_trio.commands.summary import summary
from collector_trio.errors import CollectorError, ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="collector_trio")
def cli() -> None:
    """Record what crypto exchanges publish, into files that any tool reads.

    Without a command it is `run`.

    Example: python -m collector_trio run --config config.toml
    """


for command in (run, check, demo, sim, decode, replay, follow, summary, sql):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed or found a problem, 2 usage or config error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "run")
    try:
        cli.main(arguments, prog_name="python -m collector_trio", standalone_mode=True)
    except ConfigError as error:
        _fail(error, 2)
    except CollectorError as error:
        _fail(error, 1)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        raise SystemExit(1) from None


def _fail(error: CollectorError, code: int) -> None:
    click.echo(str(error), err=True)
    raise SystemExit(code)
