"""config.toml → frozen attrs: the only place where what a user wrote is judged."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from collector_trio.config_alerts import LIMITS, THRESHOLDS, Alerts, Threshold, WrittenThreshold
from collector_trio.config_source import Place, Source, read_source, show_place
from collector_trio.config_values import (
    Fault,
    Reader,
    WrongType,
    array_of,
    boolean,
    duration,
    endpoint_url,
    folder,
    listen_address,
    one_of,
    parse_duration,
    parse_size,
    period,
    proxy_url,
    redundancy,
    share,
    size,
    suggest,
    symbols,
    webhook_url,
)
from collector_trio.errors import ConfigError
from collector_trio.instruments import is_pattern

__all__ = [
    "Alerts",
    "Collector",
    "Config",
    "Http",
    "Limits",
    "Net",
    "Offers",
    "Record",
    "Store",
    "Threshold",
    "load_config",
    "parse_config",
    "parse_duration",
    "parse_size",
]

T = TypeVar("T")
Readers = Mapping[str, Reader[Any]]  # by key; what has no reader is not a key


@attrs.frozen
class Offers:
    """What the exchange module of this version can do; passed in, because the config knows no exchange.

    `markets` maps a market to its channels, `endpoints` a config section (without "endpoints.") to the default URLs of
    its keys. A WebSocket URL must end in its default's path; `path_reasons` says why, by section, where that is not
    plain.
    """

    markets: Mapping[str, tuple[str, ...]]
    endpoints: Mapping[str, Mapping[str, str]]
    path_reasons: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Collector:
    """`[collector]`."""

    data_dir: Path = Path("data")
    log: str = "auto"
    log_level: str = "info"


@attrs.frozen
class Http:
    """`[http]`; `listen` is host:port, "" turns it off."""

    listen: str = "127.0.0.1:8087"


@attrs.frozen
class Record:
    """One `[[record]]`: what to record of one market."""

    exchange: str
    market: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    redundancy: int = 1


@attrs.frozen
class Store:
    """`[store]`. `keep_tables_s` None is "forever"; `keep_journal` is seconds, "until stored" or "forever"."""

    sync_every_s: float = 1.0
    segment_s: float = 60.0
    snapshot_every_s: float = 600.0
    keep_tables_s: float | None = None
    keep_journal: float | str = 3 * 86400.0
    min_free_bytes: int = 2**30


@attrs.frozen
class Net:
    """`[net]`."""

    proxy: str = ""
    insecure: bool = False


@attrs.frozen
class Limits:
    """`[limits]`; `share` is this process's part of the venue's per-IP budgets, 0 < share <= 1."""

    share: float = 1.0


@attrs.frozen
class Config:
    """A whole config. `endpoints` maps section to key to URL: the defaults of all offers under the file's overrides."""

    source: str
    record: tuple[Record, ...]
    endpoints: Mapping[str, Mapping[str, str]]
    collector: Collector = Collector()
    http: Http = Http()
    store: Store = Store()
    net: Net = Net()
    limits: Limits = Limits()
    alerts: Alerts = attrs.field(factory=Alerts)


def _unread(value: object) -> Any:
    raise AssertionError("`_section_readers` gives this key its reader")


# What the contract knows, whether or not this version offers it: "not in this version" is no misspelling.
LATER_SECTIONS = ("nats", "clickhouse")
ENDPOINTS = ("binance.spot", "binance.perp", "okx", "deribit")
EXCHANGES = ("binance", "okx", "deribit")
MARKETS = ("spot", "perp", "index")
CHANNELS = (
    "trades",
    "book",
    "quotes",
    "funding",
    "open_interest",
    "liquidations",
    "long_short_ratio",
    "volatility_index",
)

# The sections that are one table each. An attribute is named as its key, with its unit ("segment" → segment_s).
SECTIONS: Mapping[str, tuple[type, Readers]] = {
    "collector": (
        Collector,
        {
            "data_dir": folder,
            "log": one_of(("auto", "console", "json")),
            "log_level": one_of(("debug", "info", "warning", "error")),
        },
    ),
    "http": (Http, {"listen": listen_address}),
    "store": (
        Store,
        {
            "sync_every": duration("1ms", "1m"),
            "segment": duration("1s", "1h"),
            "snapshot_every": duration("1s"),
            "keep_tables": lambda value: None if value == "forever" else period(("forever",))(value),
            "keep_journal": period(("until stored", "forever")),
            "min_free": size,
        },
    ),
    "net": (Net, {"proxy": proxy_url, "insecure": boolean}),
    "limits": (Limits, {"share": share}),
    "alerts": (Alerts, {**dict.fromkeys(THRESHOLDS, _unread), **LIMITS, "webhook": _unread}),
}

_CONVERTER = cattrs.Converter()


def load_config(path: Path, offers: Mapping[str, Offers], environ: Mapping[str, str]) -> Config:
    """Read and judge a config file; raises `ConfigError` with all of its problems, missing included."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file; --config names another"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8: byte 0x{content[error.start]:02x}"]) from error
    return parse_config(text, str(path), offers, environ)


def parse_config(text: str, source: str, offers: Mapping[str, Offers], environ: Mapping[str, str]) -> Config:
    """Judge the text of a config file, called `source` in messages; raises `ConfigError` with all problems, by line.

    Messages count from 1: record[1].symbols[2] is the second symbol of the first `[[record]]`.
    """
    file = read_source(text, source, environ)
    known = [*SECTIONS, "record", "endpoints"]
    for section in file.values:
        if section in LATER_SECTIONS:
            file.add((section,), f"is not in this version ({', '.join(known)})")
        elif section not in known:
            _note_unknown(file, (section,), "section", known)
    sections: dict[str, Any] = {
        name: _structure(file, (name,), SECTIONS[name][0], _section_readers(file, name))
        for name in SECTIONS
        if name in file.values
    }
    records = _read_records(file, offers)
    endpoints = _read_endpoints(file, offers)
    file.raise_problems()
    return Config(source, records, endpoints, **sections)


def _section_readers(file: Source, section: str) -> Readers:
    """Return the readers of a section's keys; those of a threshold note in `file` what is wrong inside it."""
    readers = SECTIONS[section][1]
    if section != "alerts":
        return readers
    thresholds = {name: _threshold_reader(file, (section, name)) for name in THRESHOLDS}
    return {**readers, **thresholds, "webhook": webhook_url(insecure=_is_insecure(file))}


def _threshold_reader(file: Source, place: Place) -> Reader[Threshold]:
    name = str(place[-1])
    default: Threshold = getattr(Alerts(), name)

    def read(value: object) -> Threshold:
        if not isinstance(value, dict):
            raise WrongType("a table such as { alert_above = … } is wanted")
        written = _structure(file, place, WrittenThreshold, THRESHOLDS[name])
        threshold = default if written is None else written.over(default)
        if threshold.normal[1] > threshold.alert_above:
            key = "normal" if "normal" in value else "alert_above"
            file.add_fault((*place, key), Fault("normal must not reach beyond alert_above"))
        return threshold

    return read


def _is_insecure(file: Source) -> bool:
    net = file.values.get("net")
    return isinstance(net, dict) and net.get("insecure") is True


def _structure(file: Source, place: Place, into: type[T], readers: Readers) -> T | None:
    """Make an `into` of the table at `place`; None if there are problems, which are then noted."""
    table = file.value(place)
    if not isinstance(table, dict):
        file.add_fault(place, WrongType("a table is wanted"))
        return None
    overrides: dict[str, Any] = {
        attribute.name: override(rename=_key(attribute.name), struct_hook=_hook(readers[_key(attribute.name)]))
        for attribute in attrs.fields(into)  # type: ignore[arg-type]  # T is one of the classes above
    }
    structure = make_dict_structure_fn(
        into, _CONVERTER, _cattrs_forbid_extra_keys=True, _cattrs_use_linecache=False, **overrides
    )
    try:
        return structure(table, into)
    except cattrs.ClassValidationError as invalid:
        faults, others = invalid.group_exceptions()
        for error, note in faults:
            key = _key(note.name)
            if key in table:
                _note(file, (*place, key), error)
            else:
                file.add((*place, key), f"is missing; {_wanted(readers[key])}")
        for error in others:
            if not isinstance(error, cattrs.ForbiddenExtraKeysError):
                raise
            for key in error.extra_fields:
                _note_unknown(file, (*place, key), "key", readers)
        return None


def _note(file: Source, place: Place, error: Exception) -> None:
    """Note what cattrs collected at one place or inside it; anything but a `Fault` is a mistake of ours."""
    if isinstance(error, cattrs.IterableValidationError):
        for inner, note in error.group_exceptions()[0]:
            _note(file, (*place, note.index), inner)
    elif isinstance(error, Fault):
        file.add_fault(place, error)
    else:
        raise error


def _note_unknown(file: Source, place: Place, what: str, known: Collection[str]) -> None:
    """Note that `known` are the only keys here, and where a key of this name would belong."""
    key = str(place[-1])
    home = next((f"; it belongs in [{name}]" for name, (_, readers) in SECTIONS.items() if key in readers), "")
    file.add(place, f"is not a {what}{home or f'; {suggest(key, known)}'}")


def _key(attribute: str) -> str:
    """Name the key of an attribute, whose unit is not part of it."""
    return attribute.removesuffix("_s").removesuffix("_bytes")


def _hook(read: Reader[T]) -> Callable[[Any, Any], T]:
    return lambda value, _: read(value)


def _wanted(read: Reader[Any]) -> str:
    """Ask a reader what it wants, with a value that no TOML has."""
    try:
        read(None)
    except WrongType as wanted:
        return str(wanted)
    raise AssertionError(f"{read} took None")


def _read_records(file: Source, offers: Mapping[str, Offers]) -> tuple[Record, ...]:
    """Read every `[[record]]`, of which there must be one."""
    tables = file.values.get("record", [])
    if not isinstance(tables, list):
        file.add_fault(("record",), WrongType("an array of tables is wanted: [[record]]"))
        return ()
    if not tables:
        file.add(("record",), "is missing; at least one [[record]] is wanted")
    records: dict[int, Record] = {}
    for index, table in enumerate(tables):
        record = _structure(file, ("record", index), Record, _record_readers(table, offers))
        if record is not None:
            records[index] = record
    _note_repeated(file, records)
    return tuple(records.values())


def _record_readers(table: Any, offers: Mapping[str, Offers]) -> Readers:
    """Say what one `[[record]]` may hold: its channels depend on its market, and that on its exchange.

    Behind a wrong exchange or market, whatever any of them offers will do.
    """
    exchange, market = (table.get("exchange"), table.get("market")) if isinstance(table, dict) else (None, None)
    offered = [(name, *item) for name, offer in offers.items() for item in offer.markets.items()]
    offered = [each for each in offered if each[0] == exchange] or offered
    markets = dict.fromkeys(each[1] for each in offered)
    offered = [each for each in offered if each[1] == market] or offered
    channels = dict.fromkeys(channel for each in offered for channel in each[2])
    return {
        "exchange": one_of(offers, EXCHANGES),
        "market": one_of(markets, MARKETS),
        "symbols": symbols,
        "channels": array_of(one_of(channels, CHANNELS), 'an array of channels such as ["trades"]'),
        "redundancy": redundancy,
    }


def _note_repeated(file: Source, records: Mapping[int, Record]) -> None:
    """Note symbols of which one channel would be recorded by two records; patterns may overlap."""
    first: dict[tuple[str, str, str, str], Place] = {}
    for index, record in records.items():
        for position, symbol in enumerate(record.symbols):
            if is_pattern(symbol) or symbol.startswith("!"):
                continue
            place = ("record", index, "symbols", position)
            repeated: dict[Place, list[str]] = {}
            for channel in record.channels:
                earlier = first.setdefault((record.exchange, record.market, symbol, channel), place)
                if earlier != place:
                    repeated.setdefault(earlier, []).append(channel)
            if repeated:
                where = ", ".join(
                    f"{show_place(earlier)} in line {file.line(earlier)} ({', '.join(channels)})"
                    for earlier, channels in repeated.items()
                )
                file.add(place, f'is "{symbol}"; already recorded by {where}')


def _read_endpoints(file: Source, offers: Mapping[str, Offers]) -> dict[str, dict[str, str]]:
    """Return all URLs: those of the offers, and over them those of the file."""
    urls = {section: dict(defaults) for offer in offers.values() for section, defaults in offer.endpoints.items()}
    reasons = {section: reason for offer in offers.values() for section, reason in offer.path_reasons.items()}
    insecure = _is_insecure(file)
    # Sections have dots in their names, so [endpoints.binance] is no section, but leads to some.
    sections: dict[Place, str] = {tuple(name.split(".")): name for name in (*ENDPOINTS, *urls)}
    places: list[Place] = [("endpoints",)] if "endpoints" in file.values else []
    for place in places:
        table = file.value(place)
        name = sections.get(place[1:])
        if name is not None and name not in urls:
            file.add(place, f"is not in this version ({', '.join(urls)})")
        elif not any(section[: len(place) - 1] == place[1:] for section in sections):
            file.add(place, f"is not a section of endpoints; {suggest('.'.join(map(str, place[1:])), urls)}")
        elif not isinstance(table, dict):
            file.add_fault(place, WrongType("a table is wanted"))
        elif name is None:
            places += [(*place, key) for key in table]
        else:
            for key, value in table.items():
                if key not in urls[name]:
                    _note_unknown(file, (*place, key), "key", urls[name])
                    continue
                try:
                    read = endpoint_url(key, urls[name][key], insecure=insecure, why=reasons.get(name))
                    urls[name][key] = read(value)
                except Fault as fault:
                    file.add_fault((*place, key), fault)
    return urls
