"""The policies of examples/ on a real apiserver."""

import json
import pathlib
import subprocess

import pytest

from overspill.local.kubectl import kubectl_path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
OWN = "tenants-own"
TRUSTED = "tenants-trusted"


@pytest.fixture(scope="module")
def tenants(control_plane, until):
    """The control plane with the policy in force, and two namespaces of which one is left alone."""
    label = {"overspill.dev/eci-annotations": "any"}
    for name, labels in ((OWN, {}), (TRUSTED, label)):
        meta = {"name": name, "labels": labels}
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        until(lambda n=name: control_plane.kubectl("get", "serviceaccount", "default", "-n", n))
    control_plane.kubectl("apply", "-f", str(EXAMPLES / "tenants.yaml"))
    until(lambda: refusal(control_plane, OWN, "eci-ram-role-name"), what="the policy to be in force")
    yield control_plane
    control_plane.kubectl("delete", "-f", str(EXAMPLES / "tenants.yaml"))


def refusal(cluster, namespace, *annotations):
    """What the apiserver says to a pod with these annotations; "" if it takes it."""
    meta = {
        "name": "asking",
        "namespace": namespace,
        "annotations": {f"k8s.aliyun.com/{name}": "x" for name in annotations},
    }
    spec = {"containers": [{"name": "main", "image": "x"}]}
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    program, environment = kubectl_path(cluster.name)
    command = [program, "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=pod, capture_output=True, text=True, env=environment, check=False)
    return done.stderr if done.returncode else ""


def test_what_costs_or_grants_is_refused_by_name(tenants):
    said = refusal(tenants, OWN, "eci-with-eip", "eci-spot-strategy", "eci-vswitch")
    assert "this namespace may not ask ECI for" in said
    assert "k8s.aliyun.com/eci-with-eip" in said
    assert "k8s.aliyun.com/eci-vswitch" in said
    assert "eci-spot-strategy" not in said


def test_the_rest_passes(tenants):
    assert refusal(tenants, OWN) == ""
    assert refusal(tenants, OWN, "eci-spot-strategy", "eci-instance-id") == ""
    assert refusal(tenants, TRUSTED, "eci-ram-role-name") == ""


def test_the_network_policies_are_taken(control_plane):
    control_plane.kubectl("apply", "--dry-run=server", "-f", str(EXAMPLES / "network-policies.yaml"))
