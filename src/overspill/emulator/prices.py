"""What a container group costs a second.

In: a rounded specification, storage beyond the free one. Out: money, in yuan of the list price of mainland regions.
Source: ECI's billing page; its example of 2 vCPU and 4 GiB at 0.00012252 a second fits exactly.
The spot price moves in reality; here it is a fixed part of the list price.
"""

from msgspec import Struct

__all__ = ["CURRENCY", "Price", "price"]

CURRENCY = "CNY"
VCPU_SECOND = 0.000049
ECONOMY_VCPU_SECOND = 0.000027
GIB_SECOND = 0.00000613
# Storage costs what a disk (ESSD PL1) does, which differs by region: https://www.alibabacloud.com/help/en/eci/product-overview/billing-overview
STORAGE_GIB_SECOND = 0.0021 / 3600
SPOT_PART = 0.3


class Price(Struct, frozen=True):
    """A second's price, in parts."""

    cpu: float
    memory: float
    storage: float = 0.0
    spot: bool = False

    @property
    def original(self) -> float:
        """Without a reduction."""
        return round(self.cpu + self.memory + self.storage, 12)

    @property
    def trade(self) -> float:
        """What is paid."""
        part = SPOT_PART if self.spot else 1
        return round((self.cpu + self.memory) * part + self.storage, 12)


def price(
    *, cpu: float, memory: float, category: str = "", spot_strategy: str = "NoSpot", storage: int = 0
) -> Price:
    """The price of a rounded specification, vCPU and GiB, and of so many GiB of storage beyond the free ones."""
    vcpu = ECONOMY_VCPU_SECOND if category == "economy" else VCPU_SECOND
    spot = spot_strategy not in {"", "NoSpot"}
    return Price(cpu * vcpu, memory * GIB_SECOND, storage * STORAGE_GIB_SECOND, spot=spot)
