"""What each step of a frame's way costs, beside a yardstick measured in the same run: `make bench`.

CPU microseconds per message, first of single steps (best of several rounds), then of the follower as a whole, over a
million trades and 200 000 changes of a book that is kept, and over frames recorded from the live exchange. Machines
differ, ratios to `json.loads` of the same frames hardly do; it keeps nothing of what it reads, for kept objects would
cost more than the reading.

The budget (docs/design.md) was written where `json.loads` of a trade takes 2.9 µs. So it stands here as multiples of
that: 2.3 µs for a trade, 12 for a change of 40 levels and 2.5 for keeping the book.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trio
from follower import BATCH, RECORDINGS, made_up, recorded
from made_up import NS, Market
from recorder import accept_s
from rich.console import Console
from rich.table import Table
from wsproto.frame_protocol import FrameProtocol

from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold
from collector_trio.followers.publish import publish
from collector_trio.instruments import Naming
from collector_trio.journal.records import Batch, encode_batch, read_records
from collector_trio.net.frames import FrameSplitter

MESSAGES = 20_000
ROUNDS = 3
CHUNK = 256 * 1024
FOLLOWED = {"trades": 1_000_000, "book": 200_000}
SEGMENTS = 10  # of 60 s: nothing of one is kept when the next is made
ACCEPT = "recorder: append, decode, ids"
CUT = "cut frames out of reads"
BUDGET_TRADE = 2.3 / 2.9
TOTAL = {"trades": 6 / 2.9, "book": (18 + 2.5) / 2.9}  # recorder and follower, a change of 40 levels
BUDGET_LEVEL = (12 + 2.5) / 40 / 2.9


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

    def each(read: Callable[[bytes], object]) -> None:
        for frame in frames:
            read(frame)

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
        "json.loads": cost_us(lambda: each(json.loads), len(frames)),
        CUT: cost_us(cut, len(frames)),
        "journal: encode": cost_us(lambda: [encode_batch(batch) for batch in batches], len(frames)),
        "decode": cost_us(lambda: each(decode), len(frames)),
        ACCEPT: min(trio.run(accept_s, frames) for _ in range(ROUNDS)) / len(frames) * 1e6,
        "journal: read back": cost_us(lambda: list(read_records(text)), len(frames)),
        "decode, to columns": cost_us(fold, len(frames)),
        "Parquet": cost_us(lambda: publish(folder, 1, rows, NS), len(frames)),
    }


def follower(shown: Table, recorder: Mapping[str, float]) -> None:
    """Measure the follower as a whole; print a row for each kind of message, and the sum with what `recorder` says its
    part is, in multiples of `json.loads` of a trade.
    """
    for frames, measure in (
        ("made up", lambda table: made_up(table, FOLLOWED[table], SEGMENTS)),
        ("recorded", recorded),
    ):
        if measure is recorded and not RECORDINGS.exists():
            shown.add_row("recorded", f"left out: nothing in {RECORDINGS}")
            continue
        costs = {table: measure(table) for table in FOLLOWED}
        yardstick = costs["trades"].json_us
        for table, cost in costs.items():
            levels = cost.levels / cost.messages
            shown.add_row(
                frames,
                "trade" if table == "trades" else f"{levels:.0f}-level delta",
                f"{cost.messages:,}",
                f"{cost.messages / cost.reads:.0f}",
                f"{cost.us:.2f}",
                f"{cost.us / cost.json_us:.2f}",
                f"{cost.us / yardstick:.2f}",
                f"{BUDGET_TRADE if table == 'trades' else BUDGET_LEVEL * levels:.2f}",
                f"{cost.stored_bytes / cost.rows:.1f}",
            )
        if measure is not recorded:
            for table, cost in costs.items():
                both, budget = recorder[table] + cost.us / yardstick, TOTAL[table]
                shown.add_row(
                    f"with the recorder's {recorder[table]:.2f}", table, *[""] * 4, f"{both:.2f}", f"{budget:.2f}"
                )


def main() -> None:
    """Measure and print."""
    console = Console(highlight=False, width=120)
    market = Market()
    with tempfile.TemporaryDirectory() as folder:
        trades = steps(market.trades(MESSAGES), Path(folder))
        deltas = steps(market.deltas(MESSAGES // 4), Path(folder))
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for name in ("trade µs", "of json.loads", "40-level delta µs", "of json.loads "):
        table.add_column(name, justify="right")
    for step in trades:
        ratios = [costs[step] / costs["json.loads"] for costs in (trades, deltas)]
        table.add_row(step, f"{trades[step]:.2f}", f"{ratios[0]:.2f}", f"{deltas[step]:.2f}", f"{ratios[1]:.2f}")
    console.print(table, "")
    table = Table(title="follower, all of it", box=None, pad_edge=False, title_justify="left")
    for name in ("frames", "message"):
        table.add_column(name, no_wrap=True)
    for name in (
        "messages",
        "a read",
        "CPU µs",
        "of json.loads",
        "of json.loads of a trade",
        "budget of that",
        "bytes a row",
    ):
        table.add_column(name, justify="right")
    each = {"trades": trades, "book": deltas}
    follower(table, {name: (costs[CUT] + costs[ACCEPT]) / trades["json.loads"] for name, costs in each.items()})
    console.print(table)


if __name__ == "__main__":
    main()
