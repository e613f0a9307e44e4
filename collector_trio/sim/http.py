"""Just enough HTTP for a simulated exchange: one request per connection, its head read with h11."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import trio

# Chosen: long enough for any client, short enough for a test that leaves a socket open.
HEAD_S = 10.0


@attrs.frozen
class Request:
    """One request.

    `query` keeps the last of repeated keys, header names are lower case; `rest` are bytes that came behind it.
    """

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw_headers: list[tuple[bytes, bytes]]
    rest: bytes

    @property
    def wants_websocket(self) -> bool:
        """Tell whether this is a WebSocket handshake."""
        return self.headers.get("upgrade", "").lower() == "websocket"


@attrs.frozen
class Answer:
    """What a request is answered with; `body` is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = attrs.Factory(dict)


@attrs.frozen
class Slow:
    """An answer that is made after `delay_s`; when it has been sent `sent` is called."""

    delay_s: float
    answer: Callable[[], Answer]
    sent: Callable[[], None]


async def read_request(stream: trio.abc.Stream) -> Request | None:
    """Read one request from a new connection. None: what came is no HTTP, or nothing came within `HEAD_S`."""
    http = h11.Connection(h11.SERVER)
    with trio.move_on_after(HEAD_S):
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                return None
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(bytes(await stream.receive_some()))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return None
            elif isinstance(event, h11.Request):
                return _request(event, http.trailing_data[0])
            else:
                return None
    return None


def _request(event: h11.Request, rest: bytes) -> Request:
    target = event.target.decode("ascii", "replace")
    url = urlsplit(target)
    return Request(
        method=event.method.decode("ascii"),
        target=target,
        path=url.path,
        query=dict(parse_qsl(url.query, keep_blank_values=True)),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers},
        raw_headers=list(event.headers),
        rest=rest,
    )


async def respond(stream: trio.abc.Stream, answer: Answer) -> None:
    """Send the answer and say that the connection ends with it."""
    body = json.dumps(answer.body, separators=(",", ":")).encode()
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # h11 answers only where it saw a question
    http.next_event()
    headers = {
        "Content-Type": "application/json;charset=UTF-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **answer.headers,
    }
    pieces = [
        http.send(
            h11.Response(
                status_code=answer.status, headers=list(headers.items()), reason=_REASONS.get(answer.status, "")
            )
        ),
        http.send(h11.Data(data=body)),
        http.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(piece for piece in pieces if piece))


_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    418: b"I'm a teapot",
    429: b"Too Many Requests",
    451: b"Unavailable For Legal Reasons",
    503: b"Service Unavailable",
}
