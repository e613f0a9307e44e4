"""collector_trio records what crypto exchanges publish; a connection is a scope, so it cannot be leaked.

What was recorded is read with `scan` and `book_at`. They are imported when they are first asked for: the recorder lives
in this package too, and never loads what reads Parquet. Their types are in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "scan": "collector_trio.followers.scan",
    "book_at": "collector_trio.followers.books",
    "Book": "collector_trio.followers.books",
    "BookUnknown": "collector_trio.followers.books",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
