"""Holds what was recorded against the truth: rows + open ledger = all published ids, and books = the truth's books."""

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import attrs
import pyarrow as pa

from .world import World

TRADES = {"binance": "aggTrade", "okx": "trades-all"}
BOOKS = {"binance": "depth@100ms", "okx": "books"}
Row = dict[str, Any]


def by_instrument(rows: pa.Table | None) -> dict[tuple[str, str, str], list[Row]]:
    """Group rows by exchange, market and symbol, in the order of the journal."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    if rows is not None:
        rows = rows.set_column(rows.column_names.index("ts"), "ts", rows.column("ts").cast(pa.int64()))
        for name in ("from_ts", "to_ts"):
            if name in rows.column_names:
                rows = rows.set_column(rows.column_names.index(name), name, rows.column(name).cast(pa.int64()))
        for row in rows.to_pylist():
            groups[row["exchange"], row["market"], row["symbol"]].append(row)
    return groups


def last_states(gaps: list[Row], table: str) -> list[Row]:
    """Return the last row of each gap."""
    last: dict[str, Row] = {}
    for row in gaps:
        if row["table"] == table:
            last[row["gap"]] = row
    return list(last.values())


def native(exchange: str, market: str, symbol: str) -> str:
    if exchange == "binance":
        return symbol.replace("-", "")
    return symbol if market == "spot" else f"{symbol}-SWAP"


@attrs.define
class Report:
    """What a comparison found, for tests that want to know that there was something."""

    trades: int = 0
    open_ids: int = 0
    books: int = 0
    refused: int = 0
    covered: int = 0  # instants at which the last change was lost, and a later one overlaps all of it
    untrusted_s: list[float] = attrs.field(factory=list)
    untrusted_at_end: int = 0


def check(world: World, rows: dict[str, pa.Table], seed: int, instants: int = 100) -> Report:
    """Compare everything; raises AssertionError for the first difference."""
    report = Report()
    gaps = by_instrument(rows.get("gaps"))
    for instrument, trades in by_instrument(rows.get("trades")).items():
        _check_trades(world, instrument, trades, gaps[instrument], report)
    snapshots = by_instrument(rows.get("book_snapshots"))
    for instrument, changes in by_instrument(rows.get("book")).items():
        _check_book(world, instrument, changes, snapshots[instrument], gaps[instrument], report, seed, instants)
    return report


def _check_trades(
    world: World, instrument: tuple[str, str, str], trades: list[Row], gaps: list[Row], report: Report
) -> None:
    exchange, market, _ = instrument
    key = (exchange, market, TRADES[exchange], native(*instrument))
    truth = {fact.number: fact for fact in world.server.truth.facts[key]}
    burned = set(world.server.truth.burned.get(key, ()))
    ids = [row["id"] for row in trades]
    assert len(ids) == len(set(ids)), f"{instrument}: a trade is stored twice"
    missing: set[int] = set()
    for gap in last_states(gaps, "trades"):
        if gap["state"] == "open":
            stretch = set(range(gap["first_missing"], gap["last_missing"] + 1))
            assert not stretch & missing, f"{instrument}: two open gaps name one id"
            assert gap["missing"] == len(stretch)
            missing |= stretch
    assert not missing & set(ids), f"{instrument}: what is stored is not missing: {sorted(missing & set(ids))[:5]}"
    first, last = min(ids), max(ids)
    published = {number for number in truth if first <= number <= last}
    burned = {number for number in burned if first <= number <= last}
    assert set(ids) | missing == published | burned, (
        f"{instrument}: {sorted((published | burned) ^ (set(ids) | missing))[:10]} of {first}..{last}"
    )
    for row in trades:
        fact = truth[row["id"]]
        assert (row["side"], row["ts"]) == (fact.side, fact.ts_us // 1000 * 1000)
        assert row["price"] == float(fact.price)
        if fact.contract_size is None:
            assert row["size"] == float(fact.size)
        else:
            assert row["contracts"] == float(fact.size)
    report.trades += len(ids)
    report.open_ids += len(missing)


def _check_book(
    world: World, instrument: tuple[str, str, str], changes: list[Row], snapshots: list[Row], gaps: list[Row],
    report: Report, seed: int, instants: int,
) -> None:  # fmt: skip
    exchange, market, _ = instrument
    stretches = []
    for gap in last_states(gaps, "book"):
        if gap["state"] in ("open", "lost"):
            stretches.append((gap["from_ts"], gap["to_ts"] if gap["to_ts"] is not None else 2**62))
            if gap["to_ts"] is None:
                report.untrusted_at_end += 1
            else:
                report.untrusted_s.append((gap["to_ts"] - gap["from_ts"]) / 1e6)
    if not snapshots:
        return
    draw = random.Random(f"{seed} {instrument}")
    first, last = min(row["ts"] for row in snapshots), max(row["ts"] for row in changes)
    at = sorted(draw.randrange(first, last + 1) for _ in range(instants))
    for ts, found in zip(
        at, books_at(changes, snapshots, at, overlap=(exchange, market) == ("binance", "spot")), strict=True
    ):
        if any(start <= ts < end for start, end in stretches):
            report.refused += 1
            continue
        seq, bids, asks = world.server.truth.book_at(exchange, market, native(*instrument), ts // 1000 * 1000 + 999)
        assert found is not None, f"{instrument} at {ts}: no book, and the ledger does not say so"
        tip, sides, bounds = found
        if any(row["prev_seq"] <= tip < seq < row["last_seq"] for row in changes if row["first_seq"] is not None):
            report.covered += 1  # no id is missing, and nobody could know before the later one came
            continue
        assert tip == seq, f"{instrument} at {ts}: last number {tip}, in truth {seq}"
        scale = float(_contract_size(world, instrument) or 1)
        for name, ours, theirs in (("bid", sides[0], bids), ("ask", sides[1], asks)):
            expected = {float(price): float(size) * scale for price, size in theirs.items()}
            ours, expected = (_within(name, side, bounds[name]) for side in (ours, expected))
            assert ours.keys() == expected.keys(), f"{instrument} {name} at {ts}: {ours.keys() ^ expected.keys()}"
            assert all(abs(size - expected[price]) <= 1e-12 * size for price, size in ours.items())
        report.books += 1


def _within(name: str, side: dict[float, float], bound: float | None) -> dict[float, float]:
    """Leave out what lies behind the bound: it is not known."""
    if bound is None:
        return side
    return {price: size for price, size in side.items() if (price >= bound if name == "bid" else price <= bound)}


def _contract_size(world: World, instrument: tuple[str, str, str]) -> str | None:
    exchange, market, _ = instrument
    facts = world.server.truth.facts.get((exchange, market, TRADES[exchange], native(*instrument)), ())
    return next((fact.contract_size for fact in facts), None)


def books_at(changes: list[Row], snapshots: list[Row], at: list[int], *, overlap: bool) -> Iterator[Any]:
    """Rebuild the book at each of these instants from the rows, the plain way; None where links are missing."""
    for ts in at:
        bases = [row for row in snapshots if row["ts"] <= ts]
        if not bases:
            yield None
            continue
        base = max(bases, key=lambda row: (row["ts"], row["recv_ns"], row["frame"]))
        sides = [dict(zip(base[f"{name}_price"], base[f"{name}_size"], strict=True)) for name in ("bid", "ask")]
        tip = base["last_seq"]
        left = [row for row in changes if base["ts"] <= row["ts"] <= ts and not row["snapshot"]]
        moved = True
        while moved:
            moved = False
            for row in left:
                if row["prev_seq"] == tip or (overlap and row["prev_seq"] < tip < row["last_seq"]):
                    for side, name in zip(sides, ("bid", "ask"), strict=True):
                        for price, size in zip(row[f"{name}_price"], row[f"{name}_size"], strict=True):
                            if size:
                                side[price] = size
                            else:
                                side.pop(price, None)
                    tip, moved = row["last_seq"], True
            left = [row for row in left if row["last_seq"] > tip] if moved and overlap else left
        yield tip, sides, {"bid": base["bid_bound"], "ask": base["ask_bound"]}
