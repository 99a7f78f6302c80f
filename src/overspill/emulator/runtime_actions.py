"""The actions on what runs in container groups: logs, commands, metrics.

In: parameters. Out: answers in the service's shape. Invariant: limits are the service's.
"""

import calendar
import time

from msgspec import Struct

from overspill.backends.base import LogOptions
from overspill.emulator.books import Entry
from overspill.emulator.paging import wanted_ids
from overspill.emulator.refusals import Refused
from overspill.emulator.service import Answer, Handler, Service
from overspill.emulator.streams import MOST_LOG_BYTES, run_sync, tail_log
from overspill.emulator.wire import Tree, read, strings

__all__ = ["ACTIONS"]

MOST_COMMAND = 20
MOST_COMMAND_CHARACTERS = 256
PERIODS = (15, 30, 60, 600)


class LogRequest(Struct, frozen=True, rename="pascal"):
    """DescribeContainerLog."""

    container_group_id: str
    container_name: str
    tail: int = 500
    last_time: bool = False
    since_seconds: int | None = None
    start_time: str = ""
    limit_bytes: int | None = None
    timestamps: bool = False


class ExecRequest(
    Struct,
    frozen=True,
    rename={"tty": "TTY"}
    | {
        name: "".join(part.capitalize() for part in name.split("_"))
        for name in ("container_group_id", "container_name", "command", "stdin", "sync")
    },
):
    """ExecContainerCommand."""

    container_group_id: str
    container_name: str
    command: str
    tty: bool = False
    stdin: bool = True
    sync: bool = False


class MultiMetricRequest(Struct, frozen=True, rename="pascal"):
    """DescribeMultiContainerGroupMetric."""

    container_group_ids: str
    metric_type: str = "summary"


class MetricRequest(Struct, frozen=True, rename="pascal"):
    """DescribeContainerGroupMetric."""

    container_group_id: str
    start_time: str = ""
    end_time: str = ""
    period: int = 60


async def describe_log(service: Service, tree: Tree) -> Answer:
    """DescribeContainerLog."""
    asked = read(tree, LogRequest)
    if not 1 <= asked.tail <= 2000:
        raise Refused("InvalidParameter.ValueExceeded", "Tail is outside of 1 to 2000.")
    if asked.limit_bytes is not None and not 1 <= asked.limit_bytes <= MOST_LOG_BYTES:
        raise Refused("InvalidParameter.ValueExceeded", f"LimitBytes is outside of 1 to {MOST_LOG_BYTES}.")
    entry = _container(service, asked.container_group_id, asked.container_name)
    options = LogOptions(
        previous=asked.last_time,
        timestamps=asked.timestamps,
        since_time=_since(asked, service.cloud.clock()),
        tail_lines=asked.tail,
        limit_bytes=asked.limit_bytes,
    )
    engine = service.engine
    content = await tail_log(engine.backend, engine.identity(entry), asked.container_name, options)
    return {"ContainerName": asked.container_name, "Content": content}


def _since(asked: LogRequest, now: float) -> float | None:
    if asked.start_time:
        return _seconds(asked.start_time, "StartTime")
    return None if asked.since_seconds is None else now - asked.since_seconds


def _seconds(text: str, name: str) -> float:
    for shape in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ"):
        try:
            return float(calendar.timegm(time.strptime(text, shape)))
        except ValueError:
            continue
    raise Refused("InvalidParameter", f"The specified parameter {name} is not an RFC 3339 time in UTC.")


def _container(service: Service, group_id: str, name: str) -> Entry:
    entry = service.cloud.books.find(group_id)
    names = [c.name for c in (*entry.request.container, *entry.request.init_container)]
    if name not in names:
        raise Refused("InvalidParameter", f"The container {name} does not exist in {group_id}.")
    return entry


async def exec_command(service: Service, tree: Tree) -> Answer:
    """ExecContainerCommand: a URL for a WebSocket, or with Sync the output."""
    asked = read(tree, ExecRequest)
    command = strings(asked.command, "Command")
    if not 1 <= len(command) <= MOST_COMMAND or max(map(len, command)) > MOST_COMMAND_CHARACTERS:
        raise Refused(
            "InvalidParameter.ValueExceeded",
            f"Command takes 1 to {MOST_COMMAND} items of at most {MOST_COMMAND_CHARACTERS} characters.",
        )
    if asked.sync and asked.tty:
        raise Refused("InvalidParameter", "TTY cannot be used with Sync.")
    entry = _container(service, asked.container_group_id, asked.container_name)
    if entry.group.status != "Running":
        raise Refused("IncorrectStatus", f"The container group is {entry.group.status}, not Running.")
    identity = service.engine.identity(entry)
    if asked.sync:
        output = await run_sync(service.engine.backend, identity, asked.container_name, command)
        return {"SyncResponse": output}
    token = service.execs.offer(identity, asked.container_name, command, stdin=asked.stdin, tty=asked.tty)
    return {"WebSocketUri": f"{service.websocket}/exec/?s={token}"}


async def describe_multi_metric(service: Service, tree: Tree) -> Answer:
    """DescribeMultiContainerGroupMetric; groups that do not exist are left out."""
    asked = read(tree, MultiMetricRequest)
    if asked.metric_type != "summary":
        raise Refused("InvalidParameter", "MetricType can only be summary.")
    ids = wanted_ids(strings(asked.container_group_ids, "ContainerGroupIds"))
    await service.history.refresh()
    entries = [entry for group_id in sorted(ids) if (entry := service.cloud.books.get(group_id))]
    data = [
        {"ContainerGroupId": entry.group.id, "Records": service.history.latest(entry.group)}
        for entry in entries
        if not entry.group.hidden
    ]
    return {"MonitorDatas": data}


async def describe_metric(service: Service, tree: Tree) -> Answer:
    """DescribeContainerGroupMetric."""
    asked = read(tree, MetricRequest)
    if asked.period not in PERIODS:
        raise Refused("InvalidParameter", "Period is one of 15, 30, 60 and 600.")
    group = service.cloud.books.find(asked.container_group_id).group
    now = service.cloud.clock()
    await service.history.refresh()
    records = service.history.between(
        group,
        start=_seconds(asked.start_time, "StartTime") if asked.start_time else now - 3600,
        end=_seconds(asked.end_time, "EndTime") if asked.end_time else now,
        period=asked.period,
    )
    return {"ContainerGroupId": group.id, "Records": records}


ACTIONS: dict[str, Handler] = {
    "DescribeContainerLog": describe_log,
    "ExecContainerCommand": exec_command,
    "DescribeMultiContainerGroupMetric": describe_multi_metric,
    "DescribeContainerGroupMetric": describe_metric,
}
