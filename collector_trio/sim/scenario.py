"""Scenarios: which markets there are, how fast they are, and what goes wrong when."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from collector_trio.errors import ConfigError

KINDS = ("close", "drop", "abort", "stall", "refuse")
TARGETS = ("any", "binance", "okx", "binance.spot", "okx.public", "okx.business")
STATUSES = (503, 429, 418, 451)


@attrs.frozen
class Fault:
    """One thing that goes wrong. It strikes every open connection of `target`.

    - close: a close frame with `code` (by default 1001 at Binance, 4004 at OKX), then FIN.
    - drop: FIN without a close frame.
    - abort: RST.
    - stall: no data for `duration_s`, while TCP stays up and control messages are answered. What would have been sent
      is never sent.
    - refuse: the next `count` handshakes get HTTP `status`, with Retry-After if `retry_after_s` is given.

    A scenario's faults strike `at_s` after the server's start, and again `every_s`. One that finds nobody who was sent
    data waits for somebody.
    """

    kind: str
    target: str = "any"
    at_s: float | None = None
    every_s: float | None = None
    duration_s: float = 10.0
    count: int = 1
    status: int = 503
    retry_after_s: int | None = None
    code: int | None = None

    def strikes(self, endpoint: str) -> bool:
        """Tell whether a connection of `endpoint` is meant."""
        return self.target in ("any", endpoint, endpoint.split(".")[0])


@attrs.frozen
class Scenario:
    """What is simulated.

    Rates are per symbol; a quiet symbol trades about once an hour and its book changes every 90 s.
    """

    symbols: tuple[str, ...] = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
    quiet_symbols: tuple[str, ...] = ("ZEN-USDT",)
    trades_per_s: float = 10.0
    book_changes_per_s: float = 10.0
    faults: tuple[Fault, ...] = ()


CALM = Scenario()
BUMPY = Scenario(
    faults=(
        Fault("close", "binance.spot", at_s=4, every_s=61),
        Fault("drop", "okx.business", at_s=7, every_s=67),
        Fault("abort", "okx.public", at_s=10, every_s=71),
        Fault("stall", "binance.spot", at_s=13, every_s=73, duration_s=8),
        Fault("refuse", "okx.business", at_s=17.9, every_s=79),
        Fault("close", "okx.business", at_s=18, every_s=79),
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
        values = self._table("", document, {"symbols", "quiet_symbols", "trades_per_s", "book_changes_per_s", "faults"})
        for key in ("symbols", "quiet_symbols"):
            if key in values:
                values[key] = self._symbols(key, values[key])
        for key in ("trades_per_s", "book_changes_per_s"):
            if key in values:
                self._number(key, values[key], above=0)
        if "faults" in values:
            values["faults"] = self._faults(values["faults"])
        if self.problems:
            raise ConfigError(self.problems)
        return Scenario(**values)

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
        choices: Mapping[str, Sequence[object]] = {"kind": KINDS, "target": TARGETS, "status": STATUSES}
        for key, value in values.items():
            name = f"{where}.{key}"
            if key in choices:
                self._choice(name, value, choices[key])
            elif key == "every_s" or key == "duration_s":
                self._number(name, value, above=0)
            elif key == "at_s":
                self._number(name, value, at_least=0)
            else:
                self._whole(name, value, *{"code": (1000, 4999), "count": (1, 10**9)}.get(key, (0, 10**9)))
        if "at_s" not in values and "every_s" not in values:
            self.problems.append(f"{self.path}: {where} has no time; wanted at_s or every_s (seconds)")
        return Fault(**values) if len(self.problems) == before else Fault("close")

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

    def _number(self, key: str, found: object, *, above: float | None = None, at_least: float | None = None) -> None:
        wanted = f"a number above {above}" if above is not None else f"a number from {at_least}"
        is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
        low = is_number and ((above is not None and found <= above) or (at_least is not None and found < at_least))  # type: ignore[operator]
        if not is_number or low or found in (float("inf"),) or found != found:
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
