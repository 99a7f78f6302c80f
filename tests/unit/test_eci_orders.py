"""An order ends with its group's being known, however that came to be: what was still asked for it tells nothing more."""

import asyncio
import contextlib

import pytest

from overspill.backends.eci.answers import (
    ContainerStatus,
    Created,
    GroupContainer,
    GroupEntry,
    GroupsPage,
    PodStatus,
    State,
    StatusEntry,
    StatusPage,
    Tag,
)
from overspill.backends.eci.answers import Running as RunningNow
from overspill.backends.eci.backend import EciBackend
from overspill.backends.eci.client import Client
from overspill.backends.eci.faults import ApiMisconfigured, ApiRejected, ApiRetry, NoRoom, fault
from overspill.backends.eci.poll import APPEARS_WITHIN
from overspill.backends.eci.tags import tags
from overspill.model.observation import Gone, Running
from overspill.model.work import Container, Identity, WorkSpec

pytestmark = pytest.mark.looptime

OPTIONS = {"region": "cn-hangzhou", "vSwitchIds": "vsw-a", "pollSeconds": 1}
WHO = Identity("cluster", "vn-0", "shop", "web", "uid-1")
WORK = WorkSpec(identity=WHO, hostname="web", containers=(Container("app", "nginx:1"),))
TROUBLES = (ApiRetry, NoRoom, ApiMisconfigured, ApiRejected)


class Region:
    """Stands for ECI: makes the group of a create and runs it, but answers late, and with an error."""

    def __init__(self, trouble: type[Exception] | None, *, answers: str = "eci-1") -> None:
        self.trouble = trouble
        self.answers = answers
        self.groups: list[str] = []
        self.removed: list[str] = []
        self.asked = 0

    async def call(self, _client, action, parameters, kind, **_):
        match action:
            case "CreateContainerGroup":
                self.asked += 1
                if not self.groups and not self.removed:
                    self.groups.append("eci-1")
                await asyncio.sleep(10)
                if self.trouble is not None:
                    raise self.trouble("(no)")
                return Created(container_group_id=self.answers)
            case "DeleteContainerGroup":
                self.removed.append(parameters["ContainerGroupId"])
                with contextlib.suppress(ValueError):
                    self.groups.remove(parameters["ContainerGroupId"])
            case "DescribeContainerGroupStatus":
                return StatusPage(data=tuple(map(status_of, self.groups)))
            case "DescribeContainerGroups":
                return GroupsPage(container_groups=tuple(map(entry_of, self.groups)))
        return kind()


def status_of(group_id: str) -> StatusEntry:
    app = ContainerStatus("app", "nginx:1", ready=True, state=State(running=RunningNow()))
    return StatusEntry(group_id, "Running", PodStatus(container_statuses=(app,)))


def entry_of(group_id: str) -> GroupEntry:
    told = tuple(Tag(each["Key"], each["Value"]) for each in tags(WHO, more={}))
    containers = (GroupContainer("app", "nginx:1"),)
    return GroupEntry(group_id, "Running", tags=told, containers=containers)


@contextlib.asynccontextmanager
async def at(region: Region, monkeypatch):
    """A backend with one order, and all that it tells, in order."""
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "secret")

    async def call(client, *asked, **how):
        return await region.call(client, *asked, **how)

    monkeypatch.setattr(Client, "call", call)
    told = []
    async with EciBackend(cluster="cluster", node="vn-0", options=OPTIONS) as backend:
        batches = backend.watch()

        async def listen():
            async for batch in batches:
                told.extend(batch)

        listening = asyncio.ensure_future(listen())
        await backend.create(WORK)
        yield backend, told
        listening.cancel()


@pytest.mark.parametrize("trouble", [None, *TROUBLES])
async def test_a_group_that_is_listed_before_its_creation_is_answered_runs_on(trouble, monkeypatch):
    region = Region(trouble)
    async with at(region, monkeypatch) as (backend, told):
        await asyncio.sleep(60)
        assert isinstance(told[-1].containers[0].state, Running)
        (listed,) = await backend.list()
        assert isinstance(listed.containers[0].state, Running)
        assert region.asked == 1
        await backend.delete(WHO, grace_seconds=0)
        await asyncio.sleep(10)
        assert region.removed == ["eci-1"]
        assert isinstance(told[-1], Gone)


@pytest.mark.parametrize("trouble", [None, *TROUBLES])
@pytest.mark.parametrize("after", [0.1, 5])
async def test_the_group_of_a_pod_that_was_deleted_before_its_creation_was_answered_is_removed(
    trouble, after, monkeypatch
):
    region = Region(trouble)
    async with at(region, monkeypatch) as (backend, told):
        await asyncio.sleep(after)
        await backend.delete(WHO, grace_seconds=0)
        await asyncio.sleep(60)
        assert set(region.removed) == {"eci-1"}
        assert region.groups == []
        assert isinstance(told[-1], Gone)
        assert await backend.list() == []


async def test_another_group_of_a_pod_that_is_told_of_late_is_removed(monkeypatch):
    region = Region(None, answers="eci-2")
    async with at(region, monkeypatch) as (backend, told):
        await asyncio.sleep(60)
        assert region.removed == ["eci-2"]
        assert isinstance(told[-1].containers[0].state, Running)
        assert len(await backend.list()) == 1


class Behind(Region):
    """Stands for a proxy before ECI that lets no create pass; a group of an earlier try may be listed from a time on."""

    def __init__(self, *, listed_at=float("inf")):
        super().__init__(None)
        self.listed_at = listed_at

    async def call(self, _client, action, parameters, kind, **_):
        if action == "CreateContainerGroup":
            self.asked += 1
            raise fault(action, status=413, body=b"too large", headers={})
        if not self.removed and asyncio.get_running_loop().time() >= self.listed_at:
            self.groups = ["eci-1"]
        return await super().call(_client, action, parameters, kind)


async def test_a_deleted_pod_whose_creation_is_never_answered_is_gone_within_a_minute(monkeypatch):
    region = Behind()
    async with at(region, monkeypatch) as (backend, told):
        await asyncio.sleep(60)
        asked = region.asked
        await backend.delete(WHO, grace_seconds=0)
        await asyncio.sleep(1)
        assert told[-1].deleting
        await asyncio.sleep(60)
        assert isinstance(told[-1], Gone)
        assert await backend.list() == []
        assert region.asked == asked > 1


@pytest.mark.parametrize("after", [5, 0.8 * APPEARS_WITHIN])
async def test_the_group_of_a_lost_reply_is_removed_although_its_pod_is_deleted(after, monkeypatch):
    region = Behind(listed_at=asyncio.get_running_loop().time() + 10 + after)
    async with at(region, monkeypatch) as (backend, told):
        await asyncio.sleep(10)
        await backend.delete(WHO, grace_seconds=0)
        await asyncio.sleep(60)
        assert set(region.removed) == {"eci-1"}
        assert isinstance(told[-1], Gone)
