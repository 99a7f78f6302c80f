"""`overspill check` and `overspill cost` over files, without cluster or account."""

import base64
import json
from datetime import date

import pytest
import yaml
from typer.testing import CliRunner

from overspill.cli.main import app
from overspill.errors import Misconfigured
from overspill.model.cost import list_prices


def run(*args: str, stdin: str = ""):
    return CliRunner().invoke(app, list(args), input=stdin)


def deployment(**spec) -> dict:
    containers = [{"name": "web", "image": "nginx:1"}]
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers, **spec}}
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": template},
    }


def checked(*objects: dict):
    return run("check", "-", stdin=yaml.safe_dump_all(objects))


def test_what_eci_can_do_passes():
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5}
    container = {"name": "web", "image": "nginx:1", "readinessProbe": probe, "args": ["a"]}
    result = checked({"kind": "Service", "metadata": {"name": "web"}}, deployment(containers=[container]))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "1 pod specs checked" in result.stderr


def test_restricted_pods_pass_with_a_warning():
    """The restricted Pod Security Standard, to the letter."""
    confined = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"image": "nginx:1", "securityContext": confined}
    restricted = deployment(
        containers=[{"name": "web", **container}],
        initContainers=[{"name": "init", **container}],
        securityContext={"runAsNonRoot": True, "runAsUser": 1000},
    )
    result = checked(restricted)
    assert (result.exit_code, result.stdout) == (0, "")
    for path in (
        "containers[].securityContext.capabilities.drop",
        "containers[].securityContext.allowPrivilegeEscalation",
        "initContainers[].securityContext.seccompProfile",
    ):
        assert path in result.stderr
    assert "runAsNonRoot" not in result.stderr


CANNOT = {
    "host network": (deployment(hostNetwork=True), "spec.hostNetwork"),
    "host path": (
        deployment(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
        "spec.volumes[0].hostPath",
    ),
    "privileged": (
        deployment(containers=[{"name": "web", "image": "x", "securityContext": {"privileged": True}}]),
        "spec.containers[0].securityContext.privileged",
    ),
    "startup probe": (
        deployment(
            containers=[{"name": "web", "image": "x", "startupProbe": {"exec": {"command": ["true"]}}}]
        ),
        "spec.containers[0].startupProbe",
    ),
    "too many": (
        deployment(containers=[{"name": f"c{number}", "image": "x"} for number in range(21)]),
        "spec.containers: ECI runs at most 20 containers",
    ),
    "a DaemonSet": ({**deployment(), "kind": "DaemonSet"}, "do not run on virtual nodes"),
}


@pytest.mark.parametrize(("thing", "told"), CANNOT.values(), ids=CANNOT)
def test_what_eci_cannot_do_is_named(thing, told):
    result = checked(thing)
    assert result.exit_code == 1
    assert told in result.stdout
    assert result.stdout.startswith(f"{thing['kind']} shop/web: ")


def test_sizes_of_config_maps_in_the_same_files_count():
    volume = {"name": "cm", "configMap": {"name": "big"}}
    big = {"kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x" * 30_000}}
    result = checked(big, deployment(volumes=[volume]))
    assert result.exit_code == 1
    assert "spec.volumes[cm][a]" in result.stdout


def test_secrets_count_and_are_not_shown():
    data = {"a": base64.b64encode(b"s3cret" * 6000).decode()}
    secret = {"kind": "Secret", "metadata": {"name": "big"}, "data": data}
    result = checked(secret, deployment(volumes=[{"name": "s", "secret": {"secretName": "big"}}]))
    assert result.exit_code == 1
    assert "s3cret" not in result.output


def test_what_is_not_in_the_files_is_told_to_be_unchecked():
    result = checked(deployment(volumes=[{"name": "cm", "configMap": {"name": "elsewhere"}}]))
    assert result.exit_code == 0
    assert "not checked any further" in result.stderr
    assert "elsewhere" in result.stderr


MALFORMED = {
    "a Secret that is not base64": {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "!s3cret!"}},
    "a ConfigMap with a number": {"kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"a": 1}},
    "a claim that is none": {"kind": "PersistentVolumeClaim", "metadata": {"name": "s"}, "spec": "x"},
    "templates of claims that are none": {
        "kind": "StatefulSet",
        "metadata": {"name": "s"},
        "spec": {"volumeClaimTemplates": 5},
    },
    "a template of claims with a list for a name": {
        "kind": "StatefulSet",
        "metadata": {"name": "s"},
        "spec": {"volumeClaimTemplates": [{"metadata": {"name": ["a"]}}]},
    },
}


@pytest.mark.parametrize("thing", MALFORMED.values(), ids=MALFORMED)
def test_objects_that_no_cluster_would_take_are_named(thing):
    result = checked(thing, deployment())
    assert result.exit_code == 2
    assert f"error: {thing['kind']} default/s is not valid: " in result.stderr
    assert "s3cret" not in result.output


UNREADABLE = {
    "a number for items": "{kind: List, items: 5}",
    "a list for a kind": "{kind: [a], metadata: {name: s}}",
    "a list for a name": "{kind: ConfigMap, metadata: {name: [a]}}",
    "a list for a Deployment's name": "{kind: Deployment, metadata: {name: [a]}}",
    "a number for a namespace": "{kind: Pod, metadata: {namespace: 5}}",
    "a list for a key": "{kind: Pod, spec: {? [a] : 1}}",
    "nothing for a key": "{kind: Pod, spec: {? : 1}}",
    "an object within itself": "&a {kind: Pod, spec: *a}",
    "a day that is none": "{kind: Pod, spec: {hostname: 2026-13-45}}",
    "half a character": r'{kind: Pod, metadata: {name: "\ud800"}}',
    "half a character for a key": r'{kind: Pod, spec: {"\ud800": 1}}',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_object_is_an_error(text):
    result = checked_text(text)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")


def test_objects_that_nobody_looks_at_may_be_anything():
    assert (
        checked_text("{kind: CustomResourceDefinition, metadata: {name: [a]}, spec: {on: 1}}").exit_code == 0
    )


def test_keys_and_days_are_text_as_kubectl_sends_them():
    odd = {1: "x", "name": "web", "image": "nginx:1"}
    day = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"day": date(2026, 11, 30), 2: "x"}}
    result = checked(deployment(containers=[odd]), day)
    assert result.exit_code == 1
    assert (
        result.stdout
        == "Deployment shop/web: spec.containers[0].1 is not something that this backend can do\n"
    )


def test_a_key_that_yaml_takes_for_a_truth_value_is_text_as_kubectl_sends_it():
    config = "{kind: ConfigMap, metadata: {name: c}, data: {off: x}}"
    key = "{name: v, configMap: {name: c, items: [{key: 'false', path: f}]}}"
    spec = "{containers: [{name: web, image: x, on: 1}], volumes: [" + key + "]}"
    result = checked_text(
        f"{config}\n---\n{{kind: Pod, metadata: {{name: p, labels: {{yes: x}}}}, spec: {spec}}}\n"
    )
    assert (
        result.stdout == "Pod default/p: spec.containers[0].true is not something that this backend can do\n"
    ), result.stderr
    assert result.exit_code == 1


def test_pods_that_no_cluster_would_take_are_told_like_others():
    limits = {"limits": {"cpu": "two"}}
    result = checked(
        deployment(containers=[{"name": "web", "image": "x", "resources": limits}]),
        {"kind": "Deployment", "metadata": None, "spec": "x"},
    )
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first == "Deployment shop/web: not a valid pod: 'two' is not a quantity such as 500m or 2Gi"
    assert second.startswith("Deployment default/?: not a valid pod: ")


def test_volumes_that_are_none_are_told_beside_templates_of_claims():
    stateful = deployment(volumes=5) | {"kind": "StatefulSet"}
    stateful["spec"] |= {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    result = checked(stateful)
    assert result.exit_code == 1
    assert "StatefulSet shop/web: not a valid pod: " in result.stdout


def test_what_is_null_is_not_there():
    empty = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": None}
    volume = {"name": "cm", "configMap": {"name": "c"}}
    result = checked({"kind": "List", "items": None}, empty, deployment(volumes=[volume]))
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_field_is_told_once():
    result = checked(deployment(volumes=[{"name": "host", "hostPath": {"path": "/"}}]))
    assert len(result.stdout.splitlines()) == 1


def test_a_file_that_cannot_be_read(tmp_path):
    assert run("check", str(tmp_path / "none.yaml")).exit_code == 2
    assert checked_text("a: [").exit_code == 2


def test_a_backend_that_nobody_knows_is_wrong_usage_and_no_refusal():
    result = run("check", "--backend", "nosuch", "-", stdin="")
    assert result.exit_code == 2
    assert "unknown backend 'nosuch'" in result.stderr


def checked_text(text: str):
    return run("check", "-", stdin=text)


def pod(name: str, *, namespace="shop", owner="web-5d", end=None) -> dict:
    annotations = {
        "k8s.aliyun.com/eci-instance-spec": "2.0-4.0Gi",
        "overspill.dev/price-per-second": "0.00012252",
        "overspill.dev/currency": "CNY",
    }
    terminated = {"terminated": {"finishedAt": end}} if end else {"running": {}}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"pod-template-hash": "5d"},
            "annotations": annotations,
            "ownerReferences": [{"kind": "ReplicaSet", "name": owner, "controller": True}],
        },
        "status": {
            "phase": "Succeeded" if end else "Running",
            "startTime": "2026-11-23T10:00:00Z",
            "containerStatuses": [{"state": terminated}],
        },
    }


def test_cost_of_pods_that_have_ended():
    items = [
        pod("web-5d-1", end="2026-11-23T11:00:00Z"),
        pod("web-5d-2", end="2026-11-23T10:30:00Z"),
        pod("x", namespace="other", owner="job", end="2026-11-23T10:00:10Z"),
        {"metadata": {"name": "on-a-real-node", "namespace": "shop"}, "status": {"phase": "Running"}},
    ]
    result = run("cost", "-f", "-", "--by", "owner", "-o", "json", stdin=json.dumps({"items": items}))
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert first["name"] == "shop/Deployment web"
    assert (first["pods"], first["vcpu_hours"], first["gib_hours"]) == (2, 3.0, 6.0)
    assert float(first["cost"]) == pytest.approx(5400 * 0.00012252)
    assert second["name"] == "other/ReplicaSet job"


def ready_to_start(status: str = "True") -> list[dict]:
    return [
        {
            "type": "PodReadyToStartContainers",
            "status": status,
            "lastTransitionTime": "2026-11-23T11:00:00Z",
        }
    ]


def cost_of(item: dict) -> list[dict]:
    return json.loads(run("cost", "-f", "-", "-o", "json", stdin=json.dumps({"items": [item]})).stdout)


def test_the_wait_for_an_instance_costs_nothing():
    """It has waited for an hour since its startTime."""
    late = pod("web-5d-1", end="2026-11-23T11:01:00Z")
    late["status"]["conditions"] = ready_to_start()
    [bill] = cost_of(late)
    assert float(bill["cost"]) == pytest.approx(60 * 0.00012252)
    waiting = pod("web-5d-2")
    waiting["status"] |= {"phase": "Pending", "conditions": ready_to_start("False")}
    assert cost_of(waiting) == []


@pytest.mark.parametrize(("written", "cost"), [("0.5", 0.5), ("NaN", 3600 * 0.00012252)])
def test_a_pod_that_has_ended_costs_what_its_backend_wrote(written, cost):
    ended = pod("web-5d-1", end="2026-11-23T11:00:00Z")
    ended["metadata"]["annotations"]["overspill.dev/cost"] = written
    assert [float(bill["cost"]) for bill in cost_of(ended)] == pytest.approx([cost])


def test_an_end_that_is_not_told_does_not_count():
    """As of a container that was lost with its node: a metav1.Time that is zero is null in JSON."""
    lost = pod("web-5d-1", end="2026-11-23T11:00:00Z")
    lost["status"]["containerStatuses"].append({"state": {"terminated": {"finishedAt": None}}})
    result = run("cost", "-f", "-", "-o", "json", stdin=json.dumps({"items": [lost]}))
    assert [bill["vcpu_hours"] for bill in json.loads(result.stdout)] == [2.0]


def test_cost_as_a_table_beside_own_nodes():
    items = {"items": [pod("web-5d-1", end="2026-11-23T11:00:00Z")]}
    result = run(
        "cost", "-f", "-", "--base-vcpu-hour", "0.1", "--base-gib-hour", "0.01", stdin=json.dumps(items)
    )
    assert result.stdout.splitlines()[-1].split() == ["shop", "1", "2.00", "4.00", "0.4411", "CNY", "0.2400"]
    assert list_prices().date in result.stderr


def test_cost_tells_how_far_its_prices_are_known():
    quoted, typed, waiting = (pod(f"web-5d-{number}", end="2026-11-23T11:00:00Z") for number in (1, 2, 3))
    quoted["metadata"]["annotations"]["overspill.dev/price-source"] = "quote"
    typed["metadata"]["annotations"]["k8s.aliyun.com/eci-instance-spec"] = "ecs.c6.large"
    typed["metadata"]["annotations"]["overspill.dev/price-source"] = "quote"
    waiting["metadata"]["annotations"] = {"k8s.aliyun.com/eci-instance-id": "eci-1"}
    alone = run("cost", "-f", "-", stdin=json.dumps({"items": [quoted]}))
    assert alone.stderr == ""
    every = run("cost", "-f", "-", "-o", "json", stdin=json.dumps({"items": [quoted, typed, waiting]}))
    assert [bill["pods"] for bill in json.loads(every.stdout)] == [1]
    assert every.stderr.splitlines() == [
        "pods left out, since the price or size of their instance is not known: 2"
    ]


NO_PODS = {
    "no list": {"items": None},
    "numbers": {"items": [1]},
    "empty objects": {"items": [{}]},
    "a number for a price": {
        "items": [{"metadata": {"name": "a", "namespace": "b", "annotations": {"a": 1}}}]
    },
    "a time that is none": {"items": [pod("web-5d-1", end="yesterday")]},
    "a day without an hour": {"items": [pod("web-5d-1", end="0001-01-01")]},
    "an array": [],
}


@pytest.mark.parametrize("items", NO_PODS.values(), ids=NO_PODS)
def test_cost_of_what_are_no_pods_is_refused(items):
    result = run("cost", "-f", "-", stdin=json.dumps(items))
    assert isinstance(result.exception, Misconfigured)
    assert "- does not hold a list of pods" in str(result.exception)


@pytest.mark.parametrize("written", ["cheap", "NaN", "sNaN", "-1", "Infinity", "1e999999", ""])
@pytest.mark.parametrize("key", ["overspill.dev/price-per-second", "k8s.aliyun.com/eci-instance-spec"])
def test_what_can_be_no_price_or_size_is_left_out_and_counted(key, written):
    good, bad = (pod(f"web-5d-{number}", end="2026-11-23T11:00:00Z") for number in (1, 2))
    bad["metadata"]["annotations"][key] = written if "price" in key else f"{written}-{written}Gi"
    result = run("cost", "-f", "-", "-o", "json", stdin=json.dumps({"items": [good, bad]}))
    assert [bill["pods"] for bill in json.loads(result.stdout)] == [1]
    assert "is not known: 1" in result.stderr


def test_list_price_of_the_example_on_the_price_page():
    assert f"{list_prices().per_second(cpu=2, memory=4):f}" == "0.00012252"


CLAIM = {"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"volumeName": "pv"}}


def persistent(driver: str) -> dict:
    source = {"csi": {"driver": driver, "volumeHandle": "d-1"}}
    return {"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": source}


def claiming(kind="Deployment") -> dict:
    return deployment(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]) | {
        "kind": kind
    }


def test_claims_are_checked_by_the_volumes_of_the_same_files():
    fine = checked(persistent("diskplugin.csi.alibabacloud.com"), CLAIM, claiming())
    assert (fine.exit_code, fine.stdout) == (0, "")
    assert "not checked any further" not in fine.stderr
    other = checked(persistent("ebs.csi.aws.com"), CLAIM, claiming())
    assert other.exit_code == 1
    assert "spec.volumes[v].persistentVolumeClaim: of CSI drivers ECI has" in other.stdout


def test_claims_without_their_volume_are_told_to_be_unchecked():
    for objects in ([claiming()], [CLAIM, claiming()]):
        result = checked(*objects)
        assert result.exit_code == 0
        assert "Deployment shop/web: not checked any further: MountVolume.SetUp failed" in result.stderr


def test_templates_of_claims_count_as_claims():
    stateful = deployment() | {"kind": "StatefulSet"}
    stateful["spec"] |= {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    assert "persistentvolumeclaims 'data' not found" in checked(stateful).stderr
    stdin = yaml.safe_dump_all([stateful])
    refused = run("check", "--backend", "podman", "-", stdin=stdin)
    assert "spec.volumes[0].persistentVolumeClaim" in refused.stdout
