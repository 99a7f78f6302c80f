"""The pure parts of the podman backend: references, bodies, files, logs, inspected containers."""

import re
import stat
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec import structs

from overspill.backends.base import LogOptions
from overspill.backends.feed import Feed
from overspill.backends.podman import capabilities, tags
from overspill.backends.podman.api import ContainerInspect, InspectConfig, InspectState
from overspill.backends.podman.atomic import write_files
from overspill.backends.podman.bodies import (
    container_body,
    pod_body,
    resource_limits,
    volume_body,
    without_place,
)
from overspill.backends.podman.folder import Folder, Record, folders
from overspill.backends.podman.images import credentials_for, digest_for, is_valid, normalize
from overspill.backends.podman.inspect import instant, run_of
from overspill.backends.podman.logfile import read_log
from overspill.backends.podman.marks import read_marks
from overspill.backends.podman.plan import CreateRun
from overspill.backends.podman.security import (
    ConfigError,
    forbidden_sysctls,
    security_settings,
    verify_non_root,
)
from overspill.backends.podman.seen import Deletion, PulledImage, Sandbox
from overspill.backends.podman.subpaths import mount_sources
from overspill.backends.podman.volumes import check_paths, hosts_file, prepare, resolv_conf
from overspill.errors import Rejected, Unsupported
from overspill.model.fields import BACKEND
from overspill.model.observation import Gone, Observation
from overspill.model.work import (
    Container,
    Dns,
    EmptyDir,
    EnvVar,
    File,
    Files,
    HostAlias,
    Identity,
    Mount,
    Nfs,
    RegistryCredential,
    Resources,
    SecurityContext,
    TcpSocketAction,
    WorkSpec,
)

WHO = Identity("cluster", "vn-0", "default", "web", "uid-1", 2)


def work(*containers: Container, **more) -> WorkSpec:
    return WorkSpec(
        identity=WHO, containers=containers or (Container("a", "i"),), **({"hostname": "web"} | more)
    )


# --- images ---


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("org/app", "docker.io/org/app:latest"),
        ("localhost/app:2", "localhost/app:2"),
        ("registry.example/app", "registry.example/app:latest"),
        ("host:5000/app", "host:5000/app:latest"),
        (f"app@sha256:{'a' * 64}", f"docker.io/library/app@sha256:{'a' * 64}"),
    ],
)
def test_short_image_names(short, full):
    assert is_valid(short)
    assert normalize(short) == full


@pytest.mark.parametrize("name", ["", "A/b", "a b", "a:", "a//b", "-a", "a@sha256:12", "https://a/b"])
def test_no_image_names(name):
    assert not is_valid(name)


@pytest.mark.parametrize(
    ("image", "users"),
    [
        ("registry.example/app:1", ["host", "same host"]),
        ("registry.example/team/app:1", ["team", "host", "same host"]),
        ("registry.example/team2/app:1", ["host", "same host"]),
        ("registry.example:5000/app", []),
        ("busybox", ["docker"]),
        ("other.example/app", []),
        ("a.glob.example/app", ["glob"]),
        ("a.b.glob.example/app", []),
        ("glob.example/app", []),
        ("a.glob.example:5000/app", []),
        ("10-a.glob.example:443/team/app", ["glob with port"]),
        ("b.glob.example:443/team/app", []),
    ],
)
def test_the_logins_that_lead_to_an_image(image, users):
    logins = [
        RegistryCredential("registry.example", "host", "x"),
        RegistryCredential("registry.example", "same host", "x"),
        RegistryCredential("*.glob.example", "glob", "x"),
        RegistryCredential("10-*.glob.example:443/team", "glob with port", "x"),
        RegistryCredential("https://registry.example/team", "team", "x"),
        RegistryCredential("https://index.docker.io/v1/", "docker", "x"),
    ]
    assert [login.username for login in credentials_for(image, logins)] == users


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("localhost/b:1", "localhost/b@sha256:2"),
        ("localhost/a", "localhost/a@sha256:1"),
        ("nginx", "docker.io/library/nginx@sha256:3"),
        ("h.io:5000/x:1@sha256:" + "0" * 64, "h.io:5000/x@sha256:4"),
        ("sha256:5", "localhost/a@sha256:1"),
    ],
)
def test_the_digest_of_an_image_of_several_names_is_that_of_the_name_asked_for(reference, found):
    names = (
        "localhost/a@sha256:1",
        "localhost/b@sha256:2",
        "docker.io/library/nginx@sha256:3",
        "h.io:5000/x@sha256:4",
    )
    assert digest_for(reference, names) == found
    assert digest_for(reference, ()) is None


# --- names and labels ---


def test_identity_survives_the_labels():
    wanted = Resources(cpu_request=0.5, memory_limit=1 << 20)
    container = Container("a", "i", resources=wanted)
    marks = tags.container_labels(WHO, container, run=3, backoff=20.0, address="10.0.0.1", image_id="i@d")
    assert tags.identity_of(marks) == WHO
    found = ContainerInspect("id", "name", InspectState("running"), config=InspectConfig(marks))
    run = run_of(found)
    assert run
    assert (run.container, run.number, run.backoff, run.address, run.image_id) == (
        "a",
        3,
        20.0,
        "10.0.0.1",
        "i@d",
    )
    assert run.resources == wanted
    assert tags.identity_of({"other": "label"}) is None
    assert run_of(ContainerInspect("id", "name", InspectState("running"))) is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("created", "created"),
        ("initialized", "created"),
        ("running", "running"),
        ("stopping", "running"),
        ("paused", "running"),
        ("stopped", "exited"),
        ("exited", "exited"),
    ],
)
def test_states_of_podman(status, state):
    marks = tags.container_labels(WHO, Container("a", "i"), run=0, backoff=0, address="", image_id="")
    run = run_of(ContainerInspect("id", "n", InspectState(status), config=InspectConfig(marks)))
    assert run
    assert run.state == state


def test_no_run_ends_before_it_began():
    """What is short has ended by the time at which Podman notes its beginning."""
    marks = tags.container_labels(WHO, Container("a", "i"), run=0, backoff=0, address="", image_id="")
    state = InspectState("exited", started_at="1970-01-01T00:00:05.2Z", finished_at="1970-01-01T00:00:05.1Z")
    run = run_of(ContainerInspect("id", "n", state, config=InspectConfig(marks)))
    assert run
    assert (run.started_at, run.finished_at) == (5.2, 5.2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T01:00:00.123456789+01:00", 0.123456789),
        ("0001-01-01T00:00:00Z", 0.0),
        ("nonsense", 0.0),
    ],
)
def test_times(text, seconds):
    assert instant(text) == pytest.approx(seconds)


# --- bodies ---


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        (Resources(), {"cpu": {"shares": 2}}),
        (Resources(cpu_request=0.5), {"cpu": {"shares": 512}}),
        (Resources(cpu_request=1000.0), {"cpu": {"shares": 262_144}}),
        (Resources(cpu_limit=0.001), {"cpu": {"shares": 2, "period": 100_000, "quota": 1000}}),
        (
            Resources(cpu_request=1, cpu_limit=2, memory_limit=7),
            {
                "cpu": {"shares": 1024, "period": 100_000, "quota": 200_000},
                "memory": {"limit": 7, "swap": 7},
            },
        ),
    ],
)
def test_resource_limits(resources, limits):
    assert resource_limits(resources) == limits


def body(container: Container, tmp_path, image_user="", **more):
    return container_body(
        work(container, **more),
        CreateRun(container, 1, 10.0),
        sandbox=Sandbox("pod-id", "infra", running=True, ips=("10.0.0.2",)),
        folder=Folder(tmp_path, WHO),
        image=PulledImage(1, "i:1", "localhost/i:1", "i@d", image_user),
        sources=mount_sources(Folder(tmp_path, WHO), container),
    )


def test_a_containers_body(tmp_path):
    container = Container(
        "a", "i", args=("x",), env=(EnvVar("A", "1"),), mounts=(Mount("v", "/v"), Mount("m", "/etc/hosts"))
    )
    made = body(
        container, tmp_path, volumes={"v": Files(), "m": EmptyDir(medium="Memory")}, dns=Dns(("10.0.0.10",))
    )
    assert made["name"] == "pod-uid-1-2-a-1"
    assert made["image"] == "localhost/i:1"
    assert made["env"] == {"HOSTNAME": "web", "A": "1"}
    assert made["command"] == ["x"]
    assert "entrypoint" not in made
    assert [(m["destination"], m["options"][-1]) for m in made["mounts"]] == [
        ("/v", "ro"),
        ("/dev/termination-log", "rw"),
        ("/etc/resolv.conf", "rw"),
    ]
    assert made["volumes"] == [{"Name": "pod-uid-1-2-m", "Dest": "/etc/hosts", "Options": ["rw"]}]


@pytest.mark.parametrize(
    ("security", "image_user", "user"),
    [
        (SecurityContext(), "app", None),
        (SecurityContext(run_as_user=0), "app", "0"),
        (SecurityContext(run_as_user=1, run_as_group=2), "app", "1:2"),
        (SecurityContext(run_as_group=2), "app:staff", "app:2"),
        (SecurityContext(run_as_group=2), "", "0:2"),
    ],
)
def test_who_a_container_runs_as(security, image_user, user, tmp_path):
    assert body(Container("a", "i", security=security), tmp_path, image_user).get("user") == user


IMAGE = PulledImage(1, "i:1", "localhost/i:1", "i@d")


@pytest.mark.parametrize(
    ("security", "pod", "settings"),
    [
        (SecurityContext(), {}, {}),
        (SecurityContext(seccomp="RuntimeDefault"), {}, {}),
        (SecurityContext(seccomp="Unconfined"), {}, {"seccomp_profile_path": "unconfined"}),
        (
            SecurityContext(drop_capabilities=("ALL",), add_capabilities=("CHOWN",), no_new_privileges=True),
            {},
            {"cap_drop": ["ALL"], "cap_add": ["CHOWN"], "no_new_privileges": True},
        ),
        (SecurityContext(read_only_root_filesystem=True), {}, {"read_only_filesystem": True}),
        (
            SecurityContext(),
            {"fs_group": 0, "supplemental_groups": (5, 0, 5)},
            {"groups": ["5", "0"]},
        ),
    ],
)
def test_what_a_container_may_do(security, pod, settings):
    container = Container("a", "i", security=security)
    assert security_settings(work(container, **pod), container, IMAGE) == settings


@pytest.mark.parametrize(
    ("security", "image_user", "complaint"),
    [
        (SecurityContext(), "", None),
        (SecurityContext(run_as_non_root=True, run_as_user=1), "", None),
        (SecurityContext(run_as_non_root=True), "7:staff", None),
        (SecurityContext(run_as_non_root=True), "", "image will run as root"),
        (SecurityContext(run_as_non_root=True), "0:7", "image will run as root"),
        (SecurityContext(run_as_non_root=True), "00", "image will run as root"),
        (SecurityContext(run_as_non_root=True), "app", "image has non-numeric user (app), cannot verify"),
        (SecurityContext(run_as_non_root=True, run_as_user=0), "7", "runAsUser breaks non-root policy"),
    ],
)
def test_who_counts_as_root(security, image_user, complaint):
    container = Container("a", "i", security=security)
    image = PulledImage(1, "i:1", "localhost/i:1", "i@d", image_user)
    with pytest.raises(ConfigError, match=re.escape(complaint)) if complaint else nullcontext():
        verify_non_root(work(container), container, image)


def test_sysctls_that_could_touch_others():
    asked = (("kernel/shm_rmid_forced", "1"), ("kernel.msgmax", "1"), ("net.core.somaxconn", "1"))
    assert forbidden_sysctls(work(sysctls=asked)) == ["kernel.msgmax", "net.core.somaxconn"]


def test_the_body_of_a_pod():
    assert pod_body(work(), "net")["Networks"] == {"net": {}}
    assert pod_body(work(), "net")["no_manage_resolv_conf"] is False
    made = pod_body(
        work(
            domain="d.example",
            hostname_is_fqdn=True,
            share_process_namespace=True,
            dns=Dns(("10.0.0.10",)),
            sysctls=(("net/ipv4/tcp_syncookies", "0"),),
        ),
        "net",
    )
    assert made["hostname"] == "web.d.example"
    assert made["shared_namespaces"] == ["net", "ipc", "uts", "pid"]
    assert made["no_manage_resolv_conf"] is True
    assert made["sysctl"] == {"net.ipv4.tcp_syncookies": "0"}


def test_the_body_of_a_volume_in_memory():
    made = volume_body(work(), "m", EmptyDir(medium="Memory", size_limit=5000))
    assert made["Options"]["o"] == "mode=0777,nr_blocks=2"
    made = volume_body(work(fs_group=5), "m", EmptyDir(medium="Memory"))
    assert made["Options"]["o"] == "mode=2777,gid=5"


def test_a_user_has_no_say_in_the_network():
    placed = structs.replace(
        work(),
        annotations={
            "podman.overspill.dev/network": "other",
            "podman.overspill.dev/ip": "10.0.0.9",
            "kept": "x",
        },
    )
    assert pod_body(placed, "net")["Networks"] == {"other": {"static_ips": ["10.0.0.9"]}}
    assert pod_body(without_place(placed), "net")["Networks"] == {"net": {}}
    assert without_place(placed).annotations == {"kept": "x"}


# --- capabilities ---


def test_only_fields_are_claimed_that_backends_may_claim():
    claimed = capabilities.CAPABILITIES.pod_fields
    assert claimed <= BACKEND


@pytest.mark.parametrize(
    ("refused", "field"),
    [
        (
            work(init_containers=(Container("a", "i", pre_stop=TcpSocketAction(1)),)),
            "spec.initContainers[0].lifecycle.preStop.tcpSocket",
        ),
        (work(Container("a", "i", stop_signal="SIGNOT")), "spec.containers[0].lifecycle.stopSignal"),
        (work(volumes={"n": Nfs("server", "/path")}), "spec.volumes[n]"),
        (
            work(
                Container("a", "i", mounts=(Mount("m", "/m", sub_path="x"),)),
                volumes={"m": EmptyDir(medium="Memory")},
            ),
            "spec.containers[0].volumeMounts[].subPath (of a volume in memory)",
        ),
        (
            work(only_these_groups=True),
            "spec.containers[0].securityContext.runAsGroup (with supplementalGroupsPolicy Strict)",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(refused, field):
    with pytest.raises(Unsupported) as error:
        capabilities.check(refused)
    assert error.value.fields == (field,)


# --- folder and files ---


def test_a_pod_is_recorded_whole_or_not_at_all(tmp_path):
    spec = work(volumes={"s": Files((File("a", b"\x00\xff"),))})
    folder = Folder(tmp_path, WHO)
    assert folder.create(Record(5.0, spec))
    assert not folder.create(Record(6.0, spec))
    folder.write_deletion(Deletion(7.0, 30))
    (tmp_path / ".uid-2.0").mkdir()  # a draft that a kill left
    ((found, record),) = folders(tmp_path)
    assert record == Record(5.0, spec)
    assert found.deletion() == Deletion(7.0, 30)
    assert stat.S_IMODE((folder.path / "record.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()


def test_what_a_power_cut_has_left_empty_is_passed_over_and_recorded_anew(tmp_path):
    folder = Folder(tmp_path, WHO)
    folder.create(Record(5.0, work()))
    (folder.path / "marks").mkdir()
    (folder.path / "ended").mkdir()
    (folder.volume("kept")).touch()
    for name in ("record.json", "deletion.json", "eviction.json", "marks/run", "ended/a"):
        (folder.path / name).write_bytes(b"")
    assert list(folders(tmp_path)) == []
    assert (folder.deletion(), folder.eviction(), folder.ended()) == (None, None, [])
    assert read_marks(folder, "run", Container("a", "i")) is None
    assert folder.create(Record(6.0, work()))
    assert [record.taken_at for _, record in folders(tmp_path)] == [6.0]
    assert folder.volume("kept").exists()


def test_volume_files_change_in_one_go(tmp_path):
    write_files(tmp_path, [File("a", b"1"), File("d/b", b"2", 0o600), File("gone", b"3")])
    before = (tmp_path / "..data").readlink()
    write_files(tmp_path, [File("a", b"4"), File("d/c", b"5", 0o400)])
    assert (tmp_path / "a").read_bytes() == b"4"
    assert (tmp_path / "a").readlink().parts[0] == "..data"
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["a", "d"]
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["c"]
    assert stat.S_IMODE((tmp_path / "d" / "c").stat().st_mode) == 0o400
    assert not (tmp_path / before).exists()


def test_the_same_files_again_change_nothing(tmp_path):
    files = [File("a", b"1"), File("d/b", b"2")]
    assert write_files(tmp_path, files)
    before = (tmp_path / "..data").readlink()
    assert not write_files(tmp_path, [*reversed(files)])
    assert (tmp_path / "..data").readlink() == before
    assert write_files(tmp_path, files[:1])


def test_what_a_killed_writer_left_is_put_right(tmp_path):
    write_files(tmp_path, [File("a", b"1")])
    (tmp_path / "a").unlink()  # killed before it linked the names …
    (tmp_path / "..half").mkdir()  # … or in the midst of writing
    (tmp_path / "..half" / "x").touch()
    (tmp_path / "..data_tmp").symlink_to("..half")
    assert not write_files(tmp_path, [File("a", b"1")])
    assert (tmp_path / "a").read_bytes() == b"1"
    assert not (tmp_path / "..half").exists()
    assert write_files(tmp_path, [File("a", b"2")])
    assert (tmp_path / "a").read_bytes() == b"2"


def source_of(tmp_path, sub_path):
    folder = Folder(tmp_path, WHO)
    mount = Mount("v", "/v", sub_path=sub_path)
    return Path(mount_sources(folder, Container("a", "i", mounts=(mount,)))[mount])


def test_sub_paths(tmp_path):
    volume = Folder(tmp_path, WHO).volume("v")
    volume.mkdir(parents=True)
    volume.chmod(0o2770)
    made = source_of(tmp_path, "x/y")
    assert made == volume / "x" / "y"
    assert stat.S_IMODE(made.stat().st_mode) == 0o2770
    write_files(volume, [File("key", b"1")])
    assert source_of(tmp_path, "key") == volume / (volume / "..data").readlink() / "key"
    (volume / "inside").symlink_to("x")
    assert source_of(tmp_path, "inside/y") == made


@pytest.mark.parametrize("target", ["/etc", "..", "/etc/absent", "../../../..", "up/.."])
def test_sub_paths_that_lead_out(tmp_path, target):
    volume = Folder(tmp_path, WHO).volume("v")
    volume.mkdir(parents=True)
    (volume / "up").symlink_to(tmp_path)
    (volume / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="leads out of its volume"):
        source_of(tmp_path, "link/x")


@pytest.mark.parametrize("sub_path", ["circle/x", "nul\0", "n" * 300])
def test_sub_paths_that_cannot_be(tmp_path, sub_path):
    volume = Folder(tmp_path, WHO).volume("v")
    volume.mkdir(parents=True)
    (volume / "circle").symlink_to("circle")
    with pytest.raises(ConfigError, match="failed to prepare subPath"):
        source_of(tmp_path, sub_path)


@pytest.mark.parametrize("path", ["/a", "", "..a", "a/../b", "nul\0", "d/" * 1500 + "file"])
def test_files_that_cannot_be_in_a_volume(path):
    with pytest.raises(Rejected, match="volume 'v': "):
        check_paths({"v": Files((File(path, b""),))})


def test_prepared_volumes_stay_as_they_are(tmp_path):
    spec = work(volumes={"e": EmptyDir(), "m": EmptyDir(medium="Memory"), "f": Files((File("a", b"1"),))})
    folder = Folder(tmp_path, WHO)
    folder.create(Record(1.0, spec))
    prepare(folder, spec)
    (folder.volume("e") / "kept").touch()
    write_files(folder.volume("f"), [File("a", b"2")])
    prepare(folder, spec)
    assert (folder.volume("e") / "kept").exists()
    assert stat.S_IMODE(folder.volume("e").stat().st_mode) == 0o777
    assert (folder.volume("f") / "a").read_bytes() == b"2"
    assert not folder.volume("m").exists()


def test_hosts_and_resolv_conf():
    spec = work(domain="svc.ns.svc.cluster.local", host_aliases=(HostAlias("10.1.1.1", ("x", "y")),))
    lines = hosts_file(spec, "10.0.0.2").splitlines()
    assert "10.0.0.2\tweb.svc.ns.svc.cluster.local\tweb" in lines
    assert lines[-2:] == ["# Entries added by HostAliases.", "10.1.1.1\tx\ty"]
    assert "10.0.0.2\tweb" in hosts_file(work(), "10.0.0.2").splitlines()
    assert resolv_conf(Dns(("1.1.1.1", "2.2.2.2"))) == "nameserver 1.1.1.1\nnameserver 2.2.2.2\n"


# --- logs ---

LOG = b"""\
2026-11-23T20:33:21.100000000+00:00 stdout F one
2026-11-23T20:33:22.200000000+00:00 stderr P tw
2026-11-23T20:33:22.300000000+00:00 stderr F o
2026-11-23T20:33:23.400000000+00:00 stdout P three
"""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LogOptions(), b"one\ntwo\nthree"),
        (LogOptions(tail_lines=2), b"two\nthree"),
        (LogOptions(tail_lines=0), b""),
        (LogOptions(stream="Stdout"), b"one\nthree"),
        (LogOptions(stream="Stderr"), b"two\n"),
        (LogOptions(tail_lines=99), b"one\ntwo\nthree"),
        (LogOptions(limit_bytes=4), b"one\n"),
        (LogOptions(since_time=instant("2026-11-23T20:33:23Z")), b"three"),
        (
            LogOptions(timestamps=True),
            (
                b"2026-11-23T20:33:21.100000000Z one\n2026-11-23T20:33:22.200000000Z two\n"
                b"2026-11-23T20:33:23.400000000Z three"
            ),
        ),
    ],
)
async def test_log_options(options, text, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(LOG)
    pieces = [piece async for piece in read_log(path, options, ended=lambda: True)]
    assert b"".join(pieces) == text


async def test_a_followed_log_goes_on_in_the_file_that_took_its_place(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(LOG)
    pieces = []
    async for piece in read_log(path, LogOptions(follow=True), ended=lambda: len(pieces) > 1):
        pieces.append(piece)
        if len(pieces) == 1:
            fresh = tmp_path / "fresh"
            fresh.write_bytes(LOG.splitlines(keepends=True)[0])
            fresh.rename(path)
    assert pieces == [b"one\ntwo\nthree", b"one\n"]


async def test_a_long_log_is_read_from_its_end(tmp_path):
    path = tmp_path / "log"
    line = b"2026-11-23T20:33:21.100000000+00:00 stdout F %06d\n"
    path.write_bytes(b"".join(line % number for number in range(20_000)))
    pieces = [piece async for piece in read_log(path, LogOptions(tail_lines=5000), ended=lambda: True)]
    lines = b"".join(pieces).split()
    assert (lines[0], len(lines)) == (b"015000", 5000)


@pytest.mark.parametrize("tail", [1, 2, 1023, 1024, 1025, 2999, 3000, 3001])
async def test_the_last_lines_are_whole_however_many_records_they_take(tail, tmp_path):
    path = tmp_path / "log"
    records = (b"P %d" % n if n % 3 else b"F end of %d" % n for n in range(1, 9001))
    path.write_bytes(b"".join(b"2026-11-23T20:33:21.100000000+00:00 stdout %b\n" % each for each in records))
    whole = b"".join([piece async for piece in read_log(path, LogOptions(), ended=lambda: True)])
    pieces = [p async for p in read_log(path, LogOptions(tail_lines=tail), ended=lambda: True)]
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 3000
    assert b"".join(pieces) == b"".join(lines[-tail:])


# --- feed ---


async def test_newest_observation_wins_and_gone_is_never_lost():
    feed = Feed()
    batches = feed.watch()
    first, second = (Observation(WHO, started, ()) for started in (1.0, 2.0))
    feed.publish(first)
    feed.publish(second)
    assert list(await anext(batches)) == [second]
    feed.publish(second)
    feed.publish(Gone(WHO))
    feed.publish(first)
    assert list(await anext(batches)) == [Gone(WHO), first]


class Sighted:
    """A sighting that can be asked whether anybody has it."""

    identity = WHO


async def test_a_watch_that_is_given_up_before_it_began_keeps_nothing():
    feed = Feed()
    await feed.watch().aclose()
    sighting = Sighted()
    kept = weakref.ref(sighting)
    feed.publish(sighting)
    del sighting
    assert kept() is None
