"""The command line: one module per command, imported when asked for, so that `run` never loads what reads Parquet."""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from collector_trio import __version__
from collector_trio.errors import CollectorError, ConfigError

COMMANDS = (
    "run",
    "check",
    "demo",
    "sim",
    "decode",
    "replay",
    "follow",
    "status",
    "summary",
    "gaps",
    "book",
    "sql",
    "journal",
)


class Commands(click.Group):
    """Finds each command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, the main job first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"collector_trio.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="collector_trio")
def cli() -> None:
    """Record what crypto exchanges publish, into files that any tool reads.

    Without a command it is `run`.

    Example: python -m collector_trio run --config config.toml
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed or found a problem, 2 usage or config error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "run")
    problem: CollectorError | OSError | None = None
    try:
        cli.main(arguments)
    except* (CollectorError, OSError) as group:  # alone, or in a group from a nursery
        problem = _first(group)
    if problem is not None:
        click.echo(str(problem), err=True)
        raise SystemExit(2 if isinstance(problem, ConfigError) else 1)


def _first(group: BaseExceptionGroup[CollectorError | OSError]) -> CollectorError | OSError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
