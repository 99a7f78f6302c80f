"""Which sizes of container group ECI sells, and which one a pod gets.

In: a pod's containers. Out: vCPU and GiB to ask for. Pure. Invariant: the size
is never smaller than what was asked for in either dimension; it is what is billed.
Source: ECI's table of specifications (help page of 2026-06), its sizing rules
(init containers run before the others, one at a time; limits count where set).
"""

from collections.abc import Iterable

from msgspec import Struct

from overspill.backends.eci.sidecars import initial, sidecars
from overspill.model.work import Container, WorkSpec

__all__ = ["DEFAULT", "REGIONAL_REGIONS", "Size", "asked_size", "largest", "round_up"]

GIB = 1 << 30


class Size(Struct, frozen=True, order=True):
    """vCPU and GiB of a container group."""

    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.cpu:.2f}".removesuffix("0") + f"-{self.memory:.1f}Gi"


# What ECI gives a group for which nothing was asked.
DEFAULT = Size(2.0, 4.0)
# A variable by which a container says that it is not to count.
IGNORED = "__ECI_RESOURCE_IGNORE__"

EVERYWHERE: dict[float, tuple[float, ...]] = {
    0.25: (0.5, 1),
    0.5: (1, 2),
    1: (2, 4, 8),
    2: (1, 2, 4, 8, 16),
    4: (2, 4, 8, 16, 32),
    8: (4, 8, 16, 32, 64),
    12: (12, 24, 48, 96),
    16: (16, 32, 64, 128),
    24: (24, 48, 96, 192),
    32: (32, 64, 128, 256),
    52: (96, 192, 384),
    64: (128, 256, 512),
}
# Sizes in between, on sale in some regions only, and never as spot instances.
REGIONAL: dict[float, tuple[float, ...]] = {
    2: (6, 10, 12, 14),
    4: (6, 10, 12, 14, *range(18, 31, 2)),
    6: tuple(range(6, 49, 2)),
    8: (10, 12, 14, *range(18, 31, 2), *range(34, 63, 2)),
}
REGIONAL_REGIONS = frozenset(
    {
        "ap-southeast-1",
        "cn-beijing",
        "cn-chengdu",
        "cn-guangzhou",
        "cn-hangzhou",
        "cn-heyuan",
        "cn-huhehaote",
        "cn-qingdao",
        "cn-shanghai",
        "cn-shenzhen",
        "cn-wulanchabu",
        "cn-zhangjiakou",
    }
)


def largest() -> Size:
    """The largest size on sale."""
    return max(_sizes(EVERYWHERE))


def round_up(asked: Size, *, regional: bool = False) -> Size | None:
    """The smallest size on sale that holds what was asked, by vCPU first; None if there is none.

    With `regional`, sizes that only some regions sell count as well.
    """
    on_sale = _sizes(EVERYWHERE) | (_sizes(REGIONAL) if regional else set())
    fitting = [size for size in on_sale if size.cpu >= asked.cpu and size.memory >= asked.memory]
    return min(fitting, default=None)


def _sizes(table: dict[float, tuple[float, ...]]) -> set[Size]:
    return {Size(float(cpu), float(memory)) for cpu, row in table.items() for memory in row}


def asked_size(work: WorkSpec) -> Size | None:
    """What the pod's containers ask for together, by limit where there is one; None if they ask for nothing."""
    together = _sum((*work.containers, *sidecars(work)))
    alone = [_sum([init]) for init in initial(work)]
    cpu = max([together.cpu, *(size.cpu for size in alone)])
    memory = max([together.memory, *(size.memory for size in alone)])
    return Size(cpu, memory) if cpu or memory else None


def _sum(containers: Iterable[Container]) -> Size:
    resources = [container.resources for container in containers if not _ignored(container)]
    cpu = sum(r.cpu_limit or r.cpu_request or 0.0 for r in resources)
    memory = sum(r.memory_limit or r.memory_request or 0 for r in resources)
    return Size(round(cpu, 3), memory / GIB)


def _ignored(container: Container) -> bool:
    return any(var.name == IGNORED and var.value.upper() == "TRUE" for var in container.env)
