"""Made-up frames of Binance's shape. Prices repeat as in a real book: a few thousand levels around a slow mid price."""

import random
from collections.abc import Sequence

from wsproto.frame_protocol import FrameProtocol

NS = 1_795_439_993_000_000_000  # received, first
FIRST_TRADE = 3_000_000_000  # as long as ids are today, and the same length for as long as anything runs
FIRST_SEQ = 60_000_000_000
DEPTH = 3000  # levels a side of the whole book
SPREAD = 300  # ticks: how far from the best price changes are, in the mean
KINDS = {"trades": 40, "diff20": 20, "diff40": 40, "diff400": 400, "mix": 40}
"""Levels of a change, by what messages there are; "mix" is half trades, half changes."""


class Market:
    """One instrument whose ids chain: what it says next follows what it said before. A change has `levels` of them."""

    def __init__(self, native: str = "BTCUSDT", levels: int = 40, seed: int = 1) -> None:
        self._native = native
        self._levels = levels // 2  # a side
        self._draw = random.Random(seed)
        self._mid = 6_100_000  # in ticks of 0.01
        self._trade = FIRST_TRADE
        self._seq = FIRST_SEQ
        self._ms = NS // 1_000_000
        self._sizes = [f"{self._draw.expovariate(2) + 0.00001:.5f}000" for _ in range(5000)]

    def trades(self, count: int) -> list[bytes]:
        """Return the next aggTrades in their combined envelope, about 170 bytes each."""
        return [self._next_trade() for _ in range(count)]

    def deltas(self, count: int) -> list[bytes]:
        """Return the next depthUpdates in their combined envelope, with 40 levels about 1 400 bytes each."""
        return [self._next_delta() for _ in range(count)]

    def mix(self, count: int, every: int = 2) -> list[bytes]:
        """Return the next messages, of which each `every`th is a depthUpdate and the others are aggTrades."""
        return [self._next_delta() if n % every == every - 1 else self._next_trade() for n in range(count)]

    def made(self, kind: str, count: int) -> list[bytes]:
        """Return the next messages of one of `KINDS`."""
        return {"trades": self.trades, "mix": self.mix}.get(kind, self.deltas)(count)

    def snapshot(self) -> bytes:
        """Return the whole book, as REST gives it."""
        bids, asks = (self._side(sign, range(1, DEPTH + 1), 0.0) for sign in (-1, 1))
        return f'{{"lastUpdateId":{self._seq},"bids":[{bids}],"asks":[{asks}]}}'.encode()

    def _next_trade(self) -> bytes:
        draw = self._draw
        self._trade += 1
        self._ms += draw.randrange(3)
        self._wander(0.02)
        n, ms = self._trade, self._ms
        price, size = _price(self._mid + draw.choice((-1, 1))), draw.choice(self._sizes)
        data = (
            f'"a":{n},"p":"{price}","q":"{size}","f":{n},"l":{n},"T":{ms},"m":{draw.choice(("true", "false"))},"M":true'
        )
        head = f'{{"stream":"{self._native.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"{self._native}"'
        return f"{head},{data}}}}}".encode()

    def _next_delta(self) -> bytes:
        draw = self._draw
        first, self._seq = self._seq + 1, self._seq + draw.randrange(20, 200)
        self._ms += 100
        self._wander(1.0)
        # Most of what changes is near the best price; three of ten levels go away.
        sides = []
        for sign in (-1, 1):
            ticks: set[int] = set()
            while len(ticks) < self._levels:
                ticks.add(min(int(draw.expovariate(1 / SPREAD)) + 1, DEPTH))
            sides.append(self._side(sign, sorted(ticks), 0.3))
        data = f'"E":{self._ms},"s":"{self._native}","U":{first},"u":{self._seq},"b":[{sides[0]}],"a":[{sides[1]}]'
        return f'{{"stream":"{self._native.lower()}@depth@100ms","data":{{"e":"depthUpdate",{data}}}}}'.encode()

    def _wander(self, how_often: float) -> None:
        if self._draw.random() < how_often:
            self._mid += self._draw.randrange(-20, 21)

    def _side(self, sign: int, ticks: Sequence[int], gone: float) -> str:
        draw, levels = self._draw, []
        for tick in ticks:
            size = "0.00000000" if draw.random() < gone else draw.choice(self._sizes)
            levels.append(f'["{_price(self._mid + sign * tick)}","{size}"]')
        return ",".join(levels)


def framed(frames: Sequence[bytes]) -> list[bytes]:
    """Return each text as a server sends it: as one WebSocket frame."""
    server = FrameProtocol(client=False, extensions=[])
    return [bytes(server.send_data(frame.decode(), fin=True)) for frame in frames]


def _price(ticks: int) -> str:
    return f"{ticks // 100}.{ticks % 100:02d}000000"
