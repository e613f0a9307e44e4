"""cryptofeed's own handlers, fed with the texts themselves, up to a callback that does nothing; and our recorder, fed
with the same, which appends them to a journal. Neither has a socket here.
"""

import asyncio
import gzip
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from made_up import Market
from recorder import accept_us, recording

DATA = Path(__file__).parents[1].parent / "shared" / "data"
BATCH = 100
MADE_UP = 6000
HANDLERS = {("binance", "spot"): "Binance", ("binance", "perp"): "BinanceFutures", ("okx", "spot"): "OKX"}
SESSIONS = {
    "BINANCE_2021-04": ("binance", "spot"),
    "BINANCE_FUTURES_2021-07": ("binance", "perp"),
    "OKX_2022-05": ("okx", "spot"),
}
_RECORDED = re.compile(r'\{"stream":"\w+@(aggTrade|depth)|\{"arg":\{"channel":"(trades|books)",')
INSTALLED = find_spec("cryptofeed") is not None


@attrs.frozen
class Tape:
    """Frames of trades and books of one market, and the whole books that REST gave, by native symbol."""

    name: str
    exchange: str
    market: str
    frames: Sequence[bytes]
    books: Mapping[str, bytes]
    natives: Sequence[str]

    @property
    def trades(self) -> int:
        """How many of the frames are trades."""
        return sum(re.search(rb'rade[s"]', frame[:60]) is not None for frame in self.frames)


def tapes() -> Iterator[Tape]:
    """Give what there is to be fed; recordings where they are beside the repository."""
    market = Market()
    book = {"BTCUSDT": market.snapshot()}
    yield Tape("made up, half trades, half 40-level diffs", "binance", "spot", market.mix(MADE_UP), book, ["BTCUSDT"])
    long = DATA / "hftbacktest" / "spot_btcusdt_20240808.gz"
    if long.exists():
        yield _hour_of_real_life(long)
    for name, (exchange, kind) in SESSIONS.items():
        path = DATA / "cryptofeed" / f"{name}.jsonl.gz"
        if path.exists():
            yield _session(path, exchange, kind)


def _hour_of_real_life(path: Path) -> Tape:
    """Read a recording of `@trade` and `@depth`; cryptofeed knows aggTrade only, so trades are respelled as such."""
    lines = [line.partition(b" ")[2] for line in gzip.decompress(path.read_bytes()).splitlines()]
    book = next(line for line in lines if b'"lastUpdateId"' in line[:40])
    frames = [line for line in lines if re.search(rb"@(trade|depth)", line[:60])][:MADE_UP]
    for old, new in ((rb"@trade", rb"@aggTrade"), (rb'"e":"trade"', rb'"e":"aggTrade"')):
        frames = [frame.replace(old, new) for frame in frames]
    frames = [re.sub(rb'"t":(\d+)', rb'"a":\1,"f":\1,"l":\1', frame) for frame in frames]
    return Tape(f"recorded {path.name.removesuffix('.gz')}", "binance", "spot", frames, {"BTCUSDT": book}, ["BTCUSDT"])


def _session(path: Path, exchange: str, market: str) -> Tape:
    frames, books = [], {}
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        if row["kind"] == "ws_recv" and _RECORDED.match(row["frame"]):
            frames.append(row["frame"].encode())
        elif row["kind"] == "http_get" and (asked := re.search(r"depth\?symbol=(\w+)", row["url"])):
            books[asked[1]] = row["frame"].encode()
    text = b"".join(frames).decode()
    natives = {name.upper() for name in re.findall(r'"stream":"(\w+)@', text)} | set(
        re.findall(r'"instId":"(.*?)"', text)
    )
    return Tape(f"recorded {path.name.removesuffix('.jsonl.gz')}", exchange, market, frames, books, sorted(natives))


@attrs.frozen
class _Rest:
    books: Mapping[str, bytes]

    async def read(self, url: str) -> str:
        found = re.search(r"symbol=(\w+)", url)
        assert found
        return self.books[found[1]].decode()


def cryptofeed_us(tape: Tape) -> float:
    """Return the CPU microseconds per message of cryptofeed. Whole books are not counted: they are read before."""
    from cryptofeed import exchanges
    from cryptofeed.defines import L2_BOOK, TRADES
    from cryptofeed.symbols import Symbols

    called = 0

    async def nothing(_: object, __: float) -> None:
        nonlocal called
        called += 1

    handler = getattr(exchanges, HANDLERS[tape.exchange, tape.market])
    Symbols.set(handler.id, {name: name for name in tape.natives}, {"instrument_type": {}})
    callbacks = {L2_BOOK: nothing, TRADES: nothing}
    feed: Any = handler(symbols=list(tape.natives), channels=[L2_BOOK, TRADES], callbacks=callbacks)
    texts = [frame.decode() for frame in tape.frames]

    async def run() -> float:
        await feed.http_conn.close()
        feed.http_conn = _Rest(tape.books)
        for native in tape.books:
            await feed._snapshot(native)
        start = time.process_time()
        for text in texts:
            await feed.message_handler(text, None, 0.0)
        return time.process_time() - start

    spent = asyncio.run(run())
    assert called > len(texts) / 2, "the callbacks are called"
    return spent / len(texts) * 1e6


def recorder_us(tape: Tape) -> float:
    """Return the CPU microseconds per message of the recorder behind the socket."""
    with recording(tape.exchange, tape.market, tape.natives) as session:
        return accept_us(session, tape.frames, BATCH)


def measure(tape: Tape, rounds: int) -> tuple[float | None, float]:
    """Return what cryptofeed and the recorder spend on a message, best of `rounds`, in turns; None: not installed."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        works = {"recorder": partial(recorder_us, tape)}
        if INSTALLED:
            works["cryptofeed"] = partial(cryptofeed_us, tape)
        for name, work in works.items():
            best[name] = min(best.get(name, float("inf")), work())
    return best.get("cryptofeed"), best["recorder"]
