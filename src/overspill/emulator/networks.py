"""The engine's networks that stand for vSwitches.

In: vSwitches. Out: the name of each one's network, made where there is none.
Invariant: a network that carries our label for this emulator is ours to remove; no other one is touched.
Sources: Podman 4.3's libpod API, network create, list and remove.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from overspill.backends.podman.client import Client
from overspill.emulator.network import VSwitch
from overspill.errors import Conflict, Misconfigured, NotFound, Rejected

__all__ = ["LABEL", "Networks", "NoNetworks", "PodmanNetworks"]

LABEL = "overspill.dev/emulator"


class Networks(Protocol):
    """Makes real what a vSwitch is."""

    async def ensure(self, vswitches: Sequence[VSwitch]) -> dict[str, str]:
        """Have a network for each vSwitch; returns their names by vSwitch id."""

    async def remove(self) -> None:
        """Remove every network made for this emulator."""


class NoNetworks:
    """For engines whose addresses are only written down."""

    async def ensure(self, vswitches: Sequence[VSwitch]) -> dict[str, str]:
        """None is needed."""
        del vswitches
        return {}

    async def remove(self) -> None:
        """There is none."""


class Subnet(Struct, frozen=True):
    """One subnet of a network."""

    subnet: str = ""


class Existing(Struct, frozen=True):
    """A network as Podman lists it."""

    name: str
    subnets: list[Subnet] | None = None
    labels: dict[str, str] | None = None


class PodmanNetworks:
    """Bridges of Podman, one per vSwitch, with the vSwitch's subnet and its gateway."""

    def __init__(self, socket: str, *, emulator: str) -> None:
        self._client = Client(socket)
        self._emulator = emulator

    async def ensure(self, vswitches: Sequence[VSwitch]) -> dict[str, str]:
        """Make what is missing.

        Raises:
            Misconfigured: a subnet is in use by something else.
        """
        async with self._client:
            existing = await self._mine()
            for vswitch in vswitches:
                known = existing.get(self._name(vswitch))
                if known is None:
                    await self._create(vswitch)
                elif [subnet.subnet for subnet in known.subnets or []] != [vswitch.cidr]:
                    raise Misconfigured(
                        f"Podman's network {known.name} has another subnet than vSwitch {vswitch.id}: "
                        f"remove it with `podman network rm {known.name}`"
                    )
        return {vswitch.id: self._name(vswitch) for vswitch in vswitches}

    async def remove(self) -> None:
        """Remove all of this emulator's; they have to be empty."""
        async with self._client:
            for name in await self._mine():
                try:
                    await self._client.request("DELETE", f"/networks/{name}")
                except NotFound:
                    continue

    def _name(self, vswitch: VSwitch) -> str:
        return f"{self._emulator}-{vswitch.id}"

    async def _mine(self) -> dict[str, Existing]:
        query = {"filters": msgspec.json.encode({"label": [f"{LABEL}={self._emulator}"]}).decode()}
        found = await self._client.get("/networks/json", list[Existing], query=query)
        return {network.name: network for network in found}

    async def _create(self, vswitch: VSwitch) -> None:
        body = {
            "name": self._name(vswitch),
            "driver": "bridge",
            "network_interface": _bridge(self._name(vswitch)),
            "subnets": [{"subnet": vswitch.cidr, "gateway": vswitch.gateway}],
            "labels": {LABEL: self._emulator},
            "dns_enabled": False,
        }
        try:
            await self._client.request("POST", "/networks/create", body=body)
        except (Conflict, Rejected) as error:
            raise Misconfigured(f"vSwitch {vswitch.id} ({vswitch.cidr}): {error}") from error


def _bridge(name: str) -> str:
    """A name for the bridge that no other store of Podman's on this host will choose."""
    return f"ove{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"
