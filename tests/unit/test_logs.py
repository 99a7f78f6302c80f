"""One shape for all lines, and no secret in them."""

import io
import json
import logging

import pytest
import structlog

from overspill import logs
from overspill.backends.eci.sign import Key
from overspill.model.work import EnvVar, RegistryCredential


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


@pytest.fixture
def text():
    """Configure logging as text into a string; puts back what was there."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    stream = io.StringIO()
    logs.configure("info", "text", stream=stream)
    yield stream.getvalue
    root.handlers[:] = handlers
    structlog.reset_defaults()


def test_text_is_for_people(text):
    structlog.get_logger("ours").info("pod started", pod="a/b")
    assert "pod started" in text()
    assert "pod=a/b" in text()
    assert "\x1b" not in text(), "no colours where nobody looks"


@pytest.mark.parametrize(
    "held",
    [Key("id", "hunter2"), RegistryCredential("example.org", "user", "hunter2"), EnvVar("WORD", "hunter2")],
    ids=["access key", "registry's login", "variable"],
)
def test_a_traceback_tells_nothing_of_what_its_functions_held(text, held):
    def fail(local):
        raise ValueError("boom")

    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        try:
            fail(held)
        except ValueError:
            logger.exception("it broke")
    assert text().count("ValueError: boom") == 2
    assert "hunter2" not in text()
