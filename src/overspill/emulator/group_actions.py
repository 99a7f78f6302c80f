"""The actions on container groups.

In: parameters. Out: answers in the service's shape. Invariant: page sizes and id lists have the service's
limits, so that a client that oversteps them fails here too.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct, field, structs

from overspill.emulator import views
from overspill.emulator.books import Entry
from overspill.emulator.groups import Group
from overspill.emulator.paging import Page, page, wanted_ids
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import CreateContainerGroup, Pair, UpdateContainerGroup, as_in_create
from overspill.emulator.service import Answer, Handler, Service
from overspill.emulator.sidecars import disordered
from overspill.emulator.translate import unhonoured, volumes, work_spec
from overspill.emulator.validate import check, parse_create, refuse_not_emulated
from overspill.emulator.wire import Tree, read, strings
from overspill.errors import NotFound, Rejected, Retry, Unsupported

__all__ = ["ACTIONS"]


class ById(Struct, frozen=True, rename="pascal"):
    """A request about one group."""

    container_group_id: str
    client_token: str = ""


class Listing(Struct, frozen=True, rename="pascal"):
    """The filters of the three describing actions."""

    container_group_ids: str = ""
    container_group_name: str = ""
    status: str = ""
    zone_id: str = ""
    v_switch_id: str = ""
    security_group_id: str = ""
    resource_group_id: str = ""
    compute_category: str = ""
    tag: tuple[Pair, ...] = ()
    event_source: Literal["EciService", "K8sAgent", ""] = ""
    since_second: int | None = None
    limit: int | None = None
    next_token: str = field(default="")


async def create(service: Service, tree: Tree) -> Answer:
    """CreateContainerGroup."""
    request = parse_create(tree)
    _check_engine(service, request)
    return {"ContainerGroupId": service.cloud.create(request)}


def _check_engine(service: Service, request: CreateContainerGroup) -> None:
    """Refuse now what the engine would refuse later, or not honour."""
    engine = service.engine.backend
    try:
        work = work_spec("", _PROBE, request, engine=engine.name)
    except Rejected as error:
        raise Refused("InvalidParameter", f"The request cannot be run: {error}.") from error
    if missing := unhonoured(request, work, engine.capabilities) + disordered(request.container):
        raise Refused("NotEmulated", f"The emulator's engine {engine.name} cannot do {', '.join(missing)}.")


# A group that stands for one to come, while its request is looked at.
_PROBE = Group(
    id="eci-probe",
    seq=0,
    name="probe",
    region="",
    zone="",
    vpc="",
    vswitch="",
    security_group="",
    address="0.0.0.0",  # noqa: S104 - an address that is none
    cpu=2,
    memory=4,
    price=0,
    created_at=0,
    changed_at=0,
)


async def delete(service: Service, tree: Tree) -> Answer:
    """DeleteContainerGroup; returns at once, the group is Terminating until its containers have ended."""
    service.cloud.delete(read(tree, ById).container_group_id)
    return {}


async def restart(service: Service, tree: Tree) -> Answer:
    """RestartContainerGroup."""
    service.cloud.restart(read(tree, ById).container_group_id)
    return {}


async def update(service: Service, tree: Tree) -> Answer:
    """UpdateContainerGroup: files of volumes are replaced in place, anything else begins the group anew."""
    refuse_not_emulated(tree)
    asked = read(as_in_create(tree), UpdateContainerGroup)
    entry = service.cloud.books.find(asked.container_group_id)
    _check_size(entry, asked)
    renewed = _updated(entry.request, asked)
    check(renewed)
    _check_engine(service, renewed)
    anew = structs.replace(renewed, volume=entry.request.volume, tag=entry.request.tag) != entry.request
    if not anew and renewed.volume != entry.request.volume:
        await _refresh(service, entry, renewed)
    service.cloud.update(asked.container_group_id, renewed, anew=anew)
    if asked.tag is not None:
        service.cloud.tag(asked.container_group_id, {tag.key: tag.value for tag in asked.tag})
    return {}


def _check_size(entry: Entry, asked: UpdateContainerGroup) -> None:
    """Refuse another size than the group was made with: its price, and the quota and stock that it takes, stay."""
    for name in ("cpu", "memory"):
        had = {None, getattr(entry.request, name), getattr(entry.group, name)}
        if getattr(asked, name) not in had:
            raise Refused("NotEmulated", "The size of a container group cannot be changed here.")


def _updated(request: CreateContainerGroup, asked: UpdateContainerGroup) -> CreateContainerGroup:
    given = {name: value for name, value in structs.asdict(asked).items() if value is not None}
    del given["container_group_id"], given["update_type"]
    if asked.update_type == "IncrementalUpdate":
        for name in ("container", "init_container", "volume"):
            if name in given:
                given[name] = _merged(getattr(request, name), given[name])
    return structs.replace(request, **given)


def _merged(before: Sequence[Any], given: Sequence[Any]) -> tuple[Any, ...]:
    """Those before, with those of the same name replaced and new ones added."""
    named = {item.name: item for item in before} | {item.name: item for item in given}
    return tuple(named.values())


async def _refresh(service: Service, entry: Entry, renewed: CreateContainerGroup) -> None:
    before = {volume.name: volume for volume in entry.request.volume}
    changed = [volume for volume in renewed.volume if before.get(volume.name) != volume]
    if any(volume.type != "ConfigFileVolume" for volume in changed):
        raise Refused("NotEmulated", "Only ConfigFileVolumes can be updated in place here.")
    try:
        await service.engine.backend.refresh(service.engine.identity(entry), volumes(changed))
    except NotFound as error:
        raise Refused("IncorrectStatus", f"The volumes cannot be updated: {error}") from error
    except (Rejected, Unsupported) as error:
        raise Refused("InvalidParameter", f"The volumes cannot be updated: {error}") from error
    except Retry as error:
        raise Refused("ServiceUnavailable", "The volumes cannot be updated now.") from error


async def describe_groups(service: Service, tree: Tree) -> Answer:
    """DescribeContainerGroups."""
    asked = read(tree, Listing)
    found = _page(service, asked, most=20, default=20)
    items = [entry.detail() for entry in found.items]
    return {"ContainerGroups": items, **_turning(found)}


async def describe_status(service: Service, tree: Tree) -> Answer:
    """DescribeContainerGroupStatus."""
    found = _page(service, read(tree, Listing), most=200, default=200)
    return {"Data": [entry.status() for entry in found.items], **_turning(found)}


async def describe_events(service: Service, tree: Tree) -> Answer:
    """DescribeContainerGroupEvents."""
    asked = read(tree, Listing)
    if asked.since_second is not None and not 60 <= asked.since_second <= 3600:
        raise Refused("InvalidParameter.ValueExceeded", "SinceSecond is outside of 60 to 3600.")
    found = _page(service, asked, most=200, default=50)
    since = service.cloud.clock() - asked.since_second if asked.since_second else 0.0
    items = [views.events(entry.group, source=asked.event_source, since=since) for entry in found.items]
    return {"Data": items, **_turning(found)}


def _page(service: Service, asked: Listing, *, most: int, default: int) -> Page[Entry]:
    limit = default if asked.limit is None else asked.limit
    if not 1 <= limit <= most:
        raise Refused("InvalidParameter.ValueExceeded", f"Limit is outside of 1 to {most}.")
    books = service.cloud.books
    if asked.since_second is not None:
        entries: Sequence[Entry] = books.changed_since(books.clock() - asked.since_second)
    else:
        entries = books.entries()
    return page(entries, limit=limit, token=asked.next_token, keep=_keep(asked))


def _keep(asked: Listing) -> Callable[[Entry], bool] | None:
    """Whether a group passes; None when all do. Plain loops, as every page asks it of every group."""
    ids = wanted_ids(strings(asked.container_group_ids, "ContainerGroupIds"))
    tags = [(tag.key, tag.value) for tag in asked.tag]
    equal = {
        "name": asked.container_group_name,
        "status": asked.status,
        "zone": asked.zone_id,
        "vswitch": asked.v_switch_id,
        "security_group": asked.security_group_id,
        "resource_group": asked.resource_group_id,
        "compute_category": asked.compute_category,
    }
    filters = [(name, value) for name, value in equal.items() if value]
    if not (ids or tags or filters):
        return None

    def keep(entry: Entry) -> bool:
        group = entry.group
        if ids and group.id not in ids:
            return False
        for key, value in tags:
            if group.tags.get(key) != value:
                return False
        for name, value in filters:  # noqa: SIM110 - a generator per group costs more than all the rest
            if getattr(group, name) != value:
                return False
        return True

    return keep


def _turning(found: Page[Entry]) -> Answer:
    turning: Answer = {"TotalCount": found.total}
    if found.next_token:
        turning["NextToken"] = found.next_token
    return turning


ACTIONS: dict[str, Handler] = {
    "CreateContainerGroup": create,
    "DeleteContainerGroup": delete,
    "RestartContainerGroup": restart,
    "UpdateContainerGroup": update,
    "DescribeContainerGroups": describe_groups,
    "DescribeContainerGroupStatus": describe_status,
    "DescribeContainerGroupEvents": describe_events,
}
