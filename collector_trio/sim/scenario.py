"""Scenarios: which markets there are, how fast they are, and what goes wrong when."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from sys import float_info
from typing import Any

import attrs

from collector_trio.errors import ConfigError
from collector_trio.sim.fault import CHANNELS, KINDS, MARKETS, STATUSES, TARGETS, Fault, Kind
from collector_trio.sim.market import LEVELS


@attrs.frozen
class Scenario:
    """What is simulated.

    Rates are per symbol, on each exchange and in each market; a quiet symbol trades about once an hour and its book
    changes every 90 s. `book_levels`: how many levels a side a book has, give or take a quarter. `enforce_limits`: who
    dials or asks too often is answered 429, and who goes on is banned.
    """

    symbols: tuple[str, ...] = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
    quiet_symbols: tuple[str, ...] = ("ZEN-USDT",)
    trades_per_s: float = 10.0
    book_changes_per_s: float = 10.0
    faults: tuple[Fault, ...] = ()
    markets: tuple[str, ...] = MARKETS
    book_levels: int = LEVELS
    enforce_limits: bool = False


CALM = Scenario()
BUMPY = Scenario(
    faults=(
        Fault("close", "binance.spot", at_s=4, every_s=61),
        Fault("drop", "okx.business", at_s=7, every_s=67),
        Fault("abort", "okx.public", at_s=10, every_s=71),
        Fault("stall", "binance.spot", at_s=13, every_s=73, duration_s=8),
        Fault("refuse", "okx.business", at_s=17.9, every_s=79),
        Fault("close", "okx.business", at_s=18, every_s=79),
        Fault("drop", "binance.perp.public", at_s=20, every_s=83),
        Fault("abort", "binance.perp.market", at_s=22, every_s=89),
    )
)
BUILT_IN: Mapping[str, Scenario] = {"calm": CALM, "bumpy": BUMPY}


def load_scenario(name_or_file: str | Path | None) -> Scenario:
    """Return a built-in scenario by its name, or read one from a TOML file. None is "calm".

    Raises `ConfigError` with one problem for each thing that is wrong: file, key, what was found, what is allowed.
    """
    if name_or_file is None:
        return CALM
    if isinstance(name_or_file, str) and name_or_file in BUILT_IN:
        return BUILT_IN[name_or_file]
    path = Path(name_or_file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(BUILT_IN)
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            [f'scenario "{name_or_file}" is none of {names}, and no readable file ({problem})']
        ) from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    return _Reader(path).scenario(document)


@attrs.frozen
class _Reader:
    """Reads one document and collects all that is wrong with it."""

    path: Path
    problems: list[str] = attrs.Factory(list)

    def scenario(self, document: dict[str, Any]) -> Scenario:
        values = self._table("", document, {field.name for field in attrs.fields(Scenario)})
        for key in ("symbols", "quiet_symbols"):
            if key in values:
                values[key] = self._symbols(key, values[key])
        for key in ("trades_per_s", "book_changes_per_s"):
            if key in values:
                self._number(key, values[key], above=0)
        if "markets" in values:
            values["markets"] = self._markets(values["markets"])
        if "book_levels" in values:
            self._whole("book_levels", values["book_levels"], 20, 20_000)
        if not isinstance(values.get("enforce_limits", False), bool):
            self._wrong("enforce_limits", values["enforce_limits"], "true or false")
        if "faults" in values:
            values["faults"] = self._faults(values["faults"])
        if self.problems:
            raise ConfigError(self.problems)
        return Scenario(**values)

    def _markets(self, found: object) -> tuple[str, ...]:
        if not isinstance(found, list) or not found:
            self._wrong("markets", found, f"a list of {', '.join(MARKETS)}")
            return ()
        for index, market in enumerate(found):
            self._choice(f"markets[{index}]", market, MARKETS)
        return tuple(found)

    def _faults(self, found: object) -> tuple[Fault, ...]:
        if not isinstance(found, list) or not all(isinstance(fault, dict) for fault in found):
            self._wrong("faults", found, "tables [[faults]]")
            return ()
        return tuple(self._fault(f"faults[{index}]", fault) for index, fault in enumerate(found))

    def _fault(self, where: str, found: dict[str, Any]) -> Fault:
        values = self._table(where, found, {field.name for field in attrs.fields(Fault)})
        before = len(self.problems)
        if "kind" not in values:
            self.problems.append(f"{self.path}: {where}.kind is missing ({', '.join(KINDS)})")
        for key, value in values.items():
            self._value(f"{where}.{key}", key, value)
        kind = KINDS.get(str(values.get("kind")))
        if not values.keys() & {"at_s", "every_s", "chance"}:
            more = ", or chance (a probability)" if kind is not None and "chance" in kind.keys else ""
            self.problems.append(f"{self.path}: {where} has no time; wanted at_s or every_s (seconds){more}")
        if len(self.problems) == before and kind is not None:
            self._combination(where, values, kind)
        return Fault(**values) if len(self.problems) == before else Fault("close")

    def _value(self, name: str, key: str, value: object) -> None:
        choices: Mapping[str, Sequence[object]] = {
            "kind": tuple(KINDS),
            "target": TARGETS,
            "status": STATUSES,
            "market": MARKETS,
            "channel": CHANNELS,
        }
        if key in ("snapshot", "told"):
            if not isinstance(value, bool):
                self._wrong(name, value, "true or false")
        elif key in choices:
            self._choice(name, value, choices[key])
        elif key in ("every_s", "duration_s", "delay_s"):
            self._number(name, value, above=0)
        elif key == "at_s":
            self._number(name, value, at_least=0)
        elif key == "chance":
            self._number(name, value, above=0, at_most=1)
        elif key == "symbol":
            if not isinstance(value, str) or not _is_symbol(value):
                self._wrong(name, value, 'a name such as "BTC-USDT"')
        else:
            bounds = {"code": (1000, 4999), "count": (1, 10**9), "by": (1, 300)}
            self._whole(name, value, *bounds.get(key, (0, 10**9)))

    def _combination(self, where: str, values: dict[str, Any], kind: Kind) -> None:
        """Judge keys, each of which is right in itself."""
        name, target = values["kind"], values.get("target", "any")
        for key in sorted(values.keys() - kind.keys):
            known = ", ".join(sorted(kind.keys))
            self.problems.append(f'{self.path}: {where}.{key} means nothing to "{name}" ({known})')
        if not kind.fits(target):
            self.problems.append(f'{self.path}: {where}.target is "{target}"; "{name}" strikes {kind.home} only')
        if "chance" in values and "every_s" in values:
            self.problems.append(f"{self.path}: {where} has both chance and every_s; wanted one of them")

    def _table(self, where: str, found: dict[str, Any], allowed: set[str]) -> dict[str, Any]:
        for key in found.keys() - allowed:
            name = f"{where}.{key}" if where else key
            self.problems.append(f"{self.path}: {name} is unknown{_nearest(key, sorted(allowed))}")
        return {key: value for key, value in found.items() if key in allowed}

    def _symbols(self, key: str, found: object) -> tuple[str, ...]:
        if not isinstance(found, list) or not all(isinstance(symbol, str) and _is_symbol(symbol) for symbol in found):
            self._wrong(key, found, 'a list of names such as "BTC-USDT"')
            return ()
        return tuple(found)

    def _choice(self, key: str, found: object, allowed: Sequence[object]) -> None:
        if found not in allowed or isinstance(found, bool):
            self.problems.append(
                f"{self.path}: {key} is {_show(found)}{_nearest(found, [str(word) for word in allowed])}"
            )

    def _number(
        self,
        key: str,
        found: object,
        *,
        above: float | None = None,
        at_least: float | None = None,
        at_most: float = float_info.max,
    ) -> None:
        wanted = f"a number above {above}" if above is not None else f"a number from {at_least}"
        if at_most != float_info.max:
            wanted += f" up to {at_most}"
        is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
        right = (
            is_number
            and (above is None or found > above)  # type: ignore[operator]
            and (at_least is None or found >= at_least)  # type: ignore[operator]
            and found <= at_most  # type: ignore[operator]
        )
        if not right:  # nor is what compares with nothing
            self._wrong(key, found, wanted)

    def _whole(self, key: str, found: object, low: int, high: int) -> None:
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            self._wrong(key, found, f"a whole number from {low} to {high}")

    def _wrong(self, key: str, found: object, wanted: str) -> None:
        self.problems.append(f"{self.path}: {key} is {_show(found)}; wanted {wanted}")


def _is_symbol(symbol: str) -> bool:
    parts = symbol.split("-")
    return len(parts) == 2 and all(part and part == part.upper() and not part.isspace() for part in parts)


def _nearest(found: object, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(found), allowed, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"{hint} ({', '.join(allowed)})"


def _show(found: object) -> str:
    return f'"{found}"' if isinstance(found, str) else str(found)
