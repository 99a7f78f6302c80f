"""Where a new container group can go, and as which specification: pure.

In: a request, the network, the stock. Out: the vSwitches to try and the specification, or `Refused`.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from overspill.emulator.network import Network, SecurityGroup, VSwitch
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import CreateContainerGroup
from overspill.emulator.specs import parse_spec, sells_regional, spec_name
from overspill.emulator.stock import Stock, no_stock
from overspill.emulator.validate import size

__all__ = ["Choice", "choose"]


class Choice(Struct, frozen=True):
    """The specification, and the vSwitches in whose zones it is in stock."""

    cpu: float
    memory: float
    vswitches: list[VSwitch]
    security_group: SecurityGroup


def choose(
    request: CreateContainerGroup,
    *,
    region: str,
    network: Network,
    stock: Stock,
    hindrances: Callable[[Sequence[VSwitch]], Mapping[str, str]],
) -> Choice:
    """The first specification asked for that is in stock in a zone of a vSwitch asked for.

    `hindrances` says which fault keeps the group out of which vSwitch.

    Raises:
        Refused: none is, or all vSwitches are out of addresses.
    """
    candidates = network.candidates(
        request.v_switch_id, zone=request.zone_id, strategy=request.schedule_strategy
    )
    security_group = network.security_group(request.security_group_id)
    hindered = hindrances(candidates)
    with_addresses = [vswitch for vswitch in candidates if hindered.get(vswitch.id) != "no-addresses"]
    if not with_addresses:
        names = ", ".join(vswitch.id for vswitch in candidates)
        raise Refused("InvalidVSwitchId.IpNotEnough", f"No address is left in the vSwitch {names}.")
    regional = sells_regional(region, spot_strategy=request.spot_strategy)
    types = [text for text in request.instance_type.split(",") if text]
    specs = [parse_spec(text, regional=regional) for text in types] or [size(request, regional=regional)]
    for cpu, memory in specs:
        name = spec_name((cpu, memory))
        stocked = [v for v in with_addresses if v.id not in hindered and stock.has(v.zone, name)]
        if stocked:
            return Choice(cpu, memory, stocked, security_group)
    raise no_stock(", ".join(v.zone for v in with_addresses), spec_name(specs[0]))
