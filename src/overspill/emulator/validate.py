"""Whether a container group can be made as asked, and of which size.

In: the tree of a CreateContainerGroup request. Out: the typed request and its rounded specification.
Invariant: pure; what passes here is something that an engine can run.
Source: limits of CreateContainerGroup (API page, metadata) as of 2026.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any

from overspill.emulator.refusals import Refused
from overspill.emulator.requests import (
    NOT_EMULATED,
    Container,
    CreateContainerGroup,
    Pair,
    Volume,
)
from overspill.emulator.specs import DEFAULT, round_up
from overspill.emulator.wire import Tree, read

__all__ = ["check", "check_tags", "parse_create", "refuse_not_emulated", "size"]

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])")
MOST_CONTAINERS = 20
MOST_VOLUMES = 20
MOST_TAGS = 20
MOST_VSWITCHES = 10
MOST_CONFIG_BYTES = 32 << 10
MOST_GROUP_CONFIG_BYTES = 60 << 10
VOLUME_TYPES = {
    "EmptyDirVolume",
    "NFSVolume",
    "ConfigFileVolume",
    "FlexVolume",
    "DiskVolume",
    "HostPathVolume",
}
IGNORED_SIZE = "__ECI_RESOURCE_IGNORE__"


def parse_create(tree: Tree) -> CreateContainerGroup:
    """The typed request.

    Raises:
        Refused: a parameter is missing, wrong, over a limit, or nothing that can be emulated.
    """
    refuse_not_emulated(tree)
    request = read(tree, CreateContainerGroup)
    check(request)
    return request


def refuse_not_emulated(tree: Tree) -> None:
    """Refuse parameters that the service has and no engine can do.

    Raises:
        Refused: `NotEmulated`, naming all of them.
    """
    names = sorted(name for name in tree if name in NOT_EMULATED and not _off(tree[name]))
    if names:
        raise Refused("NotEmulated", f"The emulator's engine cannot do {', '.join(names)}.")


def _off(value: Any) -> bool:
    return str(value).lower() in {"false", "0", ""}


def check(request: CreateContainerGroup) -> None:
    """The service's rules.

    Raises:
        Refused: with the service's code, where it is known.
    """
    if not NAME.fullmatch(request.container_group_name):
        raise _invalid("ContainerGroupName", "2 to 128 of a-z, 0-9 and -, with no - at the ends")
    if not 1 <= len(request.container) <= MOST_CONTAINERS:
        raise _exceeded("Container", MOST_CONTAINERS)
    if len(request.volume) > MOST_VOLUMES:
        raise _exceeded("Volume", MOST_VOLUMES)
    if len(request.v_switch_id.split(",")) > MOST_VSWITCHES:
        raise _exceeded("VSwitchId", MOST_VSWITCHES)
    if not 0 <= len(request.client_token) <= 64 or not request.client_token.isascii():
        raise _invalid("ClientToken", "at most 64 ASCII characters")
    if not 10 <= request.max_pending_minute <= 1440:
        raise Refused("InvalidParameter.ValueExceeded", "MaxPendingMinute is outside of 10 to 1440.")
    check_tags(request.tag)
    containers = (*request.container, *request.init_container)
    _unique([container.name for container in containers], "InvalidParameter.DuplicatedName")
    _unique([volume.name for volume in request.volume], "InvalidParameter.DuplicatedVolumeName")
    _check_volumes(request.volume)
    _check_mounts(containers, {volume.name for volume in request.volume})


def check_tags(tags: Sequence[Pair]) -> None:
    """At most 20, of bounded length, with no reserved prefix.

    Raises:
        Refused: otherwise.
    """
    if len(tags) > MOST_TAGS:
        raise _exceeded("Tag", MOST_TAGS)
    for tag in tags:
        if not 1 <= len(tag.key) <= 64 or len(tag.value) > 128:
            raise _invalid("Tag", "keys of 1 to 64 characters, values of at most 128")
        if tag.key.startswith(("acs:", "aliyun")):
            raise _invalid("Tag", "keys that do not begin with acs: or aliyun")


def _check_volumes(volumes: Iterable[Volume]) -> None:
    total = 0
    for volume in volumes:
        if volume.type not in VOLUME_TYPES:
            raise Refused("InvalidVolumeType", f"The type of the volume {volume.name} is not valid.")
        total += sum(_config_size(volume.name, file.content) for file in _files(volume))
    if total > MOST_GROUP_CONFIG_BYTES:
        raise _exceeded("Volume.ConfigFileVolume", MOST_GROUP_CONFIG_BYTES)


def _files(volume: Volume) -> Iterable[Any]:
    return volume.config_file_volume.config_file_to_path


def _config_size(volume: str, content: str) -> int:
    try:
        size = len(base64.b64decode(content, validate=True))
    except (binascii.Error, ValueError) as error:
        raise _invalid(f"Volume {volume} Content", "base64") from error
    if size > MOST_CONFIG_BYTES:
        raise _exceeded(f"Volume {volume} Content", MOST_CONFIG_BYTES)
    return size


def _check_mounts(containers: Iterable[Container], volumes: set[str]) -> None:
    for container in containers:
        for mount in container.volume_mount:
            if mount.name not in volumes:
                raise _invalid(f"{container.name}.VolumeMount", f"a volume of the group, not {mount.name}")


def size(request: CreateContainerGroup, *, regional: bool) -> tuple[float, float]:
    """VCPU and GiB that are given and billed: of the group, else the containers' sum, rounded up.

    Raises:
        Refused: nothing on sale is that large.
    """
    if request.cpu or request.memory:
        return round_up(request.cpu, request.memory, regional=regional)
    cpu, memory = _total(request)
    return round_up(cpu, memory, regional=regional) if cpu or memory else DEFAULT


def _total(request: CreateContainerGroup) -> tuple[float, float]:
    """Containers run together, init containers one after the other."""
    counted = [c for c in request.container if not _ignored(c)]
    init = request.init_container
    cpu = max(sum(c.cpu for c in counted), max((c.cpu for c in init), default=0))
    memory = max(sum(c.memory for c in counted), max((c.memory for c in init), default=0))
    return round(cpu, 3), round(memory, 3)


def _ignored(container: Container) -> bool:
    return any(var.key == IGNORED_SIZE and var.value == "TRUE" for var in container.environment_var)


def _unique(names: Sequence[str], code: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Refused(code, f"The name {name} is used more than once.")
        seen.add(name)


def _invalid(name: str, rule: str) -> Refused:
    return Refused("InvalidParameter", f"The specified parameter {name} is not valid: it must be {rule}.")


def _exceeded(name: str, most: int) -> Refused:
    return Refused("InvalidParameter.ValueExceeded", f"{name} is outside of 1 to {most}.")
