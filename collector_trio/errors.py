"""Every exception this package raises on purpose. Each carries its facts as attributes, so that nobody parses a
message.
"""

from collections.abc import Sequence
from pathlib import Path

import attrs


class CollectorError(Exception):
    """What went wrong is known and said; the command line prints the message without a traceback."""


class ConfigError(CollectorError):
    """A config file cannot be used. `problems` are all of its faults, each with file, line, key, found and allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DataDirInUse(CollectorError):
    """Another collector records into the same folder."""

    def __init__(self, data_dir: Path, holder: str) -> None:
        super().__init__(f"{data_dir} is in use by another collector ({holder}); one data dir takes one collector")
        self.data_dir = data_dir
        self.holder = holder


class JournalError(CollectorError):
    """A journal file cannot be read as one; `path` and `offset` (bytes) say where."""

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {problem}")
        self.path = path
        self.offset = offset
        self.problem = problem


@attrs.frozen
class Refusal:
    """An HTTP answer other than the one wanted: its status, when to come back if it says so, how its body begins."""

    status: int
    retry_after_s: float | None = None
    body: str = ""


class ConnectionEnded(CollectorError):
    """A connection is over, or never came to be. `reason` is one word of a closed set, `detail` is for people, and
    `refusal` is what a `refused` handshake was answered with.

    Reasons given by `net`: `dns`, `dial`, `proxy`, `tls`, `refused` (the handshake was answered, but not with 101),
    `timeout`, `closed` (a close frame came), `eof` (FIN without a close frame), `reset` (RST or another socket error),
    `protocol`. Reasons given by `streams`: `silent`, `unproven`, `spent` (no message may be sent for a long time).
    """

    def __init__(self, reason: str, detail: str = "", refusal: Refusal | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.refusal = refusal


class FramingError(CollectorError):
    """Bytes that are no WebSocket frames we accept (RFC 6455 section 5); the connection that sent them must end."""


class HttpFailed(CollectorError):
    """A REST request got no usable answer. `refusal` is the answer that it got, None where there was none at all."""

    def __init__(self, url: str, problem: str, refusal: Refusal | None = None) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url
        self.problem = problem
        self.refusal = refusal


class BadAnswer(CollectorError):
    """An exchange's REST answer is not what its documentation promises."""
