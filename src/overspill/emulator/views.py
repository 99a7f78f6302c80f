"""A container group as the two bulk actions show it: pure.

In: a group. Out: dicts in the spellings of DescribeContainerGroupStatus and DescribeContainerGroupEvents,
odd ones included.
Source: models of the official SDK 2.1.0; `StartedAtstartedAt` is what they and the metadata declare, and
`StartedAt` is written beside it, since nobody outside knows which of them the service sends.
"""

import time
from typing import Any

from overspill.emulator.groups import Group
from overspill.emulator.happenings import Event
from overspill.model.observation import ContainerObservation, Running, State, Terminated, Waiting
from overspill.model.podstatus import ready_since

__all__ = ["event", "events", "moment", "status"]

Json = dict[str, Any]
PHASES = {
    "Scheduling": "Pending",
    "Pending": "Pending",
    "Running": "Running",
    "Restarting": "Pending",
    "Updating": "Pending",
    "Terminating": "Running",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
    "Expired": "Failed",
    "ScheduleFailed": "Failed",
}


def moment(at: float | None) -> str:
    """RFC 3339 in UTC; "" for never."""
    return "" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


# --- DescribeContainerGroupStatus ---


def status(group: Group) -> Json:
    """One item of DescribeContainerGroupStatus: shaped like a pod's status, without init containers."""
    seen = group.observation
    pod = {
        "Phase": PHASES[group.status],
        "HostIp": group.address,
        "PodIp": group.address,
        "PodIps": [{"Ip": group.address}],
        "QosClass": "Guaranteed",
        "StartTime": moment(group.created_at),
        "Conditions": _conditions(group),
        "ContainerStatuses": [_container_status(c, group) for c in seen.containers] if seen else [],
    }
    return {
        "ContainerGroupId": group.id,
        "Name": group.name,
        "Namespace": "default",
        "uuid": group.id,
        "Status": group.status,
        "Annotations": "{}",
        "PodStatus": pod,
    }


def _conditions(group: Group) -> list[Json]:
    seen = group.observation
    initialized = seen is not None and all(map(_completed, seen.init_containers))
    ready = group.status == "Running" and seen is not None and all(c.ready for c in seen.containers)
    times = map(ready_since, seen.containers) if seen else ()
    ready_at = max(times, default=0.0) or group.changed_at
    derived = [
        _condition("PodScheduled", group.status not in {"Scheduling", "ScheduleFailed"}, group.changed_at),
        _condition("Initialized", initialized, group.changed_at),
        _condition("ContainersReady", ready, ready_at),
        _condition("Ready", ready, ready_at),
        _condition("ContainerHasSufficientDisk", True, group.changed_at),
    ]
    kept = [
        {
            "type": c.type,
            "status": c.status,
            "lastTransitionTime": moment(c.at),
            "Reason": c.reason,
            "Message": c.message,
        }
        for c in group.conditions
    ]
    return derived + kept


def _completed(container: ContainerObservation) -> bool:
    return isinstance(container.state, Terminated) and container.state.exit_code == 0


def _condition(kind: str, holds: bool, at: float) -> Json:  # noqa: FBT001 - the condition's value
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "lastTransitionTime": moment(at),
        "Reason": "",
        "Message": "",
    }


def _container_status(container: ContainerObservation, group: Group) -> Json:
    shown: Json = {
        "Name": container.name,
        "Image": container.image,
        "ImageID": container.image_id,
        "Ready": container.ready and not group.ended,
        "Started": container.started,
        "RestartCount": container.restarts,
        "State": _state(container.state, container.container_id),
        "LastState": _state(container.last_state, container.container_id) if container.last_state else {},
    }
    return shown


def _state(state: State, container: str) -> Json:
    if isinstance(state, Waiting):
        return {"Waiting": {"Reason": state.reason, "Message": state.message}}
    if isinstance(state, Running):
        at = moment(state.started_at)
        return {"Running": {"StartedAtstartedAt": at, "StartedAt": at}}
    return {
        "Terminated": {
            "ContainerID": container,
            "ExitCode": state.exit_code,
            "Signal": state.signal,
            "Reason": state.reason,
            "Message": state.message,
            "StartedAt": moment(state.started_at),
            "FinishedAt": moment(state.finished_at),
        }
    }


# --- DescribeContainerGroupEvents ---


def event(happening: Event, group: Group) -> Json:
    """One Event, as DescribeContainerGroups has it."""
    return {
        "Name": f"{group.name}.{int(happening.first * 1000):x}",
        "Type": happening.type,
        "Reason": happening.reason,
        "Message": happening.message,
        "Count": happening.count,
        "FirstTimestamp": moment(happening.first),
        "LastTimestamp": moment(happening.last),
    }


def events(group: Group, *, source: str = "", since: float = 0.0) -> Json:
    """One item of DescribeContainerGroupEvents."""
    told = [e for e in group.events if e.last >= since and source in {"", e.source}]
    return {
        "ContainerGroupId": group.id,
        "Name": group.name,
        "Namespace": "default",
        "uuid": group.id,
        "Annotations": "{}",
        "Events": [_told(e, group) for e in told],
    }


def _told(happening: Event, group: Group) -> Json:
    shown = event(happening, group)
    name = shown.pop("Name")
    return {
        **shown,
        "ReportingComponent": "kubelet",
        "ReportingInstance": "eci",
        "Source": {"Component": "kubelet", "Host": "eci"},
        "Metadata": {"Name": name, "Namespace": "default"},
        "involvedObject": {
            "Kind": "Pod",
            "Name": group.name,
            "Namespace": "default",
            "Uid": group.id,
            "ApiVersion": "v1",
        },
    }
