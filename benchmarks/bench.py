"""What each step of a frame's way costs, beside a yardstick measured in the same run: `make bench`.

CPU microseconds per message, best of several rounds, on made-up frames of the exchanges' shape: a trade of about 170
bytes, and an order-book change of 40 levels. `json.loads` of the same frames is the yardstick: machines differ, ratios
hardly do.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from wsproto.frame_protocol import FrameProtocol

from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold, Naming
from collector_trio.followers.publish import publish
from collector_trio.journal.records import Batch, encode_batch, read_records
from collector_trio.net.frames import FrameSplitter

MESSAGES = 40_000
BATCH = 20
ROUNDS = 5
CHUNK = 256 * 1024
NS = 1_795_439_993_000_000_000


def trade(n: int, draw: random.Random) -> bytes:
    """A Binance aggTrade in its combined envelope."""
    price, size = f"{draw.uniform(60_000, 62_000):.2f}000000", f"{draw.uniform(0.0001, 2):.5f}000"
    ms = NS // 1_000_000 + n
    data = f'"a":{n},"p":"{price}","q":"{size}","f":{n},"l":{n},"T":{ms},"m":{draw.choice(("true", "false"))},"M":true'
    return f'{{"stream":"btcusdt@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"BTCUSDT",{data}}}}}'.encode()


def delta(n: int, draw: random.Random) -> bytes:
    """A Binance depthUpdate of 40 levels in its combined envelope."""

    def side() -> str:
        levels = (f'["{draw.uniform(60_000, 62_000):.2f}000000","{draw.uniform(0, 2):.5f}000"]' for _ in range(20))
        return ",".join(levels)

    data = f'"E":{NS // 1_000_000 + n},"s":"BTCUSDT","U":{n},"u":{n},"b":[{side()}],"a":[{side()}]'
    return f'{{"stream":"btcusdt@depth@100ms","data":{{"e":"depthUpdate",{data}}}}}'.encode()


def cost_us(work: Callable[[], object], messages: int) -> float:
    """Return the CPU time of `work` per message, best of `ROUNDS`."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best / messages * 1e6


def steps(frames: Sequence[bytes], folder: Path) -> dict[str, float]:
    """Measure every step over `frames`."""
    server = FrameProtocol(client=False, extensions=[])
    wire = b"".join(bytes(server.send_data(frame.decode(), fin=True)) for frame in frames)
    chunks = [wire[start : start + CHUNK] for start in range(0, len(wire), CHUNK)]
    decode = EXCHANGES["binance"].decode
    batches = [Batch(n + 1, NS + n, 1, list(frames[n : n + BATCH])) for n in range(0, len(frames), BATCH)]
    text = b"".join(map(encode_batch, batches))

    def cut() -> None:
        splitter = FrameSplitter()
        assert sum(len(splitter.feed(chunk)[0]) for chunk in chunks) == len(frames)

    def fold() -> Fold:
        folded = Fold(Naming(unknown_market="spot"))
        for batch in batches:
            folded.feed_frames("binance", "spot", batch.frames, 1, batch.first_frame, batch.received_ns)
        folded.flush()
        return folded

    rows = fold().take()
    return {
        "json.loads": cost_us(lambda: [json.loads(frame) for frame in frames], len(frames)),
        "cut frames out of reads": cost_us(cut, len(frames)),
        "journal: encode": cost_us(lambda: [encode_batch(batch) for batch in batches], len(frames)),
        "decode": cost_us(lambda: [decode(frame) for frame in frames], len(frames)),
        "journal: read back": cost_us(lambda: list(read_records(text)), len(frames)),
        "decode, to columns": cost_us(fold, len(frames)),
        "Parquet": cost_us(lambda: publish(folder, 1, rows, NS), len(frames)),
    }


def main() -> None:
    """Measure and print."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        trades = steps([trade(n, draw) for n in range(MESSAGES)], Path(folder))
        deltas = steps([delta(n, draw) for n in range(MESSAGES // 4)], Path(folder))
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for name in ("trade µs", "of json.loads", "40-level delta µs", "of json.loads "):
        table.add_column(name, justify="right")
    for step in trades:
        ratios = [costs[step] / costs["json.loads"] for costs in (trades, deltas)]
        table.add_row(step, f"{trades[step]:.2f}", f"{ratios[0]:.2f}", f"{deltas[step]:.2f}", f"{ratios[1]:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
