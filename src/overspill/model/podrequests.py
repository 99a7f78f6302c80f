"""What a pod's containers ask of a node together.

In: containers and init containers, as far as they are read. Out: amounts by resource. Pure.
Source: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from overspill.model.quantity import milli

__all__ = ["Amounts", "amounts", "container_requests"]

# Thousandths of a core, byte or item, by resource; what is not named is 0.
Amounts = Counter[str]


class _Resources(Protocol):
    @property
    def requests(self) -> Mapping[str, str | int]: ...


class _Container(Protocol):
    @property
    def resources(self) -> _Resources: ...
    @property
    def restart_policy(self) -> str | None: ...


def container_requests(containers: Iterable[_Container], init_containers: Iterable[_Container]) -> Amounts:
    """What the containers and sidecars take, or more while an init container runs beside the sidecars before it."""
    sidecars, largest = Amounts(), Amounts()
    for init in init_containers:
        now = amounts(init.resources.requests) + sidecars
        largest |= now
        if init.restart_policy == "Always":
            sidecars = now
    return sum((amounts(each.resources.requests) for each in containers), sidecars) | largest


def amounts(quantities: Mapping[str, str | int]) -> Amounts:
    """Quantities by resource, as numbers."""
    return Amounts({name: milli(text) for name, text in quantities.items()})
