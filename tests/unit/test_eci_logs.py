"""How a log is read of which ECI gives the end alone, and no stream."""

import io
from types import SimpleNamespace

import pytest

from overspill.backends.base import LogOptions
from overspill.backends.eci.answers import LogAnswer
from overspill.backends.eci.containerlogs import MISSING, MOST_BYTES, OLDER, Logs

pytestmark = pytest.mark.looptime


class Eci:
    """Has a longer log at each question; gives its end, as ECI does where no limit is asked for."""

    def __init__(self, logs):
        self.logs = list(logs)
        self.asked = []
        self.rates = {"logs": SimpleNamespace(rate=8.0)}

    async def call(self, action, asked, kind):
        assert action == "DescribeContainerLog"
        self.asked.append(asked)
        start = (asked["StartTime"] or "").removesuffix("Z")
        lines = [line for line in io.StringIO(self.logs.pop(0), newline="\n") if line[:19] >= start]
        content = "".join(lines[-asked["Tail"] :])
        limit = asked.get("LimitBytes")
        return LogAnswer(content=content[:limit] if limit else content[-MOST_BYTES:])


async def text(*logs, **options):
    """All that is read, of a container that ends before the last look."""
    eci = Eci(logs)
    pieces = Logs(eci).read("eci-1", "main", LogOptions(**options), ended=lambda: len(eci.logs) == 1)
    return b"".join([piece async for piece in pieces])


def stamped(*texts):
    """Lines as ECI gives them with time stamps, one a second; none of them is old."""
    return "".join(
        f"2099-01-01T00:{n // 60:02}:{n % 60:02}.000000000Z {each}\n" for n, each in enumerate(texts)
    )


FULL = "line\n" * 2000


@pytest.mark.parametrize(
    ("content", "options", "cut"),
    [
        (FULL, {}, True),
        (FULL, {"tail_lines": 2001}, True),
        (FULL, {"tail_lines": 2000}, False),
        ("line\n" * 1999, {}, False),
        ("x" * (1 << 20), {}, True),
        ("x" * (1 << 20), {"tail_lines": 5}, True),
        ("", {}, False),
    ],
)
async def test_a_log_without_its_beginning_says_so(content, options, cut):
    assert await text(content, **options) == (OLDER if cut else b"") + content.encode()


async def test_of_a_log_that_is_too_long_the_end_is_read():
    log = "x" * MOST_BYTES + "end\n"
    assert await text(log) == OLDER + log[-MOST_BYTES:].encode()


async def test_a_limit_counts_what_is_said():
    assert await text(FULL, limit_bytes=10) == OLDER[:10]


LONG = "x" * 600_000


async def test_a_progress_bar_that_is_followed_is_one_line():
    bar = "10%\r20%\r2099-01-01T00:00:00.000000000Z 30%"
    log = stamped("begin", bar, "end")
    assert await text(log, log, follow=True) == f"begin\n{bar}\nend\n".encode()


@pytest.mark.parametrize("options", [{}, {"tail_lines": 2001}])
async def test_a_followed_log_without_its_beginning_says_so(options):
    log = stamped(*["line"] * 2001)
    assert await text(log, log, follow=True, **options) == OLDER + b"line\n" * 2000


@pytest.mark.parametrize("tail", [1, 2000])
async def test_a_followed_log_of_which_the_end_is_wanted_has_no_beginning(tail):
    log = stamped(*["line"] * 2001)
    assert await text(log, log, follow=True, tail_lines=tail) == b"line\n" * tail


async def test_a_short_tail_of_an_empty_log_is_not_that_of_what_comes():
    assert await text("", stamped("one", "two"), follow=True, tail_lines=1) == b"one\ntwo\n"


async def test_a_followed_log_of_long_lines_begins_with_a_whole_one():
    log = stamped(LONG, LONG, "end")
    assert await text(log, log, follow=True) == OLDER + f"{LONG}\nend\n".encode()


async def test_long_lines_that_are_gone_when_they_are_asked_for_are_told_to_be_missing():
    later = stamped("begin", LONG, LONG, "end")
    assert (
        await text(stamped("begin"), later, follow=True) == b"begin\n" + MISSING + f"{LONG}\nend\n".encode()
    )


async def test_what_is_read_already_of_long_lines_is_neither_told_again_nor_missing():
    later = stamped(LONG, LONG, "end")
    assert await text(stamped(LONG, LONG), later, follow=True) == OLDER + f"{LONG}\nend\n".encode()


async def test_a_line_that_is_longer_than_an_answer_is_told_to_be_missing():
    logs = stamped("begin"), stamped("begin", LONG + LONG), stamped("begin", LONG + LONG, "end")
    assert await text(*logs, follow=True) == b"begin\n" + MISSING + b"end\n"


async def test_a_short_tail_of_a_second_with_many_lines_brings_no_older_ones():
    """What is asked for next begins with the second of the last line, not with that line."""
    lines = [f"2099-01-01T00:00:00.{n:09}Z line{n}\n" for n in range(9)]
    logs = "".join(lines[:6]), "".join(lines)
    followed = await text(*logs, follow=True, tail_lines=2)
    assert followed == b"".join(f"line{n}\n".encode() for n in (4, 5, 6, 7, 8))
