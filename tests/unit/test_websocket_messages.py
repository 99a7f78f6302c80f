"""WebSocket messages as they arrive: in any parts."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from overspill.errors import Rejected
from overspill.serve.streams.websocket import WebSocket

texts = st.one_of(st.binary(max_size=300), st.text(max_size=100))


def messages_of(pieces):
    """Whole messages from pieces."""
    for piece in pieces:
        if piece.first:
            parts = []
        parts.append(piece.data)
        if piece.last:
            yield b"".join(parts)


def cut(data, size):
    return (data[at : at + size] for at in range(0, len(data), size))


@given(st.lists(st.lists(texts, min_size=1, max_size=3), max_size=6), st.integers(1, 400))
def test_messages_arrive_whole_whatever_their_parts(sent, size):
    client = FrameProtocol(client=True, extensions=[])
    wire, expected = bytearray(), []
    for fragments in sent:
        kind = type(fragments[0])
        same = [part for part in fragments if type(part) is kind]
        for number, part in enumerate(same, 1):
            wire += client.send_data(part, fin=number == len(same))
            wire += client.ping(b"?")
        expected.append(b"".join(part.encode() if isinstance(part, str) else part for part in same))
    answers = []
    socket = WebSocket(answers.append)
    got = [piece for part in cut(bytes(wire), size) for piece in socket.feed(part)]
    assert list(messages_of(got)) == expected
    client.receive_bytes(b"".join(answers))
    pongs = list(client.received_frames())
    assert {frame.opcode for frame in pongs} <= {Opcode.PONG}
    assert len(pongs) == sum(map(len, ([p for p in f if type(p) is type(f[0])] for f in sent)))


def test_a_part_is_handed_on_before_its_message_is_complete():
    wire = bytes(FrameProtocol(client=True, extensions=[]).send_data(b"x" * 100_000))
    pieces = list(WebSocket(print).feed(wire[:50_000]))
    assert len(pieces) == 1
    assert pieces[0].first
    assert not pieces[0].last
    assert len(pieces[0].data) > 49_000


def test_a_close_is_answered_once():
    client = FrameProtocol(client=True, extensions=[])
    answers = []
    socket = WebSocket(answers.append)
    assert list(socket.feed(bytes(client.close(1000, "bye")))) == []
    assert socket.closed
    socket.close()
    assert len(answers) == 1
    client.receive_bytes(answers[0])
    assert next(client.received_frames()).payload[0] == 1000


@given(st.binary(max_size=200), st.integers(1, 50))
def test_anything_is_read_or_refused(wire, size):
    answers = []
    socket = WebSocket(answers.append)
    refused = False
    for part in cut(wire, size):
        with contextlib.suppress(Rejected):
            list(socket.feed(part))
            continue
        refused = True
        break
    if refused:
        assert answers[-1][0] == 0x88, "a close frame tells why"


def test_what_is_no_websocket_is_refused():
    with pytest.raises(Rejected, match="no WebSocket frame"):
        list(WebSocket(print).feed(b"\x82\x01x"))
