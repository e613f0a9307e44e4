"""Frames on their way to become rows: what was received together, and who sent it."""

from collections.abc import Sequence

import attrs
import msgspec

from collector_trio.followers.chunks import ALL


@attrs.frozen(cache_hash=True)
class Speaker:
    """Who sent a frame: an exchange, of some of its markets. A session is a speaker, and so is a REST endpoint."""

    exchange: str
    markets: tuple[str, ...]

    @property
    def market(self) -> str:
        """The one market, or that it is not one."""
        return self.markets[0] if len(self.markets) == 1 else ALL


class Read(msgspec.Struct, frozen=True, gc=False):
    """Frames that were received together; the first has number `first`. `session` None: no journal holds them."""

    speaker: Speaker
    session: int | None
    first: int
    received_ns: int
    frames: Sequence[bytes]
