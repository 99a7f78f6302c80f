"""vSwitches with a handful of addresses: pods move on to the next, wait when all are full, and start when there is room."""

import ipaddress
from collections import Counter

from emulators import KEY, emulator, until

from overspill.backends.eci import creations, placements
from overspill.backends.eci.backend import EciBackend
from overspill.emulator.network import VSwitch
from overspill.model.podstatus import to_pod_status
from overspill.model.work import Container, Identity, WorkSpec

# Of eight addresses each, the first and the last three are nobody's.
SMALL = (
    VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/29"),
    VSwitch("vsw-b", "cn-hangzhou-i", "10.230.1.0/29"),
)
ROOM = 4


def pod(number):
    identity = Identity("cluster", "vn-0", "default", f"pod-{number}", f"{number:032d}-uid", 0)
    return WorkSpec(identity=identity, hostname="pod", containers=(Container("main", "example.org/app:1"),))


async def statuses(backend):
    """Pod -> its status as the agent writes it."""
    seen = await backend.list()
    return {each.identity.name: to_pod_status(each, host_ip="192.0.2.1") for each in seen}


def unprovisioned(status):
    """The reason of InstanceProvisioned=False, "" without that condition."""
    return next(
        (c.reason for c in status.conditions if c.type == "InstanceProvisioned" and c.status == "False"), ""
    )


async def test_full_vswitches_make_pods_wait_until_an_address_is_free(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
    monkeypatch.setattr(creations, "NO_ROOM_FIRST", 0.2)
    monkeypatch.setattr(creations, "NO_ROOM_CAP", 0.2)
    monkeypatch.setattr(placements, "FULL_SECONDS", 0.5)
    options = {"region": "cn-hangzhou", "vSwitchIds": "vsw-a,vsw-b", "securityGroupIds": "sg-1"}
    options |= {"pollSeconds": 0.05}
    async with emulator(tmp_path, vswitches=SMALL) as rig:
        options["endpoint"] = rig.endpoint.endpoint
        async with EciBackend(cluster="cluster", node="vn-0", options=options) as backend:
            works = [pod(number) for number in range(2 * ROOM + 1)]
            for work in works[: ROOM + 1]:
                await backend.create(work)

            async def running(wanted):
                found = await statuses(backend)
                return found if Counter(s.phase for s in found.values())["Running"] == wanted else None

            found = await until(lambda: running(ROOM + 1), "one more pod than the first vSwitch takes")
            networks = Counter(
                ipaddress.ip_network(f"{each.pod_ip}/29", strict=False) for each in found.values()
            )
            assert sorted(networks.values()) == [1, ROOM]

            for work in works[ROOM + 1 :]:
                await backend.create(work)

            async def full():
                found = await running(2 * ROOM)
                left = [(name, s) for name, s in (found or {}).items() if unprovisioned(s)]
                return left or None

            ((name, status),) = await until(full, "one pod to wait for an address")
            assert (status.phase, unprovisioned(status)) == ("Pending", "NoAddress")

            (doomed, *_) = [work for work in works if work.identity.name != name]
            await backend.delete(doomed.identity, grace_seconds=0)

            async def started():
                return (await statuses(backend)).get(name, status).phase == "Running"

            await until(started, "the pod to start in the place of another")
            found = await statuses(backend)
            assert not any(unprovisioned(each) for each in found.values())
            assert len({each.pod_ip for each in found.values()}) == 2 * ROOM
