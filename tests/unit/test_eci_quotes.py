"""Prices that ECI is asked for."""

import asyncio

import pytest

from overspill.backends.eci.answers import PriceAnswer, PriceInfo, Quote
from overspill.backends.eci.prices import Kind
from overspill.backends.eci.quotes import Quotes
from overspill.backends.eci.specs import Size
from overspill.model.cost import PRICE_ANNOTATION

KIND = Kind(Size(1, 2))


class Eci:
    """Answers the second time it is asked."""

    def __init__(self):
        self.asked = 0

    async def call(self, action, parameters, kind, *, tries):
        self.asked += 1
        if self.asked == 1:
            await asyncio.Event().wait()
        return PriceAnswer(price_info=PriceInfo(Quote("CNY", 0.5)))


@pytest.mark.looptime
async def test_a_price_that_a_slow_start_does_not_wait_for_is_asked_for_again():
    quotes, told = Quotes(Eci()), asyncio.Event()
    assert quotes.of(KIND) == {}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(15):
            await quotes.catch_up(tell=lambda _: None)
    running = asyncio.ensure_future(quotes.run(tell=lambda _: told.set()))
    async with asyncio.timeout(10):
        await told.wait()
    running.cancel()
    assert quotes.of(KIND)[PRICE_ANNOTATION] == "0.5"
