"""What HTTP answers ask of us: a table, without sockets or clocks."""

import random
from datetime import UTC, datetime

import pytest

from collector_trio.errors import Refusal
from collector_trio.net.refusals import LONGEST_WAIT_S, judge, retry_after_s

NOW_MS = 1_795_439_000_000
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
BANNED = '{"code":-1003,"msg":"Way too much request weight used; IP banned until %d. Please use the websocket"}'


class Least(random.Random):
    """Adds nothing to any wait."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Most(random.Random):
    """Adds as much as there can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("refusal", "repeated", "whole_venue", "wait_s", "told", "says"),
    [
        # Asked too often: as told, else a minute that doubles.
        (Refusal(429, 7), 0, True, 7, True, "asked too often (HTTP 429)"),
        (Refusal(429), 0, True, MINUTE, False, "asked too often"),
        (Refusal(429), 1, True, 2 * MINUTE, False, "asked too often"),
        (Refusal(429), 10**6, True, 10 * MINUTE, False, "asked too often"),
        (Refusal(429, body="Too many requests"), 0, True, MINUTE, False, "(HTTP 429: Too many requests)"),
        # Banned: as told by header, or by Binance's text.
        (Refusal(418, 3 * DAY), 0, True, 3 * DAY, True, "banned for asking too often (HTTP 418)"),
        (Refusal(418, body=BANNED % (NOW_MS + 90_000)), 0, True, 90, True, "banned"),
        (Refusal(429, body=BANNED % (NOW_MS + 90_000)), 0, True, 90, True, "asked too often"),
        (Refusal(418, 30, BANNED % (NOW_MS + 90_000)), 0, True, 30, True, "banned"),
        (Refusal(418, body=BANNED % (NOW_MS - 1)), 0, True, 2 * MINUTE, False, "banned"),
        (Refusal(418, body="banned until tomorrow"), 0, True, 2 * MINUTE, False, "banned"),
        (Refusal(418), 99, True, HOUR, False, "banned"),
        # A time that is none, or beyond all that venues do.
        (Refusal(429, 0), 0, True, MINUTE, False, "asked too often"),
        (Refusal(429, 0.01), 0, True, 0.01, True, "asked too often"),
        (Refusal(429, 10 * DAY), 0, True, LONGEST_WAIT_S, True, "asked too often"),
        # Who came when told to, and is refused all the same, waits for the default at least.
        (Refusal(429, 1), 1, True, MINUTE, True, "asked too often"),
        (Refusal(429, 1), 3, True, 4 * MINUTE, True, "asked too often"),
        (Refusal(429, 300), 1, True, 300, True, "asked too often"),
        # Blocked from here: this host, in minutes and then hours.
        (Refusal(403), 0, False, 5 * MINUTE, False, "blocked from here, by a firewall"),
        (Refusal(403, 7200), 0, False, 7200, True, "blocked from here"),
        (Refusal(451), 0, False, 5 * MINUTE, False, "blocked from here: it does not serve this country"),
        (Refusal(451), 2, False, 20 * MINUTE, False, "blocked from here"),
        (Refusal(451), 50, False, HOUR, False, "blocked from here"),
        # Unavailable: only where it says for how long.
        (Refusal(503, 20), 0, False, 20, True, "unavailable (HTTP 503)"),
        (Refusal(500, 20), 0, False, 20, True, "unavailable (HTTP 500)"),
    ],
)
def test_what_an_answer_asks_of_us(
    refusal: Refusal, repeated: int, whole_venue: bool, wait_s: float, told: bool, says: str
) -> None:
    order = judge(refusal, repeated, NOW_MS, Least())
    assert order is not None
    assert (order.whole_venue, order.wait_s, order.told) == (whole_venue, wait_s, told)
    assert says in order.text


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(503),
        Refusal(503, body="Unknown error, please check your request or try again later."),
        Refusal(503, body='{"code":-1008,"msg":"Request throttled by system-level protection."}'),
        Refusal(503, 0),
        Refusal(502),
        Refusal(404, 20),
        Refusal(400, body='{"code":-1121,"msg":"Invalid symbol."}'),
        Refusal(302),
        Refusal(200, body="<!DOCTYPE html>"),
    ],
)
def test_what_says_no_time_and_no_no_is_left_to_the_asker(refusal: Refusal) -> None:
    assert judge(refusal, 5, NOW_MS, Least()) is None


def test_a_little_is_added_so_that_many_do_not_come_back_at_once() -> None:
    told, default = judge(Refusal(429, 7), 0, NOW_MS, Most()), judge(Refusal(451), 9, NOW_MS, Most())
    assert told is not None
    assert told.wait_s == 8
    assert default is not None
    assert default.wait_s == pytest.approx(1.1 * HOUR)


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("7", "", 7),
        ("0.5", "", 0.5),
        ("-5", "", 0),
        ("", "", None),
        ("soon", "", None),
        ("inf", "", None),
        ("nan", "", None),
        ("Mon, 23 Nov 2026 12:01:30 GMT", "", 90),
        ("Mon, 23 Nov 2026 11:01:30 GMT", "", 0),
        ("Mon, 23 Nov 2026 12:01:30 GMT", "Mon, 23 Nov 2026 12:01:00 GMT", 30),
        ("Mon, 23 Nov 2026 12:01:30 GMT", "nonsense", None),
        ("Mon, 23 Nov 2026 12:01:30", "", None),
        ("9" * 400, "", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_own_clock(text: str, date: str, seconds: float | None) -> None:
    assert retry_after_s(text, date, NOW) == seconds
