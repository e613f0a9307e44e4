"""What can go wrong in a simulation: the kinds of faults, what each may be told, and whom it can strike."""

from collections.abc import Mapping
from enum import Enum, auto

import attrs


class Prey(Enum):
    """What a fault strikes."""

    CONNECTION = auto()
    HANDSHAKE = auto()
    CALL = auto()  # any REST request
    FRAME = auto()
    CHANGE = auto()  # what an exchange publishes of one instrument
    REQUEST = auto()  # for a whole book
    SUBSCRIPTION = auto()


@attrs.frozen
class Place:
    """Where a fault may strike: one stream of one instrument on one endpoint. `channel` is trades, book or other."""

    endpoint: str
    market: str
    symbol: str
    channel: str
    stream: str
    native_symbol: str


@attrs.frozen
class Kind:
    """A kind of fault: its prey, the keys it understands, the endpoints it knows ("" is all) and its one channel."""

    prey: Prey
    keys: frozenset[str] = frozenset()
    home: str = ""
    channel: str | None = None

    def fits(self, target: str) -> bool:
        """Tell whether it can strike anything of `target`."""
        return target == "any" or _within(target, self.home) or _within(self.home, target)


def _within(inner: str, outer: str) -> bool:
    """Tell whether `inner` is `outer` or a part of it, as "okx.public" of "okx". Everything is a part of ""."""
    return not outer or inner == outer or inner.startswith(f"{outer}.")


_TIMES = frozenset({"kind", "target", "at_s", "every_s"})
_SCOPE = frozenset({"symbol", "market", "chance"})
_FRAMES = _TIMES | _SCOPE | {"channel"}
_BOOKS = _TIMES | _SCOPE | {"count"}

KINDS: Mapping[str, Kind] = {
    "close": Kind(Prey.CONNECTION, _TIMES | {"code"}),
    "drop": Kind(Prey.CONNECTION, _TIMES),
    "abort": Kind(Prey.CONNECTION, _TIMES),
    "stall": Kind(Prey.CONNECTION, _TIMES | {"duration_s"}),
    "shutdown": Kind(Prey.CONNECTION, _TIMES | {"delay_s", "duration_s", "told"}),
    "refuse": Kind(Prey.HANDSHAKE, _TIMES | {"count", "status", "retry_after_s"}),
    "deny": Kind(Prey.CALL, _TIMES | {"count", "status", "retry_after_s"}),
    "ban": Kind(Prey.CALL, _TIMES | {"duration_s", "status", "told"}),
    "spend": Kind(Prey.CALL, _TIMES | {"count"}, "binance"),
    "lose": Kind(Prey.FRAME, _FRAMES | {"count"}),
    "double": Kind(Prey.FRAME, _FRAMES | {"count", "delay_s"}),
    "reorder": Kind(Prey.FRAME, _FRAMES | {"count", "by"}),
    "delay": Kind(Prey.FRAME, _FRAMES | {"delay_s"}),
    "skip": Kind(Prey.CHANGE, _FRAMES | {"count"}),
    "overlap": Kind(Prey.CHANGE, _BOOKS, "binance.spot", "book"),
    "heartbeat": Kind(Prey.CHANGE, _BOOKS, "okx.public", "book"),
    "reset": Kind(Prey.CHANGE, _BOOKS, "okx.public", "book"),
    "reset_unchained": Kind(Prey.CHANGE, _BOOKS | {"snapshot"}, "okx.public", "book"),
    "snapshot_unsolicited": Kind(Prey.CHANGE, _BOOKS, "okx.public", "book"),
    "snapshot_withheld": Kind(Prey.SUBSCRIPTION, _BOOKS, "okx.public", "book"),
    "snapshot_old": Kind(Prey.REQUEST, _BOOKS | {"by"}, "binance", "book"),
    "snapshot_new": Kind(Prey.REQUEST, _BOOKS | {"delay_s"}, "binance", "book"),
    "snapshot_edge": Kind(Prey.REQUEST, _BOOKS, "binance", "book"),
    "snapshot_empty": Kind(Prey.REQUEST, _BOOKS, "binance", "book"),
    "snapshot_crossed": Kind(Prey.REQUEST, _BOOKS, "binance", "book"),
    "snapshot_fail": Kind(Prey.REQUEST, _BOOKS, "binance", "book"),
}

ENDPOINTS = ("binance.spot", "binance.perp.public", "binance.perp.market", "okx.public", "okx.business")
TARGETS = ("any", "binance", "binance.perp", "okx", *ENDPOINTS)
STATUSES = (503, 429, 418, 451, 403)
MARKETS = ("spot", "perp")
CHANNELS = ("trades", "book")


@attrs.frozen
class Fault:
    """One thing that goes wrong.

    It strikes `at_s` after the server's start, and again `every_s`; or by `chance`, a probability: each frame, change,
    request or subscription in its scope is drawn for, from the start or from `at_s` on. The scope is `target`, an
    endpoint or a part of its name, and `symbol` (BTC-USDT), `market`, `channel` where they are given.

    Connections, every open one of `target`:

    - close: a close frame with `code` (by default 1001 at Binance, 4004 at OKX), then FIN.
    - drop: FIN without a close frame.
    - abort: RST.
    - stall: no data for `duration_s`, while TCP stays up and control messages are answered. What would have been sent
      is never sent.
    - shutdown: the notice before an exchange closes (Binance serverShutdown, OKX 64008); `delay_s` later (5 s) a close
      frame, and then handshakes get HTTP 503 for `duration_s`; OKX's /api/v5/system/status says so, too. With `told`
      false there is no notice.
    - refuse: the next `count` handshakes get HTTP `status`, with Retry-After if `retry_after_s` is given.

    REST, of `target`:

    - deny: the next `count` requests get HTTP `status`, with Retry-After if `retry_after_s` is given.
    - ban: for `duration_s` all requests, and all handshakes, get HTTP `status`, with what is left as Retry-After and in
      the text; not so with `told` false.
    - spend (Binance): somebody else at our address uses `count` of this minute's weight.

    Frames, the next `count` in the scope on every open connection:

    - lose: published, but not sent.
    - double: sent twice, at once or the second time after `delay_s`.
    - reorder: sent after the next `by` frames of its stream.
    - delay: this frame and all that follow it in its stream within `delay_s` (1 s) are sent when that is over.

    What an exchange publishes, for each instrument in the scope, the next `count` times:

    - skip: `count` ids are never given to anything. Of trades, unless `channel` is "book"; there the chain stays whole.
    - overlap (Binance spot): a diff that begins before the last one ended.
    - heartbeat (OKX): an empty update, seqId and prevSeqId equal.
    - reset (OKX): an update that chains, but its seqId is smaller.
    - reset_unchained (OKX): numbers start again below, and one change is in no frame. Subscribers need a new snapshot;
      with `snapshot` they get it unasked after the next update.
    - snapshot_unsolicited (OKX): a snapshot in place of an update.
    - snapshot_withheld (OKX): the next `count` subscriptions begin without their snapshot, with updates.

    Binance's answers to the next `count` requests for a whole book:

    - snapshot_old: the book as it was `by` published diffs ago.
    - snapshot_new: it comes after `delay_s` (1 s); the diffs published meanwhile are sent only after it.
    - snapshot_edge: the book as last published, with the last diff's u; every second time with the next one's U - 1.
    - snapshot_empty: no levels, lastUpdateId -1 or 0 in turn.
    - snapshot_crossed: its best bid is above its best ask.
    - snapshot_fail: HTTP 503.

    One with a time that finds nobody who was sent data waits for somebody, except the kinds that await something new
    anyway: handshakes, subscriptions, requests.
    """

    kind: str
    target: str = "any"
    at_s: float | None = None
    every_s: float | None = None
    duration_s: float = 10.0
    count: int = 1
    status: int = 503
    retry_after_s: int | None = None
    code: int | None = None
    symbol: str | None = None
    market: str | None = None
    channel: str | None = None
    chance: float | None = None
    delay_s: float | None = None
    by: int = 1
    snapshot: bool = False
    told: bool = True

    @property
    def prey(self) -> Prey:
        """What it strikes."""
        return KINDS[self.kind].prey

    def strikes(self, endpoint: str) -> bool:
        """Tell whether a connection of `endpoint` is meant."""
        return (self.target == "any" or _within(endpoint, self.target)) and _within(endpoint, KINDS[self.kind].home)

    def concerns(self, place: Place) -> bool:
        """Tell whether this stream is in its scope."""
        channel = self.channel or KINDS[self.kind].channel or ("trades" if self.kind == "skip" else None)
        return (
            self.strikes(place.endpoint)
            and self.symbol in (None, place.symbol)
            and self.market in (None, place.market)
            and channel in (None, place.channel)
        )
