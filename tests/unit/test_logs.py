"""One shape for all lines, and no secret in them."""

import io
import json
import logging

import pytest
import structlog

from overspill import logs


@pytest.fixture
def lines():
    """Configure JSON logging at `info` into a list; puts back what was there."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_ours_and_the_libraries_lines_have_one_shape(lines):
    with structlog.contextvars.bound_contextvars(node="n-0"):
        structlog.get_logger("ours").info("pod started", pod="a/b")
        logging.getLogger("theirs").warning("took %d s", 3)

    ours, theirs = lines()
    assert (ours["event"], ours["pod"], ours["logger"], ours["level"]) == (
        "pod started",
        "a/b",
        "ours",
        "info",
    )
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("took 3 s", "theirs", "warning")
    assert ours["node"] == theirs["node"] == "n-0"
    assert ours.keys() - {"pod"} == theirs.keys()


def test_lines_below_the_level_are_left_out(lines):
    structlog.get_logger("ours").debug("detail")
    logging.getLogger("aiohttp.access").info("GET /")
    assert lines() == []


def test_values_named_like_secrets_are_not_written(lines):
    structlog.get_logger("ours").info(
        "login", registry_password="hunter2", Authorization="Bearer x", user="u"
    )
    (line,) = lines()
    assert line["registry_password"] == line["Authorization"] == "***"
    assert line["user"] == "u"


def test_errors_come_with_their_traceback(lines):
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("ours").exception("it broke")
    (line,) = lines()
    assert "ValueError: boom" in line["exception"]


def test_text_is_for_people():
    stream = io.StringIO()
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        logs.configure("info", "text", stream=stream)
        structlog.get_logger("ours").info("pod started", pod="a/b")
    finally:
        root.handlers[:] = handlers
        structlog.reset_defaults()
    assert "pod started" in stream.getvalue()
    assert "pod=a/b" in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "no colours where nobody looks"
