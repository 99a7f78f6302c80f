"""Listing in pages that stay right while groups come and go.

In: a filter, a limit, a token. Out: one page, the token of the next, the count of all that pass.
Invariant: a token names the last one listed, so that whoever is there from first to last page is
listed exactly once.
"""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from overspill.emulator.refusals import Refused

__all__ = ["Page", "decode_token", "encode_token", "page", "wanted_ids"]


class Numbered(Protocol):
    """Something with a number that only grows."""

    @property
    def seq(self) -> int:
        """The number."""


N = TypeVar("N", bound=Numbered)


class Page(Struct, Generic[N], frozen=True):
    """One page."""

    items: list[N]
    total: int
    next_token: str = ""


def page(items: Sequence[N], *, limit: int, token: str, keep: Callable[[N], bool] | None = None) -> Page[N]:
    """A page of items that are in the order of their numbers.

    Raises:
        Refused: the token is none of ours.
    """
    after = decode_token(token)
    start = bisect_right(items, after, key=lambda item: item.seq)
    if keep is None:
        chosen = list(items[start : start + limit])
        more = start + limit < len(items)
        return Page(chosen, len(items), encode_token(chosen[-1].seq) if more else "")
    passed = [item for item in items if keep(item)]
    rest = passed[bisect_right(passed, after, key=lambda item: item.seq) :]
    return Page(rest[:limit], len(passed), encode_token(rest[limit - 1].seq) if len(rest) > limit else "")


def encode_token(seq: int) -> str:
    """Opaque, as the service's are."""
    return base64.urlsafe_b64encode(f"after:{seq}".encode()).decode()


def decode_token(token: str) -> int:
    """The number a token stands for; 0 for none.

    Raises:
        Refused: it is none of ours.
    """
    if not token:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if word == "after":
            return int(number)
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise Refused("InvalidNextToken", "The specified NextToken is not valid.")


def wanted_ids(ids: Iterable[str], *, most: int = 20) -> frozenset[str]:
    """A request's ContainerGroupIds, of which there can be 20.

    Raises:
        Refused: there are more.
    """
    every = frozenset(ids)
    if len(every) > most:
        raise Refused("InvalidParameter.ValueExceeded", f"ContainerGroupIds takes at most {most} ids.")
    return every
