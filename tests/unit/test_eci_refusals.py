"""What ECI cannot do is refused by name, all of it at once."""

import pytest
from test_eci_translate import WHERE, annotated, web, work

from overspill.backends.eci.translate import parameters
from overspill.errors import Unsupported
from overspill.model.work import (
    POD_IP,
    Container,
    EmptyDir,
    EnvVar,
    File,
    Files,
    FlexVolume,
    HttpGetAction,
    Port,
    Probe,
    Resources,
    SecurityContext,
)

BIG = b"x" * 25_000
REFUSED = {
    "21 containers": (work(*(Container(f"c{i}", "x") for i in range(21))), "spec.containers"),
    "21 volumes": (work(volumes={f"v{i}": EmptyDir() for i in range(21)}), "spec.volumes"),
    "a file too large": (work(volumes={"f": Files((File("a", BIG),))}), "spec.volumes[f][a]"),
    "files too large together": (
        work(volumes={f"f{i}": Files((File("a", BIG[:20_000]),)) for i in range(3)}),
        "spec.volumes",
    ),
    "17 files": (work(volumes={"f": Files(tuple(File(str(i), b"") for i in range(17)))}), "spec.volumes[f]"),
    "address inside a value": (
        work(web(env=(EnvVar("URL", f"http://{POD_IP}:80"),))),
        "spec.containers[0].env[URL]",
    ),
    "address in the command": (work(web(args=(POD_IP,))), "spec.containers[0].args"),
    "a name with a dot": (work(web(env=(EnvVar("a.b", ""),))), "spec.containers[0].env[a.b]"),
    "host port": (work(web(ports=(Port(80, host_port=80),))), "spec.containers[0].ports[0].hostPort"),
    "SCTP": (work(web(ports=(Port(80, "SCTP"),))), "spec.containers[0].ports[0].protocol"),
    "ECI's own port": (work(web(ports=(Port(10250),))), "spec.containers[0].ports[0].containerPort"),
    "capability": (
        work(web(security=SecurityContext(add_capabilities=("SYS_ADMIN",)))),
        "spec.containers[0].securityContext.capabilities.add",
    ),
    "headers of a probe": (
        work(web(readiness=Probe(HttpGetAction(80, headers=(("A", "b"),))))),
        "spec.containers[0].readinessProbe.httpGet.httpHeaders",
    ),
    "group of an init container": (
        work(web(), init_containers=(Container("i", "x", security=SecurityContext(run_as_group=1)),)),
        "spec.initContainers[0].securityContext.runAsGroup",
    ),
    "too large": (work(web(resources=Resources(cpu_limit=65))), "spec.containers[].resources"),
    "GPU without a type": (
        work(web(resources=Resources(gpus=1))),
        "spec.containers[].resources.limits[nvidia.com/gpu]",
    ),
    "driver": (work(volumes={"d": FlexVolume("x/y")}), "spec.volumes[d].flexVolume.driver"),
    "sysctl": (work(sysctls=(("vm.swappiness", "1"),)), "spec.securityContext.sysctls"),
    "eleven vSwitches": (
        annotated(eci_vswitch=",".join(f"vsw-{i}" for i in range(11))),
        "metadata.annotations[k8s.aliyun.com/eci-vswitch]",
    ),
    "no category": (
        annotated(eci_compute_category=","),
        "metadata.annotations[k8s.aliyun.com/eci-compute-category]",
    ),
    "not a boolean": (annotated(eci_auto_imc="yes"), "metadata.annotations[k8s.aliyun.com/eci-auto-imc]"),
    "no parameter for it": (
        annotated(eci_instance_family="ecs.c6"),
        "metadata.annotations[k8s.aliyun.com/eci-instance-family]",
    ),
    "unknown": (annotated(eci_tpyo="1"), "metadata.annotations[k8s.aliyun.com/eci-tpyo]"),
    "four tags": (
        annotated(eci_custom_tags="a:1,b:2,c:3,d:4"),
        "metadata.annotations[k8s.aliyun.com/eci-custom-tags]",
    ),
    "a tag of ours": (
        annotated(eci_custom_tags="env:test,overspill.dev/cluster.2:x"),
        "metadata.annotations[k8s.aliyun.com/eci-custom-tags]",
    ),
    "broken JSON": (annotated(eci_custom_hosts="{"), "metadata.annotations[k8s.aliyun.com/eci-custom-hosts]"),
}


@pytest.mark.parametrize(("spec", "field"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(spec, field):
    with pytest.raises(Unsupported, match="ECI cannot run this pod") as refused:
        parameters(spec, WHERE)
    assert field in refused.value.fields


def test_every_refusal_is_told_at_once():
    spec = work(web(args=(POD_IP,), ports=(Port(111),)))
    with pytest.raises(Unsupported) as refused:
        parameters(spec, WHERE)
    assert refused.value.fields == ("spec.containers[0].args", "spec.containers[0].ports[0].containerPort")
