"""Who a pod's processes are and what they may do, on a real Podman, after what NodeConformance asks for."""

import pytest
from podman_pods import SLEEP, Stage, ended, first_output, is_running, log_of, pod, run_in, shell, waits

from overspill.errors import Rejected, Unsupported
from overspill.model.observation import Observation, Terminated, Waiting
from overspill.model.work import EmptyDir, File, Files, Mount, SecurityContext

pytestmark = pytest.mark.podman

DEFAULT_CAPABILITIES = 0xA80425FB
NET_BIND_SERVICE, CHOWN, NET_ADMIN = 1 << 10, 1 << 0, 1 << 12
PROC_STATUS = ["sh", "-c", "cat /proc/1/status"]
RESTRICTED = SecurityContext(
    run_as_user=1000,
    run_as_non_root=True,
    drop_capabilities=("ALL",),
    no_new_privileges=True,
    seccomp="RuntimeDefault",
)


async def status_of(stage: Stage, work, *, container: str = "main") -> dict[str, str]:
    text = await run_in(stage.backend, work, PROC_STATUS, container=container)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


async def test_a_pod_of_the_restricted_standard_runs(stage: Stage):
    work = pod(
        shell(SLEEP, security=RESTRICTED, mounts=(Mount("scratch", "/scratch"),)),
        volumes={"scratch": EmptyDir()},
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    status = await status_of(stage, work)
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == ["1000"] * 4
    assert await run_in(stage.backend, work, ["sh", "-c", "touch /scratch/x && echo ok"]) == "ok\n"


@pytest.mark.parametrize(
    ("security", "capabilities"),
    [
        (SecurityContext(), DEFAULT_CAPABILITIES),
        (SecurityContext(drop_capabilities=("CHOWN",)), DEFAULT_CAPABILITIES & ~CHOWN),
        (SecurityContext(add_capabilities=("NET_ADMIN",)), DEFAULT_CAPABILITIES | NET_ADMIN),
        (
            SecurityContext(drop_capabilities=("ALL",), add_capabilities=("NET_BIND_SERVICE",)),
            NET_BIND_SERVICE,
        ),
    ],
)
async def test_capabilities(stage: Stage, security: SecurityContext, capabilities: int):
    work = pod(shell(SLEEP, security=security))
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert int((await status_of(stage, work))["CapEff"], 16) == capabilities


async def test_system_calls_unconfined_only_where_asked_for(stage: Stage):
    work = pod(
        shell(SLEEP),
        shell(SLEEP, name="free", security=SecurityContext(seccomp="Unconfined")),
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    status = await status_of(stage, work)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "0")
    assert (await status_of(stage, work, container="free"))["Seccomp"] == "0"


async def test_a_root_file_system_that_cannot_be_written(stage: Stage):
    script = f"touch /x 2>&1; touch /tmp/x 2>&1; touch /scratch/x && echo scratch; {SLEEP}"
    work = pod(
        shell(
            script,
            security=SecurityContext(read_only_root_filesystem=True),
            mounts=(Mount("scratch", "/scratch"),),
        ),
        volumes={"scratch": EmptyDir()},
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await run_in(stage.backend, work, ["sh", "-c", "touch /y || echo no"]) == "no\n"
    out = (await log_of(stage.backend, work)).decode().splitlines()
    assert [line.rpartition(": ")[2] for line in out] == [
        "Read-only file system",
        "Read-only file system",
        "scratch",
    ]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (None, "container has runAsNonRoot and image will run as root"),
        (0, "container's runAsUser breaks non-root policy"),
    ],
)
async def test_root_where_it_must_not_be(stage: Stage, user: int | None, message: str):
    work = pod(shell(SLEEP, security=SecurityContext(run_as_user=user, run_as_non_root=True)))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, waits("CreateContainerConfigError"))
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Waiting)
    assert state.message == f'{message} (pod: "pod_default({work.identity.uid})", container: main)'


async def test_groups_of_processes_and_volumes(stage: Stage):
    mounts = (Mount("disk", "/disk"), Mount("memory", "/memory"), Mount("conf", "/conf"))
    script = "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; for v in disk memory; do touch /$v/x; done"
    work = pod(
        shell(f"{script}; {SLEEP}", security=SecurityContext(run_as_user=1000), mounts=mounts),
        volumes={
            "disk": EmptyDir(),
            "memory": EmptyDir(medium="Memory"),
            "conf": Files(
                (File("a", b"1"), File("token", b"t", 0o600, owner=1000), File("d/b", b"2", 0o400))
            ),
        },
        fs_group=2000,
        supplemental_groups=(3000,),
    )
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert (await first_output(stage.backend, work)).split() == [b"0", b"2000", b"3000"]
    stat = "stat -Lc '%u:%g %a %n' /disk /memory /disk/x /memory/x /conf/a /conf/token /conf/d /conf/d/b"
    lines = (await run_in(stage.backend, work, ["sh", "-c", stat])).splitlines()
    assert lines == [
        "0:2000 2777 /disk",
        "0:2000 2777 /memory",
        "1000:2000 644 /disk/x",
        "1000:2000 644 /memory/x",
        "0:2000 644 /conf/a",
        "1000:2000 640 /conf/token",
        "0:2000 2755 /conf/d",
        "0:2000 440 /conf/d/b",
    ]
    await stage.backend.refresh(work.identity, {"conf": Files((File("a", b"new", 0o400),))})
    again = await run_in(stage.backend, work, ["sh", "-c", "cat /conf/a; stat -Lc ' %u:%g %a' /conf/a"])
    assert again == "new 0:2000 440\n"


async def test_volumes_without_a_group_are_everybodys(stage: Stage):
    mounts = (Mount("disk", "/disk"), Mount("memory", "/memory"))
    work = pod(shell(SLEEP, mounts=mounts), volumes={"disk": EmptyDir(), "memory": EmptyDir(medium="Memory")})
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert await run_in(stage.backend, work, ["stat", "-c", "%a", "/disk", "/memory"]) == "777\n777\n"


async def test_only_the_groups_that_were_asked_for(stage: Stage):
    strict = {"only_these_groups": True, "supplemental_groups": (3000,)}
    security = SecurityContext(run_as_user=1000, run_as_group=4000)
    work = pod(shell(SLEEP, security=security), **strict)
    await stage.backend.create(work)
    await stage.witness.running(work)
    assert (await status_of(stage, work))["Groups"].split() == ["3000", "4000"]
    with pytest.raises(Unsupported, match="supplementalGroupsPolicy Strict"):
        await stage.backend.create(pod(shell(SLEEP, security=SecurityContext(run_as_user=1000)), **strict))


async def test_sysctls(stage: Stage):
    work = pod(
        shell("sysctl -n kernel.shm_rmid_forced net.ipv4.ip_unprivileged_port_start"),
        sysctls=(("kernel/shm_rmid_forced", "1"), ("net.ipv4.ip_unprivileged_port_start", "80")),
        restart_policy="Never",
    )
    await stage.backend.create(work)
    await stage.witness.until(work, ended)
    assert await log_of(stage.backend, work) == b"1\n80\n"
    with pytest.raises(Rejected, match=r"forbidden sysctl: .kernel.msgmax. not allowlisted"):
        await stage.backend.create(pod(shell(SLEEP), sysctls=(("kernel.msgmax", "10"),)))


async def test_processes_in_common(stage: Stage):
    work = pod(shell(SLEEP), shell("sleep 1000", name="other"), share_process_namespace=True)
    await stage.backend.create(work)
    await stage.witness.running(work)
    processes = await run_in(stage.backend, work, ["ps"])
    assert "sleep 1000" in processes
    await stage.backend.delete(work.identity, grace_seconds=30)
    gone = await stage.witness.gone(work)
    assert gone.last
    state = gone.last.containers[0].state
    assert isinstance(state, Terminated)
    assert state.exit_code == 0


async def test_the_full_name_as_host_name(stage: Stage):
    work = pod(shell(SLEEP), name="web-0", domain="web.shop.svc.cluster.local", hostname_is_fqdn=True)
    await stage.backend.create(work)
    seen = await stage.witness.until(work, is_running)
    assert isinstance(seen, Observation)
    full = "web-0.web.shop.svc.cluster.local"
    assert await run_in(stage.backend, work, ["hostname"]) == f"{full}\n"
    assert f"{seen.ips[0]}\t{full}\tweb-0\n" in await run_in(stage.backend, work, ["cat", "/etc/hosts"])
