"""SPDY frames: against the bytes of the Go library that all clients use, and against anything else."""

import contextlib
import hashlib
import pathlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.serve.streams.dictionary import DICTIONARY
from overspill.serve.streams.spdy import (
    CANCEL,
    FIN,
    LONGEST_CONTROL,
    Data,
    Decoder,
    Encoder,
    GoAway,
    Headers,
    Malformed,
    Ping,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)

# Written by github.com/moby/spdystream v0.5.1, in this order: header blocks build on those before.
GOLDEN = [
    (
        "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff",
        SynStream(1, {"streamtype": "error"}),
    ),
    ("800300010000001700000003000000000000c22e555c92929907000000ffff", SynStream(3, {"streamtype": "stdin"})),
    ("800300020000000e000000016260606000000000ffff", SynReply(1)),
    (
        "800300010100001900000005000000016009824a3356804b52862400000000ffff",
        SynStream(5, {"x": "a\0b"}, associated=1, priority=3, slot=9, flags=FIN),
    ),
    ("80030008000000160000000582f2590af28bc099c6c2c0c200000000ffff", Headers(5, {"port": "8080"})),
    ("80030003000000080000000700000005", RstStream(7, CANCEL)),
    ("800300040000000c000000010100000400000064", Settings(((4, 1, 100),))),
    ("800300060000000400000009", Ping(9)),
    ("80030007000000080000000500000000", GoAway(5)),
    ("80030009000000080000000500010000", WindowUpdate(5, 65536)),
    ("000000030000000568656c6c6f", Data(3, b"hello")),
    ("0000000301000000", Data(3, b"", fin=True)),
]
CORPUS = sorted((pathlib.Path(__file__).parent / "spdy_corpus").iterdir())

ids = st.integers(1, 2**31 - 1)
words = st.integers(0, 2**31 - 1)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30)
values = st.text(max_size=60)
headers = st.dictionaries(names, values, max_size=8)
fins = st.sampled_from([0, FIN])
frames = st.one_of(
    st.builds(Data, ids, st.binary(min_size=1, max_size=300), st.booleans()),
    st.builds(Data, ids, st.just(b""), st.just(value=True)),
    st.builds(SynStream, ids, headers, words, st.integers(0, 7), st.integers(0, 255), st.integers(0, 3)),
    st.builds(SynReply, ids, headers, fins),
    st.builds(Headers, ids, headers, fins),
    st.builds(RstStream, ids, st.integers(1, 11)),
    st.builds(
        Settings,
        st.lists(st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 255), words), max_size=5).map(tuple),
    ),
    st.builds(Ping, st.integers(1, 2**32 - 1)),
    st.builds(GoAway, words, words),
    st.builds(WindowUpdate, words, words),
)


def test_the_dictionary_is_the_drafts():
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2
    digest = hashlib.sha256(DICTIONARY).hexdigest()
    assert digest == "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"


def test_what_the_go_library_writes_is_read():
    decoder = Decoder()
    for written, frame in GOLDEN:
        assert list(decoder.feed(bytes.fromhex(written))) == [frame]


def test_frames_without_headers_are_written_as_the_go_library_does():
    encoder = Encoder()
    for written, frame in GOLDEN:
        if not hasattr(frame, "headers"):
            assert encoder.encode(frame).hex() == written


@given(st.lists(frames, max_size=12), st.integers(1, 700))
def test_what_is_written_is_read(sent, size):
    encoder, decoder = Encoder(), Decoder()
    wire = b"".join(encoder.encode(frame) for frame in sent)
    got = [frame for at in range(0, len(wire), size) for frame in decoder.feed(wire[at : at + size])]
    assert list(joined(got)) == list(joined(sent))


def joined(some):
    """Frames with data of the same stream put together up to its end, however it was cut."""
    held = None
    for frame in some:
        if isinstance(frame, Data) and held and held.stream == frame.stream and not held.fin:
            held = Data(frame.stream, held.payload + frame.payload, frame.fin)
            continue
        if held:
            yield held
            held = None
        if isinstance(frame, Data):
            held = frame
        else:
            yield frame
    if held:
        yield held


def test_data_is_handed_on_before_its_frame_is_complete():
    decoder = Decoder()
    head = bytes.fromhex("0000000101ffffff")
    assert list(decoder.feed(head + b"abc")) == [Data(1, b"abc")]
    assert list(decoder.feed(b"d" * (2**24 - 5))) == [Data(1, b"d" * (2**24 - 5))]
    assert list(decoder.feed(b"e" + head[:3])) == [Data(1, b"e", fin=True)]
    assert list(decoder.feed(head[3:] + b"f")) == [Data(1, b"f")]


def control(kind, body, *, flags=0, version=3, length=None):
    size = len(body) if length is None else length
    return (
        (0x8000 | version).to_bytes(2, "big")
        + kind.to_bytes(2, "big")
        + (flags << 24 | size).to_bytes(4, "big")
        + body
    )


def word(*numbers):
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def deflated(text):
    deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 9, 0, DICTIONARY)
    return deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)


def reply(text):
    return control(2, word(1) + deflated(text))


def text_of(*pairs):
    parts = [word(len(part.encode())) + part.encode() for pair in pairs for part in pair]
    return word(len(pairs)) + b"".join(parts)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(word(0, 1) + b"x", id="data of stream 0"),
        pytest.param(control(6, word(1), version=2), id="SPDY/2"),
        pytest.param(control(5, b""), id="NOOP"),
        pytest.param(control(10, b""), id="CREDENTIAL"),
        pytest.param(control(0, b""), id="type 0"),
        pytest.param(control(6, word(0)), id="PING 0"),
        pytest.param(control(6, word(1), flags=1), id="PING with flags"),
        pytest.param(control(6, word(1, 2)), id="PING too long"),
        pytest.param(control(6, b"\1"), id="PING too short"),
        pytest.param(control(3, word(1, 0)), id="RST with status 0"),
        pytest.param(control(3, word(0, 1)), id="RST of stream 0"),
        pytest.param(control(3, word(1)), id="RST too short"),
        pytest.param(control(4, word(2, 1, 1)), id="SETTINGS with fewer entries than claimed"),
        pytest.param(control(4, b""), id="SETTINGS too short"),
        pytest.param(control(7, word(1)), id="GOAWAY too short"),
        pytest.param(control(7, word(1, 0), flags=1), id="GOAWAY with flags"),
        pytest.param(control(9, word(1, 1), flags=1), id="WINDOW_UPDATE with flags"),
        pytest.param(control(1, b"", length=LONGEST_CONTROL + 1), id="a control frame that is too long"),
        pytest.param(control(2, word(1)), id="no header block"),
        pytest.param(control(2, word(1) + b"garbage"), id="no zlib"),
        pytest.param(control(2, word(0) + deflated(text_of())), id="reply to stream 0"),
        pytest.param(control(2, word(1) + zlib.compress(text_of(("a", "b")))), id="no dictionary"),
        pytest.param(reply(word(65) + b"\0" * 600), id="too many headers"),
        pytest.param(reply(text_of(("a", "b" * 70_000))), id="headers that blow up"),
        pytest.param(reply(word(1, 0xFFFFFFFF) + b"abc"), id="a header longer than its block"),
        pytest.param(reply(word(1)), id="a header that is not there"),
        pytest.param(reply(text_of(("a", "b")) + b"x"), id="a block that goes on"),
        pytest.param(reply(text_of(("Upper", "b"))), id="a name in capitals"),
        pytest.param(reply(text_of(("", "b"))), id="an empty name"),
        pytest.param(reply(text_of(("a", "b"), ("a", "c"))), id="a name twice"),
        pytest.param(reply(word(1, 1) + b"a" + word(1) + b"\xff"), id="no UTF-8"),
    ],
)
def test_what_is_no_spdy_is_refused(wire):
    with pytest.raises(Malformed):
        list(Decoder().feed(wire))


def test_a_bomb_is_not_unpacked():
    text = word(1, 1) + b"a" + word(2**30) + b"\0" * 3_000_000
    with pytest.raises(Malformed, match="65536"):
        list(Decoder().feed(reply(text)))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_recorded_sessions_are_read_whatever_their_pieces(path):
    wire = path.read_bytes()
    whole = list(Decoder().feed(wire))
    decoder = Decoder()
    by_byte = [frame for at in range(len(wire)) for frame in decoder.feed(wire[at : at + 1])]
    assert list(joined(by_byte)) == list(joined(whole))
    assert isinstance(whole[0], SynStream)


@given(st.sampled_from(CORPUS), st.data())
def test_a_changed_session_is_read_or_refused(path, data):
    wire = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(wire) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if change == "set":
            wire[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del wire[at : at + data.draw(st.integers(1, 20))]
        else:
            wire[at:at] = data.draw(st.binary(max_size=20))
        if not wire:
            return
    read_or_refused(bytes(wire))


@given(st.binary(max_size=400))
def test_anything_is_read_or_refused(wire):
    read_or_refused(wire)


@given(st.integers(0, 12), st.integers(0, 255), st.binary(max_size=60))
def test_any_control_frame_is_read_or_refused(kind, flags, body):
    read_or_refused(control(kind, body, flags=flags))


def read_or_refused(wire):
    got = []
    with contextlib.suppress(Malformed):
        got.extend(Decoder().feed(wire))
    assert sum(len(frame.payload) for frame in got if isinstance(frame, Data)) <= len(wire)
