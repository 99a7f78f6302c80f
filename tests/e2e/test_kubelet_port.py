"""The kubelet port of a virtual node, asked without kubectl: with credentials that are good, bad, or somebody else's."""

import base64
import json
import os
import signal
import ssl
import time
import urllib.error
import urllib.request

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from kubectl_world import NODE, SPACE
from placement_world import ROOT

import overspill
from overspill import pki
from overspill.kube.tls import load_pair
from overspill.local.paths import cluster_paths
from overspill.pki import KeyPair

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def port_of(cluster, name=NODE):
    status = cluster.get("node", name)["status"]
    address = next(each["address"] for each in status["addresses"] if each["type"] == "InternalIP")
    return f"https://{address}:{status['daemonEndpoints']['kubeletEndpoint']['Port']}"


def asked(url, *, ca, token="", client=None):
    """(status, text) of a GET."""
    tls = ssl.create_default_context(cafile=ca)
    if client is not None:
        load_pair(tls, client.certificate, client.key)
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def signed_again(paths, token, **claims):
    """A token of the cluster with other claims, signed with the cluster's own key."""

    def part(content):
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    key = serialization.load_pem_private_key((paths.pki / "service-account.key").read_bytes(), password=None)
    head, body, _ = token.encode().split(b".")
    claimed = json.loads(base64.urlsafe_b64decode(body + b"=="))
    signed = head + b"." + part(json.dumps(claimed | claims).encode())
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return (signed + b"." + part(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def pair_of(paths, name):
    return KeyPair((paths.pki / f"{name}.crt").read_bytes(), (paths.pki / f"{name}.key").read_bytes())


@pytest.fixture(scope="module")
def port(streaming):
    """Asks the node's port; its certificate is verified each time."""
    paths = cluster_paths(streaming.name)
    url = port_of(streaming)

    def ask(path, **credentials):
        return asked(url + path, ca=paths.pki / "ca.crt", **credentials)

    return ask


def test_nobody_is_anonymous(port):
    for path in ("/healthz", "/metrics", "/pods", "/exec/streams/speaker/c?command=id&output=1"):
        assert port(path) == (401, "Unauthorized")


def test_tokens_that_are_none(streaming, port):
    paths, now = cluster_paths(streaming.name), int(time.time())
    good = streaming.kubectl("-n", "kube-system", "create", "token", "virtual-node-eci").strip()
    assert port("/metrics", token=signed_again(paths, good))[0] == 403, "it is somebody's while it lasts"
    yesterday = {"iat": now - 90000, "nbf": now - 90000, "exp": now - 86400}
    tokens = ("bogus-token", "a.b.c", signed_again(paths, good, **yesterday))
    for token in tokens:
        assert port("/metrics", token=token) == (401, "Unauthorized")
    log = streaming.kubectl("-n", "kube-system", "logs", NODE)
    assert "kubelet API request refused" in log
    assert not any(token in log for token in tokens)


def test_a_token_gets_what_its_owner_may(streaming, port):
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "scraper", "namespace": SPACE},
    }
    rule = {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}
    meta = {"name": "streams-scraper"}
    group = "rbac.authorization.k8s.io"
    streaming.apply(
        account,
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": meta, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "streams-scraper"},
            "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": SPACE}],
        },
    )
    token = streaming.kubectl("-n", SPACE, "create", "token", "scraper").strip()
    assert port("/metrics/resource", token=token)[0] == 200
    status, text = port("/pods", token=token)
    assert (status, text) == (
        403,
        f"Forbidden (user=system:serviceaccount:{SPACE}:scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n",
    )
    log = streaming.kubectl("-n", "kube-system", "logs", NODE)
    assert "kubelet API request refused" in log
    assert token not in log


def test_certificates(streaming, port):
    paths = cluster_paths(streaming.name)
    authority = pair_of(paths, "ca")
    assert port("/healthz", client=pair_of(paths, "apiserver-kubelet-client")) == (200, "ok")
    assert port("/healthz", client=pair_of(paths, "admin")) == (200, "ok")
    # A real node's kubelet is somebody, who may do nothing here; nor may another virtual node.
    other = pki.issue(
        authority, common_name="system:node:virtual-node-eci-1", organizations=["system:nodes"], client=True
    )
    for client in (pair_of(paths, "kubelet"), other):
        for path in ("/pods", "/metrics/resource", f"/exec/{SPACE}/speaker/c?command=id&output=1"):
            assert port(path, client=client)[0] == 403
    strangers = pki.issue(pki.new_authority("another"), common_name="kubernetes-admin", client=True)
    serving = pki.issue(
        authority, common_name="system:node:other", organizations=["system:nodes"], server=True
    )
    for client in (strangers, serving):
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            port("/healthz", client=client)
    log = streaming.kubectl("-n", "kube-system", "logs", NODE)
    assert "kubelet API client certificate refused" in log


def test_a_node_shows_a_certificate_that_the_cluster_signed(streaming):
    requests = [each for each in streaming.get("csr") if each["metadata"]["name"].startswith(f"{NODE}-")]
    assert requests
    for each in requests:
        assert each["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
        assert [condition["reason"] for condition in each["status"]["conditions"]] == ["VirtualNode"]


@pytest.fixture
def approved_by_a_pod(streaming):
    """In place of the program of a local cluster: what a cluster of one's own has."""
    os.kill(streaming.processes()["approver"], signal.SIGKILL)
    manifests = streaming.kubectl("kustomize", str(ROOT / "deploy" / "approver"))
    agent = streaming.get("pod", NODE, "-n", "kube-system")["spec"]["containers"][0]
    manifests = manifests.replace(f"image: overspill:{overspill.__version__}", f"image: {agent['image']}")
    streaming.kubectl("apply", "-f", "-", stdin=manifests)
    yield
    streaming.kubectl("-n", "kube-system", "delete", "deployment", "overspill-approver")
    streaming.overspill("up")


def test_a_pod_approves_where_it_is_deployed(streaming, approved_by_a_pod, until):
    before = {each["metadata"]["name"] for each in streaming.get("csr")}
    streaming.kubectl("-n", "kube-system", "delete", "pod", NODE, "--timeout=60s")
    until(
        lambda: any(
            each.get("status", {}).get("certificate")
            for each in streaming.get("csr")
            if each["metadata"]["name"] not in before
        ),
        what="a certificate for the next agent",
        seconds=120,
    )
    log = streaming.kubectl("-n", "kube-system", "logs", "deployment/overspill-approver")
    assert "request approved" in log


def test_nobody_approves_what_is_not_an_agents(streaming, until):
    made = pki.new_request(common_name=f"system:node:{NODE}", organizations=["system:nodes"], hosts=[NODE])
    request = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "by-somebody"},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
            "request": base64.b64encode(made.request).decode(),
        },
    }
    streaming.apply(request)
    # The approver has seen it once it has decided on one that came later.
    before = {each["metadata"]["name"] for each in streaming.get("csr")}
    streaming.kubectl("-n", "kube-system", "delete", "pod", NODE, "--timeout=60s")
    until(
        lambda: [
            each
            for each in streaming.get("csr")
            if each["metadata"]["name"] not in before and each.get("status")
        ],
        what="a certificate for the next agent",
        seconds=120,
    )
    assert not streaming.get("csr", "by-somebody").get("status")
    until(
        lambda: (
            streaming.kubectl("-n", SPACE, "exec", "speaker", "--", "echo", "again", check=False) == "again\n"
        )
    )
