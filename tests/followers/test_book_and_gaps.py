"""`book` and `gaps`, called as the shell calls them, and the ledger behind them."""

from pathlib import Path

import pytest

from collector_trio.followers.ledger import ledger

from .test_commands import Shell, shell
from .written import at, change, gap, in_band, whole, write

__all__ = ["shell"]

BOOK_KEYS = [
    "exchange", "market", "symbol", "at", "ts", "last_seq", "bids", "asks", "trusted_bids", "trusted_asks",
]  # fmt: skip
HOLE_KEYS = [
    "table", "exchange", "market", "symbol", "gap", "state", "first_missing", "last_missing", "missing",
    "from_ts", "to_ts", "cause", "detail", "recv",
]  # fmt: skip


# book


def ask_book(shell: Shell, data_dir: Path, seconds: float, *others: object) -> object:
    return shell("book", "--symbol", "BTC-USDT", "--at", at(seconds).isoformat(), "--data-dir", data_dir, *others)


@pytest.fixture
def booked(tmp_path: Path) -> Path:
    bids, asks = {9.5: 1.25, 9: 10, 8: 0.00001}, {10.25: 3.0, 11: 1}
    write(tmp_path, "book_snapshots", [whole(0, 10, bids, asks, bid_bound=9.0)])
    write(tmp_path, "book", [change(1.5, 10, 11, {9.5: 1.5})])
    return tmp_path


def test_book_prints_a_ladder_and_how_deep_it_is_certain(booked: Path, shell: Shell) -> None:
    done = ask_book(shell, booked, 2)

    assert (done.code, done.err) == (0, "")
    assert [line.rstrip() for line in done.out.splitlines()] == [
        "BTC-USDT on binance spot at 2026-11-23 12:30:02.000000 UTC",
        "last change 2026-11-23 12:30:01.500000 UTC, number 11",
        "",
        "     price      size",
        "ask  11.00   1.00000",
        "ask  10.25   3.00000",
        "bid   9.50   1.50000",
        "bid   9.00  10.00000",
        "bid   8.00   0.00001  not certain",
        "",
        "certain: all 2 asks",
        "         the best 2 of 3 bids, to 9",
    ]


def test_book_prints_as_many_levels_as_were_asked_for(booked: Path, shell: Shell) -> None:
    lines = ask_book(shell, booked, 2, "--depth", 1).out.splitlines()

    assert [line.split() for line in lines[4:6]] == [["ask", "10.25", "3.0"], ["bid", "9.50", "1.5"]]
    assert lines[6] == ""


def test_an_empty_book_is_printed(tmp_path: Path, shell: Shell) -> None:
    write(tmp_path, "book", [in_band(0, None, {})], "okx")

    done = ask_book(shell, tmp_path, 0)

    assert done.code == 0
    assert "last change 2026-11-23 12:30:00.000000 UTC\n" in done.out
    assert "certain: all 0 asks" in done.out


def test_book_prints_one_json_document(booked: Path, shell: Shell) -> None:
    document = ask_book(shell, booked, 2, "--json").document

    assert list(document) == BOOK_KEYS
    assert document == {
        "exchange": "binance", "market": "spot", "symbol": "BTC-USDT", "at": "2026-11-23T12:30:02+00:00",
        "ts": "2026-11-23T12:30:01.500000+00:00", "last_seq": 11, "bids": [[9.5, 1.5], [9.0, 10.0], [8.0, 0.00001]],
        "asks": [[10.25, 3.0], [11.0, 1.0]], "trusted_bids": 2, "trusted_asks": 2,
    }  # fmt: skip
    assert ask_book(shell, booked, 2, "--json", "--depth", 1).document["bids"] == [[9.5, 1.5]]


def test_a_book_that_cannot_be_rebuilt_is_one_line_and_exit_1(booked: Path, shell: Shell) -> None:
    done = ask_book(shell, booked, 3600, "--json")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "BTC-USDT (binance spot) at 2026-11-23T13:30:00Z: nothing was recorded after 2026-11-23T12:30:01.500000Z\n"
    )


def test_book_takes_the_exchange_and_market(booked: Path, shell: Shell) -> None:
    write(booked, "book_snapshots", [whole(0, 1, {5: 1})], "binance", "perp")

    assert "name one of them" in ask_book(shell, booked, 1).err
    assert ask_book(shell, booked, 1, "--market", "perp", "--json").document["bids"] == [[5.0, 1.0]]
    assert ask_book(shell, booked, 1, "--exchange", "okx").code == 1


@pytest.mark.parametrize("asked", [("--at", "soon"), ("--depth", "0"), ("--symbol",)])
def test_book_refuses_what_it_does_not_understand(tmp_path: Path, shell: Shell, asked: tuple[str, ...]) -> None:
    assert ask_book(shell, tmp_path, 0, *asked).code == 2


# gaps


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    ids = {"table": "trades", "first_missing": 5, "last_missing": 9, "missing": 5}
    write(tmp_path, "gaps", [gap(20, "open", 10, 12, **ids, gap="t1"), gap(30, "open", 25, 28, **ids, gap="t2")])
    write(tmp_path, "gaps", [gap(31, "repaired", 25, 28, **ids, gap="t2"), gap(20, "open", 11, None, gap="b1")])
    write(tmp_path, "gaps", [gap(90, "lost", 60, 61, **ids, gap="t1", cause="process down", detail="too late")], "okx")
    return tmp_path


def test_gaps_prints_what_is_missing_and_totals(holed: Path, shell: Shell) -> None:
    done = shell("gaps", "--data-dir", holed)

    assert (done.code, done.err) == (0, "")
    head, *lines = [line.rstrip() for line in done.out.splitlines()]
    assert head.split("  ")[0] == "table"
    assert [line.split() for line in lines[:3]] == [
        ["trades", "binance", "spot", "BTC-USDT", "5..9", "5", "2026-11-23", "12:30:10.000", "2026-11-23",
         "12:30:12.000", "open", "eof"],
        ["book", "binance", "spot", "BTC-USDT", "2026-11-23", "12:30:11.000", "open", "eof"],
        ["trades", "okx", "spot", "BTC-USDT", "5..9", "5", "2026-11-23", "12:31:00.000", "2026-11-23",
         "12:31:01.000", "lost", "process", "down", "too", "late"],
    ]  # fmt: skip
    assert lines[3:] == ["", "book: 1 open; 0 ids missing", "trades: 1 open, 1 lost, 1 repaired; 10 ids missing"]


def test_gaps_prints_one_json_document(holed: Path, shell: Shell) -> None:
    document = shell("gaps", "--data-dir", holed, "--json").document

    assert list(document) == ["data_dir", "holes", "totals"]
    assert all(list(hole) == HOLE_KEYS for hole in document["holes"])
    assert document["holes"][0] == {
        "table": "trades", "exchange": "binance", "market": "spot", "symbol": "BTC-USDT", "gap": "t1", "state": "open",
        "first_missing": 5, "last_missing": 9, "missing": 5, "from_ts": "2026-11-23T12:30:10+00:00",
        "to_ts": "2026-11-23T12:30:12+00:00", "cause": "eof", "detail": None, "recv": "2026-11-23T12:30:20+00:00",
    }  # fmt: skip
    assert document["totals"] == [
        {"table": "book", "open": 1, "lost": 0, "benign": 0, "repaired": 0, "missing": 0},
        {"table": "trades", "open": 1, "lost": 1, "benign": 0, "repaired": 1, "missing": 10},
    ]


def test_gaps_shows_all_when_asked(holed: Path, shell: Shell) -> None:
    def shown(*options: str) -> list[tuple[str, str]]:
        holes = shell("gaps", "--data-dir", holed, "--json", *options).document["holes"]
        return [(hole["gap"], hole["state"]) for hole in holes]

    assert shown("--all") == [("t1", "open"), ("b1", "open"), ("t2", "repaired"), ("t1", "lost")]
    assert shown("--all", "--since", "2026-11-23T12:30:28") == [("b1", "open"), ("t2", "repaired"), ("t1", "lost")]
    assert shown("--since", "2026-11-23T12:32") == [("b1", "open")]  # it goes on


def test_an_empty_ledger_says_so(tmp_path: Path, shell: Shell) -> None:
    done = shell("gaps", "--data-dir", tmp_path)

    assert (done.code, done.out, done.err) == (0, "No gaps.\n", "")
    assert shell("gaps", "--data-dir", tmp_path, "--json").document["holes"] == []


def test_when_all_is_repaired_nothing_is_missing(tmp_path: Path, shell: Shell) -> None:
    write(tmp_path, "gaps", [gap(1, "repaired", 0, 1)])

    assert shell("gaps", "--data-dir", tmp_path).out == "Nothing is missing.\n\nbook: 1 repaired; 0 ids missing\n"


# The ledger


def test_the_last_row_of_a_gap_is_its_state(tmp_path: Path) -> None:
    rows = [
        gap(10, "open", 1, 2, first_missing=1, last_missing=9, missing=9),
        gap(30, "repaired", 1, 2, first_missing=1, last_missing=9, missing=9, detail="in full"),
        gap(20, "lost", 1, 2, first_missing=4, last_missing=9, missing=6),
    ]
    write(tmp_path, "gaps", rows)

    [hole] = ledger(tmp_path)

    assert (hole.state, hole.missing, hole.detail, hole.recv) == ("repaired", 9, "in full", at(30))
    assert not hole.is_missing


@pytest.mark.parametrize("last", ["lost", "benign", "repaired"])
def test_of_two_rows_of_one_receive_time_the_one_that_ends_it_is_later(tmp_path: Path, last: str) -> None:
    for seconds, states in ((1, (last, "open")), (2, ("open", last))):
        write(tmp_path, "gaps", [gap(seconds, state, 0, 1, gap=str(seconds)) for state in states])

    assert [hole.state for hole in ledger(str(tmp_path))] == [last, last]


def test_one_id_in_several_places_is_several_holes(tmp_path: Path) -> None:
    for place in (("binance", "spot"), ("binance", "perp"), ("okx", "spot")):
        write(tmp_path, "gaps", [gap(1, "open", 0, 1), gap(1, "open", 0, 1, symbol="ETH-USDT")], *place)

    assert len(ledger(tmp_path)) == 6
