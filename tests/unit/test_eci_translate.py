"""Every field of a work spec reaches CreateContainerGroup, or is refused by name."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from overspill import names
from overspill.backends.eci.answers import GroupContainer, GroupEntry, Tag
from overspill.backends.eci.groups import group_of_entry, group_of_work
from overspill.backends.eci.tags import (
    FROM_LOGS_TAG,
    client_token,
    group_name,
    identity_of,
    node_tags,
    sidecars_of,
    tags,
)
from overspill.backends.eci.translate import Placement, parameters
from overspill.backends.eci.wire import flatten
from overspill.model.work import (
    POD_IP,
    Container,
    Dns,
    EmptyDir,
    EnvVar,
    ExecAction,
    File,
    Files,
    FlexVolume,
    HostAlias,
    HttpGetAction,
    Identity,
    Mount,
    Nfs,
    Port,
    Probe,
    RegistryCredential,
    Resources,
    SecurityContext,
    SleepAction,
    TcpSocketAction,
    WorkSpec,
)

WHO = Identity("cluster-uid", "vn-0", "shop", "web-1", "11111111-2222-3333-4444-555555555555")
WHERE = Placement(region="cn-hangzhou", v_switch_ids=("vsw-a", "vsw-b"), security_group_id="sg-1")
GIB = 1 << 30


def work(*containers, **more) -> WorkSpec:
    return WorkSpec(identity=WHO, hostname="web-1", containers=containers or (web(),), **more)


def web(**more) -> Container:
    return Container("web", "nginx:1", **more)


def sent(spec: WorkSpec, where: Placement = WHERE) -> dict[str, str]:
    return flatten(parameters(spec, where))


def annotated(**values) -> WorkSpec:
    return work(annotations={f"k8s.aliyun.com/{name.replace('_', '-')}": v for name, v in values.items()})


C = "Container.1."
FIELDS = {
    "image and policy": (
        work(web(pull_policy="Always")),
        {C + "Image": "nginx:1", C + "ImagePullPolicy": "Always"},
    ),
    "command and args apart": (
        work(web(command=("sh", "-c"), args=("a b", "c&d"))),
        {C + "Command.1": "sh", C + "Command.2": "-c", C + "Arg.1": "a b", C + "Arg.2": "c&d"},
    ),
    "working directory": (work(web(working_dir="/srv")), {C + "WorkingDir": "/srv"}),
    "terminal": (
        work(web(stdin=True, stdin_once=True, tty=True)),
        {C + "Stdin": "true", C + "StdinOnce": "true", C + "Tty": "true"},
    ),
    "environment, hidden": (
        work(web(env=(EnvVar("A", ""), EnvVar("B", "x")))),
        {
            C + "EnvironmentVar.1.Key": "A",
            C + "EnvironmentVar.1.Value": "",
            C + "EnvironmentVar.2.Value": "x",
            C + "EnvironmentVarHide": "true",
        },
    ),
    "the pod's address": (
        work(web(env=(EnvVar("IP", POD_IP),))),
        {C + "EnvironmentVar.1.Key": "IP", C + "EnvironmentVar.1.FieldRef.FieldPath": "status.podIP"},
    ),
    "ports": (
        work(web(ports=(Port(80), Port(53, "UDP")))),
        {C + "Port.1.Port": "80", C + "Port.1.Protocol": "TCP", C + "Port.2.Protocol": "UDP"},
    ),
    "limits": (
        work(web(resources=Resources(cpu_limit=0.5, memory_limit=GIB // 2))),
        {C + "Cpu": "0.5", C + "Memory": "0.5", "Cpu": "0.5", "Memory": "1"},
    ),
    "requests size the group only": (
        work(web(resources=Resources(cpu_request=1.5, memory_request=3 * GIB))),
        {"Cpu": "2", "Memory": "4", C + "Cpu": None},
    ),
    "a size of some regions": (
        work(web(resources=Resources(cpu_limit=2, memory_limit=5 * GIB))),
        {"Cpu": "2", "Memory": "6"},
    ),
    "nothing asked for": (work(), {"Cpu": "2", "Memory": "4", C + "Cpu": None, C + "Memory": None}),
    "the largest init container counts": (
        work(web(), init_containers=(Container("i", "x", resources=Resources(cpu_limit=4)),)),
        {"Cpu": "4", "Memory": "2", "InitContainer.1.Cpu": "4"},
    ),
    "GPU": (
        work(
            web(resources=Resources(gpus=1)),
            annotations={"k8s.aliyun.com/eci-use-specs": "ecs.gn6i-c4g1.xlarge"},
        ),
        {C + "Gpu": "1", "InstanceType": "ecs.gn6i-c4g1.xlarge", "Cpu": None, "Memory": None},
    ),
    "mounts": (
        work(web(mounts=(Mount("v", "/data", True, "sub", "HostToContainer"),)), volumes={"v": EmptyDir()}),
        {
            C + "VolumeMount.1.Name": "v",
            C + "VolumeMount.1.MountPath": "/data",
            C + "VolumeMount.1.ReadOnly": "true",
            C + "VolumeMount.1.SubPath": "sub",
            C + "VolumeMount.1.MountPropagation": "HostToCotainer",
        },
    ),
    "security context": (
        work(
            web(
                security=SecurityContext(
                    run_as_user=0,
                    run_as_group=7,
                    run_as_non_root=True,
                    read_only_root_filesystem=True,
                    add_capabilities=("NET_ADMIN",),
                )
            )
        ),
        {
            C + "SecurityContext.RunAsUser": "0",
            C + "SecurityContextRunAsGroup": "7",
            C + "SecurityContextRunAsNonRoot": "true",
            C + "SecurityContext.ReadOnlyRootFilesystem": "true",
            C + "SecurityContext.Capability.Add.1": "NET_ADMIN",
        },
    ),
    "HTTP probe": (
        work(web(liveness=Probe(HttpGetAction(8080, "/ok", "HTTPS"), 3, 4, 5, 1, 6))),
        {
            C + "LivenessProbe.HttpGet.Port": "8080",
            C + "LivenessProbe.HttpGet.Path": "/ok",
            C + "LivenessProbe.HttpGet.Scheme": "HTTPS",
            C + "LivenessProbe.InitialDelaySeconds": "3",
            C + "LivenessProbe.PeriodSeconds": "4",
            C + "LivenessProbe.TimeoutSeconds": "5",
            C + "LivenessProbe.SuccessThreshold": "1",
            C + "LivenessProbe.FailureThreshold": "6",
        },
    ),
    "command and TCP probes": (
        work(web(liveness=Probe(ExecAction(("true",))), readiness=Probe(TcpSocketAction(80)))),
        {C + "LivenessProbe.Exec.Command.1": "true", C + "ReadinessProbe.TcpSocket.Port": "80"},
    ),
    "hooks are flat": (
        work(
            web(
                post_start=ExecAction(("a", "b")),
                pre_stop=HttpGetAction(80, "/bye", host="h", headers=(("X", "y"),)),
            )
        ),
        {
            C + "LifecyclePostStartHandlerExec.2": "b",
            C + "LifecyclePreStopHandlerHttpGetHost": "h",
            C + "LifecyclePreStopHandlerHttpGetPath": "/bye",
            C + "LifecyclePreStopHandlerHttpGetPort": "80",
            C + "LifecyclePreStopHandlerHttpGetScheme": "HTTP",
            C + "LifecyclePreStopHandlerHttpGetHttpHeader.1.Name": "X",
        },
    ),
    "sleeping hooks": (
        work(web(post_start=SleepAction(0), pre_stop=SleepAction(7))),
        {
            C + "LifecyclePostStartHandlerExec.2": "0",
            C + "LifecyclePreStopHandlerExec.1": "sleep",
            C + "LifecyclePreStopHandlerExec.2": "7",
        },
    ),
    "termination message": (
        work(web(termination_message_path="/log", termination_message_policy="FallbackToLogsOnError")),
        {C + "TerminationMessagePath": "/log", C + "TerminationMessagePolicy": None},
    ),
    "scratch space": (
        work(volumes={"a": EmptyDir("Memory", 256 << 20), "b": EmptyDir()}),
        {
            "Volume.1.Type": "EmptyDirVolume",
            "Volume.1.EmptyDirVolume.Medium": "Memory",
            "Volume.1.EmptyDirVolume.SizeLimit": "256Mi",
            "Volume.2.Name": "b",
            "Volume.2.EmptyDirVolume.Medium": None,
        },
    ),
    "files, whole": (
        work(volumes={"f": Files((File("a", b"hello wor"), File("d/b", b"\x00\xff", 0o400)))}),
        {
            "Volume.1.Type": "ConfigFileVolume",
            "Volume.1.ConfigFileVolume.DefaultMode": "420",
            "Volume.1.ConfigFileVolume.ConfigFileToPath.1.Content": base64.b64encode(b"hello wor").decode(),
            "Volume.1.ConfigFileVolume.ConfigFileToPath.2.Path": "d/b",
            "Volume.1.ConfigFileVolume.ConfigFileToPath.2.Content": "AP8=",
            "Volume.1.ConfigFileVolume.ConfigFileToPath.2.Mode": "256",
        },
    ),
    "NFS": (
        work(volumes={"n": Nfs("10.0.0.1", "/x", True)}),
        {"Volume.1.NFSVolume.Server": "10.0.0.1", "Volume.1.NFSVolume.ReadOnly": "true"},
    ),
    "disk": (
        work(volumes={"d": FlexVolume("alicloud/disk", "ext4", options={"volumeId": "d-1"})}),
        {"Volume.1.FlexVolume.FsType": "ext4", "Volume.1.FlexVolume.Options": '{"volumeId":"d-1"}'},
    ),
    "name servers": (
        work(dns=Dns(("10.0.0.10",), ("a", "b"), ("ndots:5", "edns0"))),
        {
            "DnsPolicy": "None",
            "DnsConfig.NameServer.1": "10.0.0.10",
            "DnsConfig.Search.2": "b",
            "DnsConfig.Option.1.Name": "ndots",
            "DnsConfig.Option.1.Value": "5",
            "DnsConfig.Option.2.Name": "edns0",
            "DnsConfig.Option.2.Value": None,
        },
    ),
    "the backend's name servers": (work(), {"DnsPolicy": "Default", "HostName": "web-1"}),
    "hosts": (
        work(host_aliases=(HostAlias("10.1.1.1", ("a", "b")),)),
        {"HostAliase.1.Ip": "10.1.1.1", "HostAliase.1.Hostname.2": "b"},
    ),
    "registries": (
        work(registry_credentials=(RegistryCredential("r.example", "u", "p"),)),
        {"ImageRegistryCredential.1.Server": "r.example", "ImageRegistryCredential.1.Password": "p"},
    ),
    "ends": (
        work(restart_policy="Never", termination_grace_period_seconds=7, active_deadline_seconds=60),
        {"RestartPolicy": "Never", "TerminationGracePeriodSeconds": "7", "ActiveDeadlineSeconds": "60"},
    ),
    "kernel settings, by who may set them": (
        work(sysctls=(("net.ipv4.ping_group_range", "0 9"), ("net.core.somaxconn", "9"))),
        {
            "SecurityContext.Sysctl.1.Name": "net.ipv4.ping_group_range",
            "HostSecurityContext.Sysctl.1.Name": "net.core.somaxconn",
        },
    ),
    "storage above the free part": (
        work(web(resources=Resources(ephemeral_storage_request=35 * GIB))),
        {"EphemeralStorage": "5"},
    ),
    "where": (work(), {"VSwitchId": "vsw-a,vsw-b", "SecurityGroupId": "sg-1", "ScheduleStrategy": None}),
    "vSwitch of the pod's own": (annotated(eci_vswitch="vsw-z"), {"VSwitchId": "vsw-z"}),
    "spot": (
        annotated(eci_spot_strategy="SpotWithPriceLimit", eci_spot_price_limit="0.5", eci_spot_duration="0"),
        {"SpotStrategy": "SpotWithPriceLimit", "SpotPriceLimit": "0.5", "SpotDuration": "0"},
    ),
    "sizes in order": (annotated(eci_use_specs="2-4Gi, 4-8Gi"), {"InstanceType": "2-4Gi,4-8Gi", "Cpu": None}),
    "categories": (annotated(eci_compute_category="economy,general"), {"ComputeCategory.2": "general"}),
    "registries with roles": (
        annotated(acr_instance_ids="cn-beijing:cri-1,cri-2", acr_service_arns="arn-1"),
        {
            "AcrRegistryInfo.1.RegionId": "cn-beijing",
            "AcrRegistryInfo.1.InstanceId": "cri-1",
            "AcrRegistryInfo.1.ArnService": "arn-1",
            "AcrRegistryInfo.2.InstanceId": "cri-2",
        },
    ),
    "hosts by annotation": (
        annotated(eci_custom_hosts='[{"host":"h","ip":"10.0.0.9"}]'),
        {"HostAliase.1.Hostname.1": "h", "HostAliase.1.Ip": "10.0.0.9"},
    ),
    "image cache": (annotated(eci_auto_imc="true"), {"AutoMatchImageCache": "true"}),
    "public address": (
        annotated(eci_with_eip="true", eip_bandwidth="10"),
        {"AutoCreateEip": "true", "EipBandwidth": "10"},
    ),
    "waiting time": (annotated(eci_max_pending_minute="30"), {"MaxPendingMinute": "30"}),
    "more storage": (annotated(eci_extra_ephemeral_storage="50Gi"), {"EphemeralStorage": "50"}),
    "bandwidth": (
        work(annotations={"kubernetes.io/ingress-bandwidth": "40M"}),
        {"IngressBandwidth": "40000000"},
    ),
    "written back, so not asked for": (annotated(eci_instance_id="eci-1"), {"InstanceType": None}),
    "somebody else's": (work(annotations={"example.com/x": "y"}), {"Cpu": "2"}),
}


@pytest.mark.parametrize(("spec", "expected"), FIELDS.values(), ids=FIELDS)
def test_field(spec, expected):
    flat = sent(spec)
    assert {name: flat.get(name) for name in expected} == expected


def test_spot_is_given_up_when_there_is_none():
    spec = annotated(eci_spot_strategy="SpotAsPriceGo", eci_spot_fallback="true")
    flat = sent(spec, Placement(region="r", spot=False))
    assert not [name for name in flat if name.startswith("Spot")]


LONG = Identity("c", "node", "n" * 63, "p" * 253, "uid", 12)


@pytest.mark.parametrize("who", [WHO, LONG])
def test_identity_comes_back_from_tags(who):
    made = tags(who, more={names.UID_TAG: "not mine", "env": "test"})
    assert len(made) <= 20
    assert all(len(tag["Key"]) <= 64 and len(tag["Value"]) <= 128 for tag in made)
    assert identity_of({tag["Key"]: tag["Value"] for tag in made}) == who
    assert all(tag in made for tag in node_tags(who.cluster, who.node))


def test_foreign_groups_have_no_identity():
    assert identity_of({"env": "test"}) is None
    assert identity_of({names.UID_TAG: "u", names.ATTEMPT_TAG: "x"}) is None
    assert identity_of({names.UID_TAG: "u", names.ATTEMPT_TAG: "²"}) is None


def test_names_and_tokens_fit():
    assert group_name(LONG) == ("n" * 63 + "-" + "p" * 64)
    assert group_name(Identity("c", "n", "a.b", "C_d", "u")) == "a-b-c-d"
    assert client_token(WHO, variant=3) == f"{WHO.uid}-0-3"
    assert len(client_token(WHO, variant=99)) <= 64


texts = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), min_size=1, max_size=9
)
env_names = st.from_regex(r"[A-Z_]{1,9}", fullmatch=True)


@st.composite
def works(draw) -> WorkSpec:
    volumes = draw(
        st.dictionaries(
            st.from_regex(r"[a-z]{1,5}", fullmatch=True),
            st.one_of(
                st.builds(EmptyDir, size_limit=st.integers(1, 1 << 40)),
                st.builds(lambda n, d: Files((File(n, d),)), texts, st.binary(max_size=50)),
                st.builds(Nfs, texts, texts, st.booleans()),
            ),
            max_size=3,
        )
    )
    containers = draw(
        st.lists(
            st.builds(
                Container,
                name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
                image=texts,
                command=st.lists(texts, max_size=3).map(tuple),
                args=st.lists(texts, max_size=3).map(tuple),
                working_dir=texts,
                env=st.lists(st.builds(EnvVar, env_names, texts), max_size=3).map(tuple),
                ports=st.lists(st.builds(Port, st.integers(1000, 9999)), max_size=2).map(tuple),
                mounts=st.just(tuple(Mount(name, f"/m/{name}") for name in volumes)),
                termination_message_path=texts,
            ),
            min_size=1,
            max_size=3,
        )
    )
    return WorkSpec(
        identity=WHO,
        hostname=draw(texts),
        containers=tuple(containers),
        volumes=volumes,
        host_aliases=draw(st.lists(st.builds(HostAlias, texts, st.tuples(texts)), max_size=2).map(tuple)),
        dns=draw(st.none() | st.builds(Dns, st.tuples(texts), st.tuples(texts))),
    )


def leaves(spec: WorkSpec):
    for each in spec.containers:
        yield from (each.name, each.image, *each.command, *each.args, each.working_dir)
        yield from (text for var in each.env for text in (var.name, var.value))
        yield from (mount.path for mount in each.mounts)
        yield from (str(port.container_port) for port in each.ports)
        yield each.termination_message_path
    for name, volume in spec.volumes.items():
        yield name
        if isinstance(volume, Files):
            yield from (base64.b64encode(file.data).decode() for file in volume.files)
        if isinstance(volume, Nfs):
            yield from (volume.server, volume.path)
    for alias in spec.host_aliases:
        yield from (alias.ip, *alias.hostnames)
    if spec.dns:
        yield from (*spec.dns.nameservers, *spec.dns.searches)
    yield spec.hostname


@given(works())
def test_nothing_is_lost_on_the_way(spec):
    values = list(sent(spec).values())
    for leaf in leaves(spec):
        assert leaf in values
        values.remove(leaf)


def test_flex_options_are_json():
    spec = work(volumes={"d": FlexVolume("alicloud/disk", options={"volumeSize": "20", "encrypted": "true"})})
    assert json.loads(sent(spec)["Volume.1.FlexVolume.Options"]) == {"volumeSize": "20", "encrypted": "true"}


# --- sidecars ---


def sidecar(name: str, **more) -> Container:
    return Container(name, "proxy:1", restart_policy="Always", **more)


def test_sidecars_are_containers_with_switches():
    init = (Container("init", "setup:1"), sidecar("proxy"), sidecar("logs", env=(EnvVar("A", "b"),)))
    asked = sent(work(init_containers=init))
    assert [asked[f"Container.{n}.Name"] for n in (1, 2, 3)] == ["web", "proxy", "logs"]
    assert (asked["InitContainer.1.Name"], "InitContainer.2.Name" in asked) == ("init", False)
    assert variables(asked, "Container.2.") == {
        "ECI_CONTAINER_TYPE": "sidecar",
        "ECI_CONTAINER_IGNORE_EXIT_CODE": "true",
        "ECI_CONTAINER_LAUNCH_PRIORITY": "1000",
        "ECI_CONTAINER_EXIT_PRIORITY": "-2",
    }
    later = variables(asked, "Container.3.")
    assert (later["A"], later["ECI_CONTAINER_LAUNCH_PRIORITY"], later["ECI_CONTAINER_EXIT_PRIORITY"]) == (
        "b",
        "999",
        "-1",
    )
    tagged = {asked[f"Tag.{n}.Key"]: asked[f"Tag.{n}.Value"] for n in range(1, 21) if f"Tag.{n}.Key" in asked}
    assert sidecars_of(tagged) == ["proxy", "logs"]


def test_a_users_own_switch_stays():
    mine = sidecar("proxy", env=(EnvVar("ECI_CONTAINER_EXIT_PRIORITY", "-7"),))
    asked = sent(work(init_containers=(mine,)))
    assert variables(asked, "Container.2.")["ECI_CONTAINER_EXIT_PRIORITY"] == "-7"


def test_sidecars_have_what_init_containers_have_not():
    probe = Probe(TcpSocketAction(80))
    asked = sent(work(init_containers=(sidecar("proxy", readiness=probe, pre_stop=ExecAction(("true",))),)))
    assert asked["Container.2.ReadinessProbe.TcpSocket.Port"] == "80"
    assert asked["Container.2.LifecyclePreStopHandlerExec.1"] == "true"


def test_sidecars_count_for_the_size_beside_the_others_and_init_containers_alone():
    cpu = {"web": 1.0, "proxy": 1.0, "init": 3.0}
    containers = {n: Container(n, "i", resources=Resources(cpu_limit=c)) for n, c in cpu.items()}
    beside = structs.replace(containers["proxy"], restart_policy="Always")
    assert sent(work(containers["web"], init_containers=(beside,)))["Cpu"] == "2"
    assert sent(work(containers["web"], init_containers=(containers["init"], beside)))["Cpu"] == "4"


def test_a_container_that_says_so_does_not_count_for_the_size():
    small = Resources(cpu_limit=1.0, memory_limit=2 * GIB)
    ignored = Container("logs", "i", resources=small, env=(EnvVar("__ECI_RESOURCE_IGNORE__", "TRUE"),))
    asked = sent(work(web(resources=small), ignored))
    assert (asked["Cpu"], asked["Memory"]) == ("1", "2")


def variables(asked: dict[str, str], container: str) -> dict[str, str]:
    at = f"{container}EnvironmentVar."
    count = sum(key.startswith(at) and key.endswith(".Key") for key in asked)
    return {asked[f"{at}{n}.Key"]: asked[f"{at}{n}.Value"] for n in range(1, count + 1)}


# --- messages from logs ---


def test_whose_message_is_in_the_log_comes_back_from_the_listing():
    """By numbers, for the names of twenty containers are longer than a tag."""
    wants = {"termination_message_policy": "FallbackToLogsOnError"}
    spec = work(
        web(),
        Container("app", "x", **wants),
        init_containers=(Container("setup", "x", **wants), sidecar("proxy"), sidecar("logs", **wants)),
    )
    asked = parameters(spec, WHERE)
    made = group_of_work(spec, "eci-1", region="cn-hangzhou", created_at=1.0)
    entry = GroupEntry(
        container_group_id="eci-1",
        tags=tuple(Tag(each["Key"], each["Value"]) for each in asked["Tag"]),
        containers=tuple(GroupContainer(each["Name"]) for each in asked["Container"]),
        init_containers=tuple(GroupContainer(each["Name"]) for each in asked["InitContainer"]),
    )
    found = group_of_entry(entry)
    assert found is not None
    assert made.from_logs == found.from_logs == {"app", "setup", "logs"}


def test_a_number_that_somebody_else_has_written_in_a_tag_is_passed_over():
    found = group_of_entry(
        GroupEntry(
            container_group_id="eci-1",
            tags=(
                *(Tag(each["Key"], each["Value"]) for each in tags(WHO, more={})),
                Tag(FROM_LOGS_TAG, "² 7 x 0"),
            ),
            containers=(GroupContainer("app"),),
        )
    )
    assert found is not None
    assert found.from_logs == {"app"}
