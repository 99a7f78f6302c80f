"""Files that pods see on a real Podman: parts of volumes, refreshes, names, after what NodeConformance asks for."""

import pytest
from podman_pods import SLEEP, Stage, ended, eventually, log_of, pod, run_in, shell, waits

from overspill.errors import Unsupported
from overspill.model.observation import Observation, Running, Waiting
from overspill.model.work import Dns, EmptyDir, File, Files, HostAlias, Mount

pytestmark = pytest.mark.podman


async def test_sub_paths_are_made_shared_and_apart(stage: Stage):
    writer = (Mount("scratch", "/data", sub_path="a/b"),)
    reader = (Mount("scratch", "/all"), Mount("scratch", "/only", sub_path="a/b", read_only=True))
    work = pod(
        shell(f"echo x >/data/x; {SLEEP}", mounts=writer),
        shell(SLEEP, name="reader", mounts=reader),
        volumes={"scratch": EmptyDir()},
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    script = "cat /all/a/b/x /only/x; stat -c %a /all/a /all/a/b; touch /only/y || echo no"
    out = await run_in(stage.backend, work, ["sh", "-c", script], container="reader")
    assert out == "x\nx\n777\n777\nno\n"


async def test_a_sub_path_of_files_never_changes_while_the_volume_does(stage: Stage):
    mounts = (Mount("conf", "/whole"), Mount("conf", "/etc/one", sub_path="one"))
    work = pod(shell(SLEEP, mounts=mounts), volumes={"conf": Files((File("one", b"old"), File("two", b"2")))})
    await stage.backend.create(work)
    await stage.witness.running(work)
    new = Files((File("one", b"new"), File("three", b"3")))
    await stage.backend.refresh(work.identity, {"conf": new})
    script = "ls /whole; cat /whole/one; echo; cat /etc/one"
    assert await run_in(stage.backend, work, ["sh", "-c", script]) == "one\nthree\nnew\nold"


async def test_a_restarted_container_sees_the_new_file_of_its_sub_path(stage: Stage):
    once = f"if test -e /state/x; then {SLEEP}; fi; while ! test -e /state/x; do sleep 0.05; done; exit 1"
    mounts = (Mount("conf", "/one", sub_path="one"), Mount("state", "/state"))
    work = pod(
        shell(once, mounts=mounts), volumes={"conf": Files((File("one", b"old"),)), "state": EmptyDir()}
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    await stage.backend.refresh(work.identity, {"conf": Files((File("one", b"new"),))})
    await run_in(stage.backend, work, ["touch", "/state/x"])
    await stage.witness.until(
        work,
        lambda s: (
            isinstance(s, Observation)
            and s.containers[0].restarts == 1
            and isinstance(s.containers[0].state, Running)
        ),
    )
    assert await run_in(stage.backend, work, ["cat", "/one"]) == "new"


async def test_a_sub_path_that_leads_out_of_its_volume(stage: Stage):
    trap = shell("ln -s /etc /scratch/out", name="trap", mounts=(Mount("scratch", "/scratch"),))
    work = pod(
        shell(SLEEP, mounts=(Mount("scratch", "/data", sub_path="out/passwd"),)),
        init_containers=(trap,),
        volumes={"scratch": EmptyDir()},
    )
    await stage.backend.create(work)
    seen = await stage.witness.until(work, waits("CreateContainerConfigError"))
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Waiting)
    assert "leads out of its volume" in state.message


async def test_a_sub_path_in_memory_is_refused_by_name(stage: Stage):
    memory = {"m": EmptyDir(medium="Memory")}
    with pytest.raises(Unsupported, match=r"subPath .of a volume in memory"):
        await stage.backend.create(
            pod(shell(SLEEP, mounts=(Mount("m", "/m", sub_path="x"),)), volumes=memory)
        )


async def test_a_refresh_that_changes_nothing_touches_nothing(stage: Stage):
    files = {"conf": Files((File("a", b"1"),))}
    work = pod(shell(SLEEP, mounts=(Mount("conf", "/conf"),)), volumes=files)
    await stage.backend.create(work)
    await stage.witness.running(work)
    link = ["readlink", "/conf/..data"]
    before = await run_in(stage.backend, work, link)
    await stage.backend.refresh(work.identity, files)
    assert await run_in(stage.backend, work, link) == before
    await stage.backend.refresh(work.identity, {"conf": Files((File("a", b"2"),))})
    assert await run_in(stage.backend, work, link) != before


async def test_hosts_are_the_pods_unless_the_container_brings_its_own(stage: Stage):
    own = Files((File("hosts", b"127.0.0.1 mine\n"),))
    work = pod(
        shell(SLEEP),
        shell(SLEEP, name="own", mounts=(Mount("own", "/etc/hosts", sub_path="hosts"),)),
        name="web-0",
        domain="web.shop.svc.cluster.local",
        volumes={"own": own},
        host_aliases=(HostAlias("10.1.2.3", ("one", "two")),),
    )
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    hosts = (await run_in(stage.backend, work, ["cat", "/etc/hosts"])).splitlines()
    assert hosts[0] == "# Kubernetes-managed hosts file."
    assert f"{seen.ips[0]}\tweb-0.web.shop.svc.cluster.local\tweb-0" in hosts
    assert hosts[-2:] == ["# Entries added by HostAliases.", "10.1.2.3\tone\ttwo"]
    assert await run_in(stage.backend, work, ["cat", "/etc/hosts"], container="own") == "127.0.0.1 mine\n"


async def test_names_are_resolved_as_the_policy_says(stage: Stage):
    default = pod(shell("cat /etc/resolv.conf"), name="default", restart_policy="Never")
    own = pod(
        shell("cat /etc/resolv.conf"),
        name="own",
        restart_policy="Never",
        dns=Dns(("10.0.0.10",), ("a.example",), ("ndots:2", "edns0")),
    )
    for work in (default, own):
        await stage.backend.create(work)
        await stage.witness.until(work, ended)
    assert b"nameserver" in await log_of(stage.backend, default)
    assert await log_of(stage.backend, own) == (
        b"nameserver 10.0.0.10\nsearch a.example\noptions ndots:2 edns0\n"
    )


async def test_a_sandbox_that_podman_cannot_make_is_told_and_tried_again(stage: Stage):
    work = pod(shell(SLEEP), sysctls=(("net.ipv4.ping_group_range", "not a range"),))
    await stage.backend.create(work)
    seen = await stage.witness.until(
        work, lambda s: isinstance(s, Observation) and s.reason == "FailedCreatePodSandBox"
    )
    assert isinstance(seen, Observation)
    assert seen.message.startswith("Failed to create pod sandbox: ")
    assert seen.containers[0].state == Waiting("ContainerCreating")
    assert not seen.failed
    supervisor = stage.backend._node.find(work.identity)
    assert supervisor is not None
    first = supervisor.pod.troubles[""].at
    await eventually(lambda: supervisor.pod.troubles[""].at > first)
