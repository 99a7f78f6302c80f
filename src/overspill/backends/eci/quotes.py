"""What ECI says that groups cost: DescribeContainerGroupPrice, once for each kind of group.

In: kinds of groups. Out: annotations with the price, once it is known. Invariant: nothing waits for a quote; until
there is one, and where the account may not ask, a group has the list price or none, and is marked so.
"""

import asyncio
from collections.abc import Callable

import structlog

from overspill.backends.eci.answers import PriceAnswer
from overspill.backends.eci.client import Client
from overspill.backends.eci.prices import Kind, quoted
from overspill.errors import OverspillError, Retry

__all__ = ["Quotes"]

log = structlog.get_logger(__name__)

PAUSE = 60.0


class Quotes:
    """The prices that were asked for; those of spot groups are of the moment they were asked."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[Kind, dict[str, str]] = {}
        self._wanted: asyncio.Queue[Kind] = asyncio.Queue()

    def of(self, kind: Kind | None) -> dict[str, str]:
        """The annotations of a kind's price; none while it is not known, which is then asked for."""
        if kind is None:
            return {}
        if kind not in self._known:
            self._known[kind] = {}
            self._wanted.put_nowait(kind)
        return self._known[kind]

    async def run(self, *, tell: Callable[[Kind], None]) -> None:
        """Ask until cancelled; `tell` is told each kind whose price has become known."""
        while True:
            await self._ask(await self._wanted.get(), tell)

    async def catch_up(self, *, tell: Callable[[Kind], None]) -> None:
        """Ask about all that is wanted now, so that groups found again have the price that they had."""
        while not self._wanted.empty():
            await self._ask(self._wanted.get_nowait(), tell)

    async def _ask(self, kind: Kind, tell: Callable[[Kind], None]) -> None:
        try:
            answer = await self._client.call(
                "DescribeContainerGroupPrice", kind.parameters(), PriceAnswer, tries=2
            )
        except asyncio.CancelledError:  # a start that takes too long; `run` asks then
            self._wanted.put_nowait(kind)
            raise
        except Retry as error:
            log.warning("price is asked for again", kind=str(kind), error=str(error))
            asyncio.get_running_loop().call_later(PAUSE, self._wanted.put_nowait, kind)
            return
        except OverspillError as error:
            log.warning("no price of ECI; list prices stand in", kind=str(kind), error=str(error))
            return
        if written := quoted(answer.price_info.price):
            self._known[kind] = written
            tell(kind)
