"""Requests and limits as a pod's status has them.

In: `Resources`. Out: quantities in canonical form. Pure.
Source: k8s.io/api/core/v1/types.go (ResourceRequirements).
"""

from decimal import Decimal
from functools import lru_cache

from msgspec import Struct

from overspill.model.quantity import format_bytes, format_cpu
from overspill.model.work import Resources

__all__ = ["Requirements", "requirements"]


class Requirements(Struct, frozen=True, omit_defaults=True):
    """ResourceRequirements."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


@lru_cache(maxsize=1024)
def requirements(resources: Resources) -> Requirements:
    """The quantities that are set; the containers of one Deployment share theirs."""
    requests = {
        "cpu": _cpu(resources.cpu_request),
        "memory": _bytes(resources.memory_request),
        "ephemeral-storage": _bytes(resources.ephemeral_storage_request),
    }
    limits = {"cpu": _cpu(resources.cpu_limit), "memory": _bytes(resources.memory_limit)}
    return Requirements(
        {name: text for name, text in requests.items() if text},
        {name: text for name, text in limits.items() if text},
    )


def _cpu(cores: float | None) -> str:
    return "" if cores is None else format_cpu(Decimal(str(cores)))


def _bytes(count: int | None) -> str:
    return "" if count is None else format_bytes(Decimal(count))
