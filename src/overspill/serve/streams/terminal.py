"""Sizes of a client's terminal.

In: the bytes of a resize stream, in pieces of any size. Out: (width, height) each. Invariant: what is
no size ends the decoding, not the session.
"""

import json
from collections.abc import Iterator

__all__ = ["SizeDecoder"]

LONGEST = 4096  # characters of an object that is not complete
LARGEST = 0xFFFF


class SizeDecoder:
    """JSON objects like `{"Width":80,"Height":24}`, one after the other."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()
        self._broken = False

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the sizes that are complete with `data`."""
        if self._broken:
            return
        self._text += data.decode("ascii", errors="replace")
        while text := self._text.lstrip():
            try:
                found, end = self._decoder.raw_decode(text)
            except ValueError:
                self._broken = len(text) > LONGEST or not text.startswith("{")
                return
            self._text = text[end:]
            size = _size(found)
            if size is None:
                self._broken = True
                return
            yield size
        self._text = ""


def _size(found: object) -> tuple[int, int] | None:
    """Width and height; names in any case, as Go's decoder takes them."""
    if not isinstance(found, dict):
        return None
    fields = {str(name).lower(): value for name, value in found.items()}
    width, height = fields.get("width", 0), fields.get("height", 0)
    if all(isinstance(side, int) and 0 <= side <= LARGEST for side in (width, height)):
        return width, height
    return None
