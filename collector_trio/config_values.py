"""What a config may say in one place: each reader takes a value as TOML gave it and returns ours, or raises `Fault`."""

import ipaddress
import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

from cattrs.errors import IterableValidationError, IterableValidationNote

from collector_trio.instruments import SYMBOL_PATTERN, is_pattern

T = TypeVar("T")
Reader = Callable[[object], T]

CENTURY = "36500d"  # the longest duration; whoever means more writes "forever"

_NUMBER_UNIT = re.compile(r"(?P<number>[0-9]{1,20}(?:\.[0-9]{1,20})?) ?(?P<unit>[A-Za-z]+)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_BYTES = {"B": 1} | {f"{prefix}B": 10**power for prefix, power in zip("kMGT", (3, 6, 9, 12), strict=True)}
_BYTES |= {f"{prefix}iB": 2**power for prefix, power in zip("KMGT", (10, 20, 30, 40), strict=True)}
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_QUOTES = ("FDUSD", "USDT", "USDC", "TUSD", "USD", "EUR", "TRY", "BRL", "BTC", "ETH", "BNB")


class Fault(ValueError):
    """A value cannot be taken. The message says what is allowed; it is read behind `<key> is <value>;`."""


class WrongType(Fault):
    """The value is of another TOML type."""


def nearest(word: str, allowed: Collection[str]) -> str | None:
    """Return what of `allowed` is spelled nearly like `word`, or alone begins so."""
    by_spelling = {each.casefold(): each for each in allowed}
    near = get_close_matches(word.casefold(), by_spelling, n=1)
    begun = [each for each in by_spelling if each.startswith(word.casefold())]
    if not near and len(begun) == 1 and len(word) > 2:
        near = begun
    return by_spelling[near[0]] if near else None


def suggest(word: str, allowed: Collection[str]) -> str:
    """Say what is allowed, the nearest spelling first."""
    near = nearest(word, allowed)
    listed = ", ".join(allowed)
    return f'did you mean "{near}"? ({listed})' if near else f"allowed: {listed}"


def text(value: object) -> str:
    """Take a string."""
    if not isinstance(value, str):
        raise WrongType("a string is wanted")
    return value


def boolean(value: object) -> bool:
    """Take a boolean."""
    if not isinstance(value, bool):
        raise WrongType("true or false is wanted")
    return value


def array_of(read: Reader[T], wanted: str) -> Reader[tuple[T, ...]]:
    """Take an array of at least one value, each once; all faults come in one `IterableValidationError` of cattrs."""

    def read_array(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise WrongType(f"{wanted} is wanted")
        if not value:
            raise Fault(f"{wanted} is wanted")
        taken: list[T] = []
        faults = []
        for index, each in enumerate(value):
            try:
                item = read(each)
                if item in taken:
                    raise Fault("it stands here already")
                taken.append(item)
            except Fault as fault:
                fault.add_note(IterableValidationNote("", index, object))
                faults.append(fault)
        if faults:
            raise IterableValidationError("", faults, tuple)
        return tuple(taken)

    return read_array


def one_of(allowed: Collection[str], later: Collection[str] = ()) -> Reader[str]:
    """Take one of the words `allowed`; those of `later` are known, but not in this version."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise WrongType(f"allowed: {', '.join(allowed)}")
        if value in allowed:
            return value
        if value in later:
            raise Fault(f"not in this version ({', '.join(allowed)})")
        raise Fault(suggest(value, allowed))

    return read


def share(value: object) -> float:
    """Take a part of a whole, which is more than nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongType("a number above 0 and up to 1 is wanted")
    if not 0 < value <= 1:  # false for nan
        raise Fault("above 0 and up to 1 is allowed")
    return float(value)


def redundancy(value: object) -> int:
    """Take the number of sockets for the same subscriptions, of which this version has one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType("an integer is wanted")
    if value < 1:
        raise Fault("1 or more is allowed")
    if value > 1:
        raise Fault("more than one is not in this version (1)")
    return value


def parse_duration(written: str) -> float:
    """Return the seconds of "250ms", "30s", "5m", "1h" or "3d"; raises `ValueError` saying so."""
    examples = '"250ms", "30s", "5m", "1h", "3d"'
    found = _NUMBER_UNIT.fullmatch(written)
    if found is None:
        raise Fault(f"a duration is written like {examples}")
    if found["unit"] in _SECONDS:
        seconds = Decimal(found["number"]) * _SECONDS[found["unit"]]
        if seconds > 36500 * _SECONDS["d"]:
            raise Fault(f"{CENTURY} is the most")
        return float(seconds)
    unit = found["unit"].casefold()
    near = "ms" if unit.startswith(("ms", "mil")) else "" if unit.startswith("mo") else unit[0]
    if near in _SECONDS:
        raise Fault(f'did you mean "{found["number"]}{near}"? ({examples})')
    raise Fault(f"a duration is written like {examples}")


def duration(least: str, most: str = CENTURY) -> Reader[float]:
    """Take a duration within bounds that are themselves written as durations; the result is in seconds."""

    def read(value: object) -> float:
        if not isinstance(value, str):
            raise WrongType('a duration such as "30s" is wanted, in quotes')
        seconds = parse_duration(value)
        if not parse_duration(least) <= seconds <= parse_duration(most):
            raise Fault(f"{least} to {most} is allowed")
        return seconds

    return read


def period(words: Sequence[str]) -> Reader[float | str]:
    """Take a duration, or one of `words` instead."""
    choices = " or ".join(f'"{word}"' for word in words)

    def read(value: object) -> float | str:
        if not isinstance(value, str):
            raise WrongType(f'a duration such as "3d", or {choices}, is wanted')
        if value in words:
            return value
        if not value[:1].isdecimal():
            raise Fault(f'{suggest(value, words)}, or a duration such as "3d"')
        try:
            return duration("1s")(value)
        except Fault as fault:
            raise Fault(f"{fault}, or {choices}") from fault

    return read


def parse_size(written: str) -> int:
    """Return the bytes of "512 MiB", "1 GiB", "2 GB" or "100 kB"; raises `ValueError` saying so."""
    examples = '"512 MiB", "1 GiB", "2 GB", "100 kB"'
    found = _NUMBER_UNIT.fullmatch(written)
    if found is None:
        raise Fault(f"a size is written like {examples}")
    if found["unit"] not in _BYTES:
        units = {unit.casefold(): unit for unit in _BYTES}
        unit = found["unit"].casefold()
        if near := units.get(unit) or units.get(f"{unit}b"):
            raise Fault(f'did you mean "{found["number"]} {near}"? ({examples})')
        raise Fault(f"a size is written like {examples}")
    number = int(Decimal(found["number"]) * _BYTES[found["unit"]])
    if number >= 2**63:
        raise Fault("less than 2^63 bytes is allowed")
    return number


def count(value: object) -> float:
    """Take a number of things."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType("an integer is wanted")
    if not 0 <= value < 2**63:
        raise Fault("0 or more is allowed")
    return float(value)


def per_hour(value: object) -> float:
    """Take a rate such as "30/h"; the result is per hour."""
    if not isinstance(value, str):
        raise WrongType('a rate such as "30/h" is wanted, in quotes')
    found = re.fullmatch(r"([0-9]{1,9}) ?/ ?h", value)
    if found is None:
        raise Fault('a rate is written like "30/h"')
    return float(found[1])


def written_count(value: object) -> float:
    """Take a number of things that stands in a string."""
    written = text(value)
    if not re.fullmatch(r"[0-9]{1,18}", written):
        raise Fault("whole numbers are wanted")
    return float(written)


def span(read: Reader[float], example: str) -> Reader[tuple[float, float]]:
    """Take "low..high" or "..high", whose ends are what `read` takes; where the low end has no unit, the high one's."""

    def read_span(value: object) -> tuple[float, float]:
        if not isinstance(value, str):
            raise WrongType(f'a range such as "{example}" is wanted')
        low_text, dots, high_text = (part.strip() for part in value.partition(".."))
        if not dots or not high_text:
            raise Fault(f'a range is written like "{example}"')
        if re.fullmatch(r"[0-9.]+", low_text):
            low_text += re.sub(r"^[0-9.]+", "", high_text)
        low, high = read(low_text) if low_text else 0.0, read(high_text)
        if low > high:
            raise Fault("its end is before its beginning")
        return low, high

    return read_span


def size(value: object) -> int:
    """Take a size, in bytes."""
    if not isinstance(value, str):
        raise WrongType('a size such as "512 MiB" is wanted, in quotes')
    return parse_size(value)


def folder(value: object) -> Path:
    """Take the path of a folder, relative to the working directory."""
    written = text(value)
    if not written.strip() or "\0" in written:
        raise Fault("the path of a folder is wanted")
    if written.startswith("~"):
        raise Fault('"~" is not expanded; write "${HOME}"')
    return Path(written)


def listen_address(value: object) -> str:
    """Take host:port, or "" for none; an IPv6 host stands in brackets, port 0 is any free one."""
    written = text(value)
    if not written:
        return written
    host, colon, port = written.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not _is_host(host):
        raise Fault('host:port is wanted, such as "127.0.0.1:8087", or "" for off')
    return written


def symbol(value: object) -> str:
    """Take BASE-QUOTE or a pattern of it; "!" in front excludes."""
    written = text(value)
    if _is_symbol(written):
        return written
    spelled = re.sub(r"[/_:\s]+", "-", written.strip(" !").upper())
    if spelled == "*":
        spelled = "*-*"
    elif "-" not in spelled:
        quote = next((each for each in _QUOTES if spelled.endswith(each)), "")
        spelled = f"{spelled.removesuffix(quote)}-{quote}"
    elif not is_pattern(spelled):
        spelled = "-".join(spelled.split("-")[:2])
    allowed = 'BASE-QUOTE, a pattern such as "*-USDT", or either behind "!"'
    if written.startswith("!"):
        spelled = f"!{spelled}"
    raise Fault(f'did you mean "{spelled}"? ({allowed})' if _is_symbol(spelled) else f"allowed: {allowed}")


def symbols(value: object) -> tuple[str, ...]:
    """Take the symbols of a record, which must include some."""
    taken = array_of(symbol, 'an array of symbols such as ["BTC-USDT"]')(value)
    if all(each.startswith("!") for each in taken):
        raise Fault('a symbol or pattern without "!" is wanted too')
    return taken


def endpoint_url(key: str, default: str, *, insecure: bool, why: str | None = None) -> Reader[str]:
    """Take the URL of an endpoint.

    A WebSocket's is complete, its path ends as the default's does (`why` is said where that needs a reason); a REST
    API's is a base for paths, its trailing slash is dropped. Without encryption only loopback hosts are reached, unless
    `insecure`.
    """
    is_rest = key.startswith("rest")
    schemes = ("https", "http") if is_rest else ("wss", "ws")

    def read(value: object) -> str:
        url = _split(text(value), schemes)
        if url.username is not None or url.password is not None:
            raise Fault("user and password do not belong in this URL")
        if url.scheme in ("ws", "http") and not insecure and not _is_loopback(url.hostname or ""):
            raise Fault(
                f"{url.scheme}:// is for loopback hosts; write {url.scheme}s://, or insecure = true under [net]"
            )
        if is_rest:
            if url.query:
                raise Fault("a base is wanted, to which paths are appended: it has no query")
            return urlunsplit(url).rstrip("/")
        path = urlsplit(default).path
        if not url.path.endswith(path):
            raise Fault(f'the path must end in "{path}"' + (f": {why}" if why else ""))
        return urlunsplit(url)

    return read


def webhook_url(*, insecure: bool) -> Reader[str]:
    """Take the URL that alerts are POSTed to, or "" for nobody. A query may be part of it, and may be a secret."""

    def read(value: object) -> str:
        written = text(value)
        if not written:
            return written
        url = _split(written, ("https", "http"))
        if url.username is not None or url.password is not None:
            raise Fault("user and password do not belong in this URL")
        if url.scheme == "http" and not insecure and not _is_loopback(url.hostname or ""):
            raise Fault("http:// is for loopback hosts; write https://, or insecure = true under [net]")
        return urlunsplit(url)

    return read


def proxy_url(value: object) -> str:
    """Take the URL of a proxy, user and password included, or "" for the environment's."""
    written = text(value)
    if not written:
        return written
    url = _split(written, ("http", "socks5"))
    if url.path not in ("", "/") or url.query:
        raise Fault("a proxy has a host and a port, but no path")
    return urlunsplit(url).rstrip("/")


def _is_symbol(written: str) -> bool:
    """Tell whether this is BASE-QUOTE in capitals, or a pattern; no exchange here has symbols in small letters."""
    one = written.count("-") == 1 or is_pattern(written)
    return (
        one and SYMBOL_PATTERN.fullmatch(written) is not None and written.isprintable() and written == written.upper()
    )


def _split(url: str, schemes: Sequence[str]) -> SplitResult:
    """Take a URL apart, which has one of `schemes`, a host, and nothing that is not part of a request."""
    wanted = " or ".join(f"{scheme}://…" for scheme in schemes)
    if (
        not url.isascii() or not url.isprintable() or " " in url or "\\" in url
    ):  # urlsplit drops some of these in silence
        raise Fault(f"{wanted} is wanted, of printable ASCII without spaces")
    if "#" in url:
        raise Fault('a fragment ("#…") means nothing here')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        why = "" if "@" in url else f" ({error})"  # it may quote a part of the password
        raise Fault(f"{wanted} is wanted, with a host and perhaps a port{why}") from error
    if parts.scheme not in schemes or not url.casefold().startswith(f"{parts.scheme}://"):
        raise Fault(f"{wanted} is wanted")
    host = parts.netloc.rpartition("@")[2]
    if port is not None or host.endswith(":"):
        host = host.rpartition(":")[0]
    if port == 0 or not _is_host(host):
        raise Fault(f"{wanted} is wanted, with a host and perhaps a port")
    return parts


def _is_host(host: str) -> bool:
    """Tell whether this is a name, an IPv4 address, or an IPv6 address in brackets."""
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    return _HOST.fullmatch(host) is not None


def _is_loopback(host: str) -> bool:
    """Tell whether this can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
