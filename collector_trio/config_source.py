"""TOML text → values with their lines, environment variables filled in, and the list of what is wrong with them."""

import datetime
import json
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from collector_trio.config_values import Fault, WrongType
from collector_trio.errors import ConfigError

# Where a value stands: keys, and indexes counted from 0 (they are shown counted from 1).
Place = tuple[str | int, ...]

SHOWN_CHARACTERS = 100  # of a value in a message; the line says where the rest is

_AT = re.compile(r"(?P<problem>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Of a URL, whatever else is wrong with it; also where its scheme was left out.
_USER_INFO = re.compile(r"(//|^(?=[^/:@]+:(?!//))).*@", re.DOTALL)


@attrs.define
class Source:
    """The values of one file and their problems, which `raise_problems` raises all at once, by line.

    A place keeps its first problem, and nothing is said about what lies inside a place that is itself a problem.
    """

    name: str
    values: dict[str, Any]
    _lines: Mapping[Place, int]
    _written: Mapping[Place, str]  # strings as they stand in the file, where a variable was filled in
    _problems: dict[Place, str] = attrs.field(factory=dict)

    def value(self, place: Place) -> Any:
        """Return what stands at `place`."""
        value: Any = self.values
        for part in place:
            value = value[part]
        return value

    def line(self, place: Place) -> int:
        """Return the line that `place`, or else what it would be part of, stands on."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def add(self, place: Place, problem: str) -> None:
        """Note a problem; `problem` is read behind the key path."""
        self._problems.setdefault(place, problem)

    def add_fault(self, place: Place, fault: Fault) -> None:
        """Note that the value at `place` cannot be taken."""
        value = self.value(place)
        found = _show_typed(value) if isinstance(fault, WrongType) else _show(value)
        if place in self._written:
            found += f" (from {_show(self._written[place])})"
        self.add(place, f"is {found}; {fault}")

    def raise_problems(self) -> None:
        """Raise a `ConfigError` if there are any problems."""
        order = {place: index for index, place in enumerate(self._lines)}
        outermost = [
            place
            for place in self._problems
            if not any(place[:length] in self._problems for length in range(1, len(place)))
        ]
        if outermost:
            outermost.sort(key=lambda place: (self.line(place), order.get(place, -1)))
            raise ConfigError(
                [f"{self.name}:{self.line(place)}: {show_place(place)} {self._problems[place]}" for place in outermost]
            )


def read_source(text: str, name: str, environ: Mapping[str, str]) -> Source:
    """Parse TOML and fill in `${NAME}` from `environ`, in values, once: what a variable holds is taken as it is.

    A "$" without "{" stays what it is, "$$" too; a literal "${" can only come out of a variable. Missing variables are
    problems of the source; text that is not TOML raises `ConfigError` at once.
    """
    written: dict[Place, str] = {}
    problems: dict[Place, str] = {}
    try:
        values = tomllib.loads(text)
        lines = find_lines(text)
        for place, string, put in _strings(values, ()):
            if "${" not in string:
                continue
            missing = [variable for variable in _VARIABLE.findall(string) if variable not in environ]
            if missing:
                problems[place] = f"is {_show(string)}; not in the environment: {', '.join(dict.fromkeys(missing))}"
            elif "${" in _VARIABLE.sub("", string):
                problems[place] = f'is {_show(string)}; a variable is written "${{NAME}}", of letters, digits and "_"'
            else:
                written[place] = string
                put(_VARIABLE.sub(lambda match: environ[match[1]], string))
    except RecursionError as error:
        raise ConfigError([f"{name}:1: not TOML we read: nested too deeply"]) from error
    except ValueError as error:  # a TOMLDecodeError, or Python's refusal of an integer of thousands of digits
        raise ConfigError([f"{name}:{_locate(text, str(error))}"]) from error
    return Source(name, values, lines, written, problems)


def show_place(place: Place) -> str:
    """Spell a place as `record[1].symbols[2]`, counting from 1."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _quote(part))
    return text


def _locate(text: str, problem: str) -> str:
    """Turn tomllib's message into ours, with the line in front."""
    found = _AT.fullmatch(problem)
    lines = text.replace("\r\n", "\n").split("\n")
    if found is None:
        return f"1: not TOML: {problem}"
    line, column = (int(found["line"]), int(found["column"])) if found["line"] else (len(lines), len(lines[-1]) + 1)
    return f"{line}: not TOML at column {column}: {found['problem']}"


def _strings(value: Any, place: Place) -> Iterator[tuple[Place, str, Callable[[str], None]]]:
    """Walk all strings in tables and arrays, with a function that replaces each."""
    items: list[tuple[str | int, Any]] = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, item in items:
        if isinstance(item, str):
            yield (*place, key), item, lambda new, key=key: value.__setitem__(key, new)  # type: ignore[misc]
        elif isinstance(item, dict | list):
            yield from _strings(item, (*place, key))


def _quote(text: str) -> str:
    """Quote text for a message of one line, without the passwords of URLs."""
    quoted = json.dumps(_USER_INFO.sub(r"\1***@", text), ensure_ascii=False)
    if len(quoted) > SHOWN_CHARACTERS:
        quoted = f'{quoted[:SHOWN_CHARACTERS]}…"'
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in quoted)


def _show(value: object) -> str:
    """Spell a value as TOML would, arrays and tables by name."""
    match value:
        case str():
            return _quote(value)
        case bool():
            return "true" if value else "false"
        case []:
            return "an empty array"
        case list():
            return "an array"
        case dict():
            return "a table"
        case int() if abs(value) >= 2**64:  # Python refuses to spell the largest in decimal
            return f"{hex(value)[:SHOWN_CHARACTERS]}…"
        case _:
            return str(value)


def _show_typed(value: object) -> str:
    """Spell a value and its TOML type."""
    match value:
        case list() | dict():
            return _show(value)
        case str():
            kind = "string"
        case bool():
            kind = "boolean"
        case int():
            kind = "integer"
        case float():
            kind = "float"
        case datetime.date() | datetime.time():
            kind = "date or time"
        case _:
            kind = type(value).__name__
    return f"{_show(value)} ({kind})"


def find_lines(text: str) -> dict[Place, int]:
    """Return the line on which every table, key and array item of a valid TOML text first appears.

    tomllib keeps no positions and tomlkit does not tell them; but in a text known to be valid they are found without
    judging anything.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return scanner.lines


_BLANK = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")  # commas too: between items they say nothing about lines
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')[ \t]*""")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")  # a number, boolean or date


@attrs.define
class _Scanner:
    text: str
    at: int = 0
    lines: dict[Place, int] = attrs.field(factory=dict)
    _sizes: dict[Place, int] = attrs.field(factory=dict)  # of arrays of tables, so far
    _starts: list[int] = attrs.field(factory=list)  # of lines

    def scan(self) -> None:
        self._starts = [0, *(found.end() for found in re.finditer("\n", self.text))]
        table: Place = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Place:
        """`[a.b]` or `[[a.b]]`, where a key that names an array of tables means its last one."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        begun = self.at
        self.at += brackets
        keys = self._keys()
        self._skip(re.compile(r"\]+"))
        place: Place = ()
        for index, key in enumerate(keys):
            place = (*place, key)
            self._note(place, begun)
            if brackets == 2 and index == len(keys) - 1:
                self._sizes[place] = self._sizes.get(place, 0) + 1
            if place in self._sizes:
                place = (*place, self._sizes[place] - 1)
                self._note(place, begun)
        return place

    def _pair(self, table: Place) -> None:
        """`a.b = value`, in a table of either form."""
        begun = self.at
        place = table
        for key in self._keys():
            place = (*place, key)
            self._note(place, begun)
        self.at += 1  # the "="
        self._skip(re.compile(r"[ \t]*"))
        self._value(place)

    def _value(self, place: Place) -> None:
        opening = self.text[self.at]
        if opening == "[":
            self._items("]", place)
        elif opening == "{":
            self._items("}", place)
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _items(self, closing: str, place: Place) -> None:
        """What stands between brackets: values of an array, pairs of an inline table."""
        self.at += 1
        index = 0
        self._skip(_BLANK)
        while self.text[self.at] != closing:
            if closing == "}":
                self._pair(place)
            else:
                self._note((*place, index), self.at)
                self._value((*place, index))
                index += 1
            self._skip(_BLANK)
        self.at += 1

    def _keys(self) -> list[str]:
        """The parts of a dotted key, without their quotes."""
        keys = []
        while found := _KEY.match(self.text, self.at):
            key = found[1]
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[0] in "\"'" else key)
            self.at = found.end()
            if self.text[self.at] != ".":
                break
            self.at += 1
        return keys

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        assert found is not None, f"no {pattern.pattern} at {self.at}: tomllib would have refused this text"
        self.at = found.end()

    def _note(self, place: Place, offset: int) -> None:
        self.lines.setdefault(place, bisect_right(self._starts, offset))
