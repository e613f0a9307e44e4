"""What the simulated exchanges published is what the files hold: to the row and to the digit."""

import ssl
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from collector_trio.sim import BookFact, Scenario, TradeFact

from .recorder import Running, recording, rows

SEED = 7


def instant(ts_us: int) -> datetime:
    """Exchanges send milliseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts_us // 1000)


def exactly(number: float, text: str) -> bool:
    return Decimal(repr(number)) == Decimal(text)


def base_units(fact: TradeFact | BookFact, size: str) -> str:
    return size if fact.contract_size is None else str(Decimal(size) * Decimal(fact.contract_size))


def assert_trades_are(data_dir: Path, facts: list[TradeFact]) -> None:
    columns = "exchange, market, symbol, id, price, size, side, ts, first_id, last_id, exact, contracts"
    found = {row[:4]: row for row in rows(data_dir, "trades", columns)}
    assert len(rows(data_dir, "trades", "id")) == len(facts) == len(found)
    for fact in facts:
        row = found[fact.exchange, fact.market, fact.symbol, fact.number]
        assert exactly(row[4], fact.price)
        assert exactly(row[5], base_units(fact, fact.size))
        assert row[11] is None if fact.contract_size is None else exactly(row[11], fact.size)
        assert row[6] == fact.side
        assert row[7] == instant(fact.ts_us)
        assert row[10] is None
        if fact.exchange == "binance":
            assert row[8:10] == (fact.first_id, fact.last_id)


def assert_books_are(data_dir: Path, facts: list[BookFact]) -> None:
    columns = "exchange, symbol, last_seq, prev_seq, first_seq, snapshot, bid_price, bid_size, ask_price, ask_size, ts"
    columns += ", market"
    found: dict[Any, Any] = {(row[0], row[11], row[1], row[2], row[5]): row for row in rows(data_dir, "book", columns)}
    assert len(rows(data_dir, "book", "frame")) == len(facts) == len(found)
    for fact in facts:
        row = found[fact.exchange, fact.market, fact.symbol, fact.last_seq, fact.snapshot]
        assert row[10] == instant(fact.ts_us)
        if fact.exchange == "binance":
            assert row[4] == fact.first_seq
        else:
            assert row[3] == fact.prev_seq
        for levels, prices, sizes in ((fact.bids, row[6], row[7]), (fact.asks, row[8], row[9])):
            assert len(levels) == len(prices) == len(sizes)
            assert all(exactly(number, text) for number, (text, _) in zip(prices, levels, strict=True))
            assert all(exactly(number, base_units(fact, text)) for number, (_, text) in zip(sizes, levels, strict=True))


def tls() -> tuple[ssl.SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context, authority


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_after_a_run_without_faults_rows_are_the_truth(
    secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_with: dict[str, Any] = {"scenario": Scenario(trades_per_s=200.0, book_changes_per_s=10.0), "seed": SEED}
    if secure:
        serve_with["ssl_context"], authority = tls()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    data_dir = tmp_path / "data"
    async with recording(data_dir, serve_with=serve_with, markets=("spot", "perp")) as running:
        await running.until(lambda: len(running.streams) == 5 and running.all_live(), "all streams live")
        await trio.sleep(3)
        await running.quiesce()
    sent = [sent.fact for sent in running.server.truth.sent]
    assert all(sent.certain for sent in running.server.truth.sent)
    assert_trades_are(data_dir, [fact for fact in sent if isinstance(fact, TradeFact)])
    assert_books_are(data_dir, [fact for fact in sent if isinstance(fact, BookFact)])
    assert_frames_balance(data_dir, running)


def assert_frames_balance(data_dir: Path, running: Running) -> None:
    classes = "sum(frames), sum(rows), sum(control), sum(duplicate), sum(ignored), sum(rejected)"
    ((frames, with_rows, control, duplicate, ignored, rejected),) = rows(data_dir, "segments", classes, "1")
    assert frames == with_rows + control + duplicate + ignored + rejected
    assert rejected == duplicate == 0
    ((answers,),) = rows(data_dir, "sessions", "sum(frames)", "1", "stream LIKE '%.rest'")
    assert frames == running.frames() + answers
    assert frames == rows(data_dir, "sessions", "sum(frames)", "1")[0][0]
