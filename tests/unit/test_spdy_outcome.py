"""What a client reads of the end of a command, and what is read of its terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.serve.streams.outcome import Outcome, as_status, as_text
from overspill.serve.streams.remotecommand import exit_code
from overspill.serve.streams.terminal import LONGEST, SizeDecoder


def test_success():
    assert json.loads(as_status(Outcome())) == {"metadata": {}, "status": "Success"}
    assert as_text(Outcome()) == b""


def test_an_exit_code():
    status = json.loads(as_status(Outcome(code=7)))
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    assert as_text(Outcome(code=7)) == status["message"].encode()


def test_an_error():
    status = json.loads(as_status(Outcome(error='no "c" here')))
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert as_text(Outcome(error='no "c" here')) == b'Internal error occurred: no "c" here'
    assert status["message"] == as_text(Outcome(error='no "c" here')).decode()


@pytest.mark.parametrize(
    ("code", "told"), [(0, 0), (255, 255), (256, 0), (-9, 137), (-15, 143), (0xC0000005, 5)]
)
def test_exit_codes_fit_a_byte(code, told):
    assert exit_code(code) == told


def sizes_of(*pieces):
    decoder = SizeDecoder()
    return [size for piece in pieces for size in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("pieces", "sizes"),
    [
        ([b'{"Width":80,"Height":24}'], [(80, 24)]),
        ([b'{"Width":81,"Height":25}\n{"Width":80,"Height":24}\n'], [(81, 25), (80, 24)]),
        ([b'{"Wid', b'th":80,"Hei', b'ght":24}{', b'"Width":1,"Height":2}'], [(80, 24), (1, 2)]),
        ([b'{"height":24,"width":80}'], [(80, 24)]),
        ([b'{"Width":80}'], [(80, 0)]),
        ([b"", b"\n", b'{"Width":80,"Height":24}'], [(80, 24)]),
        ([b'{"Width":80,"Height":24}', b"nonsense", b'{"Width":80,"Height":24}'], [(80, 24)]),
        ([b"[80,24]", b'{"Width":80,"Height":24}'], []),
        ([b'{"Width":-1,"Height":24}'], []),
        ([b'{"Width":70000,"Height":24}'], []),
        ([b'{"Width":"80","Height":24}'], []),
        ([b'{"' + b"x" * LONGEST, b'":1}{"Width":80,"Height":24}'], []),
        ([b"\xff\xfe"], []),
    ],
)
def test_sizes(pieces, sizes):
    assert sizes_of(*pieces) == sizes


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_no_bytes_break_the_sizes(pieces):
    for width, height in sizes_of(*pieces):
        assert 0 <= width <= 0xFFFF
        assert 0 <= height <= 0xFFFF
