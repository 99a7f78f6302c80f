"""Settings of the ECI backend.

In: the agent's backend options. Out: one frozen value. Invariant: an unknown or wrong option
is an error that names it; keys and secrets are no options.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from overspill.backends.eci.annotations import words
from overspill.backends.eci.rates import Budget
from overspill.errors import Misconfigured

__all__ = ["Options", "read_options"]


SHORTEST_POLL, LONGEST_POLL = 0.02, 60.0


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """As the settings file has them; lists are separated by commas.

    Attributes:
        region: such as cn-hangzhou.
        endpoint: host of the API; that of the region if empty.
        vpc_endpoint: host of the VPC's API, which knows the zones of vSwitches; that of the region if empty,
            and none if `endpoint` is given alone.
        v_switch_ids: where groups get their addresses from, in the order of preference.
        security_group_ids: groups are spread over them; ECI's default one if empty.
        schedule_strategy: VSwitchOrdered or VSwitchRandom.
        resource_group_id: of all groups; the account's default one if empty.
        create_rate, create_burst, delete_rate, delete_burst: what the account may do, in calls per second
            and calls at once; all agents of the cluster share it.
        poll_seconds: between two looks at the groups while some start or end.
    """

    region: str
    endpoint: str = ""
    vpc_endpoint: str = ""
    v_switch_ids: str
    security_group_ids: str = ""
    schedule_strategy: Literal["VSwitchOrdered", "VSwitchRandom"] = "VSwitchOrdered"
    resource_group_id: str = ""
    create_rate: float = 20.0
    create_burst: float = 100.0
    delete_rate: float = 20.0
    delete_burst: float = 100.0
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.region or not self.v_switches:
            raise ValueError("region and vSwitchIds must not be empty")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?", self.region):
            raise ValueError(f"region must be an id such as cn-hangzhou, not {self.region!r}")
        if min(self.create_rate, self.delete_rate) <= 0 or min(self.create_burst, self.delete_burst) < 1:
            raise ValueError("rates must be above 0, and bursts at least 1")
        if not SHORTEST_POLL <= self.poll_seconds <= LONGEST_POLL:
            raise ValueError(f"pollSeconds must be from {SHORTEST_POLL} to {LONGEST_POLL}")

    @property
    def v_switches(self) -> tuple[str, ...]:
        """The vSwitches in order."""
        return tuple(words(self.v_switch_ids))

    @property
    def security_groups(self) -> tuple[str, ...]:
        """The security groups."""
        return tuple(words(self.security_group_ids))

    @property
    def host(self) -> str:
        """Where the API is."""
        return self.endpoint or f"eci.{self.region}.aliyuncs.com"

    @property
    def vpc_host(self) -> str:
        """Where the VPC's API is; "" if it is not to be asked."""
        return self.vpc_endpoint or ("" if self.endpoint else f"vpc.{self.region}.aliyuncs.com")

    @property
    def budgets(self) -> dict[str, Budget]:
        """What differs from ECI's published limits."""
        return {
            "create": Budget(self.create_rate, self.create_burst),
            "delete": Budget(self.delete_rate, self.delete_burst),
        }


def read_options(options: Mapping[str, Any]) -> Options:
    """The options, checked.

    Raises:
        Misconfigured: one is unknown, missing or wrong.
    """
    secret = sorted(name for name in options if "secret" in name.lower() or "accesskey" in name.lower())
    if secret:
        raise Misconfigured(
            f"backend eci: {', '.join(secret)} cannot be an option, which others can read: set "
            "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or write ~/.alibabacloud/credentials"
        )
    try:
        return msgspec.convert(dict(options), Options, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"backend eci: {error}; see docs/backends/eci.md") from error
