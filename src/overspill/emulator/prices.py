"""What a container group costs a second.

In: a rounded specification. Out: money, in yuan of the list price of mainland regions.
Source: ECI's billing page; its example of 2 vCPU and 4 GiB at 0.00012252 a second fits exactly.
The spot price moves in reality; here it is a fixed part of the list price.
"""

from msgspec import Struct

__all__ = ["CURRENCY", "Price", "price"]

CURRENCY = "CNY"
VCPU_SECOND = 0.000049
ECONOMY_VCPU_SECOND = 0.000027
GIB_SECOND = 0.00000613
SPOT_PART = 0.3


class Price(Struct, frozen=True):
    """A second's price, in parts."""

    cpu: float
    memory: float
    spot: bool = False

    @property
    def original(self) -> float:
        """Without a reduction."""
        return round(self.cpu + self.memory, 12)

    @property
    def trade(self) -> float:
        """What is paid."""
        return round(self.original * (SPOT_PART if self.spot else 1), 12)


def price(*, cpu: float, memory: float, category: str = "", spot_strategy: str = "NoSpot") -> Price:
    """The price of a rounded specification, vCPU and GiB."""
    vcpu = ECONOMY_VCPU_SECOND if category == "economy" else VCPU_SECOND
    return Price(cpu * vcpu, memory * GIB_SECOND, spot=spot_strategy not in {"", "NoSpot"})
