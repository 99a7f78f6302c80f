"""Random pods through translation, emulator and status: what went in comes out."""

import asyncio
import random

from emulators import KEY, Rig, emulator

from overspill.backends.eci.backend import EciBackend
from overspill.model.observation import Observation, Running
from overspill.model.podstatus import to_pod_status
from overspill.model.work import (
    Container,
    EmptyDir,
    EnvVar,
    File,
    Files,
    HostAlias,
    Identity,
    Mount,
    Port,
    Resources,
    WorkSpec,
)

PODS = 40


def container(luck: random.Random, name: str, volumes: dict) -> Container:
    return Container(
        name,
        f"example.org/{name}:{luck.randrange(9)}",
        command=tuple(luck.sample(["sh", "-c", "a b", "ä=&*+"], luck.randrange(4))),
        args=tuple(luck.sample(["--x", "y z", "%20"], luck.randrange(3))),
        env=tuple(
            EnvVar(f"V{number}", luck.choice(["", "x y", "=&+"])) for number in range(luck.randrange(4))
        ),
        ports=tuple(Port(8000 + number) for number in range(luck.randrange(3))),
        mounts=tuple(Mount(volume, f"/mnt/{volume}", luck.random() < 0.5) for volume in volumes),
        resources=luck.choice([Resources(), Resources(cpu_limit=0.25, memory_limit=1 << 28)]),
    )


def pod(seed: int) -> WorkSpec:
    luck = random.Random(seed)
    volumes = {
        "scratch": EmptyDir(luck.choice(["", "Memory"]), luck.choice([None, 1 << 20])),
        "files": Files((File("a", luck.randbytes(20)), File("b/c", b"", 0o400))),
    }
    volumes = dict(luck.sample(sorted(volumes.items()), luck.randrange(3)))
    return WorkSpec(
        identity=Identity("cluster", "vn-0", "default", f"pod-{seed}", f"{seed:036d}"),
        hostname=f"pod-{seed}",
        containers=tuple(container(luck, f"c{number}", volumes) for number in range(luck.randint(1, 3))),
        init_containers=tuple(
            Container(f"init{number}", "example.org/init:1") for number in range(luck.randrange(3))
        ),
        volumes=volumes,
        host_aliases=luck.choice([(), (HostAlias("10.0.0.9", ("db", "db.local")),)]),
        restart_policy=luck.choice(["Always", "OnFailure", "Never"]),
    )


async def test_random_pods_come_out_as_they_went_in(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
    works = {f"{seed:036d}": pod(seed) for seed in range(PODS)}
    async with emulator(tmp_path) as rig:
        options = {
            "region": rig.endpoint.region,
            "endpoint": rig.endpoint.endpoint,
            "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
            "pollSeconds": 0.05,
        }
        async with EciBackend(cluster="cluster", node="vn-0", options=options) as backend:
            batches = backend.watch()
            for work in works.values():
                await backend.create(work)
            running = await all_running(batches, set(works))
        for uid, seen in running.items():
            check_status(works[uid], seen)
            await check_group(rig, works[uid], seen)


async def all_running(batches, uids: set[str]) -> dict[str, Observation]:
    running: dict[str, Observation] = {}
    async with asyncio.timeout(30):
        while running.keys() != uids:
            for seen in await anext(batches):
                if isinstance(seen, Observation) and all(
                    isinstance(c.state, Running) for c in seen.containers
                ):
                    running[seen.identity.uid] = seen
    return running


def check_status(work: WorkSpec, seen: Observation) -> None:
    """Every container of the pod is in its status, in the pod's order."""
    status = to_pod_status(seen, host_ip="10.0.0.1")
    assert seen.identity == work.identity
    assert status.phase == "Running"
    assert [(c.name, c.image) for c in status.container_statuses] == [
        (c.name, c.image) for c in work.containers
    ]
    assert [c.name for c in status.init_container_statuses or ()] == [c.name for c in work.init_containers]
    assert seen.ips


async def check_group(rig: Rig, work: WorkSpec, seen: Observation) -> None:
    """The group, as ECI tells of it, is the pod."""
    group_id = seen.annotations["k8s.aliyun.com/eci-instance-id"]
    (group,) = await rig.details(container_group_ids=f'["{group_id}"]')
    assert group["RestartPolicy"] == work.restart_policy
    assert [volume["Name"] for volume in group["Volumes"]] == list(work.volumes)
    assert [init["Name"] for init in group["InitContainers"]] == [init.name for init in work.init_containers]
    for told, wanted in zip(group["Containers"], work.containers, strict=True):
        assert (told["Name"], told["Image"]) == (wanted.name, wanted.image)
        assert tuple(told["Commands"]) == wanted.command
        assert tuple(told["Args"]) == wanted.args
        assert [port["Port"] for port in told["Ports"]] == [port.container_port for port in wanted.ports]
        assert [mount["MountPath"] for mount in told["VolumeMounts"]] == [m.path for m in wanted.mounts]
