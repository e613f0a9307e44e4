"""Cut text messages out of what a WebSocket server sends: pure, bytes in, messages out.

trio-websocket and wsproto spend 18 µs on a message, most of it on what a plain text frame cannot have. So plain text is
cut out here (first byte 0x81, no mask: FIN, no reserved bits), fragments of text are joined here, and all else goes on
to wsproto, in order and unmodified, which answers pings and judges what is wrong. Both machines together must see what
wsproto alone would (tests/net/test_frames.py):

- Whatever a header says that wsproto refuses at the header (reserved bits, unknown opcodes, masks, long forms of short
  lengths, control frames that are fragmented or above 125 bytes, a continuation of nothing) hands the stream over: all
  bytes from that header on are wsproto's. The same after a CLOSE frame, behind which nothing counts.
- wsproto does not see the start of a text message, so what may not interrupt one (a new text or binary frame) is
  refused here.
- One difference is meant: whether text is UTF-8 is left to decoding.

RFC 6455 section 5: https://www.rfc-editor.org/rfc/rfc6455#section-5
"""

from collector_trio.errors import FramingError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_FIN_TEXT = 0x81
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PONG = 0x0, 0x1, 0x2, 0x8, 0xA
_NO_STATUS = 1005  # RFC 6455 section 7.1.5: a CLOSE frame without a code


class FrameSplitter:
    """Separates text messages from everything else a server sends after the handshake.

    Keeps at most one unfinished frame and one unfinished message, each of at most `max_message_bytes`.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.close: tuple[int, str] | None = None
        """Code and reason of the CLOSE frame, once it went by; 1005 when it bears none."""
        self.failed: FramingError | None = None
        """What was found to be wrong: the next `feed` raises it."""
        self._max = max_message_bytes
        self._tail: list[bytes] = []  # an unfinished frame, in pieces
        self._missing = (
            0  # so many bytes at least until its next step, so that a large frame is joined once, not per piece
        )
        self._text: bytearray | None = None  # a text message of which fragments came
        self._in_binary = False  # a binary message of which fragments went to wsproto
        self._handed_over = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take what was received and return (the text messages it completes, the bytes for wsproto).

        A fault ends the taking: what came before it is still returned, and the next call raises it as `FramingError`.
        """
        if self.failed:
            raise self.failed
        messages: list[bytes] = []
        rest = bytearray()
        if self._handed_over:
            return messages, data
        if self._tail:
            self._tail.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return messages, b""
            data = b"".join(self._tail)
            self._tail = []
        left = data[self._cut(data, messages, rest) :]
        if left:
            self._keep(left, rest)
        return messages, bytes(rest)

    def _keep(self, left: bytes, rest: bytearray) -> None:
        """Find a place for what could not be cut."""
        if self._handed_over:
            rest += left
        elif not self.failed:
            self._tail = [left]

    def _cut(self, data: bytes, messages: list[bytes], rest: bytearray) -> int:
        """Deal whole frames to `messages` and `rest`; return how many bytes are done with. The hot loop."""
        done, end = 0, len(data)
        limit, append = self._max, messages.append
        plain = _FIN_TEXT if self._text is None and not self._in_binary else -1
        self._missing = 1
        while end - done >= 2:
            first, length, start = data[done], data[done + 1], done + 2
            if first != plain and not self._accepts(first, length):
                break
            if length > 125:
                if length == 126:
                    if end - start < 2:
                        break
                    length = data[start] << 8 | data[start + 1]
                    start += 2
                    self._handed_over = length < 126
                elif length == 127:
                    if end - start < 8:
                        break
                    length = int.from_bytes(data[start : start + 8], "big")
                    start += 8
                    self._handed_over = length < 65_536 or length >= 1 << 63
                else:
                    self._handed_over = True  # masked, as only clients do
                if self._handed_over:
                    break
            stop = start + length
            if length > limit:
                self._fail(f"a frame of {length} bytes; at most {limit} are accepted")
                break
            if first == plain:
                if stop > end:
                    self._missing = stop - end
                    break
                append(data[start:stop])
            else:
                if self._text is not None and first & 0x0F == _CONTINUATION and len(self._text) + length > limit:
                    self._fail(f"a message of {len(self._text) + length} bytes or more; at most {limit} are accepted")
                    break
                if stop > end:
                    self._missing = stop - end
                    break
                self._take(first, data[done:stop], data[start:stop], messages, rest)
                plain = _FIN_TEXT if self._text is None and not self._in_binary else -1
                if self._handed_over:
                    return stop
            done = stop
        return done

    def _accepts(self, first: int, length: int) -> bool:
        """Judge the first two bytes of a frame that is not plain text; False: from here it is wsproto's, or a fault."""
        fin, opcode = first & 0x80, first & 0x0F
        if first & 0x70 or _BINARY < opcode < _CLOSE or opcode > _PONG:
            self._handed_over = True
        elif opcode >= _CLOSE:
            self._handed_over = not fin or length > 125
        elif opcode == _CONTINUATION:
            self._handed_over = self._text is None and not self._in_binary
        elif self._text is not None:
            if length > 127:
                self._handed_over = True  # masked: wsproto refuses it without knowing of our text
            else:
                self._fail(f"a new message (first byte {first:#04x}) inside an unfinished text message")
        else:
            self._handed_over = self._in_binary
        return not self._handed_over and not self.failed

    def _take(self, first: int, frame: bytes, payload: bytes, messages: list[bytes], rest: bytearray) -> None:
        """Deal one whole frame, accepted, that is not plain text."""
        fin, opcode = first & 0x80, first & 0x0F
        if opcode == _TEXT and not fin:
            self._text = bytearray(payload)
        elif opcode == _CONTINUATION and self._text is not None:
            self._text += payload
            if fin:
                messages.append(bytes(self._text))
                self._text = None
        else:
            rest += frame
            if opcode in (_BINARY, _CONTINUATION):
                self._in_binary = not fin
            elif opcode == _CLOSE:
                self._handed_over = True
                self.close = _closing(payload)

    def _fail(self, problem: str) -> None:
        self.failed = FramingError(problem)


def _closing(payload: bytes) -> tuple[int, str] | None:
    """Read what a CLOSE frame says; None where it may not say that (wsproto refuses it, too)."""
    if not payload:
        return _NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not 1000 <= code < 5000:
        return None
    return code, payload[2:].decode(errors="replace")
