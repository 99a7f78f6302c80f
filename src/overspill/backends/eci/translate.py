"""A pod as the parameters of CreateContainerGroup.

In: a `WorkSpec` and where to put it. Out: a tree of parameters. Pure. Invariant: the
same input gives the same parameters (a client token depends on it), and nothing of
the work spec is left out that `refusals` did not refuse.
"""

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from overspill.backends.eci import annotations, tags
from overspill.backends.eci.annotations import PREFIX, parse
from overspill.backends.eci.containers import container, init_container, says_by_log
from overspill.backends.eci.network import network
from overspill.backends.eci.refusals import refusals, unhonoured
from overspill.backends.eci.sidecars import in_eci_words, in_order, initial, sidecars
from overspill.backends.eci.specs import DEFAULT, REGIONAL_REGIONS, Size, asked_size, round_up
from overspill.backends.eci.volumes import volume
from overspill.backends.eci.wire import Params
from overspill.errors import Unsupported
from overspill.model.work import RegistryCredential, WorkSpec

__all__ = ["Placement", "check", "extra_storage", "group_size", "parameters"]

GIB = 1 << 30
# What a group has beside its images without paying for more.
FREE_STORAGE = 30


class Placement(Struct, frozen=True, kw_only=True):
    """Where a group goes, as settings and what was learnt of the account say; annotations come before it.

    Attributes:
        spot: whether a spot instance may still be asked for; False once none was to be had.
    """

    region: str
    v_switch_ids: tuple[str, ...] = ()
    schedule_strategy: str = ""
    security_group_id: str = ""
    resource_group_id: str = ""
    spot: bool = True


def check(work: WorkSpec) -> list[str]:
    """Refuse what ECI cannot do; returns what the user is to be warned of.

    Raises:
        Unsupported: names every field and the reason.
    """
    found = refusals(work)
    if found:
        fields = [refusal.field for refusal in found]
        raise Unsupported("ECI cannot run this pod: " + "; ".join(map(str, found)), fields=fields)
    fields = unhonoured(work)
    return [f"ECI's API has no parameter for {', '.join(fields)}: the pod runs without"] if fields else []


def group_size(work: WorkSpec, region: str) -> Size:
    """The size that is asked for and billed; instance types named by annotation decide it elsewhere."""
    asked = asked_size(work)
    if asked is None:
        return DEFAULT
    spot = work.annotations.get(PREFIX + "eci-spot-strategy", "NoSpot") != "NoSpot"
    return round_up(asked, regional=region in REGIONAL_REGIONS and not spot) or asked


def parameters(work: WorkSpec, placement: Placement) -> Params:
    """The request, without region and client token.

    Raises:
        Unsupported: names every field that ECI cannot honour, and the reason.
    """
    check(work)
    asked = dict(parse(work.annotations).parameters)
    if not placement.spot:
        asked = {name: value for name, value in asked.items() if not name.startswith("Spot")}
    return {**_own(work, placement), **_sized(work, placement, asked), **_merged(work, asked)}


def _own(work: WorkSpec, placement: Placement) -> dict[str, Any]:
    return {
        "ContainerGroupName": tags.group_name(work.identity),
        "VSwitchId": ",".join(placement.v_switch_ids) or None,
        "ScheduleStrategy": placement.schedule_strategy or None,
        "SecurityGroupId": placement.security_group_id or None,
        "ResourceGroupId": placement.resource_group_id or None,
        "RestartPolicy": work.restart_policy,
        "TerminationGracePeriodSeconds": work.termination_grace_period_seconds,
        "ActiveDeadlineSeconds": work.active_deadline_seconds,
        "ShareProcessNamespace": work.share_process_namespace or None,
        "Container": [container(each) for each in (*work.containers, *in_eci_words(work))],
        "InitContainer": [init_container(each) for each in initial(work)],
        "Volume": [volume(name, each) for name, each in work.volumes.items()],
        "ImageRegistryCredential": [_credential(each) for each in work.registry_credentials],
        "Tag": tags.tags(work.identity, more=_more_tags(work)),
        **network(work),
    }


def _sized(work: WorkSpec, placement: Placement, asked: Params) -> dict[str, Any]:
    if "InstanceType" in asked:
        return {}
    size = group_size(work, placement.region)
    return {"Cpu": size.cpu, "Memory": size.memory}


def _merged(work: WorkSpec, asked: dict[str, Any]) -> dict[str, Any]:
    """Annotations, where two sources speak of the same: hosts add up, of two sizes the larger wins."""
    hosts = network(work)["HostAliase"]
    if "HostAliase" in asked:
        asked["HostAliase"] = [*hosts, *asked["HostAliase"]]
    return {**asked, "EphemeralStorage": extra_storage(work, asked) or None}


def extra_storage(work: WorkSpec, asked: Mapping[str, Any]) -> int:
    """GiB beyond the free ones: as an annotation asks for, or what the containers request, if that is more."""
    annotated: int = asked.get("EphemeralStorage", 0)
    return max(_requested_storage(work), annotated)


def _requested_storage(work: WorkSpec) -> int:
    """Whole GiB above the free ones that the containers request together, or one of the init containers alone."""
    beside = (*work.containers, *sidecars(work))
    together = sum(each.resources.ephemeral_storage_request or 0 for each in beside)
    alone = [each.resources.ephemeral_storage_request or 0 for each in initial(work)]
    return max(math.ceil(max([together, *alone]) / GIB) - FREE_STORAGE, 0)


def _more_tags(work: WorkSpec) -> dict[str, str]:
    more = annotations.custom_tags(work.annotations.get(PREFIX + "eci-custom-tags", ""))
    if annotations.fails_fast(work.annotations):
        more[tags.FAIL_FAST_TAG] = "true"
    if numbers := [str(n) for n, each in enumerate(in_order(work)) if says_by_log(each)]:
        more[tags.FROM_LOGS_TAG] = " ".join(numbers)
    return more | tags.sidecar_tags(each.name for each in sidecars(work))


def _credential(login: RegistryCredential) -> Params:
    return {"Server": login.server, "UserName": login.username, "Password": login.password}
