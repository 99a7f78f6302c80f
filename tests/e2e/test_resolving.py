"""Pods as a real apiserver stores them: nothing of an ordinary one is refused, and all of it is resolved."""

import json

import msgspec
import pytest

from overspill.agent.admission import Admission
from overspill.agent.references import TokenWish
from overspill.agent.sources import Sources
from overspill.agent.spec import Missing, NodeFacts, resolve
from overspill.backends.base import Capabilities
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.resources import PODS
from overspill.local.cluster import kubectl_path
from overspill.model.fields import BACKEND, unsupported_fields
from overspill.model.pods import Pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOM = {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "10Gi", "pods": "10"}
NODE = NodeFacts(cluster="c", name="nowhere", ip="10.0.0.9", allocatable=ROOM, cluster_dns=("10.96.0.10",))
HEAD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "full", "namespace": "resolving", "labels": {"app": "x"}},
}
FULL = HEAD | {
    "spec": {
        "nodeName": "nowhere",
        "containers": [
            {
                "name": "main",
                "image": "example.test/app",
                "args": ["--ip=$(IP)"],
                "ports": [{"containerPort": 80, "name": "http"}],
                "envFrom": [{"secretRef": {"name": "keys"}}],
                "env": [
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "mode"}}},
                ],
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "conf", "mountPath": "/conf", "readOnly": True}],
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
            }
        ],
        "initContainers": [{"name": "init", "image": "example.test/app:1"}],
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {
                "name": "mine",
                "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]},
            },
        ],
    }
}
BARE = {"spec": {"nodeName": "nowhere", "containers": [{"name": "main", "image": "example.test/app"}]}}


@pytest.fixture(scope="module")
def namespace(control_plane, until):
    def meta(name):
        return {"name": name, "namespace": "resolving"}

    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "resolving"}})
    until(
        lambda: control_plane.kubectl("get", "serviceaccount", "default", "-n", "resolving"), what="account"
    )
    until(
        lambda: control_plane.kubectl("get", "cm", "kube-root-ca.crt", "-n", "resolving"), what="certificate"
    )
    control_plane.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("conf"), "data": {"mode": "fast"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta("keys"), "stringData": {"api": "geheim"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta("db"), "spec": {"ports": [{"port": 5432}]}},
        FULL,
    )
    yield "resolving"
    control_plane.kubectl("delete", "pod", "full", "-n", "resolving", "--force", "--grace-period=0")


@pytest.fixture
async def client(control_plane):
    _, environment = kubectl_path(control_plane.name)
    async with Client(load_config(environment["KUBECONFIG"])) as client:
        yield client


def stored(cluster, manifest) -> dict:
    return json.loads(
        cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
    )


def test_the_apiservers_defaults_ask_for_nothing(control_plane, namespace):
    pod = stored(control_plane, BARE | HEAD | {"metadata": {"name": "bare", "namespace": namespace}})
    assert unsupported_fields(pod["spec"], frozenset()) == []


async def test_a_full_pod_is_admitted_and_resolved(client, namespace):
    pod = await client.get(PODS, "full", namespace=namespace, kind=Pod)
    everything = Capabilities(BACKEND, frozenset())
    admission = Admission(node_name="nowhere", labels={}, allocatable=ROOM, capabilities=everything)
    assert admission.admit(pod) is None
    made = await resolve(pod, Sources(client), NODE)
    assert made.warnings == ()
    (container,) = made.work.containers
    env = {var.name: var.value for var in container.env}
    assert (env["api"], env["MODE"], env["CPU"], env["APP"]) == ("geheim", "fast", "2", "x")
    assert env["DB_SERVICE_PORT"] == "5432"
    assert env["KUBERNETES_SERVICE_PORT_HTTPS"]
    assert container.liveness.handler.port == 80
    assert made.work.with_address("10.1.2.3").containers[0].args == ("--ip=10.1.2.3",)
    access = next(volume for name, volume in made.work.volumes.items() if name.startswith("kube-api-access-"))
    files = {file.path: file.data for file in access.files}
    assert files["namespace"] == namespace.encode()
    assert files["ca.crt"].startswith(b"-----BEGIN CERTIFICATE-----")
    assert access.refresh_after == pytest.approx(0.8 * 3607)


async def test_a_token_is_the_pods_and_of_its_audience(client, namespace):
    pod = await client.get(PODS, "full", namespace=namespace, kind=Pod)
    token = await Sources(client).token(pod.metadata, TokenWish("default", "vault", 600))
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.text.decode(), "audiences": ["vault"]},
    }
    answer = await client.request(
        "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=msgspec.json.encode(review)
    )
    status = msgspec.json.decode(answer)["status"]
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [pod.metadata.uid]
    assert token.renew_after == pytest.approx(480)


async def test_an_account_that_is_not_there_is_waited_for(client, namespace):
    pod = await client.get(PODS, "full", namespace=namespace, kind=Pod)
    pod.spec = msgspec.Raw(
        bytes(pod.spec).replace(b'"serviceAccountName":"default"', b'"serviceAccountName":"ghost"')
    )
    with pytest.raises(Missing, match='failed to fetch token: serviceaccounts "ghost" not found'):
        await resolve(pod, Sources(client), NODE)
