"""Frames recorded from the live exchange, served again: what `run` stores of them is what the recording contains."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from collector_trio.sim import load_recordings

from .recorder import SHARED, recording, rows

FILES = ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"]

needs_recordings = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data, with the recordings, is not there")


def contents(name: str) -> list[dict[str, Any]]:
    """Read a recording as anybody would: receive time, space, JSON."""
    with gzip.open(SHARED / "hftbacktest" / name, "rt") as file:
        return [json.loads(line.split(" ", 1)[1]) for line in file]


def levels(found: list[list[str]]) -> tuple[list[float], list[float]]:
    return [float(price) for price, _ in found], [float(size) for _, size in found]


@needs_recordings
async def test_rows_after_a_replay_are_the_recording_and_its_final_book_is_the_other_programs(tmp_path: Path) -> None:
    frames = [frame for name in FILES for frame in contents(name)]
    data = [frame["data"] for frame in frames if "stream" in frame]
    trades = [event for event in data if event.get("e") == "trade"]
    depths = [event for event in data if event.get("e") == "depthUpdate"]
    (snapshot,) = (frame for frame in frames if "lastUpdateId" in frame)
    recordings = load_recordings([SHARED / "hftbacktest" / name for name in FILES])

    serve_with = {"recordings": recordings, "speed": None}
    async with recording(
        tmp_path, serve_with=serve_with, symbols=("BTC-USDT",), exchanges=("binance",), segment="60s"
    ) as running:
        await running.until(running.server.replay_done.is_set, "the replay is done")
        await running.until(lambda: running.frames() >= len(data), "all recorded frames are received")

    found = rows(tmp_path, "trades", "id, price, size, side, epoch_ms(ts)", "id")
    assert found == [
        (t["t"], float(t["p"]), float(t["q"]), "sell" if t["m"] else "buy", t["T"])
        for t in sorted(trades, key=lambda trade: trade["t"])
    ]
    columns = "first_seq, last_seq, epoch_ms(ts), bid_price, bid_size, ask_price, ask_size"
    books = rows(tmp_path, "book", columns, "last_seq")
    assert books == [(d["U"], d["u"], d["E"], *levels(d["b"]), *levels(d["a"])) for d in depths]
    ((ignored,),) = rows(tmp_path, "segments", "sum(ignored)", "1")
    assert ignored == sum("e" not in event for event in data)  # bookTicker, which nobody asked for

    with gzip.open(SHARED / "oracle-tardis" / "spot_btcusdt_202408.jsonl.gz", "rt") as file:
        (oracle,) = (row for row in map(json.loads, file) if row["type"] == "final_book")
    sides = {
        "bids": dict(zip(*levels(snapshot["bids"]), strict=True)),
        "asks": dict(zip(*levels(snapshot["asks"]), strict=True)),
    }
    for _, last_seq, _, bid_price, bid_size, ask_price, ask_size in books:
        if last_seq > snapshot["lastUpdateId"]:
            sides["bids"].update(zip(bid_price, bid_size, strict=True))
            sides["asks"].update(zip(ask_price, ask_size, strict=True))
    for side, book in sides.items():
        assert {price: size for price, size in book.items() if size} == {
            level["price"] if isinstance(level, dict) else level[0]: level["amount"]
            if isinstance(level, dict)
            else level[1]
            for level in oracle[side]
        }
