"""Options and loading that several commands share."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from collector_trio.config import Config, load_config, parse_duration
from collector_trio.exchanges import EXCHANGES


class Duration(click.ParamType[float]):
    """A duration as in the config: 250ms, 30s, 5m, 1h. The value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or fail as a usage error."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Instant(click.ParamType[int]):
    """ISO 8601, UTC where it names no zone. The value is nanoseconds since the epoch."""

    name = "time"
    wanted = "a time such as 2026-11-23 or 2026-11-23T12:30:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or fail as a usage error."""
        if isinstance(value, int):
            return value
        try:
            instant = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not {self.wanted}", param, ctx)
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
        return int(instant.timestamp() * 1_000_000) * 1000


class Since(Instant):
    """An instant, or how long ago that was: 24h, 30d."""

    name = "time or duration"
    wanted = "a time such as 2026-11-23 or 2026-11-23T12:30:00Z, or a duration such as 24h or 30d"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or fail as a usage error."""
        if isinstance(value, int):
            return value
        try:
            seconds = parse_duration(str(value))
        except ValueError:
            return super().convert(value, param, ctx)
        return max(0, time.time_ns() - round(seconds * 1e9))


config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=Path("config.toml"), show_default=True,
    help="The config file.",
)  # fmt: skip
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("data"), show_default=True,
    help="The folder a collector recorded into.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document with stable keys.")


def load(path: Path) -> Config:
    """Load a config against what this version's exchanges offer. Raises ConfigError."""
    return load_config(path, {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}, os.environ)
