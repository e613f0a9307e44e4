"""A journal in a temporary folder, and streams of both exchanges."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector_trio.exchanges import EXCHANGES
from collector_trio.instruments import Instrument
from collector_trio.journal.append import Journal, open_journal
from collector_trio.journal.recover import lock_data_dir, recover
from collector_trio.plan import StreamPlan, Subscription

from .wires import trio_clock


async def _inline(work: Callable[[], None]) -> None:
    work()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with (
        lock_data_dir(tmp_path),
        open_journal(
            tmp_path,
            recover(tmp_path).numbers,
            clock=trio_clock_or_zero,
            segment_s=3600,
            sync_every_s=1.0,
            offload=_inline,
        ) as opened,
    ):
        yield opened


def trio_clock_or_zero() -> int:
    """The journal is sealed after the test's trio run is over."""
    try:
        return trio_clock()
    except RuntimeError:
        return 0


def plan_of(exchange: str, symbols: tuple[str, ...], channels: tuple[str, ...] = ("trades", "book")) -> StreamPlan:
    module = EXCHANGES[exchange]
    subscriptions: list[Subscription] = []
    instruments = []
    for symbol in symbols:
        native = symbol if exchange == "okx" else symbol.replace("-", "")
        base, _, quote = symbol.partition("-")
        instrument = Instrument(exchange, "spot", symbol, native, base, quote, "live", True)
        instruments.append(instrument)
        subscriptions += [module.subscription(instrument, channel) for channel in channels]
    endpoint = module.endpoint("spot", channels[0])
    return StreamPlan(
        f"{endpoint.name}/1", exchange, ("spot",), "wss://example.org/stream", tuple(subscriptions), tuple(instruments),
        module.limits("spot"),
    )  # fmt: skip
