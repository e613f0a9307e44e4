"""The tables everyone writes and reads: names, columns, kinds. How a file format spells a kind is the writer's
business.
"""

from enum import StrEnum

import attrs


class Kind(StrEnum):
    """What a column holds."""

    KEY = "key"  # text of few values, also a path key: exchange, market
    NAME = "name"  # text of few values
    TEXT = "text"
    TIME = "time"  # microseconds since the epoch, UTC
    INT = "int"  # 64 bits
    FLOAT = "float"  # 64 bits
    BOOL = "bool"
    FLOATS = "floats"  # a list of 64-bit floats


@attrs.frozen
class Table:
    """One table: its own columns behind the common ones, and the columns rows are sorted by within a file."""

    name: str
    own: dict[str, Kind]
    order: tuple[str, ...] = ("symbol", "ts", "frame")

    @property
    def columns(self) -> dict[str, Kind]:
        """All columns, common ones first, in the order of the files."""
        return COMMON | self.own


COMMON = {
    "exchange": Kind.KEY,
    "market": Kind.KEY,
    "symbol": Kind.NAME,
    "ts": Kind.TIME,  # the exchange's time; null where it sends none
    "recv": Kind.TIME,  # when the frame was received here
    "recv_ns": Kind.INT,
    "session": Kind.INT,
    "frame": Kind.INT,
    "exact": Kind.TEXT,
}

_TABLES = (
    Table(
        "trades",
        {
            "id": Kind.INT,
            "price": Kind.FLOAT,
            "size": Kind.FLOAT,
            "side": Kind.NAME,
            "contracts": Kind.FLOAT,
            "first_id": Kind.INT,
            "last_id": Kind.INT,
            "source": Kind.NAME,
        },
    ),
    Table(
        "book",
        {
            "first_seq": Kind.INT,
            "last_seq": Kind.INT,
            "prev_seq": Kind.INT,
            "snapshot": Kind.BOOL,
            "bid_price": Kind.FLOATS,
            "bid_size": Kind.FLOATS,
            "ask_price": Kind.FLOATS,
            "ask_size": Kind.FLOATS,
        },
    ),
    Table(
        "book_snapshots",
        {
            "last_seq": Kind.INT,
            "bid_price": Kind.FLOATS,
            "bid_size": Kind.FLOATS,
            "ask_price": Kind.FLOATS,
            "ask_size": Kind.FLOATS,
            "bid_bound": Kind.FLOAT,  # the worst price to which that side is completely known; null: all of it
            "ask_bound": Kind.FLOAT,
        },
    ),
    Table(
        "instruments",
        {
            "native_symbol": Kind.NAME,
            "base": Kind.NAME,
            "quote": Kind.NAME,
            "status": Kind.NAME,
            "tick_size": Kind.FLOAT,
            "lot_size": Kind.FLOAT,
            "contract_size": Kind.FLOAT,
            "valid_from": Kind.TIME,
        },
        order=("symbol", "recv_ns"),
    ),
    Table(
        "sessions",
        {
            "stream": Kind.NAME,
            "opened_at": Kind.TIME,
            "live_at": Kind.TIME,
            "closed_at": Kind.TIME,
            "reason": Kind.NAME,
            "detail": Kind.TEXT,
            "frames": Kind.INT,
            "bytes": Kind.INT,
            "peer": Kind.TEXT,
        },
        order=("session", "recv_ns"),
    ),
    Table(
        "gaps",
        {
            "table": Kind.NAME,
            "gap": Kind.TEXT,
            "state": Kind.NAME,
            "first_missing": Kind.INT,
            "last_missing": Kind.INT,
            "missing": Kind.INT,
            "from_ts": Kind.TIME,
            "to_ts": Kind.TIME,
            "cause": Kind.NAME,
            "detail": Kind.TEXT,
        },
        order=("gap", "recv_ns"),
    ),
    Table("rejects", {"reason": Kind.NAME, "text": Kind.TEXT}, order=("frame",)),
    Table(
        "segments",
        {
            "segment": Kind.INT,
            "first_frame": Kind.INT,
            "frames": Kind.INT,
            "rows": Kind.INT,
            "control": Kind.INT,
            "duplicate": Kind.INT,
            "ignored": Kind.INT,
            "rejected": Kind.INT,
            "ignored_reasons": Kind.TEXT,  # JSON object, reason → frames
            # The recorder, as its ticks said: the most in the segment, null where none did.
            "memory_bytes": Kind.INT,
            "sockets": Kind.INT,
            "close_wait": Kind.INT,
            "unowned": Kind.INT,
        },
        order=("segment",),
    ),
)

TABLES = {table.name: table for table in _TABLES}
