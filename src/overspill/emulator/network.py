"""One VPC: vSwitches with real subnets, security groups with their limits, addresses of groups.

In: claims and releases. Out: addresses, or `Refused`. Invariant: no two groups hold one address; the
network address and the last three of a subnet are nobody's. What is held is not stored here: it is
claimed anew from the groups after a restart.
Sources: VPC pages on vSwitches (2024-11), ECS limits of security groups (2026-04).
"""

import random
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from msgspec import Struct

from overspill.emulator.refusals import Refused
from overspill.errors import Misconfigured

__all__ = ["LIMITS", "Network", "Pool", "SecurityGroup", "VSwitch", "parse_security_group", "parse_vswitch"]

LIMITS = {"basic": 6_000, "enterprise": 65_536}


class VSwitch(Struct, frozen=True):
    """A subnet in a zone."""

    id: str
    zone: str
    cidr: str

    @property
    def network(self) -> IPv4Network:
        """The subnet."""
        return IPv4Network(self.cidr)

    @property
    def gateway(self) -> str:
        """The address of the vSwitch itself: the last but two."""
        return str(self.network[-3])


class SecurityGroup(Struct, frozen=True):
    """A security group; its kind says how many addresses it takes."""

    id: str
    kind: str = "basic"


def parse_vswitch(text: str) -> VSwitch:
    """From `ID=ZONE:CIDR`.

    Raises:
        Misconfigured: it is not of that form, or no size that a vSwitch can have.
    """
    name, equals, rest = text.partition("=")
    zone, colon, cidr = rest.partition(":")
    try:
        network = IPv4Network(cidr)
    except ValueError as error:
        raise Misconfigured(f"vSwitch {text!r}: {error}; write ID=ZONE:CIDR") from error
    if not (name and equals and zone and colon):
        raise Misconfigured(f"vSwitch {text!r} is not of the form ID=ZONE:CIDR")
    if not 16 <= network.prefixlen <= 29:
        raise Misconfigured(f"vSwitch {text!r}: a subnet is between /16 and /29")
    return VSwitch(name, zone, cidr)


def parse_security_group(text: str) -> SecurityGroup:
    """From `ID` or `ID=KIND`.

    Raises:
        Misconfigured: the kind is none.
    """
    name, _, kind = text.partition("=")
    if not name or (kind or "basic") not in LIMITS:
        raise Misconfigured(f"security group {text!r} is not of the form ID or ID=basic|enterprise")
    return SecurityGroup(name, kind or "basic")


class Pool:
    """The addresses of one vSwitch, given out in turn, so that one that was let go rests a while."""

    def __init__(self, network: IPv4Network) -> None:
        self._base = int(network.network_address)
        self.size = network.num_addresses - 4
        self._held: set[int] = set()
        self._next = 1
        self.blocked = False

    @property
    def free(self) -> int:
        """How many are left."""
        return 0 if self.blocked else self.size - len(self._held)

    def take(self) -> str | None:
        """The next free address; None when there is none."""
        if self.free <= 0:
            return None
        while self._next in self._held:
            self._advance()
        offset = self._next
        self._held.add(offset)
        self._advance()
        return str(IPv4Address(self._base + offset))

    def claim(self, address: str) -> bool:
        """Take this very address; False when it is held or not one to give out."""
        offset = int(IPv4Address(address)) - self._base
        if not 1 <= offset <= self.size or offset in self._held:
            return False
        self._held.add(offset)
        return True

    def release(self, address: str) -> None:
        """Give an address back."""
        self._held.discard(int(IPv4Address(address)) - self._base)

    def _advance(self) -> None:
        self._next = self._next % self.size + 1


class Place(Struct, frozen=True):
    """Where a group was put."""

    vswitch: VSwitch
    security_group: SecurityGroup
    address: str


class Network:
    """The VPC of one region."""

    def __init__(
        self,
        vpc: str,
        *,
        vswitches: Sequence[VSwitch],
        security_groups: Sequence[SecurityGroup],
        seed: int = 0,
    ) -> None:
        self.vpc = vpc
        self.vswitches = {vswitch.id: vswitch for vswitch in vswitches}
        self.security_groups = {group.id: group for group in security_groups}
        self.pools = {vswitch.id: Pool(vswitch.network) for vswitch in vswitches}
        self.members = dict.fromkeys(self.security_groups, 0)
        self._random = random.Random(seed)  # noqa: S311 - which vSwitch comes first is no secret

    def candidates(self, ids: str, *, zone: str = "", strategy: str = "") -> list[VSwitch]:
        """The vSwitches of a request, in the order in which to try them; the first of all when it names none.

        Raises:
            Refused: one is unknown, or none is in the zone asked for.
        """
        names = [name.strip() for name in ids.split(",") if name.strip()] or list(self.vswitches)[:1]
        for name in names:
            if name not in self.vswitches:
                raise Refused("InvalidVSwitchId.NotFound", f"The specified vSwitch {name} does not exist.")
        found = [self.vswitches[name] for name in names if not zone or self.vswitches[name].zone == zone]
        if not found:
            raise Refused("OperationDenied.VswZoneMisMatch", f"None of the vSwitches is in the zone {zone}.")
        if strategy == "VSwitchRandom":
            self._random.shuffle(found)
        return found

    def security_group(self, name: str) -> SecurityGroup:
        """The one named, else the default one.

        Raises:
            Refused: it is unknown, or full.
        """
        group = self.security_groups.get(name) if name else next(iter(self.security_groups.values()))
        if group is None:
            raise Refused(
                "InvalidSecurityGroupId.NotFound", f"The specified security group {name} does not exist."
            )
        if self.members[group.id] >= LIMITS[group.kind]:
            raise Refused(
                "SecurityGroupInstanceLimitExceed",
                f"The security group {group.id} holds {LIMITS[group.kind]} addresses, which is its limit.",
            )
        return group

    def place(
        self, candidates: Sequence[VSwitch], security_group: SecurityGroup, *, address: str = ""
    ) -> Place:
        """Take an address of the first vSwitch that has one.

        Raises:
            Refused: none has; or the address asked for is taken.
        """
        for vswitch in candidates:
            pool = self.pools[vswitch.id]
            if address:
                taken = address if _inside(address, vswitch) and pool.claim(address) else None
            else:
                taken = pool.take()
            if taken:
                self.members[security_group.id] += 1
                return Place(vswitch, security_group, taken)
        if address:
            raise Refused("PrivateIpAddress.Already.InUse", f"The address {address} cannot be had.")
        names = ", ".join(vswitch.id for vswitch in candidates)
        raise Refused("InvalidVSwitchId.IpNotEnough", f"No address is left in the vSwitch {names}.")

    def restore(self, vswitch: str, security_group: str, address: str) -> None:
        """Claim what a group held before a restart.

        Raises:
            Misconfigured: the group's vSwitch or security group is not configured any more.
        """
        if vswitch not in self.pools or security_group not in self.members:
            raise Misconfigured(
                f"stored groups are in vSwitch {vswitch} and security group {security_group}, which are "
                "not configured: start with the same network, or with another state folder"
            )
        if not self.pools[vswitch].claim(address):
            raise Misconfigured(f"vSwitch {vswitch} has another subnet than when {address} was given out")
        self.members[security_group] += 1

    def release(self, vswitch: str, security_group: str, address: str) -> None:
        """Give a group's address back."""
        self.pools[vswitch].release(address)
        self.members[security_group] -= 1


def _inside(address: str, vswitch: VSwitch) -> bool:
    try:
        return IPv4Address(address) in vswitch.network
    except ValueError:
        return False
