"""The webhook on a cluster whose apiserver behaves as Kubernetes 1.34, which has no MutatingAdmissionPolicy."""

import asyncio
import base64
import datetime as dt
import json
import os
import signal
import ssl
import urllib.request

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from forms import configuration, point_at, start_replica, trusted
from placement_ledger import GATE, gated
from placement_manifests import deployment
from placement_world import Controller, Space, World, free_port

from injection_cases import CASES, parts, pod
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.local.kubectl import kubectl_path
from overspill.local.paths import cluster_paths
from overspill.local.placement import webhook_at
from overspill.serve.listener import bind
from overspill.webhook.certificates import SECRET, Lives
from overspill.webhook.run import Webhook
from placement_cases import marked, of_deployment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WITHOUT_POLICIES = ("--workers", "0", "--backend", "simulated", "--injection", "webhook")


@pytest.fixture(scope="module")
def hooked(start_cluster, until, tmp_path_factory):
    """Nodes of the pools base and elastic; the webhook of the controller that `up` has started."""
    with start_cluster("hook", *WITHOUT_POLICIES) as cluster:
        made = World(cluster, until, tmp_path_factory.mktemp("webhook"), *kubectl_path(cluster.name))
        try:
            made.node("base-0", pods=600, taint=False)
            made.node("elastic-0", pods=600)
            made.ready_nodes("base-0", "elastic-0")
            yield made
        finally:
            made.close()


@pytest.fixture
def space(hooked, request):
    """A namespace of one test; the parameter is the bound of its base, None for none to be watched."""
    name = f"{request.node.originalname.replace('_', '-')[5:40].rstrip('-')}-{os.getpid()}"
    made = Space(hooked, name, bound=getattr(request, "param", 5))
    yield made
    made.close()


def dry_run(cluster, manifest, namespace="default"):
    answer = cluster.kubectl(
        "create", "--dry-run=server", "-n", namespace, "-o", "json", "-f", "-", stdin=json.dumps(manifest)
    )
    return json.loads(answer)["spec"]


def gates_of(cluster, manifest):
    return [each["name"] for each in dry_run(cluster, manifest).get("schedulingGates", [])]


def is_asked(cluster):
    """Whether the apiserver gets an answer of the webhook."""
    return gates_of(cluster, marked(of_deployment("web"))) == [GATE]


def labelled(cluster, name):
    label = {"virtual-node-affinity-injection": "enabled"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}})


def test_up_gives_an_apiserver_without_the_policies_and_a_webhook_instead(hooked):
    cluster = hooked.cluster
    kinds = cluster.kubectl("api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name")
    assert "mutatingwebhookconfigurations" in kinds
    assert "mutatingadmissionpolicies" not in kinds
    assert trusted(cluster)
    assert is_asked(cluster)
    labelled(cluster, "injected")
    hooked.until(
        lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", "injected"), what="account"
    )
    manifest, wanted = CASES[0].values
    assert parts(dry_run(cluster, manifest, "injected")) == wanted


def test_a_controller_without_webhook_says_what_is_missing(hooked):
    lonely = Controller(
        "--lease-name", "lonely", log=hooked.folder / "lonely.log", kubeconfig=hooked.kubeconfig
    )
    try:
        hooked.until(lambda: "no MutatingAdmissionPolicy" in lonely.log.read_text(), what="error in the log")

        def told():
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{lonely.port}/readyz", timeout=5)
            except urllib.error.HTTPError as error:
                return "deploy/webhook" in error.read().decode()
            except urllib.error.URLError:
                return False

        hooked.until(told, what="reason in /readyz")
    finally:
        lonely.stop()


def test_a_policy_and_its_deployment_applied_together(space):
    space.policy()
    space.apply(deployment(8))
    space.settled(base=5, elastic=3)
    space.scale(5)
    space.settled(base=5)


def kill_controller(hooked, number):
    pid = hooked.cluster.processes()["overspill-controller"]
    os.kill(pid, number)
    return pid


def controller_again(hooked):
    """Let `up` start the controller that was killed, and wait until it leads: its predecessor's Lease goes on for a while."""

    def holder():
        lease = hooked.cluster.get("lease", "overspill-controller", "-n", "kube-system")
        return lease["spec"].get("holderIdentity")

    before = holder()
    hooked.cluster.overspill("up", *WITHOUT_POLICIES, timeout=300)
    hooked.until(lambda: holder() not in {None, "", before}, what="controller that leads")


def ungated(space, count):
    """The pods, as soon as there are so many."""

    def there():
        found = space.pods()
        return found if len(found) == count else None

    found = space.world.until(there, what=f"{count} pods")
    assert not any(map(gated, found))
    return found


# What slips through ungated is not kept off the base.
slips_through = pytest.mark.parametrize("space", [None], indirect=True)


@slips_through
def test_16_webhook_down_pods_are_made_and_adopted_by_their_node_when_it_is_back(hooked, space):
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    kill_controller(hooked, signal.SIGKILL)
    space.scale(10)
    ungated(space, 10)
    hooked.until(lambda: space.bound() == 10, what="pods with a node")
    controller_again(hooked)
    # Nothing kept the five off the base; they are counted there, and nobody else is sent there.
    space.settled(base=10)
    hooked.until(lambda: space.is_true("OverAssigned"), what="condition OverAssigned")
    space.scale(20)
    space.settled(base=10, elastic=10)
    space.scale(10)
    space.settled(base=5, elastic=5)


@pytest.mark.matrix
def test_the_guard_that_up_has_started_lets_pods_go(hooked, space):
    """Their gate stands in the template: nobody answers who could add it."""
    space.policy(gate={"timeoutSeconds": 1, "onTimeout": "Release"})
    space.apply(deployment(5, schedulingGates=[{"name": GATE}]))
    space.settled(base=5)
    kill_controller(hooked, signal.SIGKILL)
    space.scale(7)
    space.arrived(base=5, elastic=2)
    controller_again(hooked)
    space.settled(base=5, elastic=2)


@slips_through
def test_a_webhook_that_hangs_delays_pods_and_stops_none(hooked, space):
    space.policy()
    space.apply(deployment(5))
    space.settled(base=5)
    pid = kill_controller(hooked, signal.SIGSTOP)
    try:
        space.scale(7)
        ungated(space, 7)
    finally:
        os.kill(pid, signal.SIGCONT)
    hooked.until(lambda: is_asked(hooked.cluster), what="webhook that answers again")


def test_the_injection_fails_closed_in_labelled_namespaces_and_nowhere_else(hooked):
    cluster = hooked.cluster
    labelled(cluster, "closed")
    cluster.kubectl(
        "label", "namespace", "kube-system", "virtual-node-affinity-injection=enabled", "--overwrite"
    )
    hooked.until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", "closed"), what="account")
    hooked.until(lambda: "affinity" in dry_run(cluster, pod(), "closed"), what="injection")
    kill_controller(hooked, signal.SIGKILL)
    with pytest.raises(AssertionError, match=r"failed calling webhook.*virtual-node-affinity-injection"):
        dry_run(cluster, pod(), "closed")
    for untouched in ("default", "kube-system"):
        assert parts(dry_run(cluster, pod(), untouched))["affinity"] is None
    assert parts(dry_run(cluster, pod(owner="DaemonSet"), "closed"))["affinity"] is None
    cluster.overspill("up", *WITHOUT_POLICIES, timeout=300)
    hooked.until(lambda: "affinity" in dry_run(cluster, pod(), "closed"), what="injection again")


# What follows has webhooks of its own, at other addresses.


@pytest.fixture
def elsewhere(hooked):
    """No controller and no authority; afterwards the apiserver asks the cluster's own again."""
    kill_controller(hooked, signal.SIGKILL)
    hooked.cluster.kubectl("delete", "secret", SECRET, "-n", "kube-system")
    yield hooked
    hooked.cluster.overspill("up", *WITHOUT_POLICIES, timeout=300)
    hooked.until(lambda: is_asked(hooked.cluster), what="the cluster's own webhook")


def served_certificate(address, bundle):
    """The certificate that is shown at an address, verified by a bundle as an apiserver does."""
    host, _, port = address.partition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=bundle, timeout=10)


def bundle_file(cluster, folder):
    (bundle,) = {each["clientConfig"]["caBundle"] for each in configuration(cluster)}
    file = folder / "bundle.pem"
    file.write_bytes(base64.b64decode(bundle))
    return str(file)


def test_two_replicas_that_start_at_once_agree(elsewhere, tmp_path):
    cluster, until = elsewhere.cluster, elsewhere.until
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    point_at(cluster, addresses[0])
    replicas = [
        start_replica(cluster, tmp_path / f"replica-{number}.log", address)
        for number, address in enumerate(addresses)
    ]
    try:
        until(lambda: is_asked(cluster), what="gates of the first replica")
        shown = until(
            lambda: [shown_at(address, cluster, tmp_path) for address in addresses],
            what="certificates that the bundle vouches for",
        )
        assert len(set(shown)) == 2, "each has one of its own"
        point_at(cluster, addresses[1])
        replicas[0].kill()
        until(lambda: is_asked(cluster), what="gates of the second replica")
        assert_heals(cluster, until, addresses[1])
    finally:
        for each in replicas:
            each.stop()


def shown_at(address, cluster, folder):
    try:
        return served_certificate(address, bundle_file(cluster, folder))
    except (OSError, ValueError, KeyError) as error:
        raise AssertionError(f"{address}: {error}") from error


def assert_heals(cluster, until, address):
    """What somebody takes out is put back: the bundle by `kubectl replace`, the authority by deleting it."""
    cluster.kubectl("replace", "-f", "-", stdin=webhook_at(f"https://{address}"))
    until(lambda: trusted(cluster) and is_asked(cluster), what="bundle again")
    cluster.kubectl("delete", "secret", SECRET, "-n", "kube-system")
    until(lambda: cluster.get("secret", SECRET, "-n", "kube-system"), what="authority again")
    until(lambda: is_asked(cluster), what="gates by the new authority")


@pytest.mark.matrix  # lives of seconds: a machine that is busy with more lets one run out
async def test_certificates_and_authorities_change_without_a_pod_that_slips_through(elsewhere):
    """Lives of a minute instead of years; the apiserver asks again and again all the while."""
    cluster = elsewhere.cluster
    kubeconfig = cluster_paths(cluster.name).pki / "controller.kubeconfig"
    lives = Lives(authority=dt.timedelta(seconds=60), leaf=dt.timedelta(seconds=20), every=0.5)
    address = f"127.0.0.1:{free_port()}"
    point_at(cluster, address)
    # That a busy machine takes its time is no reason here to go on without an answer.
    patient = [{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 30}]
    cluster.kubectl(
        *("patch", "mutatingwebhookconfiguration", "overspill", "--type=json", "-p", json.dumps(patient))
    )
    async with Client(load_config(str(kubeconfig), None), connections=4) as client:
        with bind(address, what="webhook", flag="--webhook-address") as bound:
            webhook = Webhook(client, bound, namespace="kube-system", lives=lives)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(webhook.run())
                await asyncio.to_thread(elsewhere.until, lambda: is_asked(cluster), what="gates")
                await asyncio.to_thread(asked_until_the_authority_changed, elsewhere, address)
                running.cancel()


def asked_until_the_authority_changed(hooked, address):
    """Ask until a leaf of the second authority is shown; every pod must have got its gate."""
    host, _, port = address.partition(":")
    first = authorities(hooked.cluster)[0]
    shown = []

    def changed():
        if not is_asked(hooked.cluster):
            pytest.fail("a pod slipped through")
        certificate = ssl.get_server_certificate((host, int(port)), timeout=10).encode()
        if certificate not in shown:
            shown.append(certificate)
        newest = authorities(hooked.cluster)[-1]
        return newest != first and issued(certificate, newest)

    hooked.until(changed, seconds=120, what="leaf of a new authority")
    assert len(shown) >= 3, "leaves changed under the first authority as well"


def authorities(cluster):
    data = cluster.get("secret", SECRET, "-n", "kube-system")["data"]
    return x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))


def issued(certificate, authority):
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(authority)
    except InvalidSignature:
        return False
    return True


@pytest.mark.matrix
def test_replicas_on_a_worker_answer_through_their_service_also_while_they_are_replaced(
    needs_root, start_cluster, until
):
    with start_cluster("hookw", "--backend", "podman", "--injection", "webhook") as cluster:
        labelled(cluster, "vk")
        until(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", "vk"), what="account")
        assert "affinity" in dry_run(cluster, pod(), "vk")
        assert is_asked(cluster)
        cluster.kubectl("-n", "kube-system", "rollout", "restart", "deployment/overspill-controller")

        def replaced():
            try:
                assert "affinity" in dry_run(cluster, pod(), "vk")
            except AssertionError as error:
                pytest.fail(f"refused while replicas are replaced: {error}")
            return "successfully rolled out" in cluster.kubectl(
                *(
                    "-n",
                    "kube-system",
                    "rollout",
                    "status",
                    "deployment/overspill-controller",
                    "--watch=false",
                )
            )

        until(replaced, seconds=180, what="both replicas replaced")
        cluster.kubectl("-n", "vk", "create", "deployment", "web", "--image=localhost/overspill/web:1")
        until(
            lambda: "virtual-node" in cluster.get("pods", "-n", "vk")[0]["spec"].get("nodeName", ""),
            what="pod on a virtual node",
        )
