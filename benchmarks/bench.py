"""What it costs, beside what it costs elsewhere, out of one run: `make bench`.

    python benchmarks/bench.py [receive] [steps] [follow] [rivals] [layout] [load] [full] [--rounds N] [--seconds S]

Machines differ, and one machine differs from minute to minute, so whatever is compared is measured in turns, the best
of several rounds counts, and the yardstick stands beside it: `json.loads` of a trade. What is held against the budget
is held as multiples of that, for the budget was written where it takes `BUDGET_JSON_US`.

CPU is of one process, user and system: the client, the recorder or the follower. Servers are processes of their own.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import attrs
import click
import clients
import disk
import follower
import rivals
import whole
from made_up import KINDS, NS, Market, framed
from observed import Observed
from recorder import accept_us, recording
from rich.console import Console
from rich.table import Table

from collector_trio.exchanges import EXCHANGES
from collector_trio.followers.fold import Fold
from collector_trio.followers.publish import publish
from collector_trio.instruments import Naming
from collector_trio.journal.records import Batch, encode_batch, read_records
from collector_trio.net.frames import FrameSplitter

BUDGET_JSON_US = 2.9
RECORDER = {("trades", "burst"): 3, ("diff40", "burst"): 5, ("trades", "frame"): 8, ("diff40", "frame"): 10}
TOTAL = {("trades", "burst"): 6, ("diff40", "burst"): 18, ("trades", "frame"): 11, ("diff40", "frame"): 23}
STEPPED = ("trades", "diff20", "diff40", "diff400")
BATCHES = {"burst": 100, "frame": 1}  # frames that one read brings, by form; see server.py
NAMES = {"trades": "trade", "diff20": "20-level diff", "diff40": "40-level diff", "diff400": "400-level diff"}
CHUNK = 256 * 1024
FOLLOWED = {"trades": 60_000, "diff20": 10_000, "diff40": 10_000, "diff400": 1000}  # a segment; a file has its price
MANY = {"trades": (1_000_000, 2.3), "diff40": (200_000, 12 + 2.5)}  # and what design.md allows, a kept book included
FEW = 20
RATE = 50_000
EVERY = 5
LAYOUT_RATE = 200
RECEIVERS = ("trio-websocket", "websockets", "aiohttp", "picows", "ours")
LONELY = ("a blocking socket", "a bare Trio stream", *RECEIVERS, "recorder")
APPEND_RATE, APPENDED = 20_000, 10

console = Console(highlight=False, width=150)


@attrs.define
class Best:
    """The best of several rounds, by what was measured."""

    found: dict[object, float] = attrs.field(factory=dict)

    def take(self, key: object, us: float) -> None:
        """Keep the smaller one."""
        self.found[key] = min(us, self.found.get(key, float("inf")))

    def __getitem__(self, key: object) -> float:
        return self.found[key]


def yardstick_us(frames: Sequence[bytes]) -> float:
    """Return the CPU microseconds that `json.loads` takes for one of `frames`; it keeps nothing."""
    return cpu_us(lambda: [None for frame in frames if json.loads(frame) is None], len(frames))


def cpu_us(work: Callable[[], object], messages: int) -> float:
    """Return the CPU microseconds of `work` per message."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / messages * 1e6


def shown(title: str, first: str, *columns: str) -> Table:
    """Begin a table."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def received(servers: whole.Servers, client: str, kind: str, form: str, secure: bool, count: int) -> float:
    """Return what receiving a message costs `client`, a process of its own, in CPU microseconds."""
    scheme, port = ("wss", servers.secure) if secure else ("ws", servers.plain)
    url = f"{scheme}://127.0.0.1:{port}/receive/{kind}/{form}/{count}"
    command = [sys.executable, str(whole.HERE / "clients.py"), client, url, str(servers.authority), str(count)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def receive(rounds: int) -> None:
    """Receiving: ours beside others."""
    forms = {"plain": ("burst", False), "TLS, a record per frame": ("frame", True), "TLS, bursts": ("burst", True)}
    names = RECEIVERS
    installed = [name for name in names if find_spec(clients.CLIENTS[name][0])]
    trades, best = Market().trades(5000), Best()
    with tempfile.TemporaryDirectory() as folder, whole.serving(Path(folder)) as servers:
        for _ in range(rounds):
            best.take("json", yardstick_us(trades))
            for form, (way, secure) in forms.items():
                for name in installed:
                    count = 8000 if name == "trio-websocket" else 22_000
                    best.take((name, form), received(servers, name, "mix", way, secure, count))
    table = shown(
        "Receiving: CPU per message, half trades, half 40-level diffs", "", *forms, *(f"{form}, µs" for form in forms)
    )
    for name in names:
        if name not in installed:
            table.add_row(name, "not installed")
            continue
        costs = [best[name, form] for form in forms]
        table.add_row(name, *(f"{us / best['json']:.2f}" for us in costs), *(f"{us:.2f}" for us in costs))
    table.add_row("json.loads of a trade", "1.00", "", "", f"{best['json']:.2f}")
    console.print(table, "Columns without a unit are multiples of json.loads of a trade.\n", sep="\n")


def lone(rounds: int) -> None:
    """What it costs to be woken for each message."""
    best, count = Best(), 1000
    installed = [name for name in LONELY if find_spec(clients.CLIENTS[name][0])]
    with tempfile.TemporaryDirectory() as folder, whole.serving(Path(folder)) as servers:
        for _ in range(rounds):
            best.take("json", yardstick_us(Market().trades(5000)))
            for name in installed:
                best.take(name, received(servers, name, "mix", "lone", False, count))
    table = shown("One message at a time, 200 a second", "", "CPU µs per message", "of a core", "by json.loads")
    for name in LONELY:
        us = best.found.get(name)
        row = ("not installed",) if us is None else (f"{us:.0f}", f"{us / 5000:.1%}", f"{us / best['json']:.1f}")
        table.add_row(name, *row)
    console.print(table, "")


def single_steps(frames: Sequence[bytes], batch: int, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give every step over `frames`, and what does it to all of them."""
    wire = b"".join(framed(frames))
    chunks = [wire[start : start + CHUNK] for start in range(0, len(wire), CHUNK)]
    decode = EXCHANGES["binance"].decode
    batches = [Batch(n + 1, NS + n, 1, list(frames[n : n + batch])) for n in range(0, len(frames), batch)]
    text = b"".join(part for batch in batches for part in encode_batch(batch))

    def cut() -> None:
        splitter = FrameSplitter()
        assert sum(len(splitter.feed(chunk)[0]) for chunk in chunks) == len(frames)

    def decode_each() -> None:
        for frame in frames:
            decode(frame)

    def fold() -> Fold:
        folded = Fold(Naming(unknown_market="spot"))
        for one in batches:
            folded.feed_frames("binance", "spot", one.frames, 1, one.first_frame, one.received_ns)
        folded.flush()
        return folded

    rows = fold().take()
    yield "recorder: cut frames out of reads", cut
    yield "recorder: journal, encode", lambda: [encode_batch(one) for one in batches]
    yield "recorder: decode", decode_each
    yield "follower: read the journal back", lambda: [None for _ in read_records(text)]
    yield "follower: decode, to columns", fold
    yield "follower: Parquet", lambda: publish(folder, 1, rows, NS)


def steps(rounds: int) -> None:
    """Socket to durable Parquet."""
    best = Best()
    counts = {"trades": 20_000, "diff20": 6000, "diff40": 6000, "diff400": 400}
    made = {kind: Market(levels=KINDS[kind]).made(kind, count) for kind, count in counts.items()}
    names: dict[str, None] = {}
    trades = Market().trades(5000)
    with tempfile.TemporaryDirectory() as folder, whole.serving(Path(folder)) as servers:
        works = {
            (name, kind): (step, count)
            for kind, count in counts.items()
            for name, step in single_steps(made[kind], 100, Path(folder))
        }
        for _ in range(rounds):
            best.take("json", yardstick_us(trades))
            for (name, kind), (step, count) in works.items():
                names[name] = None
                best.take((name, kind), cpu_us(step, count))
            for kind, count in counts.items():
                for form, batch in BATCHES.items():
                    with recording() as session:
                        best.take(("accept", kind, form), accept_us(session, made[kind], batch))
                    wanted = min(count, 8000)
                    best.take(("ours", kind, form), received(servers, "ours", kind, form, True, wanted))
                    best.take(("recorder", kind, form), received(servers, "recorder", kind, form, True, wanted))
                    cost = follower.made_up(kind, FOLLOWED[kind] * 3, 3, batch)
                    best.take(("follower", kind, form), cost.us)
    for key in list(best.found):
        if isinstance(key, tuple) and key[0] == "recorder" and len(key) == 3:
            best.take(("total", *key[1:]), best[key] + best["follower", *key[1:]])
    _print_steps(best, list(names))
    _recorded()


def _print_steps(best: Best, names: Sequence[str]) -> None:
    title = "Socket → durable Parquet: CPU per message, multiples of json.loads of a trade"
    table = shown(title, "step", *(NAMES[kind] for kind in STEPPED), *(f"{NAMES[kind]}, µs" for kind in STEPPED))

    def add(name: str, keys: Sequence[object], style: str = "") -> None:
        costs = [best[key] for key in keys]
        ratios = [f"{us / best['json']:.2f}" for us in costs]
        table.add_row(name, *ratios, *(f"{us:.2f}" for us in costs), style=style)

    for name in names:
        add(name, [(name, kind) for kind in STEPPED])
    for form, words in (("burst", "100 a read"), ("frame", "TLS record per frame")):
        add(f"{words}: socket and TLS, frames cut", [("ours", kind, form) for kind in STEPPED])
        add(f"{words}: append, decode, ids", [("accept", kind, form) for kind in STEPPED])
        for part, budgets in (("recorder", RECORDER), ("follower", {}), ("total", TOTAL)):
            whole_part = part + (", socket included" if part == "recorder" else "")
            add(f"{words}: {whole_part}", [(part, kind, form) for kind in STEPPED], style="bold")
            if budgets:
                allowed = [budgets.get((kind, form)) for kind in STEPPED]
                ratios = [f"{us / BUDGET_JSON_US:.2f}" if us else "" for us in allowed]
                table.add_row("  its budget", *ratios, *(f"≤ {us}" if us else "" for us in allowed))
    table.add_row("json.loads of a trade", "1.00", "", "", "", f"{best['json']:.2f}")
    console.print(table, "")


def _recorded() -> None:
    title = "Follower over frames recorded from the live exchange, whose books are kept"
    table = shown(title, "message", "messages", "a read", "of json.loads of a trade", "µs", "bytes a row")
    if follower.RECORDINGS.exists():
        costs = {name: follower.recorded(name) for name in ("trades", "book")}
        for name, cost in costs.items():
            table.add_row(
                "trade" if name == "trades" else f"{cost.levels / cost.messages:.0f}-level diff in the mean",
                f"{cost.messages:,}",
                f"{cost.messages / cost.reads:.1f}",
                f"{cost.us / costs['trades'].json_us:.2f}",
                f"{cost.us:.2f}",
                f"{cost.stored_bytes / cost.rows:.1f}",
            )
    else:
        table.add_row("left out", f"nothing in {follower.RECORDINGS}")
    console.print(table, "")


def follow() -> None:
    """A million trades and 200 000 changes of a kept book through the follower, all of it counted."""
    title = f"Follower over many messages, {FEW} a read, all of its ten segments counted: CPU per message"
    table = shown(title, "message", "messages", "of json.loads of a trade", "its budget", "µs", "bytes a row")
    yardstick = 0.0
    for kind, (count, budget_us) in MANY.items():
        cost = follower.made_up(kind, count, 10, FEW)
        us, json_us = cost.whole_us
        yardstick = yardstick or json_us
        cells = f"{us / yardstick:.2f}", f"{budget_us / BUDGET_JSON_US:.2f}", f"{us:.2f}"
        table.add_row(NAMES[kind], f"{count:,}", *cells, f"{cost.stored_bytes / cost.rows:.1f}")
    console.print(table, "")


def compare(rounds: int) -> None:
    """cryptofeed to an empty callback, on the same frames."""
    title = "cryptofeed to an empty callback, nothing stored; our recorder, stored in the journal: CPU µs per message"
    columns = ("messages", "trades", "cryptofeed", "recorder", "cryptofeed / recorder", "json.loads of a trade")
    table = shown(title, "frames", *columns)
    trades = Market().trades(5000)
    for tape in rivals.tapes():
        yardstick = min(yardstick_us(trades) for _ in range(rounds))
        theirs, ours = rivals.measure(tape, rounds)
        cells = ("not installed", "") if theirs is None else (f"{theirs:.1f}", f"{theirs / ours:.1f}")
        share = f"{tape.trades / len(tape.frames):.0%}"
        table.add_row(tape.name, f"{len(tape.frames):,}", share, cells[0], f"{ours:.2f}", cells[1], f"{yardstick:.2f}")
    console.print(table)
    if not rivals.DATA.exists():
        console.print(f"Recorded frames are left out: nothing in {rivals.DATA}")
    console.print()


def _print_observed(title: str, seen: Observed) -> None:
    table = shown(title, "", "recorder", "follower", "both")
    both = seen.recorder_cpu + seen.follower_cpu
    table.add_row("CPU of a core", f"{seen.recorder_cpu:.1%}", f"{seen.follower_cpu:.1%}", f"{both:.1%}")
    per = [cpu * seen.seconds / seen.frames * 1e6 for cpu in (seen.recorder_cpu, seen.follower_cpu, both)]
    table.add_row("CPU µs per message", *(f"{us:.1f}" for us in per))
    table.add_row("peak memory, MB", f"{seen.recorder_peak / 1e6:.0f}", f"{seen.follower_peak / 1e6:.0f}")
    drift = f"{seen.recorder_first / 1e6:.1f} → {seen.recorder_last / 1e6:.1f}"
    table.add_row("resident at first → at last, MB", drift)
    lags = " / ".join(f"{lag * 1e3:.1f}" for lag in (seen.lag_p50, seen.lag_p99, seen.lag_max))
    table.add_row("event-loop lag p50 / p99 / max, ms", lags)
    table.add_row("behind at the end; at worst, s", "", f"{seen.behind_s:.1f}; {seen.worst_behind_s:.1f}")
    console.print(table)
    console.print(
        f"{seen.frames:,} messages in {seen.seconds:.1f} s: {seen.frames / seen.seconds:,.0f} a second; "
        f"{seen.segments} segments sealed, {seen.gaps} gaps, {seen.streams} streams in {seen.sessions} sessions\n"
        f"Right after it json.loads of a trade took {yardstick_us(Market().trades(20_000)):.1f} µs; load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )


def layout(seconds: float) -> None:
    """Memory, disk and CPU of config.toml's layout."""
    segment_s = min(60.0, max(5.0, seconds / 3))
    with tempfile.TemporaryDirectory() as folder:
        seen = whole.layout(Path(folder), LAYOUT_RATE, seconds, segment_s)
        title = f"config.toml's layout, {LAYOUT_RATE} messages a second from the simulator, segments of {segment_s:g} s"
        _print_observed(title, seen)
        table = shown("Bytes a row on disk", "table", "rows", "files", "rows a file", "bytes a row")
        for name, one in whole.stored(Path(folder) / "data").items():
            cells = (f"{one.rows:,}", str(one.files), f"{one.rows / one.files:.0f}", f"{one.bytes / one.rows:.1f}")
            table.add_row(f"{name}, of this run", *cells)
    for kind, count in (("trades", 100_000), ("diff20", 20_000), ("diff40", 20_000), ("diff400", 2000)):
        cost = follower.made_up(kind, count, 2, 100)
        each = cost.stored_bytes / cost.rows
        table.add_row(f"made up: {NAMES[kind]}", f"{cost.rows:,}", "2", f"{cost.rows / 2:.0f}", f"{each:.1f}")
    console.print(table, "")


def load(seconds: float) -> None:
    """As much as it should bear."""
    segment_s = min(60.0, max(2.0, seconds / 4))
    with tempfile.TemporaryDirectory() as folder, whole.serving(Path(folder)) as servers:
        seen = whole.sustained(Path(folder), servers, RATE, EVERY, seconds, segment_s)
    title = f"{RATE:,} messages a second over one TLS socket, {EVERY - 1} trades to each 40-level diff, segments of "
    _print_observed(f"{title}{segment_s:g} s or 64 MiB", seen)


def full(rounds: int, seconds: float) -> None:
    """How long an append takes beside syncs, with and without reserved space; memory while the disk refuses."""
    title = f"An append of {APPENDED} messages, {APPEND_RATE:,} messages a second, a sync every second, {seconds:g} s"
    table = shown(f"{title}; microseconds", "", "p50", "p99", "p99.9", "worst")
    for _ in range(rounds):
        for reserves in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                took = disk.appends(Path(folder), APPEND_RATE, APPENDED, seconds, reserves=reserves)
            cells = [f"{us:,.0f}" for us in (took.p50, took.p99, took.p999, took.worst)]
            table.add_row("reserved" if reserves else "not reserved", *cells)
    console.print(table, "")
    with tempfile.TemporaryDirectory() as folder, whole.serving(Path(folder)) as servers:
        seen = whole.refused(Path(folder), servers, APPEND_RATE, EVERY, seconds)
    title = f"The recorder while nothing can be written for {seconds:g} s, {APPEND_RATE:,} messages a second offered"
    table = shown(title, "", "before", "during", "after")
    table.add_row("most resident memory, MB", *(f"{size / 1e6:.1f}" for size in (seen.before, seen.during, seen.after)))
    table.add_row("frames accepted", *map(str, (seen.frames_before, seen.frames_during, seen.frames_after)))
    console.print(table, "")


@contextmanager
def _timed(name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    console.print(f"[dim]{name}: {time.monotonic() - start:.0f} s[/dim]\n")


@click.command()
@click.argument(
    "parts", nargs=-1, type=click.Choice(["receive", "lone", "steps", "follow", "rivals", "layout", "load", "full"])
)
@click.option("--rounds", default=2, show_default=True, help="The best of so many counts.")
@click.option("--seconds", type=float, help="How long layout, load and full last; default: 30, 10 and 20.")
def main(parts: tuple[str, ...], rounds: int, seconds: float | None) -> None:
    """Measure and print; everything, or the named parts."""
    works: dict[str, Callable[[], None]] = {
        "receive": partial(receive, rounds),
        "lone": partial(lone, rounds),
        "steps": partial(steps, rounds),
        "follow": follow,
        "rivals": partial(compare, rounds),
        "layout": partial(layout, seconds or 30.0),
        "load": partial(load, seconds or 10.0),
        "full": partial(full, rounds, seconds or 20.0),
    }
    model = dict(line.split("\t:", 1) for line in _cpuinfo()).get("model name", "")
    when = time.strftime("%Y-%m-%d %H:%M")
    console.print(f"{os.cpu_count()} cores,{model}; Python {platform.python_version()}; {when}\n")
    for name in parts or works:
        with _timed(name):
            works[name]()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return [line for line in path.read_text().splitlines() if "\t:" in line] if path.exists() else []


if __name__ == "__main__":
    main()
