"""What an HTTP answer other than the one wanted asks of us, of a handshake and of a REST request alike: pure.

| status | it means | who waits | how long, where the answer does not say |
|---|---|---|---|
| 429 | asked too often | the whole venue | 1 min, doubling up to 10 min |
| 418 | banned, for asking on after a 429 | the whole venue | 2 min, doubling up to 1 h |
| 403 | blocked: a firewall, or an address that is not allowed | whoever asks this host | 5 min, doubling up to 1 h |
| 451 | blocked: the host does not serve this country | whoever asks this host | 5 min, doubling up to 1 h |
| 5xx | overloaded, in maintenance, or no answer from behind | whoever asks this host, if told for how long | |

Everything else, and a 503 that says no time, is answered by the asker's own backoff: what we ask only reads, so that
whether it was done (Binance's "execution status unknown") makes no difference. Binance gives bans of 2 minutes to 3
days. https://developers.binance.com/docs/binance-spot-api-docs/rest-api/http-return-codes
https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info
https://www.okx.com/docs-v5/en/#overview-rate-limits
"""

import math
import random
import re
from datetime import datetime
from email.utils import parsedate_to_datetime

import attrs

from collector_trio.errors import Refusal

EXCERPT = 200  # so much of a body is looked at, and shown
LEAST_WAIT_S = 1.0
LONGEST_WAIT_S = 3 * 86_400.0  # no venue bans for longer, and who says so may be wrong

# "… IP banned until 1620286253180. Please use the websocket …" (code -1003)
_BANNED_UNTIL = re.compile(r"banned until (\d{13})\b")


@attrs.frozen
class _Rule:
    meaning: str
    whole_venue: bool
    first_s: float | None = None
    longest_s: float = 3600.0


_RULES = {
    429: _Rule("asked too often", True, 60.0, 600.0),
    418: _Rule("this address is banned for asking too often", True, 120.0),
    403: _Rule("blocked from here, by a firewall or because this address is not allowed", False, 300.0),
    451: _Rule("blocked from here: it does not serve this country", False, 300.0),
}
_UNAVAILABLE = _Rule("unavailable", False)


@attrs.frozen
class Order:
    """What to do: ask nothing for `wait_s`, of the whole venue or of the one host; `text` says why in plain words."""

    whole_venue: bool
    wait_s: float
    told: bool  # by the answer, rather than by our defaults
    text: str


def judge(refusal: Refusal, repeated: int, now_ms: int, random_: random.Random) -> Order | None:
    """Say what `refusal` asks of us; None: nothing but the asker's own backoff.

    `repeated`: how often the same was said before, by answers to what was asked when the wait was over. Who comes when
    told to and is refused all the same waits for our default at least. A little is added to what was told, and up to a
    tenth to what was not, so that many do not come back at once.
    """
    rule = _RULES.get(refusal.status, _UNAVAILABLE if refusal.status >= 500 else None)
    if rule is None:
        return None
    told_s = refusal.retry_after_s
    if told_s is None and (banned := _BANNED_UNTIL.search(refusal.body)):
        told_s = (int(banned[1]) - now_ms) / 1000
    if told_s is not None and told_s <= 0:
        told_s = None  # no time at all, as with a clock that is wrong
    if told_s is None and rule.first_s is None:
        return None
    default_s = 0.0
    if rule.first_s is not None and (told_s is None or repeated):
        doublings = min(repeated if told_s is None else repeated - 1, 20)
        default_s = min(rule.first_s * 2**doublings, rule.longest_s) * random_.uniform(1.0, 1.1)
    wait_s = max(default_s, LEAST_WAIT_S if told_s is None else told_s + random_.uniform(0.0, LEAST_WAIT_S))
    said = f": {refusal.body}" if refusal.body else ""
    text = f"{rule.meaning} (HTTP {refusal.status}{said})"
    return Order(rule.whole_venue, min(wait_s, LONGEST_WAIT_S), told_s is not None, text)


def retry_after_s(text: str, date: str, now: datetime) -> float | None:
    """Return the seconds that the header Retry-After says: given as such, or as a date, held against the server's own
    `date` if it tells one. None where it says nothing that can be understood.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - (parsedate_to_datetime(date) if date else now)).total_seconds()
        except (ValueError, TypeError):  # TypeError: one of the dates has no time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def excerpt(body: bytes) -> str:
    """Return how a body begins, on one line."""
    return " ".join(body[:EXCERPT].decode(errors="replace").split())
