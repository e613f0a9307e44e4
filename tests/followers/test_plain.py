"""Trades taken together: what is stored, and what is missing, is what taking them one by one gives."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from collector_trio.continuity.fold import Continuity
from collector_trio.followers import fold as folding
from collector_trio.followers import intake
from collector_trio.followers.chunks import Place
from collector_trio.followers.fold import Fold
from collector_trio.followers.plain import Find, Numbered, PlainTrades, plain_trades
from collector_trio.followers.reads import Read
from collector_trio.instruments import Instrument, Naming
from collector_trio.journal.records import Batch, Letter, Note
from collector_trio.tables import TABLES

NS = 1_795_439_000_000_000_000
MS = NS // 1_000_000
SECOND = 1_000_000_000
INSTRUMENTS = [
    Instrument("okx", "spot", "BTC-USDT", "BTC-USDT", "BTC", "USDT", "live", True),
    Instrument("okx", "perp", "BTC-USDT", "BTC-USDT-SWAP", "BTC", "USDT", "live", True, "0.1", "1", "0.01"),
]
ORDER = {name: [(column, "ascending") for column in table.order] for name, table in TABLES.items()}  # of the files
SOCKETS = {1: ("binance", ["spot"]), 2: ("binance", ["spot"]), 3: ("okx", ["perp", "spot"]), 4: ("binance", ["spot"])}


def binance(number: int, symbol: str = "BTCUSDT", **others: Any) -> bytes:
    data = {"e": "aggTrade", "E": MS, "s": symbol, "a": number, "p": "100.5", "q": f"0.{number}", "f": number * 2}
    data |= {"l": number * 2 + 1, "T": MS + number, "m": number % 3 == 0} | others
    return json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": data}, separators=(",", ":")).encode()


def okx(native: str, *numbers: int) -> bytes:
    data = [
        {"instId": native, "tradeId": str(n), "px": "9.5", "sz": str(n % 50), "side": "buy", "ts": str(MS + n)}
        for n in numbers
    ]
    return json.dumps(
        {"arg": {"channel": "trades-all", "instId": native}, "data": data}, separators=(",", ":")
    ).encode()


def change(number: int) -> bytes:
    data = {"e": "depthUpdate", "E": MS, "s": "ETHUSDT", "U": number, "u": number, "b": [["1.0", "2"]], "a": []}
    return json.dumps({"stream": "ethusdt@depth@100ms", "data": data}, separators=(",", ":")).encode()


class Tape:
    """What a journal holds of some sockets that lose, double and delay frames: records, made up from a seed."""

    def __init__(self, seed: int, faults: float) -> None:
        self.draw, self.faults, self.has_twin = random.Random(seed), faults, seed % 3 == 0
        self.odd = 0.0 if seed % 2 else 0.02  # how often a trade is not plain
        self.frame, self.ns = 1, NS
        self.ids = dict.fromkeys(["BTCUSDT", "ETHUSDT", "SOLUSDT", "BTC-USDT", "BTC-USDT-SWAP", "change"], 100)
        self.sessions = dict(SOCKETS)
        self.late: list[tuple[int, bytes]] = []

    def records(self) -> Iterator[Batch | Note]:
        yield Note(Letter.PROCESS, NS, {"event": "start"})
        for session in SOCKETS:
            yield self.opened(session)
        for _ in range(300):
            self.ns += 1000 * self.draw.randrange(1, 2_000_000)
            kind = self.draw.random()
            if kind < 0.03:
                yield Note(Letter.TICK, self.ns, {})
            elif kind < 0.03 + self.faults / 4:
                session = self.draw.choice(list(SOCKETS))
                yield self.ended(session)
                yield self.opened(session)
            else:
                yield from self.read()

    def opened(self, session: int) -> Note:
        exchange, markets = SOCKETS[session]
        return Note(
            Letter.OPENED, self.ns, {"session": session, "exchange": exchange, "markets": markets, "stream": "s"}
        )

    def ended(self, session: int) -> Note:
        exchange, markets = SOCKETS[session]
        ended = {"session": session, "reason": "eof", "detail": "", "markets": markets, "exchange": exchange}
        ended |= {"stream": "s", "opened_ns": NS, "live_ns": None, "frames": 0, "bytes": 0, "peer": "", "url": ""}
        return Note(Letter.ENDED, self.ns, ended)

    def read(self) -> Iterator[Batch]:
        session = self.draw.choice(list(SOCKETS))
        frames: list[bytes] = []
        for _ in range(self.draw.randrange(1, 8)):
            frame = self.next(session)
            fault = self.draw.random() if self.faults else 1.0
            if fault < self.faults / 3:
                continue  # lost
            if fault < self.faults * 2 / 3:
                self.late.append((session, frame))  # for later, and perhaps once more
            if fault > self.faults / 2:
                frames.append(frame)
        if self.late and self.draw.random() < 0.3:
            session, frame = self.late.pop(0)
            yield self.batch(session, [frame])
        if frames:
            yield self.batch(session, frames)

    def batch(self, session: int, frames: list[bytes]) -> Batch:
        batch = Batch(self.frame, self.ns, session, frames)
        self.frame += len(frames)
        return batch

    def next(self, session: int) -> bytes:
        odd = self.draw.random()
        if session == 3:
            native = self.draw.choice(["BTC-USDT", "BTC-USDT-SWAP"])
            count = 2 if odd < self.odd else 1
            numbers = [self.step(native) for _ in range(count)]
            return okx(native, *numbers)
        if session == 4:  # a socket with more than trades
            if odd < 0.5:
                return change(self.step("change"))
            if odd < 0.53:
                return b'{"result":null,"id":1}'
            if odd < 0.53 + self.odd / 2:
                return b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade"}}'
            return binance(self.step("ETHUSDT"), "ETHUSDT", **({"T": (MS + 1) * 1000} if odd < 0.54 + self.odd else {}))
        if session == 2 and not self.has_twin:
            return binance(self.step("SOLUSDT"), "SOLUSDT")
        if session == 2 and self.draw.random() < 0.5:  # the twin brings what the other one has brought, or will
            return binance(self.ids["BTCUSDT"] + self.draw.randrange(-3, 4))
        return binance(self.step("BTCUSDT"))

    def step(self, name: str) -> int:
        self.ids[name] += 1
        return self.ids[name]


def tables(records: list[Batch | Note], until: int | None = None) -> tuple[dict[Place, pa.Table], Fold]:
    naming = Naming(unknown_market="spot")
    naming.add(INSTRUMENTS)
    fold = Fold(naming, continuity=Continuity())
    for n, record in enumerate(records):
        fold.feed(record)
        if n == until:
            fold.flush()
    return {place: rows.sort_by(ORDER[place[0]]) for place, rows in fold.take().items()}, fold


@pytest.fixture(params=[0.0, 0.01, 0.3], ids=["no-faults", "some-faults", "many-faults"])
def faults(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.mark.parametrize("seed", range(8))
def test_they_give_what_each_alone_gives(seed: int, faults: float, monkeypatch: pytest.MonkeyPatch) -> None:
    records = list(Tape(seed, faults).records())
    together, fold = tables(records)
    monkeypatch.setattr(intake, "plain_trades", lambda reads, find: None)
    alone, slowly = tables(records)
    assert together.keys() == alone.keys()
    assert all(together[place].equals(alone[place]) for place in alone)
    assert fold.counts == slowly.counts
    assert fold.continuity == slowly.continuity


@pytest.mark.parametrize("seed", range(3))
def test_how_many_at_once_makes_no_difference(seed: int, faults: float, monkeypatch: pytest.MonkeyPatch) -> None:
    records = list(Tape(seed, faults).records())
    expected, _ = tables(records)
    for together in (1, 7, 100):
        monkeypatch.setattr(folding, "TOGETHER", together)
        assert tables(records)[0] == expected
    until = random.Random(seed).randrange(len(records))
    assert tables(records, until)[0] == expected


def test_nearly_all_trades_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[PlainTrades] = []

    def noted(reads: Sequence[Read], find: Find) -> tuple[list[PlainTrades], list[Numbered]] | None:
        plain = plain_trades(reads, find)
        found.extend(plain[0] if plain is not None else ())
        return plain

    monkeypatch.setattr(intake, "plain_trades", noted)
    records = [Batch(n, NS + n, 1, [binance(n)]) for n in range(1, 5001)]
    opened = Note(Letter.OPENED, NS, {"session": 1, "exchange": "binance", "markets": ["spot"], "stream": "s"})
    rows, _ = tables([opened, *records])
    assert len(rows["trades", "binance", "spot"]) == 5000
    assert sum(len(one.trades.ids) for one in found) == 5000 - 1024  # the first ones say where the numbers begin
