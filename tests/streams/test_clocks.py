"""What an exchange says of its time tells our clock's offset, and by how much that can be wrong."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.config import Config, parse_config
from collector_trio.errors import BadAnswer, HttpFailed
from collector_trio.exchanges import EXCHANGES
from collector_trio.journal.append import Journal
from collector_trio.net.budgets import Budgets
from collector_trio.net.http import HttpAnswer
from collector_trio.streams.clocks import EVERY_S, FIRST_S, MISSES, RESOLUTION_NS, Offset, clocks, keep_offsets, offset
from collector_trio.streams.supervisor import Surroundings

from .wires import EPOCH_NS, Network, Wishes, live, trio_clock

OFFERS = {name: exchange.OFFERS for name, exchange in EXCHANGES.items()}


def config(*markets: tuple[str, str]) -> Config:
    records = "".join(
        f'[[record]]\nexchange = "{exchange}"\nmarket = "{market}"\nsymbols = ["BTC-USDT"]\nchannels = ["book"]\n'
        for exchange, market in markets
    )
    return parse_config(records, "test.toml", OFFERS, {})


@given(st.floats(0, 1e6), st.floats(0, 30), st.floats(0, 30), st.floats(0, 1), st.integers(-(10**13), 10**13))
def test_the_error_is_known_wherever_in_between_the_exchange_read_its_clock(
    asked_at: float, took_s: float, since_s: float, read: float, offset_ns: int
) -> None:
    """Times of a real run are below 1e6 s, so float64 is right to a fraction of a microsecond."""
    answered_at = asked_at + took_s
    now = answered_at + since_s
    now_ns = EPOCH_NS + round(now * 1e9)
    theirs_ns = EPOCH_NS + round((asked_at + read * took_s) * 1e9) - offset_ns
    said_ns = theirs_ns // RESOLUTION_NS * RESOLUTION_NS
    found = offset(HttpAnswer(b"", httpx.Headers(), asked_at, answered_at), said_ns, now, now_ns)
    assert abs(found.offset_ns - offset_ns) <= found.error_ns + 1000
    assert found.error_ns <= took_s * 5e8 + RESOLUTION_NS + 1000


def test_who_has_one_clock_for_all_markets_is_asked_once() -> None:
    wanted = clocks(config(("binance", "spot"), ("binance", "perp"), ("okx", "spot"), ("okx", "perp")), EXCHANGES)
    assert [(exchange.NAME, market, named) for exchange, market, named in wanted] == [
        ("binance", "spot", "spot"), ("binance", "perp", "perp"), ("okx", "spot", "all"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("exchange", "body"),
    [
        ("binance", b'{"serverTime":1795000000123,"more":1}'),
        ("okx", b'{"code":"0","msg":"","data":[{"ts":"1795000000123"}]}'),
    ],
)
def test_an_exchanges_time_is_read(exchange: str, body: bytes) -> None:
    assert EXCHANGES[exchange].parse_time(body) == EPOCH_NS + 123_000_000


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'"x"', b'{"serverTime":0}', b'{"serverTime":"1795000000123"}',
        b'{"code":"0","data":[]}', b'{"code":"50011","msg":"Too Many","data":[]}', b'{"code":"0","data":[{"ts":"x"}]}',
        b'{"code":"0","data":[{"ts":""}]}', b"\xff",
    ],
)  # fmt: skip
def test_what_is_no_time_is_a_bad_answer(exchange: str, body: bytes) -> None:
    with pytest.raises(BadAnswer, match="time: "):
        EXCHANGES[exchange].parse_time(body)


@attrs.define
class Rest:
    """An exchange whose clock is ours less `ahead_s`, and 20 ms away; or which does not answer."""

    ahead_s: float = 0.0
    works: bool = True
    hangs: bool = False
    headers: httpx.Headers = attrs.field(factory=httpx.Headers)
    asked: list[float] = attrs.field(factory=list)

    @asynccontextmanager
    async def open_client(self, url: str) -> AsyncIterator[Any]:
        yield self

    async def ask(self, path: str) -> HttpAnswer:
        self.asked.append(trio.current_time())
        asked_at = trio.current_time()
        await trio.sleep(float("inf") if self.hangs else 0.02)
        if not self.works:
            raise HttpFailed(path, "no answer")
        ms = trio_clock() // 1_000_000 - round(self.ahead_s * 1000)
        return HttpAnswer(b'{"serverTime":%d}' % ms, self.headers, asked_at, trio.current_time())


def around(journal: Journal, rest: Rest) -> Surroundings:
    return Surroundings(
        journal, trio_clock, random.Random(1), Network().connect, rest.open_client, Budgets(), 1.0,
        structlog.get_logger(), live(), Wishes(),
    )  # fmt: skip


async def test_they_are_asked_rarely_and_what_was_found_stays_while_they_do_not_answer(
    journal: Journal, autojump_clock: MockClock, tmp_path: Path
) -> None:
    rest, offsets, begun = Rest(ahead_s=2.0), dict[tuple[str, str], Offset](), trio.current_time()
    asked = config(("binance", "spot"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_offsets, asked, clocks(asked, EXCHANGES), around(journal, rest), offsets)
        await trio.sleep(FIRST_S + 1)
        found = offsets["binance", "spot"]
        assert abs(found.offset_ns - 2 * 10**9) <= found.error_ns == pytest.approx(11_000_000)
        rest.works = False
        with capture_logs() as logs:
            await trio.sleep(EVERY_S + 1)
        assert offsets["binance", "spot"] == found
        assert {log["log_level"] for log in logs} == {"debug"}
        rest.works, rest.ahead_s = True, 0.0
        await trio.sleep(EVERY_S)
        assert abs(offsets["binance", "spot"].offset_ns) <= found.error_ns
        nursery.cancel_scope.cancel()
    assert [round(at - begun) for at in rest.asked] == [round(FIRST_S + n * EVERY_S) for n in range(3)]


async def test_an_odd_header_ends_nothing(journal: Journal, autojump_clock: MockClock) -> None:
    rest, offsets = Rest(headers=httpx.Headers({"X-MBX-USED-WEIGHT-1M": "9" * 5000})), dict[tuple[str, str], Offset]()
    asked = config(("binance", "spot"))
    with trio.move_on_after(FIRST_S + 1):
        await keep_offsets(asked, clocks(asked, EXCHANGES), around(journal, rest), offsets)
    assert list(offsets) == [("binance", "spot")]


async def test_a_crash_in_one_asking_is_logged_and_the_others_go_on(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(body: bytes) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(EXCHANGES["okx"], "parse_time", crash)
    rest, offsets, asked = Rest(), dict[tuple[str, str], Offset](), config(("okx", "spot"), ("binance", "spot"))
    with capture_logs() as logs, trio.move_on_after(FIRST_S + EVERY_S + 1):
        await keep_offsets(asked, clocks(asked, EXCHANGES), around(journal, rest), offsets)
    assert list(offsets) == [("binance", "spot")]
    assert [(log["event"], log["exchange"]) for log in logs] == [("clock crashed", "okx")] * 2
    assert len(rest.asked) == 4


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_offset_that_is_not_renewed_is_dropped(
    hangs: bool, journal: Journal, autojump_clock: MockClock
) -> None:
    rest, offsets, asked = Rest(), dict[tuple[str, str], Offset](), config(("binance", "spot"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_offsets, asked, clocks(asked, EXCHANGES), around(journal, rest), offsets)
        await trio.sleep(FIRST_S + 1)
        rest.works, rest.hangs = False, hangs
        await trio.sleep(MISSES * EVERY_S - 2)
        assert offsets
        await trio.sleep(EVERY_S + 2)
        assert not offsets
        rest.works, rest.hangs = True, False
        await trio.sleep(EVERY_S)
        assert offsets
        nursery.cancel_scope.cancel()
