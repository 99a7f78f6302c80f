"""The `eci` backend against an emulator that does what clouds do: refuse, lose, throttle, take back."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest
from emulators import KEY, Rig, emulator, until
from msgspec import structs

from overspill.backends.base import LogOptions
from overspill.backends.eci.backend import EciBackend
from overspill.backends.eci.client import Client
from overspill.backends.eci.faults import fault
from overspill.emulator.network import SecurityGroup, VSwitch
from overspill.errors import Misconfigured, Retry, Unsettled
from overspill.model.observation import Gone, Happened, Observation, Running, Sighting, Terminated
from overspill.model.work import Container, File, Files, Identity, Mount, SecurityContext, WorkSpec

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)


def pod(number: int = 1, *, attempt: int = 0, container: Container | None = None, **fields) -> WorkSpec:
    identity = Identity("cluster", "vn-0", "default", f"pod-{number}", f"{number:032d}-uid", attempt)
    containers = (container or Container("main", "example.org/app:1"),)
    return WorkSpec(identity=identity, hostname=f"pod-{number}", containers=containers, **fields)


class Watched:
    """A backend that is watched."""

    def __init__(self, backend: EciBackend) -> None:
        self.backend = backend
        self.history: list[Sighting] = []
        self._batches = backend.watch()

    async def until(self, work: WorkSpec, condition) -> Sighting:
        looked_at = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                for seen in self.history[looked_at:]:
                    if seen.identity == work.identity and condition(seen):
                        return seen
                looked_at = len(self.history)
                self.history += await anext(self._batches)

    async def running(self, work: WorkSpec) -> Observation:
        seen = await self.until(work, runs)
        assert isinstance(seen, Observation)
        return seen


def runs(seen: Sighting) -> bool:
    return isinstance(seen, Observation) and all(isinstance(c.state, Running) for c in seen.containers)


def unprovisioned(seen: Sighting) -> bool:
    return isinstance(seen, Observation) and seen.provisioned is False


def options(rig: Rig, **more) -> dict:
    return {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
        "securityGroupIds": rig.endpoint.security_group_id,
        "pollSeconds": 0.05,
        **more,
    }


@contextlib.asynccontextmanager
async def connected(rig: Rig, **more) -> AsyncIterator[Watched]:
    async with EciBackend(cluster="cluster", node="vn-0", options=options(rig, **more)) as backend:
        yield Watched(backend)


async def groups(rig: Rig) -> dict[str, int]:
    return (await rig.admin("GET", "/status"))["groups"]


async def calls(rig: Rig, action: str) -> int:
    return (await rig.admin("GET", "/status"))["calls"].get(action, 0)


async def test_a_lost_reply_makes_no_second_group(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin(
            "POST", "/faults", {"kind": "lost-reply", "actions": ["CreateContainerGroup"], "count": 6}
        )
        works = [pod(number) for number in range(3)]
        for work in works:
            await watched.backend.create(work)
        for work in works:
            await watched.running(work)
        assert sum((await groups(rig)).values()) == 3


async def test_a_start_with_a_clock_that_is_off_may_be_tried_again(tmp_path):
    async with emulator(tmp_path) as rig:
        await rig.admin("POST", "/faults", {"kind": "clock-skew", "seconds": 1000})
        with pytest.raises(Unsettled, match="set it, and have it kept by NTP"):
            async with connected(rig):
                pass


async def test_a_start_while_eci_is_away_is_made_up_for(tmp_path):
    """An agent that ended because of that was started ever more seldom, and did not delete meanwhile (chaos, seed 1)."""
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await watched.backend.create(pod())
        await watched.running(pod())
    async with connected(rig) as watched:
        with pytest.raises(Retry):
            await watched.backend.health()
        with pytest.raises(Retry):
            await watched.backend.list()
        async with emulator(tmp_path):
            (found,) = await watched.backend.list()
            assert found.identity == pod().identity
            await watched.backend.health()
            await watched.backend.delete(pod().identity, grace_seconds=0)
            await watched.until(pod(), lambda seen: isinstance(seen, Gone))


async def test_a_page_of_a_proxy_before_eci_refuses_nothing(tmp_path, monkeypatch):
    once, left = Client._once, {"CreateContainerGroup", "DescribeContainerGroupStatus"}

    async def by_proxy(client, action, body, kind):
        if action in left:
            left.discard(action)
            raise fault(action, status=403, body=b"<html>forbidden</html>", headers={})
        return await once(client, action, body, kind)

    monkeypatch.setattr(Client, "_once", by_proxy)
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await watched.backend.create(pod())
        await watched.running(pod())
        left.add("DescribeContainerGroupStatus")
        await watched.backend.health()


async def test_a_start_that_eci_rejects_is_made_up_for(tmp_path):
    async with emulator(tmp_path) as rig:
        await rig.admin(
            "POST", "/faults", {"kind": "error", "code": "InvalidParameter", "status": 400, "count": 1}
        )
        async with connected(rig) as watched:
            await watched.backend.create(pod())
            await watched.running(pod())


async def test_a_restarted_agent_finds_the_group_of_a_lost_reply(tmp_path):
    async with emulator(tmp_path) as rig:
        await rig.admin(
            "POST", "/faults", {"kind": "lost-reply", "actions": ["CreateContainerGroup"], "count": 1}
        )
        async with connected(rig) as watched:
            await watched.backend.create(pod())
            await until(lambda: groups(rig), "a group")
        # Another placement, as another process may choose: the token then stands for another request.
        async with connected(rig, vSwitchIds="vsw-b") as again:
            await again.backend.create(pod())
            assert [seen.identity for seen in await again.backend.list()] == [pod().identity]
            assert await groups(rig) == {"Running": 1}


async def test_a_mismatched_token_leads_to_the_group_that_it_made(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await watched.backend.create(pod())
        first = (await watched.running(pod())).annotations["k8s.aliyun.com/eci-instance-id"]
        tags = [("another-cluster", "vn-9")]
        async with EciBackend(cluster=tags[0][0], node=tags[0][1], options=options(rig)) as stranger:
            other = Watched(stranger)
            # The same uid and attempt, asked for with other parameters, as if this process had not seen the group.
            await stranger.create(pod(container=Container("main", "example.org/app:2")))
            seen = await other.until(pod(), lambda s: isinstance(s, Observation) and bool(s.annotations))
        assert isinstance(seen, Observation)
        assert seen.annotations["k8s.aliyun.com/eci-instance-id"] == first
        assert await groups(rig) == {"Running": 1}


async def test_addresses_run_out_and_the_next_vswitch_is_used(tmp_path):
    small = (
        VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/29"),
        VSwitch("vsw-b", "cn-hangzhou-i", "10.230.1.0/29"),
    )
    async with emulator(tmp_path, vswitches=small) as rig, connected(rig) as watched:
        works = [pod(number) for number in range(9)]
        for work in works:
            await watched.backend.create(work)
        for work in works[:8]:
            await watched.until(work, lambda seen: runs(seen) or unprovisioned(seen))
        seen = [await watched.until(work, lambda s: runs(s) or unprovisioned(s)) for work in works]
        placed = [each for each in seen if runs(each)]
        (left,) = [each for each in seen if unprovisioned(each)]
        assert len({each.ips for each in placed}) == 8
        assert left.reason == "NoAddress"
        await watched.backend.delete(left.identity, grace_seconds=0)
        assert isinstance(await watched.until(works[seen.index(left)], lambda s: isinstance(s, Gone)), Gone)


async def test_no_stock_is_told_and_the_pod_starts_once_there_is_some(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin("POST", "/faults", {"kind": "no-stock"})
        work = pod()
        await watched.backend.create(work)
        seen = await watched.until(work, unprovisioned)
        assert seen.reason == "NoStock"
        assert "RequestId" in seen.message
        assert "OperationDenied.NoStock" in seen.message
        assert await watched.backend.list() == [seen]


async def test_spot_falls_back_to_pay_as_you_go(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin("POST", "/faults", {"kind": "no-stock", "count": 1})
        notes = {
            "k8s.aliyun.com/eci-spot-strategy": "SpotAsPriceGo",
            "k8s.aliyun.com/eci-spot-fallback": "true",
        }
        work = pod(annotations=notes)
        await watched.backend.create(work)
        await watched.running(work)
        assert [each["SpotStrategy"] for each in await rig.details()] == ["NoSpot"]


async def test_a_spot_instance_is_taken_back(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        work = pod(annotations={"k8s.aliyun.com/eci-spot-strategy": "SpotAsPriceGo"})
        await watched.backend.create(work)
        seen = await watched.running(work)
        await rig.admin("POST", f"/spot/{seen.annotations['k8s.aliyun.com/eci-instance-id']}")
        warned = await watched.until(work, unprovisioned)
        assert warned.reason == "SpotInterrupted"
        ended = await watched.until(work, lambda s: isinstance(s, Observation) and s.failed)
        assert ended.reason == "SpotInterrupted"


async def test_throttling_slows_down_and_loses_nothing(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin("POST", "/faults", {"kind": "throttle", "probability": 0.3})
        works = [pod(number) for number in range(8)]
        for work in works:
            await watched.backend.create(work)
        for work in works:
            await watched.running(work)
        await rig.admin("DELETE", "/faults")
        assert not any(isinstance(seen, Gone) for seen in watched.history)
        assert await groups(rig) == {"Running": 8}


async def test_a_pod_deleted_while_it_is_being_made_leaves_nothing(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin(
            "POST", "/faults", {"kind": "latency", "actions": ["CreateContainerGroup"], "seconds": 0.5}
        )
        work = pod()
        await watched.backend.create(work)
        await until(lambda: calls(rig, "CreateContainerGroup"), "a call")
        await watched.backend.delete(work.identity, grace_seconds=0)
        await watched.until(work, lambda seen: isinstance(seen, Gone))
        assert await watched.backend.list() == []
        assert await groups(rig) == {}


async def test_full_security_groups_lead_to_the_next(tmp_path):
    two = (SecurityGroup("sg-1", "basic"), SecurityGroup("sg-2", "basic"))
    async with (
        emulator(tmp_path, security_groups=two) as rig,
        connected(rig, securityGroupIds="sg-1,sg-2") as watched,
    ):
        works = [pod(number) for number in range(6)]
        for work in works:
            await watched.backend.create(work)
        for work in works:
            await watched.running(work)
        assert {each["SecurityGroupId"] for each in await rig.details()} == {"sg-1", "sg-2"}


async def test_logs_are_followed_line_by_line(tmp_path):
    notes = {
        "k8s.aliyun.com/eci-custom-tags": (
            "simulated.overspill.dev/output.main:one\ntwo,simulated.overspill.dev/run-seconds.main:1"
        )
    }
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        work = pod(annotations=notes, restart_policy="Never")
        await watched.backend.create(work)
        await watched.running(work)
        pieces = watched.backend.logs(work.identity, "main", LogOptions(follow=True))
        text = b"".join([piece async for piece in pieces])
        assert text == b"one\ntwo\n"


@pytest.mark.parametrize("found_again", [False, True])
async def test_the_end_of_the_log_is_the_message_of_who_wrote_none(tmp_path, found_again):
    plays = {"output": "last words", "run-seconds": "1.5", "exit-code": "3"}
    told = ",".join(f"simulated.overspill.dev/{name}:{value}" for name, value in plays.items())
    wants = Container("main", "example.org/app:1", termination_message_policy="FallbackToLogsOnError")
    work = structs.replace(
        pod(annotations={"k8s.aliyun.com/eci-custom-tags": told}, restart_policy="Never"),
        containers=(Container("other", "example.org/app:1"), wants),
    )
    async with emulator(tmp_path) as rig:
        async with connected(rig) as watched:
            await watched.backend.create(work)
            await watched.running(work)
            if not found_again:
                await watched.until(work, has_failed)
                check_words(watched)
        if found_again:
            async with connected(rig) as watched:
                await watched.until(work, has_failed)
                check_words(watched)


def has_failed(seen: Sighting) -> bool:
    return isinstance(seen, Observation) and all(isinstance(c.state, Terminated) for c in seen.containers)


def check_words(watched: Watched) -> None:
    """An end is told with its message, at once: a pod that has ended is told of no more."""
    ends = [
        [each.state.message for each in seen.containers if isinstance(each.state, Terminated)]
        for seen in watched.history
        if isinstance(seen, Observation) and has_failed(seen)
    ]
    assert ends
    assert all(other == "" and main.splitlines()[0] == "last words" for other, main in ends)


async def test_files_are_sent_anew(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        mount = Container("main", "example.org/app:1", mounts=(Mount("token", "/var/run/token"),))
        work = pod(container=mount, volumes={"token": Files((File("token", b"old"),))})
        await watched.backend.create(work)
        await watched.running(work)
        await watched.backend.refresh(work.identity, {"token": Files((File("token", b"new"),))})
        async with asyncio.timeout(PATIENCE):
            while await calls(rig, "UpdateContainerGroup") != 1:
                pass


async def test_open_shells_take_no_connection_from_calls(tmp_path, monkeypatch):
    monkeypatch.setattr("overspill.backends.eci.client.CONNECTIONS", 2)
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        work = pod()
        await watched.backend.create(work)
        await watched.running(work)
        async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as open_ones:
            for _ in range(4):
                shell = await watched.backend.exec(work.identity, "main", ["cat"], stdin=True, tty=False)
                open_ones.push_async_callback(shell.close)
            assert len(await watched.backend.list()) == 1


async def test_a_group_that_waits_for_room_is_made_with_the_newest_files(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        await rig.admin("POST", "/faults", {"kind": "no-stock"})
        mount = Container("main", "example.org/app:1", mounts=(Mount("conf", "/conf", read_only=True),))
        work = pod(container=mount, volumes={"conf": Files((File("key", b"old"),))})
        await watched.backend.create(work)
        await watched.until(work, unprovisioned)
        await watched.backend.refresh(work.identity, {"conf": Files((File("key", b"new"),))})
        await rig.admin("DELETE", "/faults")
        other = pod(2)  # finds room, and so has those asked for that wait
        await watched.backend.create(other)
        await watched.running(work)
        process = await watched.backend.exec(
            work.identity, "main", ["cat", "/conf/key"], stdin=False, tty=False
        )
        assert [data async for _, data in process.output()] == [b"new"]
        await process.close()
        assert await calls(rig, "UpdateContainerGroup") == 0


def told(seen: Sighting, reason: str) -> bool:
    return isinstance(seen, Happened) and seen.reason == reason


async def test_what_eci_tells_of_a_failed_group_is_told_once(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        fault = {"kind": "schedule-failure", "actions": ["CreateContainerGroup"], "count": 1}
        await rig.admin("POST", "/faults", fault)
        failing, running = pod(1), pod(2)
        await watched.backend.create(failing)
        seen = await watched.until(failing, lambda seen: told(seen, "NoStock"))
        assert seen.warning
        assert "out of stock" in seen.message
        await watched.backend.create(running)
        await watched.running(running)

        async def looked_again():
            return await calls(rig, "DescribeContainerGroupEvents") >= 3

        await until(looked_again, "the last look at a failed group")
        await watched.backend.delete(failing.identity, grace_seconds=0)
        await watched.until(failing, lambda seen: isinstance(seen, Gone))
        assert sum(told(seen, "NoStock") for seen in watched.history) == 1
        # Nobody asks about a group that runs.
        assert not any(isinstance(s, Happened) and s.identity == running.identity for s in watched.history)


def price_of(seen: Sighting) -> tuple[str, str]:
    assert isinstance(seen, Observation)
    written = seen.annotations
    return written.get("overspill.dev/price-source", ""), written.get("overspill.dev/price-per-second", "")


async def test_a_price_is_asked_for_once_for_each_kind_of_group(tmp_path):
    spot = {"k8s.aliyun.com/eci-spot-strategy": "SpotAsPriceGo"}
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        for work in (pod(1), pod(2), pod(3, annotations=spot)):
            await watched.backend.create(work)
            await watched.until(work, lambda s: isinstance(s, Observation) and price_of(s)[0] == "quote")
        found = {s.identity.name: price_of(s) for s in await watched.backend.list()}
        assert found["pod-1"] == found["pod-2"] == ("quote", "0.00012252")
        assert found["pod-3"] == ("quote", "0.000036756")
        assert await calls(rig, "DescribeContainerGroupPrice") == 2


async def test_the_list_price_stands_in_where_the_account_may_not_ask(tmp_path):
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        forbidden = {"kind": "error", "code": "NoPermission", "status": 403}
        await rig.admin("POST", "/faults", forbidden | {"actions": ["DescribeContainerGroupPrice"]})
        await watched.backend.create(pod())
        seen = await watched.running(pod())
        assert price_of(seen) == ("list", "0.000122520")

        async def asked():
            return await calls(rig, "DescribeContainerGroupPrice") == 1

        await until(asked, "the price to be asked for")
        await watched.backend.create(pod(2))
        assert price_of(await watched.running(pod(2)))[0] == "list"
        assert await calls(rig, "DescribeContainerGroupPrice") == 1


async def test_what_the_pod_runs_without_is_told(tmp_path):
    confined = SecurityContext(drop_capabilities=("ALL",), no_new_privileges=True)
    async with emulator(tmp_path) as rig, connected(rig) as watched:
        work = pod(container=Container("main", "example.org/app:1", security=confined))
        await watched.backend.create(work)
        told = await watched.until(work, lambda seen: isinstance(seen, Happened))
        assert (told.reason, told.warning) == ("NotHonoured", True)
        assert "containers[].securityContext.capabilities.drop" in told.message
        seen = await watched.running(work)
        assert seen.annotations["overspill.dev/not-honoured"] == (
            "containers[].securityContext.capabilities.drop,"
            "containers[].securityContext.allowPrivilegeEscalation"
        )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"region": "r"}, "vSwitchIds"),
        ({"region": "r", "vSwitchIds": "v", "typo": 1}, "typo"),
        ({"region": "r", "vSwitchIds": "v", "accessKeySecret": "s3cret"}, "cannot be an option"),
        ({"region": "r", "vSwitchIds": "v", "endpoint": "http://203.0.113.1"}, "plain HTTP"),
        ({"region": "r", "vSwitchIds": "v", "createRate": 0}, "above 0"),
    ],
)
def test_bad_options(given, told):
    with pytest.raises(Misconfigured, match=told) as refused:
        EciBackend(cluster="c", node="n", options=given)
    assert "s3cret" not in str(refused.value)
    assert os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"] not in str(refused.value)


async def test_sidecars_are_known_again_by_another_process(tmp_path):
    beside = Container("beside", "example.org/proxy:1", restart_policy="Always")
    work = pod(init_containers=(Container("before", "example.org/setup:1"), beside))
    async with emulator(tmp_path) as rig:
        async with connected(rig) as watched:
            await watched.backend.create(work)
            first = await watched.until(work, lambda s: runs(s) and runs_beside(s))
        async with connected(rig) as again:
            (found,) = await again.backend.list()
    assert isinstance(first, Observation)
    for seen in (first, found):
        assert [each.name for each in seen.containers] == ["main"]
        assert [(each.name, each.sidecar) for each in seen.init_containers] == [
            ("before", False),
            ("beside", True),
        ]


def runs_beside(seen: Sighting) -> bool:
    return isinstance(seen, Observation) and isinstance(seen.init_containers[-1].state, Running)
