"""Our splitter with wsproto behind it must see what wsproto alone sees."""

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import CLIENT, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from collector_trio.errors import FramingError
from collector_trio.net.frames import FrameSplitter

from .frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, UNFINISHED, close_frame, frame


@attrs.define
class Seen:
    """What a client makes of a stream of bytes."""

    texts: list[bytes] = attrs.Factory(list)
    others: list[tuple[str, bytes]] = attrs.Factory(list)
    verdict: tuple[object, ...] = ()
    unfinished: bytes = b""

    def take(self, wsproto: Connection) -> None:
        for event in wsproto.events():
            match event:
                case TextMessage() | BytesMessage():
                    data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                    self.unfinished += data
                    if event.message_finished:
                        if isinstance(event, TextMessage):
                            self.texts.append(self.unfinished)
                        else:
                            self.others.append(("binary", self.unfinished))
                        self.unfinished = b""
                case Ping() | Pong():
                    self.others.append((type(event).__name__, bytes(event.payload)))
                case CloseConnection():
                    well_formed = wsproto.state is ConnectionState.REMOTE_CLOSING
                    self.verdict = ("closed", event.code, event.reason or "") if well_formed else ("failed",)


def by_wsproto_alone(stream: bytes) -> Seen:
    seen, wsproto = Seen(), Connection(CLIENT)
    wsproto.receive_data(stream)
    seen.take(wsproto)
    return seen


def by_both(chunks: list[bytes]) -> Seen:
    seen, splitter, wsproto = Seen(), FrameSplitter(), Connection(CLIENT)
    for chunk in [*chunks, b""]:
        try:
            messages, rest = splitter.feed(chunk)
        except FramingError:
            seen.verdict = ("failed",)
            break
        seen.texts += messages
        if rest and wsproto.state is ConnectionState.OPEN:
            wsproto.receive_data(rest)
            seen.take(wsproto)
        if seen.verdict:
            break
    if seen.verdict[:1] == ("closed",):
        assert splitter.close == seen.verdict[1:]
    return seen


payloads = st.one_of(
    st.text(max_size=8).map(str.encode),
    st.sampled_from([125, 126, 127, 300, 65_535, 65_536, 70_000]).map(lambda n: b"x" * n),
)
ascii_payloads = st.text(alphabet="abc", max_size=8).map(str.encode)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A whole message in one or more fragments, with control frames between them."""
    payload = draw(payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    first = draw(st.sampled_from([TEXT, BINARY]))
    stream = b""
    for i, piece in enumerate(pieces):
        kind = first if i == 0 else CONTINUATION
        stream += frame(piece, kind if i == len(pieces) - 1 else kind & UNFINISHED)
        if draw(st.booleans()):
            stream += frame(draw(ascii_payloads), draw(st.sampled_from([PING, PONG])))
    return stream


closings = st.one_of(
    st.just(frame(b"", CLOSE)),
    st.builds(
        close_frame, st.sampled_from([999, 1000, 1001, 1005, 1006, 1012, 2999, 3000, 4999, 5000]), st.text(max_size=9)
    ),
    st.sampled_from([frame(b"\x03", CLOSE), frame(b"\x03\xe8\xff", CLOSE)]),
)
any_frames = st.builds(
    frame,
    ascii_payloads,
    st.one_of(st.sampled_from([TEXT, BINARY, CONTINUATION, PING]), st.integers(0, 255)),
    form=st.sampled_from([None, None, None, 16, 64]),
    masked=st.sampled_from([False, False, False, True]),
)
long_controls = st.builds(frame, st.just(b"x" * 126), st.sampled_from([PING, PONG, CLOSE]))
top_bit = st.just(bytes([TEXT, 127]) + (1 << 63).to_bytes(8, "big"))
streams = st.lists(st.one_of(messages(), messages(), any_frames, closings, long_controls, top_bit), max_size=6).map(
    b"".join
)


@st.composite
def chunkings(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(chunkings())
@example([frame(b"a", TEXT & UNFINISHED) + frame(b"b", PING) + frame(b"c", CONTINUATION)])
@example([frame(b"a", BINARY & UNFINISHED) + frame(b"b")])  # text inside a binary message: wsproto has to refuse it
@example([frame(b"a", TEXT & UNFINISHED) + frame(b"b")])
@example([frame(b"a", 0xC1)])
def test_the_splitter_and_wsproto_see_what_wsproto_sees_alone_however_the_stream_is_cut(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    alone, both = by_wsproto_alone(stream), by_both(chunks)
    assert both.texts == alone.texts
    assert both.others == alone.others
    # wsproto waits for payload before it refuses an interrupted message, we refuse the header: let it have that too.
    assert both.verdict in (alone.verdict, by_wsproto_alone(stream + b"\0").verdict)


@given(streams)
def test_feeding_byte_by_byte_gives_what_feeding_at_once_gives(stream: bytes) -> None:
    stream = stream[:500]
    assert by_both([stream[i : i + 1] for i in range(len(stream))]) == by_both([stream])


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_gets_the_same_verdict(garbage: bytes, size: int) -> None:
    chunks = [garbage[i : i + size] for i in range(0, len(garbage), size)]
    alone, both = by_wsproto_alone(garbage), by_both(chunks)
    if all(byte < 0x80 for byte in garbage):  # otherwise there may be text that is not UTF-8, which is not judged here
        assert both.verdict in (alone.verdict, by_wsproto_alone(garbage + b"\0").verdict)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_all_three_forms_of_length_are_read(length: int) -> None:
    splitter = FrameSplitter()
    assert splitter.feed(frame(b"x" * length) + frame(b"next")) == ([b"x" * length, b"next"], b"")


def test_text_that_is_not_utf_8_is_passed_on_for_decoding_to_judge() -> None:
    assert FrameSplitter().feed(frame(b"\xff")) == ([b"\xff"], b"")


def test_fragments_are_joined_and_control_frames_between_them_go_to_wsproto_in_order() -> None:
    ping, pong = frame(b"1", PING), frame(b"2", PONG)
    stream = frame(b"one ", TEXT & UNFINISHED) + ping + frame(b"two ", 0) + pong + frame(b"three", CONTINUATION)
    assert FrameSplitter().feed(stream) == ([b"one two three"], ping + pong)


@pytest.mark.parametrize(
    "strange",
    [pytest.param(frame(b"x", 0x81 | bit), id=f"reserved bit {bit:#x}") for bit in (0x40, 0x20, 0x10)]
    + [
        pytest.param(frame(b"x", masked=True), id="masked"),
        pytest.param(frame(b"x", form=16), id="16-bit length of a short frame"),
        pytest.param(frame(b"x" * 200, form=64), id="64-bit length of a medium frame"),
        pytest.param(bytes([TEXT, 127]) + b"\xff" * 8, id="64-bit length with the top bit"),
        pytest.param(frame(b"x", 0x83), id="unknown opcode"),
        pytest.param(frame(b"x", 0x8B), id="unknown control opcode"),
        pytest.param(frame(b"x", PING & UNFINISHED), id="fragmented ping"),
        pytest.param(frame(b"x" * 126, PING), id="long ping"),
        pytest.param(frame(b"x", CONTINUATION), id="continuation of nothing"),
    ],
)
def test_what_wsproto_refuses_at_the_header_goes_to_it_unmodified_with_all_that_follows(strange: bytes) -> None:
    splitter = FrameSplitter()
    assert splitter.feed(frame(b"before") + strange + frame(b"behind")) == ([b"before"], strange + frame(b"behind"))
    assert splitter.feed(frame(b"later")) == ([], frame(b"later"))
    assert by_wsproto_alone(strange + b"\0").verdict == ("failed",)


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (
            bytes([TEXT, 127]) + (17 << 20).to_bytes(8, "big"),
            "a frame of 17825792 bytes; at most 16777216 are accepted",
        ),
        (
            bytes([BINARY, 127]) + (17 << 20).to_bytes(8, "big"),
            "a frame of 17825792 bytes; at most 16777216 are accepted",
        ),
    ],
)
def test_a_frame_that_is_too_large_is_refused_at_its_header(stream: bytes, problem: str) -> None:
    splitter = FrameSplitter()
    assert splitter.feed(frame(b"before") + stream) == ([b"before"], b"")
    with pytest.raises(FramingError, match=problem):
        splitter.feed(b"")


def test_a_fragmented_message_that_grows_too_large_is_refused_at_the_header_that_makes_it_so() -> None:
    splitter = FrameSplitter(max_message_bytes=10)
    splitter.feed(frame(b"x" * 6, TEXT & UNFINISHED) + frame(b"x" * 5, 0)[:2])
    with pytest.raises(FramingError, match="a message of 11 bytes or more; at most 10 are accepted"):
        splitter.feed(b"x")


def test_a_message_of_exactly_the_limit_is_accepted() -> None:
    splitter = FrameSplitter(max_message_bytes=10)
    stream = frame(b"x" * 10) + frame(b"x" * 6, TEXT & UNFINISHED) + frame(b"x" * 4, CONTINUATION)
    assert splitter.feed(stream) == ([b"x" * 10, b"x" * 10], b"")


@pytest.mark.parametrize("first", [TEXT, TEXT & UNFINISHED, BINARY, BINARY & UNFINISHED])
def test_a_new_message_inside_an_unfinished_text_message_is_refused(first: int) -> None:
    splitter = FrameSplitter()
    splitter.feed(frame(b"x", TEXT & UNFINISHED) + frame(b"y", first))
    with pytest.raises(FramingError, match="inside an unfinished text message"):
        splitter.feed(b"")


@pytest.mark.parametrize(
    ("closing", "said"),
    [
        (frame(b"", CLOSE), (1005, "")),
        (close_frame(1001, "going away"), (1001, "going away")),
        (close_frame(4001), (4001, "")),
        (frame(b"\x03", CLOSE), None),
        (close_frame(999), None),
    ],
)
def test_what_a_close_frame_says_is_kept_and_nothing_behind_it_counts(
    closing: bytes, said: tuple[int, str] | None
) -> None:
    splitter = FrameSplitter()
    assert splitter.close is None
    assert splitter.feed(frame(b"last") + closing + frame(b"behind")) == ([b"last"], closing + frame(b"behind"))
    assert splitter.close == said


def test_a_large_message_in_many_pieces_is_joined_once() -> None:
    splitter = FrameSplitter()
    whole = frame(b"x" * 1_000_000)
    for start in range(0, len(whole) - 100, 100):
        assert splitter.feed(whole[start : start + 100]) == ([], b"")
    assert splitter.feed(whole[-(len(whole) % 100 or 100) :]) == ([b"x" * 1_000_000], b"")
