"""Builds frames as a server sends them, and as none should."""

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
UNFINISHED = 0x7F  # `TEXT & UNFINISHED`: the first fragment of a text message
MASK = b"\x01\x02\x03\x04"


def frame(payload: bytes = b"", first: int = TEXT, *, form: int | None = None, masked: bool = False) -> bytes:
    """Return one frame. `form` is the length's size in bits: 7, 16 or 64; by default the one that RFC 6455 wants."""
    length = len(payload)
    form = form or (7 if length < 126 else 16 if length < 65_536 else 64)
    mask_bit = 0x80 if masked else 0
    head = {
        7: bytes([first, mask_bit | min(length, 125)]),
        16: bytes([first, mask_bit | 126]) + (length & 0xFFFF).to_bytes(2, "big"),
        64: bytes([first, mask_bit | 127]) + length.to_bytes(8, "big"),
    }[form]
    if masked:
        payload = MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return head + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a CLOSE frame."""
    return frame(code.to_bytes(2, "big") + reason.encode(), CLOSE)
