"""Nothing of a work spec is dropped in silence: whatever is asked for is sent, refused by name, or warned of."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, structs
from test_eci_translate import WHERE, WHO

from overspill.backends.eci.translate import check, parameters
from overspill.backends.eci.wire import flatten, form
from overspill.emulator.groups import Group
from overspill.emulator.translate import work_spec
from overspill.emulator.validate import parse_create
from overspill.emulator.wire import from_body, unflatten
from overspill.errors import Unsupported
from overspill.model.work import (
    POD_IP,
    Container,
    CsiVolume,
    Dns,
    EmptyDir,
    EnvVar,
    ExecAction,
    File,
    Files,
    FlexVolume,
    GrpcAction,
    HostAlias,
    HttpGetAction,
    Mount,
    Nfs,
    Port,
    Probe,
    RegistryCredential,
    Resources,
    RestartRule,
    SecurityContext,
    SleepAction,
    TcpSocketAction,
    WorkSpec,
)

GIB = 1 << 30
COMMAND = ExecAction(("true",))
PROBE = Probe(COMMAND)
# Another value for every field of every part of a work spec. A field that is not here fails the test of
# completeness, so that whoever adds one has to say what ECI makes of it.
OTHERS: dict[type[Struct], dict[str, Any]] = {
    Container: {
        "name": "other",
        "image": "other:2",
        "command": ("other",),
        "args": ("other",),
        "working_dir": "/other",
        "env": (EnvVar("OTHER", "x"),),
        "mounts": (Mount("scratch", "/other"),),
        "ports": (Port(1234),),
        "resources": Resources(cpu_limit=1.0),
        "security": SecurityContext(run_as_user=7),
        "pull_policy": "Never",
        "stdin": True,
        "stdin_once": True,
        "tty": True,
        "liveness": PROBE,
        "readiness": PROBE,
        "startup": PROBE,
        "post_start": COMMAND,
        "pre_stop": COMMAND,
        "stop_signal": "SIGUSR1",
        "restart_policy": "Always",
        "restart_rules": (RestartRule("In", (3,)),),
        "restart_on_resize": ("cpu",),
        "target": "main",
        "termination_message_path": "/other",
        "termination_message_policy": "FallbackToLogsOnError",
    },
    EnvVar: {"name": "OTHER", "value": "other"},
    Mount: {
        "volume": "other",
        "path": "/other",
        "read_only": True,
        "sub_path": "other",
        "propagation": "HostToContainer",
    },
    Port: {"container_port": 81, "protocol": "UDP", "name": "other", "host_port": 80},
    Resources: {
        "cpu_request": 4.0,
        "memory_request": 8 * GIB,
        "cpu_limit": 4.0,
        "memory_limit": 8 * GIB,
        "ephemeral_storage_request": 99 * GIB,
        "gpus": 1,
    },
    SecurityContext: {
        "run_as_user": 7,
        "run_as_group": 7,
        "run_as_non_root": True,
        "read_only_root_filesystem": True,
        "add_capabilities": ("NET_ADMIN",),
        "drop_capabilities": ("ALL",),
        "no_new_privileges": True,
        "seccomp": "RuntimeDefault",
    },
    Probe: {
        "handler": TcpSocketAction(1),
        "initial_delay_seconds": 7,
        "period_seconds": 7,
        "timeout_seconds": 7,
        "success_threshold": 7,
        "failure_threshold": 7,
        "termination_grace_period_seconds": 7,
    },
    ExecAction: {"command": ("other",)},
    HttpGetAction: {
        "port": 1,
        "path": "/other",
        "scheme": "HTTPS",
        "host": "other",
        "headers": (("a", "b"),),
    },
    TcpSocketAction: {"port": 1, "host": "other"},
    GrpcAction: {"port": 1, "service": "other"},
    SleepAction: {"seconds": 1},
    EmptyDir: {"medium": "Memory", "size_limit": 1 << 20},
    Files: {"files": (File("other", b"other"),), "refresh_after": 1.0},
    File: {"path": "other", "data": b"other", "mode": 0o400, "owner": 7},
    Nfs: {"server": "other", "path": "/other", "read_only": True},
    FlexVolume: {"driver": "alicloud/nas", "fs_type": "xfs", "read_only": True, "options": {"a": "b"}},
    CsiVolume: {
        "driver": "nasplugin.csi.alibabacloud.com",
        "handle": "other",
        "fs_type": "xfs",
        "attributes": {"storage.kubernetes.io/csiProvisionerIdentity": "x"},
        "mount_options": ("ro",),
        "secret": {"akId": "other"},
    },
    Dns: {"nameservers": ("192.0.2.7",), "searches": ("other",), "options": ("other",)},
    HostAlias: {"ip": "192.0.2.7", "hostnames": ("other",)},
    RegistryCredential: {"server": "other", "username": "other", "password": "other"},
    WorkSpec: {
        "identity": structs.replace(WHO, attempt=7),
        "containers": (Container("other", "x"),),
        "init_containers": (Container("other", "x"),),
        "ephemeral_containers": (Container("other", "x"),),
        "volumes": {"other": EmptyDir()},
        "restart_policy": "Never",
        "termination_grace_period_seconds": 7,
        "active_deadline_seconds": 7,
        "hostname": "other",
        "domain": "other",
        "dns": Dns(),
        "host_aliases": (HostAlias("192.0.2.7", ("other",)),),
        "registry_credentials": (RegistryCredential("a", "b", "c"),),
        "annotations": {"k8s.aliyun.com/eci-spot-strategy": "SpotAsPriceGo"},
        "share_process_namespace": True,
        "sysctls": (("net.core.somaxconn", "7"),),
        "fs_group": 7,
        "supplemental_groups": (7,),
        "only_these_groups": True,
        "hostname_is_fqdn": True,
    },
}
# What no backend acts on: told to people, or to the agent, or of a container of another kind.
NOBODYS = {
    (Port, "name"),
    (Files, "refresh_after"),
    (Container, "target"),
    (Container, "restart_on_resize"),
    (
        CsiVolume,
        "attributes",
    ),  # of a disk: how it was made; those of file systems and buckets have tests of their own
    (CsiVolume, "secret"),  # of buckets only
}


def spec_with(part: Struct, *, init: bool = False) -> WorkSpec:
    """A pod in which a part of any kind has its place."""
    main = Container("main", "app:1", mounts=(Mount("scratch", "/scratch"),))
    pod: dict[str, Any] = {"volumes": {"scratch": EmptyDir()}}
    match part:
        case WorkSpec():
            return part
        case Container():
            main = part
        case EnvVar():
            main = structs.replace(main, env=(part,))
        case Mount():
            pod["volumes"]["other"] = EmptyDir()
            main = structs.replace(main, mounts=(part,))
        case Port():
            main = structs.replace(main, ports=(part,))
        case Resources():
            main = structs.replace(main, resources=part)
        case SecurityContext():
            main = structs.replace(main, security=part)
        case Probe():
            main = structs.replace(main, liveness=part)
        case ExecAction() | HttpGetAction() | TcpSocketAction() | GrpcAction() | SleepAction():
            hook = not isinstance(part, GrpcAction)
            main = structs.replace(main, **({"pre_stop": part} if hook else {"liveness": Probe(part)}))
        case EmptyDir() | Files() | Nfs() | FlexVolume() | CsiVolume():
            pod["volumes"]["scratch"] = part
        case File():
            pod["volumes"]["scratch"] = Files((part,))
        case Dns():
            pod["dns"] = part
        case HostAlias():
            pod["host_aliases"] = (part,)
        case RegistryCredential():
            pod["registry_credentials"] = (part,)
    both = {"containers": (Container("app", "x"),), "init_containers": (main,)}
    return WorkSpec(identity=WHO, hostname="web-1", **pod, **(both if init else {"containers": (main,)}))


FIRST: dict[type[Struct], Struct] = {
    Container: Container("main", "app:1"),
    EnvVar: EnvVar("A", "b"),
    Mount: Mount("scratch", "/scratch"),
    Port: Port(80),
    Resources: Resources(),
    SecurityContext: SecurityContext(),
    Probe: PROBE,
    ExecAction: COMMAND,
    HttpGetAction: HttpGetAction(80),
    TcpSocketAction: TcpSocketAction(80),
    GrpcAction: GrpcAction(80),
    SleepAction: SleepAction(7),
    EmptyDir: EmptyDir(),
    Files: Files((File("a", b"b"),)),
    File: File("a", b"b", 0o600),
    Nfs: Nfs("a", "/b"),
    FlexVolume: FlexVolume("alicloud/disk"),
    CsiVolume: CsiVolume("diskplugin.csi.alibabacloud.com", "d-1"),
    Dns: Dns(("192.0.2.1",)),
    HostAlias: HostAlias("192.0.2.1", ("a",)),
    RegistryCredential: RegistryCredential("a", "b", "c"),
    WorkSpec: spec_with(Container("main", "app:1")),
}


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_every_field_has_another_value(kind):
    assert set(OTHERS[kind]) == set(kind.__struct_fields__)


CASES = [(kind, field) for kind, fields in OTHERS.items() for field in fields if (kind, field) not in NOBODYS]
OF_INIT = [
    (kind, field)
    for kind, field in CASES
    if kind in {Container, EnvVar, Mount, Port, Resources, SecurityContext, Probe, ExecAction}
]


def told(spec: WorkSpec) -> tuple[object, ...]:
    """What ECI is sent, what the user is refused or warned of."""
    try:
        return (flatten(parameters(spec, WHERE)), check(spec))
    except Unsupported as refused:
        return (refused.fields,)


@pytest.mark.parametrize(("kind", "field"), CASES)
def test_every_field_makes_a_difference(kind, field):
    first = FIRST[kind]
    other = structs.replace(first, **{field: OTHERS[kind][field]})
    if kind is GrpcAction:  # refused whatever it holds
        with pytest.raises(Unsupported):
            check(spec_with(other))
    else:
        assert told(spec_with(other)) != told(spec_with(first))


@pytest.mark.parametrize(("kind", "field"), OF_INIT)
def test_every_field_of_an_init_container_makes_a_difference(kind, field):
    first = FIRST[kind]
    other = structs.replace(first, **{field: OTHERS[kind][field]})
    changed = spec_with(other, init=True)
    if kind in {Probe, ExecAction}:  # refused whatever they hold
        with pytest.raises(Unsupported):
            parameters(changed, WHERE)
    else:
        assert told(changed) != told(spec_with(first, init=True))


# --- what ECI is sent is what the emulator runs ---

words = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)
paths = words.map(lambda word: f"/{word}")
ports = st.integers(1024, 9999)
commands = st.lists(texts, max_size=3).map(tuple)
handlers = st.one_of(
    st.builds(ExecAction, st.lists(texts.filter(bool), min_size=1, max_size=3).map(tuple)),
    st.builds(HttpGetAction, ports, paths, st.sampled_from(["HTTP", "HTTPS"])),
    st.builds(TcpSocketAction, ports),
)
seconds = st.integers(1, 600)
probes = st.none() | st.builds(Probe, handlers, st.integers(0, 9), seconds, seconds, seconds, seconds)
volumes = st.one_of(
    st.builds(EmptyDir, st.sampled_from(["", "Memory"]), st.none() | st.integers(1, 1 << 40)),
    st.builds(
        lambda files: Files(tuple(files)),
        st.lists(
            st.builds(File, words, st.binary(max_size=40), st.sampled_from([0o644, 0o400, 0o777])),
            min_size=1,
            max_size=3,
            unique_by=lambda file: file.path,
        ),
    ),
    st.builds(Nfs, words, paths, st.booleans()),
)
securities = st.builds(
    SecurityContext,
    run_as_user=st.none() | st.integers(0, 9999),
    read_only_root_filesystem=st.booleans(),
    add_capabilities=st.sampled_from([(), ("NET_ADMIN",)]),
)
resources = st.sampled_from([Resources(), Resources(cpu_limit=0.25, memory_limit=GIB // 2)])


@st.composite
def container(draw, name: str, mounts: list[str], *, init: bool) -> Container:
    security = draw(securities)
    more: dict[str, Any] = {}
    if not init:
        more = {
            "liveness": draw(probes),
            "readiness": draw(probes),
            "post_start": draw(st.none() | handlers),
            "pre_stop": draw(st.none() | handlers),
            "stdin": draw(st.booleans()),
            "stdin_once": draw(st.booleans()),
            "tty": draw(st.booleans()),
        }
        security = structs.replace(
            security, run_as_group=draw(st.none() | st.integers(0, 9)), run_as_non_root=draw(st.booleans())
        )
    return Container(
        name,
        draw(words),
        command=draw(commands),
        args=draw(commands),
        working_dir=draw(paths),
        env=draw(
            st.lists(
                st.builds(EnvVar, st.from_regex(r"[A-Z]{1,4}", fullmatch=True), texts | st.just(POD_IP)),
                max_size=3,
            ).map(tuple)
        ),
        mounts=tuple(
            Mount(
                volume,
                f"/mnt/{volume}",
                draw(st.booleans()),
                draw(st.just("") | words),
                draw(st.sampled_from(["None", "HostToContainer", "Bidirectional"])),
            )
            for volume in mounts
        ),
        ports=draw(st.lists(st.builds(Port, ports, st.sampled_from(["TCP", "UDP"])), max_size=2).map(tuple)),
        resources=draw(resources),
        security=security,
        pull_policy=draw(st.sampled_from(["Always", "IfNotPresent", "Never"])),
        termination_message_path=draw(paths),
        termination_message_policy=draw(st.sampled_from(["File", "FallbackToLogsOnError"])),
        **more,
    )


@st.composite
def pods(draw) -> WorkSpec:
    named = draw(st.dictionaries(words, volumes, max_size=3))
    return WorkSpec(
        identity=WHO,
        hostname=draw(words),
        containers=tuple(
            draw(container(f"c{number}", list(named), init=False))
            for number in range(draw(st.integers(1, 3)))
        ),
        init_containers=(
            *(draw(container(f"i{n}", list(named), init=True)) for n in range(draw(st.integers(0, 2)))),
            *(
                structs.replace(draw(container(f"s{n}", list(named), init=False)), restart_policy="Always")
                for n in range(draw(st.integers(0, 2)))
            ),
        ),
        volumes=named,
        restart_policy=draw(st.sampled_from(["Always", "OnFailure", "Never"])),
        termination_grace_period_seconds=draw(st.integers(0, 600)),
        active_deadline_seconds=draw(st.none() | seconds),
        dns=draw(
            st.none() | st.builds(Dns, st.tuples(words), st.tuples(words), st.tuples(st.just("ndots:5")))
        ),
        host_aliases=draw(st.lists(st.builds(HostAlias, words, st.tuples(words)), max_size=2).map(tuple)),
        registry_credentials=draw(
            st.lists(st.builds(RegistryCredential, words, words, texts), max_size=2).map(tuple)
        ),
        share_process_namespace=draw(st.booleans()),
        sysctls=draw(
            st.sampled_from([(), (("net.ipv4.ping_group_range", "0 1"), ("net.core.somaxconn", "9"))])
        ),
    )


GROUP = Group(
    id="eci-1",
    seq=1,
    name="web",
    region="cn-hangzhou",
    zone="z",
    vpc="v",
    vswitch="vsw-a",
    security_group="sg-1",
    address="192.0.2.9",
    cpu=2,
    memory=4,
    price=0,
    created_at=0,
    changed_at=0,
)


def through_the_api(spec: WorkSpec) -> WorkSpec:
    """What the emulator makes of the bytes that the backend sends."""
    body = form({"RegionId": "cn-hangzhou", **parameters(spec, WHERE)})
    request = parse_create(unflatten(from_body(body, "application/x-www-form-urlencoded")))
    return work_spec("emulator", GROUP, request, engine="simulated")


def comparable(spec: WorkSpec) -> WorkSpec:
    """Without what is the emulator's own: whose work it is, sizes that nobody asked for, how sidecars are told.

    Nor with the policy of messages, which the backend sees to.
    """

    def own(each: Container) -> Container:
        env = tuple(var for var in each.env if not var.name.startswith("ECI_CONTAINER_"))
        return structs.replace(
            each, resources=Resources(), env=env, startup=None, termination_message_policy="File"
        )

    plain = {field: tuple(map(own, getattr(spec, field))) for field in ("containers", "init_containers")}
    return structs.replace(spec, identity=WHO, annotations={}, **plain)


@given(pods())
def test_what_a_pod_asks_for_is_what_the_emulator_runs(spec):
    back = through_the_api(spec)
    assert comparable(back) == comparable(spec)
    for mine, theirs in zip(spec.containers, back.containers, strict=True):
        if mine.resources.cpu_limit:
            assert theirs.resources.cpu_limit == mine.resources.cpu_limit
            assert theirs.resources.memory_limit == mine.resources.memory_limit
