"""Journals as a recorder leaves them, written by hand: what is in them is known to the row."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import cattrs
import structlog

from collector_trio.followers.tables import open_tables
from collector_trio.instruments import Instrument
from collector_trio.journal.append import Journal
from collector_trio.journal.records import Letter

from ..journal.writing import START_NS, HandClock, journal_in

INSTRUMENTS = {
    ("binance", "spot"): [
        Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True, "0.01", "0.00001"),
        Instrument("binance", "spot", "ETH-USDT", "ETHUSDT", "ETH", "USDT", "TRADING", True, "0.01", "0.0001"),
    ],
    ("okx", "spot"): [
        Instrument("okx", "spot", "BTC-USDT", "BTC-USDT", "BTC", "USDT", "live", True, "0.1", "0.00000001"),
    ],
}


def binance_trade(trade: int, symbol: str = "BTCUSDT", time_ms: int = START_NS // 10**6, price: str = "0.5") -> bytes:
    data = {"e": "aggTrade", "E": time_ms, "s": symbol, "a": trade, "p": price, "q": "2.25", "f": trade, "l": trade}
    return compact({"stream": f"{symbol.lower()}@aggTrade", "data": data | {"T": time_ms, "m": trade % 2 == 0}})


def binance_depth(first: int, last: int, symbol: str = "BTCUSDT", time_ms: int = START_NS // 10**6) -> bytes:
    data = {"e": "depthUpdate", "E": time_ms, "s": symbol, "U": first, "u": last}
    sides = {"b": [["100.10", "1.5"], ["100.00", "0"]], "a": [["100.20", "3"]]}
    return compact({"stream": f"{symbol.lower()}@depth@100ms", "data": data | sides})


def okx_trade(trade: int, time_ms: int = START_NS // 10**6) -> bytes:
    row = {"instId": "BTC-USDT", "tradeId": str(trade), "px": "7.5", "sz": "0.125", "side": "buy", "ts": str(time_ms)}
    return compact({"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [row]})


def okx_book(seq: int, previous: int, time_ms: int = START_NS // 10**6) -> bytes:
    levels = {"asks": [["7.6", "1", "0", "1"]], "bids": [["7.5", "2", "0", "1"], ["7.4", "0", "0", "0"]]}
    row = levels | {"ts": str(time_ms), "checksum": 0, "seqId": seq, "prevSeqId": previous}
    action = "snapshot" if previous == -1 else "update"
    return compact({"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [row]})


def compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@attrs.define
class Recorder:
    """Does to a journal what `run` does, at the pace of a test."""

    journal: Journal
    clock: HandClock
    sessions: dict[int, dict[str, Any]] = attrs.field(factory=dict)

    def start(self) -> None:
        self.journal.note(Letter.PROCESS, {"event": "start"}, current="process")
        for (exchange, market), instruments in INSTRUMENTS.items():
            value = {"exchange": exchange, "market": market, "valid_from_ns": self.clock()}
            value["instruments"] = cattrs.unstructure(instruments)
            self.journal.note(Letter.INSTRUMENTS, value, current=f"instruments {exchange} {market}")

    def open(self, exchange: str = "binance", markets: tuple[str, ...] = ("spot",)) -> int:
        session = self.journal.next_session()
        facts: dict[str, Any] = {
            "session": session,
            "stream": f"{exchange}.{markets[0]}/1",
            "exchange": exchange,
            "markets": list(markets),
            "url": "wss://example.org/ws",
            "opened_ns": self.clock(),
            "live_ns": None,
            "peer": "",
            "frames": 0,
            "bytes": 0,
        }
        self.sessions[session] = dict(facts)
        self.journal.note(Letter.OPENED, facts, current=f"session {session}")
        self.sessions[session]["peer"] = "192.0.2.1:443"
        self.journal.update(f"session {session}", peer="192.0.2.1:443")
        return session

    def live(self, session: int) -> None:
        self.sessions[session]["live_ns"] = self.clock()
        self.journal.note(Letter.LIVE, {"session": session})
        self.journal.update(f"session {session}", live_ns=self.sessions[session]["live_ns"])

    def receive(self, session: int, *frames: bytes) -> None:
        assert self.journal.append(session, self.clock(), list(frames))
        self.sessions[session]["frames"] += len(frames)
        self.sessions[session]["bytes"] += sum(map(len, frames))

    def end(self, session: int, reason: str = "eof", detail: str = "") -> None:
        self.journal.forget(f"session {session}")
        self.journal.note(Letter.ENDED, self.sessions[session] | {"reason": reason, "detail": detail})

    def next_segment(self) -> None:
        self.clock.advance(61)
        self.journal.note(Letter.TICK, {})


@contextmanager
def recording(data_dir: Path, clock: HandClock | None = None) -> Iterator[Recorder]:
    """Record; at the end of the block everything is sealed, unless the test `leave_open`s it."""
    clock = clock or HandClock()
    with journal_in(data_dir, clock) as (journal, recovered):
        recorder = Recorder(journal, clock)
        recorder.start()
        for facts in recovered.open_sessions.values():
            ending = {"reason": "process died", "detail": "", "closed_ns": recovered.last_ns}
            journal.note(Letter.ENDED, {name: facts[name] for name in facts if name != "again"} | ending)
        yield recorder


def record_some(data_dir: Path, segments: int = 3, clock: HandClock | None = None) -> None:
    """Record two exchanges over some segments: per segment 7 frames with 4 trades and 2 book changes, one of them an
    ack.
    """
    with recording(data_dir, clock) as recorder:
        binance, okx = recorder.open("binance"), recorder.open("okx")
        recorder.live(binance)
        for n in range(segments):
            if n:
                recorder.next_segment()
            now_ms = recorder.clock.ns // 10**6
            recorder.receive(
                binance, b'{"result":null,"id":1}', binance_trade(2 * n + 2, time_ms=now_ms),
                binance_trade(2 * n + 1, time_ms=now_ms - 1), binance_trade(n + 1, "ETHUSDT", now_ms),
            )  # fmt: skip
            recorder.receive(okx, okx_trade(n + 1, now_ms), okx_book(n + 1, n or -1, now_ms))
            recorder.receive(binance, binance_depth(10 * n + 1, 10 * n + 10, time_ms=now_ms))
        recorder.end(okx, "closed", "1000 bye")
        recorder.end(binance)


def store(data_dir: Path) -> int:
    """Do what the follower does with what is sealed."""
    return open_tables(data_dir, structlog.get_logger()).store_sealed()
