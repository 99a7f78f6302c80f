"""Which vCPU and memory a container group can have, and how a request is rounded up.

In: what a request asks for. Out: the smallest specification that holds it, which is what is billed.
Invariant: the result is never smaller than the request in either dimension.
Source: ECI's table of specifications (help page of 2026-06): those on sale in all regions, and those between
them that some regions sell, though not as spot instances.
"""

from overspill.emulator.refusals import Refused

__all__ = ["DEFAULT", "REGIONAL", "SPECS", "parse_spec", "round_up", "sells_regional", "spec_name"]

Spec = tuple[float, float]
"""vCPU and GiB."""

SPECS: dict[float, tuple[float, ...]] = {
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
REGIONAL: dict[float, tuple[float, ...]] = {
    2: (6, 10, 12, 14),
    4: (6, 10, 12, 14, *range(18, 31, 2)),
    6: tuple(range(6, 49, 2)),
    8: (10, 12, 14, *range(18, 31, 2), *range(34, 63, 2)),
}
SELLING_REGIONAL = frozenset(
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
DEFAULT: Spec = (2.0, 4.0)


def sells_regional(region: str, *, spot_strategy: str) -> bool:
    """Whether `REGIONAL` is on sale as well."""
    return region in SELLING_REGIONAL and spot_strategy in {"", "NoSpot"}


def round_up(cpu: float, memory: float, *, regional: bool) -> Spec:
    """The smallest specification with at least this vCPU and GiB.

    Raises:
        Refused: `InvalidParameter.CPU.Memory`; nothing on sale is that large.
    """
    tables = (SPECS, REGIONAL) if regional else (SPECS,)
    fitting = [
        (float(cores), float(size))
        for table in tables
        for cores, sizes in table.items()
        for size in sizes
        if cores >= cpu and size >= memory
    ]
    if not fitting:
        raise Refused("InvalidParameter.CPU.Memory", f"No specification has {cpu:g} vCPU and {memory:g} GiB.")
    return min(fitting)


def spec_name(spec: Spec) -> str:
    """As the API writes it: `2.0-4.0Gi`."""
    return f"{spec[0]}-{spec[1]}Gi"


def parse_spec(text: str, *, regional: bool) -> Spec:
    """A specification such as `2-4Gi`, rounded up to one on sale.

    Raises:
        Refused: it is neither that nor on sale. ECS instance types are not emulated.
    """
    cpu, dash, memory = text.removesuffix("Gi").partition("-")
    if text.startswith("ecs.") or not dash:
        raise Refused("InvalidInstanceTypeForEciBuy", f"The instance type {text} is not on sale here.")
    try:
        return round_up(float(cpu), float(memory), regional=regional)
    except ValueError as error:
        raise Refused("InvalidParameter", f"The instance type {text} cannot be read.") from error
