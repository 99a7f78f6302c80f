"""What is told of a log of which ECI gives the end alone."""

import pytest

from overspill.backends.base import LogOptions
from overspill.backends.eci.answers import LogAnswer
from overspill.backends.eci.containerlogs import OLDER, Logs


class Eci:
    """Answers every question with the same content."""

    def __init__(self, content):
        self.content = content

    async def call(self, action, parameters, kind):
        assert action == "DescribeContainerLog"
        return LogAnswer(content=self.content)


async def text(content, **options):
    pieces = Logs(Eci(content)).read("eci-1", "main", LogOptions(**options), ended=lambda: True)
    return b"".join([piece async for piece in pieces])


FULL = "line\n" * 2000


@pytest.mark.parametrize(
    ("content", "options", "cut"),
    [
        (FULL, {}, True),
        (FULL, {"tail_lines": 2001}, True),
        (FULL, {"tail_lines": 2000}, False),
        ("line\n" * 1999, {}, False),
        ("x" * (1 << 20), {}, True),
        ("", {}, False),
    ],
)
async def test_a_log_without_its_beginning_says_so(content, options, cut):
    assert await text(content, **options) == (OLDER if cut else b"") + content.encode()


async def test_a_limit_counts_what_is_said():
    assert await text(FULL, limit_bytes=10) == OLDER[:10]
