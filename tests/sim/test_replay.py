"""A replay sends exactly what was recorded, in order, each frame once; and recordings are read whoever made them."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard
from trio.testing import wait_all_tasks_blocked

from collector_trio.errors import CollectorError
from collector_trio.sim import Fault, RecordedFrame, Recording, load_recordings

from .wire import PING, TEXT, Wire, connected, get, okx, serving, subscribe, timeless

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}")

TRADE = '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":%d}}'
DEPTH = '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","s":"BTCUSDT","u":%d}}'
TICKER = '{"stream":"ethbtc@bookTicker","data":{"u":%d,"s":"ETHBTC"}}'
OKX = '{"arg":{"channel":"%s","instId":"%s"},"data":[{"n":%d}]}'


def recorded(path: Path, *frames: str) -> list[Recording]:
    path.write_text("".join(f"{frame}\n" for frame in frames))
    return load_recordings([path])


async def texts(wire: Wire, count: int) -> list[str]:
    """Read so many frames of data."""
    found: list[str] = []
    while len(found) < count:
        frame = await wire.frame()
        assert frame.opcode in (TEXT, PING)
        if frame.opcode == TEXT:
            found.append(frame.payload.decode())
    return found


async def test_frames_go_out_in_recorded_order_whatever_the_streams_are_called(tmp_path: Path) -> None:
    frames = [TRADE % 1, DEPTH % 2, TICKER % 3, TRADE % 4, DEPTH % 5]
    async with (
        serving(recordings=recorded(tmp_path / "f.txt", *frames), speed=None) as server,
        connected(server, "/stream") as wire,
    ):
        await wire.ask(subscribe("btcusdt@aggTrade", "btcusdt@depth@100ms", "ethbtc@aggTrade"))
        assert await texts(wire, 5) == frames
        await server.replay_done.wait()
        assert [row["frame"] for row in server.truth.rows(conn=1)] == frames
        assert (await wire.ask({"method": "LIST_SUBSCRIPTIONS", "id": 2}))["id"] == 2  # still there


async def test_nothing_is_sent_until_every_symbol_is_subscribed_and_what_is_missing_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    frames = [TRADE % 1, TICKER % 2]
    async with (
        serving(recordings=recorded(tmp_path / "f.txt", *frames), speed=None, announce=said.append) as server,
        connected(server, "/stream") as one,
        connected(server, "/stream") as other,
    ):
        await one.ask(subscribe("btcusdt@aggTrade"))
        await one.ask(subscribe("btcusdt@depth@100ms", number=2))
        await wait_all_tasks_blocked()
        assert server.truth.sent == []
        await other.ask(subscribe("ethbtc@depth@100ms"))
        assert await texts(one, 1) == frames[:1]
        assert await texts(other, 1) == frames[1:]
        await server.replay_done.wait()
    assert said[0] == server.endpoints_toml().rstrip()
    assert said[1:] == [
        "replay: binance.spot: waiting until somebody subscribes BTCUSDT, ETHBTC",
        "replay: binance.spot: waiting until somebody subscribes ETHBTC",
        "replay: binance.spot: sending 2 frames",
        "replay: done, 2 frames sent; connections stay open",
    ]


async def test_two_connections_with_one_symbol_share_its_frames_by_kind(tmp_path: Path) -> None:
    frames = [TRADE % 1, DEPTH % 2, TRADE % 3]
    async with (
        serving(recordings=recorded(tmp_path / "f.txt", *frames, TICKER % 4), speed=None) as server,
        connected(server, "/stream?streams=btcusdt@depth@100ms") as book,
        connected(server, "/stream?streams=btcusdt@aggTrade/ethbtc@trade") as trades,
    ):
        assert await texts(book, 1) == [DEPTH % 2]
        assert await texts(trades, 3) == [TRADE % 1, TRADE % 3, TICKER % 4]


async def test_okx_frames_find_their_endpoint_and_plain_trades_may_go_to_the_other(tmp_path: Path) -> None:
    books, matches, trades = (
        OKX % ("books", "BTC-USDT", 1),
        OKX % ("trades-all", "BTC-USDT", 2),
        OKX % ("trades", "ETH-USDT", 3),
    )
    other = OKX % ("trades", "BTC-USDT", 4)
    async with (
        serving(recordings=recorded(tmp_path / "f.txt", books, matches, trades, other), speed=None) as server,
        connected(server, "/ws/v5/public") as public,
        connected(server, "/ws/v5/business") as business,
    ):
        await business.ask(okx("trades-all", "BTC-USDT"))
        assert await texts(business, 1) == [matches]
        await public.ask(okx("books", "BTC-USDT"))
        await business.ask(okx("trades-all", "ETH-USDT"))
        assert await texts(public, 2) == [books, other]
        assert await texts(business, 1) == [trades]


async def test_recorded_timing_is_kept_within_a_recording_and_not_between_two(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    one, other = tmp_path / "1.txt", tmp_path / "2.txt"
    one.write_text(f"1700000000000000 {TRADE % 1}\n1700000002500000 {TRADE % 2}\n1700000002500000 {TRADE % 3}\n")
    other.write_text(f"1800000000000000000 {TRADE % 4}\n1800000001000000000 {TRADE % 5}\n")
    async with timeless(recordings=load_recordings([one, other])) as there:
        await trio.sleep(10)
        wire = await there.connect("/stream?streams=btcusdt@aggTrade")
        times = []
        for number in range(1, 6):
            assert await texts(wire, 1) == [TRADE % number]
            times.append(trio.current_time())
        await there.server.replay_done.wait()
    assert times == [10, 12.5, 12.5, 12.5, 13.5]


async def test_what_is_left_goes_to_the_next_connection_and_nothing_twice(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "f.txt"
    path.write_text("".join(f"{1700000000_000000000 + number * 10**9} {TRADE % number}\n" for number in range(10)))
    async with timeless(recordings=load_recordings([path])) as there:
        wire = await there.connect("/stream?streams=btcusdt@trade")
        assert await texts(wire, 3) == [TRADE % number for number in range(3)]
        there.server.inject(Fault("drop"))
        assert await wire.to_the_end() == []
        await trio.sleep(100)
        wire = await there.connect("/stream?streams=btcusdt@aggTrade")
        assert await texts(wire, 7) == [TRADE % number for number in range(3, 10)]
        rows = list(there.server.truth.rows())
    assert [(row["conn"], row["frame"]) for row in rows] == [(1 if n < 3 else 2, TRADE % n) for n in range(10)]


async def test_a_connection_that_breaks_in_full_flight_costs_only_what_was_handed_to_its_socket(tmp_path: Path) -> None:
    frames = [TRADE % number for number in range(60_000)]
    async with serving(recordings=recorded(tmp_path / "f.txt", *frames), speed=None) as server:
        async with connected(server, "/stream?streams=btcusdt@trade") as wire:
            first = await texts(wire, 100)
        async with connected(server, "/stream?streams=btcusdt@trade") as wire:
            second = await texts(wire, 1)
            rest = len(frames) - frames.index(second[0])
            second += await texts(wire, rest - 1)
            await server.replay_done.wait()
            one, other = server.truth.connections
            assert (one.data + one.uncertain, other.data) == (60_000 - rest, rest)
    assert first == frames[:100]
    assert second == frames[-rest:]


async def test_instruments_are_made_up_from_what_was_recorded(tmp_path: Path) -> None:
    recordings = recorded(tmp_path / "f.txt", TRADE % 1, TICKER % 1, OKX % ("books", "ZEC-USDT", 1))
    async with timeless(recordings=recordings) as there:
        _, binance, _ = await get(there.server, "/api/v3/exchangeInfo")
        _, spot, _ = await get(there.server, "/api/v5/public/instruments?instType=SPOT")
        status, _, _ = await get(there.server, "/api/v3/depth?symbol=BTCUSDT")
    assert [(one["symbol"], one["baseAsset"], one["quoteAsset"]) for one in binance["symbols"]] == [
        ("BTCUSDT", "BTC", "USDT"),
        ("ETHBTC", "ETH", "BTC"),
    ]
    assert [(one["instId"], one["tickSz"]) for one in spot["data"]] == [("ZEC-USDT", "0.00000001")]
    assert status == 400  # there is no market behind a replay


def read(path: Path) -> list[tuple[int | None, str]]:
    (recording,) = load_recordings([path])
    return [(frame.at_ns, frame.text.decode()) for frame in recording.frames]


def test_cryptofeeds_rows_are_served_where_they_were_received(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"ts_ns": 1, "conn": "B.0", "kind": "http_get", "url": "https://x/api/v3/exchangeInfo", "frame": "{}"},
        {"ts_ns": 2, "conn": "B.ws", "kind": "ws_open", "url": "wss://stream.binance.com", "frame": None},
        {"ts_ns": 3, "conn": "B.ws", "kind": "ws_recv", "url": "wss://stream.binance.com", "frame": TRADE % 1},
        {"ts_ns": 4, "conn": "F.ws", "kind": "ws_recv", "url": "wss://fstream.binance.com", "frame": TRADE % 2},
        {
            "ts_ns": 5,
            "conn": "O.ws",
            "kind": "ws_recv",
            "url": "wss://ws.okx.com",
            "frame": '{"event":"subscribe","arg":{}}',
        },
        {
            "ts_ns": 6,
            "conn": "O.ws",
            "kind": "ws_recv",
            "url": "wss://ws.okx.com",
            "frame": OKX % ("books", "BTC-USDT-SWAP", 1),
        },
        {"ts_ns": 7, "conn": "O.ws", "kind": "ws_recv", "url": "wss://ws.okx.com", "frame": "pong"},
    ]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    (recording,) = load_recordings([path])
    assert [(frame.at_ns, frame.text.decode()) for frame in recording.frames] == [(3, TRADE % 1)]
    assert recording.skipped == {"http_get": 1, "ws_open": 1, "another market": 2, "control": 1, "not a frame": 1}


def test_plain_frames_may_be_alone_or_under_a_key_and_raw_or_combined(tmp_path: Path) -> None:
    raw = '{"e":"trade","s":"BTCUSDT","t":2}'
    path = tmp_path / "frames.jsonl"
    path.write_text(f"{TRADE % 1}\n{raw}\n\n{json.dumps({'file': 'x', 'frame': TRADE % 3})}\n")
    assert read(path) == [(None, TRADE % 1), (None, raw), (None, TRADE % 3)]


def batch(first: int, at_ns: int, session: int, *frames: str) -> str:
    body = "".join(f"{frame}\n" for frame in frames)
    return f"#b {first} {at_ns} {session} {len(frames)} {len(body)} {zlib.crc32(body.encode()):08x}\n{body}"


def opened(session: int, stream: str) -> str:
    return f"#o 5 deadbeef {json.dumps({'session': session, 'exchange': stream.split('.')[0], 'stream': stream})}\n"


def test_a_journal_is_read_in_the_order_of_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    later = opened(1, "binance.spot/1") + batch(4, 30, 1, TRADE % 4)
    earlier = (
        "#p 1 0 {}\n"
        + opened(1, "binance.spot/1")
        + batch(1, 10, 1, TRADE % 1, '{"result":null,"id":1}')
        + batch(3, 20, 1, DEPTH % 3)
    )
    (folder / "a.log").write_text(later + "#t 31 0 {}\n")
    (folder / "b.log.zst").write_bytes(zstandard.ZstdCompressor().compress(earlier.encode()))
    (folder / "a.damaged").write_text(later)
    (folder / "current").symlink_to("a.log")
    (recording,) = load_recordings([folder])
    assert [(frame.at_ns, frame.text.decode()) for frame in recording.frames] == [
        (10, TRADE % 1),
        (20, DEPTH % 3),
        (30, TRADE % 4),
    ]
    assert recording.skipped == {"no symbol": 1}


def test_a_journals_escaped_torn_and_foreign_frames_are_understood(tmp_path: Path) -> None:
    escaped = "\\" + (TRADE % 1).replace(",", ",\\n").replace("BTC", "\\x42TC")
    path = tmp_path / "journal.txt"
    torn = batch(5, 40, 1, TRADE % 5, TRADE % 6)[:-30]
    path.write_text(
        opened(1, "binance.spot/1")
        + opened(2, "binance.perp/1")
        + batch(1, 10, 1, escaped)
        + batch(2, 20, 2, TRADE % 2)
        + torn
    )
    (recording,) = load_recordings([path])
    assert [frame.text.decode() for frame in recording.frames] == [(TRADE % 1).replace(",", ",\n")]
    assert recording.skipped == {"another market": 1, "torn": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"no frame .* \(it is empty\)"),
        (b'{"result":null,"id":1}\nnonsense\n', r"no frame .* \(1 no symbol, 1 not a frame\)"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b"\x28\xb5\x2f\xfdnot zstd", "cannot be read"),
    ],
)
def test_a_file_without_frames_is_refused_with_the_reason(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(CollectorError, match=problem):
        load_recordings([path])


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(CollectorError, match="/no/such: cannot be read"):
        load_recordings([Path("/no/such")])


@needs_data
@pytest.mark.parametrize(
    ("name", "served", "skipped"),
    [
        ("hftbacktest/spot_btcusdt_20240808.gz", 28040 + 9757 + 3451, {"no symbol": 1}),
        ("hftbacktest/spot_btcusdt_20230405.dat.gz", 8015 + 3929 + 3144, {}),
        ("cryptofeed/BINANCE_2021-04.jsonl.gz", 1228, {"http_get": 11, "config": 1, "ws_open": 1}),
        ("cryptofeed/OKX_2022-05.jsonl.gz", None, None),
        ("cryptofeed/OKEX_2021-07.conn1.jsonl.gz", None, None),
        ("l2-orderbook-pipeline/okx_books.jsonl", None, None),
    ],
)
def test_real_recordings_are_read_to_the_frame(name: str, served: int | None, skipped: dict[str, int] | None) -> None:
    (recording,) = load_recordings([DATA / name])
    assert recording.frames
    if served is not None:
        assert (len(recording.frames), recording.skipped) == (served, skipped)


@needs_data
@pytest.mark.parametrize("name", ["hftbacktest/spot_btcusdt_20240809.gz", "cryptofeed/OKX_2022-05.jsonl.gz"])
async def test_a_real_recording_arrives_whole_and_in_order(name: str) -> None:
    (whole,) = load_recordings([DATA / name])
    slice_of_it = Recording(whole.path, whole.frames[:5000], whole.skipped)
    expected = [frame.text.decode() for frame in slice_of_it.frames]
    endpoint = {"binance": "/stream", "okx": "/ws/v5/public"}[whole.frames[0].exchange]
    async with (
        serving(recordings=[slice_of_it], speed=None) as server,
        connected(server, endpoint) as wire,
    ):
        await wire.send(request_for(slice_of_it.frames))
        got: list[str] = []
        while len(got) < len(expected):
            got += [text for text in await texts(wire, 1) if '"data":' in text]
        assert got == expected
        await server.replay_done.wait()
        assert [row["frame"] for row in server.truth.rows()] == expected


def request_for(frames: tuple[RecordedFrame, ...]) -> dict[str, Any]:
    names = sorted({frame.native_symbol for frame in frames})
    if frames[0].exchange == "okx":
        return okx("books", *names)
    return subscribe(*(f"{name.lower()}@depth@100ms" for name in names))
