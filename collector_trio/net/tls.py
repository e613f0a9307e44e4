"""A TLS client on Trio streams that hands on all records of one wake-up together.

`trio.SSLStream` returns one TLS record at a time, with a checkpoint for each. Exchanges that send each frame as a
record of its own would so give batches of one, and a frame would cost several times what it costs in a batch
(docs/performance.md). Here whatever one read of the transport brought is decrypted at once.
"""

import ssl

import trio

RECEIVE_BYTES = 65_536  # of the transport in one read, and at most of plain text in one piece
_RECORD_BYTES = 16_384  # the most that one record holds


class TlsStream(trio.abc.Stream):
    """The client's end of TLS over `transport_stream`, which it owns. Shake hands before anything else.

    An end of the transport without close_notify is an end like any other, and closing says nothing to the peer, as
    with everything that speaks HTTP. One task may receive while others send.
    """

    def __init__(self, transport_stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> None:
        self.transport_stream = transport_stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = trio.Lock()
        self._plain = memoryview(bytearray(RECEIVE_BYTES))
        self._ended = False
        self._broken: ssl.SSLError | None = None
        self._cut_short = False  # a send was given up in the middle, so the peer could read nothing behind it

    async def do_handshake(self) -> None:
        """Verify the server and agree on keys. Raises BrokenResourceError, whose cause says what was wrong."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._read()
            except ssl.SSLError as error:
                raise trio.BrokenResourceError from error
        await self._flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, all whole records of it; empty at the end. Raises BrokenResourceError."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        limit = min(max_bytes or RECEIVE_BYTES, RECEIVE_BYTES)
        while True:
            length = self._decrypt(limit)
            if self._outgoing.pending:  # TLS answers some records by itself
                await self._flush()
            if length or self._ended:
                break
            if self._broken is not None:
                raise trio.BrokenResourceError from self._broken
            await self._read()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return bytes(self._plain[:length])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. Raises BrokenResourceError, also when an earlier call was cancelled in the middle."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the transport does."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport_stream.aclose()

    def _decrypt(self, limit: int) -> int:
        """Put up to `limit` bytes of plain text into `_plain`, record by record; return how many."""
        length = 0
        if self._ended or self._broken is not None:
            return length
        try:
            while length < limit:
                place = self._plain[length : min(length + _RECORD_BYTES, limit)]
                count: int = self._tls.read(len(place), place)  # type: ignore[assignment]  # what it is with a buffer
                if not count:
                    self._ended = True
                    break
                length += count
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError as error:  # what came before it is still handed on
            self._broken = error
        return length

    async def _read(self) -> None:
        data = await self.transport_stream.receive_some(RECEIVE_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """Send what TLS has to say. The lock keeps records in order where receiving has to answer, too."""
        try:
            async with self._sending:
                if self._cut_short:
                    raise trio.BrokenResourceError("an earlier send was cut short")
                if data := self._outgoing.read():
                    await self.transport_stream.send_all(data)
        except trio.Cancelled:
            self._cut_short = True
            raise
