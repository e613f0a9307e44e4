"""How a simulated connection's stream is ended, once nothing more is to be said on it."""

import socket
import struct

import trio
import wsproto
from wsproto.events import CloseConnection
from wsproto.utilities import RemoteProtocolError

LINGER_S = 1.0  # how long the peer has to end its half
READ_BYTES = 65536


async def finish(stream: trio.abc.Stream, ended: str, websocket: wsproto.WSConnection | None) -> None:
    """End a stream as `ended` says: "abort" is RST, "drop" FIN, "close …" waits for the peer's close frame first.

    `websocket` understands what still comes; None: the peer has closed already. The stream itself is left to be closed.
    """
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with trio.move_on_after(LINGER_S):
        try:
            if ended == "abort":
                if isinstance(transport, trio.SocketStream):
                    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await trio.aclose_forcefully(transport)
            elif ended == "drop" and isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
                await _drain(transport)
            elif ended.startswith("close ") and websocket is not None:
                await _await_close(stream, websocket)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the peer was faster


async def _await_close(stream: trio.abc.Stream, websocket: wsproto.WSConnection) -> None:
    """Read until the peer has answered our close frame or is gone.

    The server closes TCP first: https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1
    """
    while data := await stream.receive_some(READ_BYTES):
        try:
            websocket.receive_data(bytes(data))
            if any(isinstance(event, CloseConnection) for event in websocket.events()):
                return
        except RemoteProtocolError:
            return


async def _drain(stream: trio.abc.Stream) -> None:
    """Read the peer's half to its end: closing a socket with unread bytes would send RST where FIN was meant."""
    while await stream.receive_some(READ_BYTES):
        pass
