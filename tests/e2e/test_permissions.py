"""What our roles grant is what our programs need, verb by verb: each begins its life without any right.

Whatever the apiserver refuses, the program names verb and resource, and gets that one right, if its manifest has
it; then it goes on. So each right was missing once, and was missed by name; and one that nobody ever missed is one
too many. The programs are the real ones, in this process, so that their pauses can be cut short.
"""

import asyncio
import contextlib
import json
import re
import subprocess
from typing import NamedTuple

import aiohttp
import pytest
import structlog
import yaml
from accounts import kubeconfig_of
from placement_world import ROOT, free_port

from overspill import names
from overspill.agent.run import run_agent
from overspill.backends.registry import backend_factory
from overspill.controller.run import run_controller
from overspill.emulator.auth import AccessKey
from overspill.emulator.cloud import Timings
from overspill.emulator.network import VSwitch
from overspill.emulator.run import Settings, serve
from overspill.errors import OverspillError
from overspill.kube.queue import Queue
from overspill.local.paths import cluster_paths
from overspill.local.processes import Processes
from overspill.model.observation import Observation
from overspill.model.work import Container, Identity, WorkSpec
from overspill.placement.guard import run_guard
from overspill.process import first_of
from overspill.settings import AgentSettings, ControllerSettings, GuardSettings
from overspill.webhook.certificates import Lives

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SPACE, NODE, GOING = "rights", "virtual-node-eci-0", "rights-going"
DEPLOY = ROOT / "deploy"
MISSED = re.compile(
    r'grant verb "(?P<verb>[^"]+)" on "(?P<resource>[^"]+)"(?: of API group "(?P<group>[^"]+)")?'
    r'(?: in namespace "(?P<namespace>[^"]+)")? by RBAC'
)
KEPT_BY_THE_CONTROLLER = (
    ("secret", "overspill-webhook-ca", "kube-system"),
    ("lease", "overspill-controller", "kube-system"),
    ("configmap", "overspill-controller-orphans", "kube-system"),
)
QUICK = {
    "process.PAUSE": 0.1,
    "kube.lease.RENEW_EVERY": 0.5,
    "kube.lease.TRY_AGAIN_AFTER": 0.2,
    "kube.events.SERIES_EVERY": 0.5,
    "kube.events.SWEEP_EVERY": 0.3,
    "kube.write.FORBIDDEN_PAUSE": 0.2,
    "kube.leader.RETRY_PERIOD": 0.3,
    "kube.leader.LEASE_DURATION": 1.0,
    "kube.drain.EVICT_AGAIN_AFTER": 0.5,
    "kube.drain.SETTLED_AFTER": 0.5,
    "agent.scalein.ROUND": 0.3,
    "agent.node.CHECK_EVERY": 0.5,
    "decommission.finisher.ROUND": 0.3,
    "placement.guard.LOOK_EVERY": 0.3,
    "serve.kubelet.certificate.LOOK_CAP": 0.2,
    "serve.kubelet.clientca.FORBIDDEN_PAUSE": 0.2,
    "webhook.run.Lives": lambda: Lives(every=0.3),
}


class Right(NamedTuple):
    """One verb on one resource, everywhere ("") or in one namespace, of all objects or of some; and whose rule it is."""

    role: str
    namespace: str
    group: str
    resource: str
    names: tuple[str, ...]
    verb: str


class Rights:
    """What an account of kube-system may do: nothing, until it misses what its manifests offer."""

    def __init__(self, cluster, account, *files):
        self.cluster, self.account = cluster, account
        documents = [
            each for file in files for each in yaml.safe_load_all((DEPLOY / file).read_text()) if each
        ]
        self.offered = set(self._offered(documents))
        own = {each["metadata"]["name"] for each in documents if each["kind"] in {"Role", "ClusterRole"}}
        self.needed = {each for each in self.offered if each.role in own}
        self.granted, self.strange, self.log = set(), [], []
        self._missed = asyncio.Queue()
        cluster.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self._meta("kube-system")},
            *(self._role(namespace) for namespace in self._namespaces()),
            *(self._binding(namespace) for namespace in self._namespaces()),
        )

    def _offered(self, documents):
        for binding in documents:
            if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
                continue
            namespace = binding["metadata"].get("namespace", "")
            for rule in self._rules(documents, binding["roleRef"], namespace):
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            named = tuple(rule.get("resourceNames", ()))
                            role = binding["roleRef"]["name"]
                            yield Right(role, namespace, group, resource, named, verb)

    def _rules(self, documents, wanted, namespace):
        for each in documents:
            found = each["metadata"]
            if (each["kind"], found["name"], found.get("namespace", "")) == (
                wanted["kind"],
                wanted["name"],
                namespace,
            ):
                return each["rules"]
        return self.cluster.get(wanted["kind"], wanted["name"], "-n", namespace)["rules"]  # the cluster's own

    def _namespaces(self):
        return sorted({right.namespace for right in self.offered})

    def _meta(self, namespace):
        return {"name": self.account, **({"namespace": namespace} if namespace else {})}

    def _role(self, namespace):
        rules = [
            {"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]}
            | ({"resourceNames": list(each.names)} if each.names else {})
            for each in sorted(self.granted)
            if each.namespace == namespace
        ]
        kind = "Role" if namespace else "ClusterRole"
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": self._meta(namespace),
            "rules": rules,
        }

    def _binding(self, namespace):
        role = self._role(namespace)
        subject = {"kind": "ServiceAccount", "name": self.account, "namespace": "kube-system"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": self.account}
        rest = {key: role[key] for key in ("apiVersion", "metadata")}
        return {**rest, "kind": f"{role['kind']}Binding", "roleRef": reference, "subjects": [subject]}

    def remove(self):
        for namespace in self._namespaces():
            kinds = (
                ("role,rolebinding", "-n", namespace) if namespace else ("clusterrole,clusterrolebinding",)
            )
            self.cluster.kubectl("delete", kinds[0], self.account, *kinds[1:])
        self.cluster.kubectl("delete", "serviceaccount", self.account, "-n", "kube-system")

    def listen(self, _logger, _method, event):
        """A processor of structlog: hears what the program logs."""
        text = " ".join(f"{key}={value}" for key, value in event.items())
        self.log.append(text)
        self.hear(text)
        raise structlog.DropEvent

    def hear(self, text):
        for each in MISSED.finditer(text):
            self._missed.put_nowait({key: value or "" for key, value in each.groupdict().items()})

    async def answer(self):
        """Grant what is missed, as long as the manifests offer it."""
        while True:
            missed = await self._missed.get()
            fitting = [
                right
                for right in self.offered
                if (right.group, right.resource, right.verb)
                == (missed["group"], missed["resource"], missed["verb"])
                and right.namespace in {"", missed["namespace"]}
            ]
            if not fitting:
                self.strange.append(missed)
            new = set(fitting) - self.granted
            if new:
                self.granted |= new
                await asyncio.to_thread(self.cluster.apply, *(self._role(each.namespace) for each in new))

    async def live(self, run):
        """Run a program to its end; as often as it ends for want of a right it is started again."""
        while True:
            try:
                return await run()
            except (OverspillError, ExceptionGroup) as error:
                ended = first_of(error) if isinstance(error, ExceptionGroup) else error
                self.log.append(f"ended: {ended!r}")
                if not MISSED.search(str(ended)):
                    raise
                self.hear(str(ended))
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def given(self, run):
        """The program at work; gives its task. In the end each right was missed, and none beside."""
        structlog.configure(processors=[self.listen])
        tasks = [asyncio.create_task(self.live(run)), asyncio.create_task(self.answer())]
        try:
            yield tasks[0]
            await eventually(lambda: self.granted >= self.needed, "need of some rights", self.missing)
            assert self.strange == []
        except BaseException:
            print("\n".join(self.log[-60:]))  # noqa: T201 - shown when the test fails
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            structlog.reset_defaults()
            await asyncio.to_thread(self.remove)

    def missing(self):
        return sorted(self.needed - self.granted), self.strange

    def was_missed(self, verb, resource):
        return any((each.verb, each.resource) == (verb, resource) for each in self.granted)


async def eventually(check, what, why=lambda: "", *, seconds=60):
    """Wait for something that is looked at in another thread, for the programs live in this one."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        last = None
        with contextlib.suppress(AssertionError):
            if last := await asyncio.to_thread(check):
                return last
        assert asyncio.get_running_loop().time() < deadline, f"no {what}: {last} {why()}"
        await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def listing(control_plane, tmp_path_factory, until):
    """A second apiserver of the control plane, one that does not stream lists, as before Kubernetes 1.32; its address."""
    record = Processes(cluster_paths(control_plane.name)).find("kube-apiserver")
    port, folder = free_port(), tmp_path_factory.mktemp("apiserver")
    argv = [each for each in record.argv if not each.startswith("--secure-port=")]
    flags = [f"--secure-port={port}", "--feature-gates=WatchList=false"]
    endpoint = json.loads(control_plane.overspill("status", "-o", "json").stdout)["endpoint"]
    server = f"{endpoint.rpartition(':')[0]}:{port}"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([*argv, *flags], stdout=log, stderr=log) as process,
    ):
        try:
            ready = ("get", "--raw", "/readyz", "--server", server)
            until(lambda: control_plane.kubectl(*ready) == "ok", what="a second apiserver")
            yield server
        finally:
            process.terminate()


@pytest.fixture
def space(control_plane, until):
    control_plane.kubectl("create", "namespace", SPACE)
    until(lambda: control_plane.kubectl("get", "serviceaccount", "default", "-n", SPACE), what="account")
    yield SPACE
    control_plane.kubectl("delete", "pods", "--all", "-n", SPACE, "--force", "--grace-period=0")
    control_plane.kubectl("delete", "namespace", SPACE, "--timeout=60s")


@pytest.fixture
def placing(control_plane):
    """What placement needs of the apiserver."""
    control_plane.kubectl("apply", "-k", str(DEPLOY / "placement/definitions"))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    control_plane.kubectl("apply", "-f", str(DEPLOY / "placement/gate.yaml"))
    yield
    control_plane.kubectl("delete", "-f", str(DEPLOY / "placement/gate.yaml"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setattr(f"overspill.{name}", value)
    monkeypatch.setitem(Queue.__init__.__kwdefaults__, "cap", 0.5)


@pytest.fixture
async def eci(tmp_path, monkeypatch):
    """The backend's settings, for an emulator."""
    key = AccessKey("rights", "secret-of-rights")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", key.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", key.secret)
    settings = Settings(
        state=tmp_path / "emulator",
        vswitches=(VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/24"),),
        access_key=key,
        timings=Timings(scheduling=0.0, image_cache=0.0, spot_notice=0.3),
        rates={},
    )
    ready = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, ready=ready.set_result))
    endpoint = await ready
    options = {
        "region": endpoint.region,
        "endpoint": endpoint.endpoint,
        "vSwitchIds": "vsw-a",
        "securityGroupIds": endpoint.security_group_id,
        "pollSeconds": 0.2,
    }
    yield {"backend": "eci", "backend_options": options}
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def kubeconfig(cluster, account, server, folder):
    """Of an account that asks the apiserver that lists."""
    path = kubeconfig_of(cluster, account, folder / "kubeconfig")
    config = json.loads(path.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    path.write_text(json.dumps(config))
    return str(path)


def manifest(kind, name, *, api="v1", namespace=SPACE, meta=None, **rest):
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, **place, **(meta or {})}, **rest}


def forget(cluster, *objects):
    """Delete what programs keep, so that they need the right to create it; of other tests on this control plane as well."""
    for kind, name, namespace in objects:
        cluster.kubectl("delete", kind, name, *(("-n", namespace) if namespace else ()), "--ignore-not-found")


def budget():
    """Nobody whose label is `app=held` may be evicted."""
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "held"}}}
    return manifest("PodDisruptionBudget", "held", api="policy/v1", spec=spec)


async def test_an_agent_needs_each_right_that_it_has(control_plane, listing, space, eci, tmp_path):
    cluster = control_plane
    forget(cluster, ("lease", NODE, "kube-node-lease"), ("node", NODE, ""))
    rights = Rights(cluster, "rights-agent", "base/rbac.yaml", "eci/rbac.yaml")
    own = {"matchLabels": {"app": "own"}}
    # A pod of an agent that nobody starts: this process is what runs in it, until it says so.
    template = {
        "metadata": {"labels": own["matchLabels"], "finalizers": ["overspill.dev/rights"]},
        "spec": {"nodeSelector": {"nowhere": "at-all"}, "containers": [{"name": "agent", "image": "x"}]},
    }
    spec = {"replicas": 1, "selector": own, "serviceName": "none", "template": template}
    cluster.apply(
        manifest("StatefulSet", "virtual-node-eci", api="apps/v1", namespace="kube-system", spec=spec),
        manifest("ConfigMap", "plain", data={"A": "1"}),
        manifest("Secret", "hidden", stringData={"B": "2"}),
        manifest(
            "PersistentVolume",
            "rights",
            namespace="",
            spec={
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteMany"],
                "nfs": {"server": "nfs.example.org", "path": "/"},
            },
        ),
        manifest(
            "PersistentVolumeClaim",
            "data",
            spec={
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": "rights",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        ),
    )
    claim = ("wait", "pvc/data", "-n", SPACE, "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
    cluster.kubectl(*claim)
    pod = await eventually(lambda: cluster.get("pod", NODE, "-n", "kube-system"), "pod of the agent")
    settings = AgentSettings(
        node_name=NODE,
        pod_namespace="kube-system",
        pod_uid=pod["metadata"]["uid"],
        kubeconfig=kubeconfig(cluster, rights.account, listing, tmp_path),
        health_address="127.0.0.1:0",
        kubelet_address="127.0.0.1:0",
        bare_pods="evict",
        **eci,
    )
    asked = asyncio.Event()
    try:
        async with rights.given(lambda: run_agent(settings, backend_factory("eci"), asked)) as agent:
            container = {
                "name": "main",
                "image": "x",
                "envFrom": [{"configMapRef": {"name": "plain"}}, {"secretRef": {"name": "hidden"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
            volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
            held = {"nodeName": NODE, "containers": [container], "volumes": [volume]}
            labels = {"labels": {"app": "held"}}
            cluster.apply(budget(), manifest("Pod", "held", meta=labels, spec=held))
            await eventually(
                lambda: cluster.get("pod", "held", "-n", SPACE)["status"]["phase"] == "Running", "running pod"
            )
            await eventually(lambda: cluster.get("csr"), "request for a certificate")
            await served(cluster)
            cluster.kubectl("scale", "statefulset", "virtual-node-eci", "-n", "kube-system", "--replicas=0")
            asked.set()
            await eventually(
                lambda: rights.was_missed("patch", "events"), "event that is told twice", rights.missing
            )
            cluster.kubectl("delete", "pdb", "held", "-n", SPACE)
            async with asyncio.timeout(60):
                await agent
        assert cluster.kubectl("get", "node", NODE, "--ignore-not-found") == ""
    finally:
        nothing = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        cluster.kubectl("delete", "statefulset", "virtual-node-eci", "-n", "kube-system")
        cluster.kubectl("patch", "pod", NODE, "-n", "kube-system", *nothing, check=False)
        cluster.kubectl("delete", "node", NODE, "--ignore-not-found")
        cluster.kubectl("delete", "pvc/data", "-n", SPACE, "--wait=false")
        cluster.kubectl("delete", "pv/rights", "--wait=false")
        cluster.kubectl("delete", "csr", "--all")


async def served(cluster):
    """Somebody with a token asks the kubelet API, and is told."""
    binding = manifest(
        "ClusterRoleBinding",
        "rights-reader",
        api="rbac.authorization.k8s.io/v1",
        namespace="",
        roleRef={
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:kubelet-api-admin",
        },
        subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": SPACE}],
    )
    cluster.apply(binding)
    token = cluster.kubectl("create", "token", "default", "-n", SPACE).strip()
    port = await eventually(
        lambda: cluster.get("node", NODE)["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], "port"
    )
    connector = aiohttp.TCPConnector(ssl=False)  # who answers is not what is asked here
    try:
        async with (
            asyncio.timeout(60),
            aiohttp.ClientSession(
                connector=connector, headers={"Authorization": f"Bearer {token}"}
            ) as session,
        ):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"https://127.0.0.1:{port}/pods") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.1)
    finally:
        cluster.kubectl("delete", "clusterrolebinding", "rights-reader")


async def lose_a_pod(cluster, options):
    """A container group of this cluster whose pod nobody knows."""
    uid = cluster.get("namespace", "kube-system")["metadata"]["uid"]
    identity = Identity(uid, "rights-lost", SPACE, "lost", "lost-uid")
    work = WorkSpec(identity=identity, hostname="lost", containers=(Container("main", "example.org/x:1"),))
    async with backend_factory("eci")(cluster=uid, node=identity.node, options=options) as backend:
        await backend.create(work)
        async with asyncio.timeout(30), contextlib.aclosing(backend.watch()) as batches:
            async for batch in batches:
                if any(isinstance(seen, Observation) and seen.annotations for seen in batch):
                    return


async def test_the_controller_needs_each_right_that_it_has(
    control_plane, listing, space, placing, eci, tmp_path
):
    cluster = control_plane
    forget(cluster, *KEPT_BY_THE_CONTROLLER)
    rights = Rights(cluster, "rights-controller", "placement/rbac.yaml", "webhook/rbac.yaml")
    webhook = {
        "name": "gate.placement.overspill.dev",
        "clientConfig": {"url": "https://127.0.0.1:1/gate"},
        "namespaceSelector": {"matchLabels": {"nobody": "is-asked"}},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        ],
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "x"}]},
    }
    selector = {"matchLabels": {"app": "web"}}
    base = {"annotations": {"overspill.dev/base-replicas": "1"}}
    node = {
        "labels": {"type": "virtual-kubelet", names.DECOMMISSION_LABEL: "true"},
        "annotations": {names.STATEFUL_SET_ANNOTATION: "kube-system/none", names.ORDINAL_ANNOTATION: "0"},
    }
    held = {"nodeName": GOING, "containers": [{"name": "main", "image": "x"}]}
    cluster.apply(
        manifest(
            "MutatingWebhookConfiguration",
            "overspill",
            api="admissionregistration.k8s.io/v1",
            namespace="",
            webhooks=[webhook],
        ),
        manifest(
            "Deployment",
            "web",
            api="apps/v1",
            meta=base,
            spec={"replicas": 2, "selector": selector, "template": template},
        ),
        # A node that is to go, and whose agent is gone.
        manifest("Node", GOING, namespace="", meta=node, spec={"providerID": f"eci://{GOING}"}),
        manifest(
            "Lease",
            GOING,
            api="coordination.k8s.io/v1",
            namespace="kube-node-lease",
            spec={"holderIdentity": GOING},
        ),
        budget(),
        manifest("Pod", "held", meta={"labels": {"app": "held"}}, spec=held),
    )
    # Budgets are for pods that run.
    runs = ("--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Running"}}')
    cluster.kubectl("patch", "pod", "held", "-n", SPACE, *runs)
    settings = ControllerSettings(
        kubeconfig=kubeconfig(cluster, rights.account, listing, tmp_path),
        health_address="127.0.0.1:0",
        webhook_address="127.0.0.1:0",
        bare_pods="evict",
        orphan_period_seconds=0.3,
        **eci,
    )
    await lose_a_pod(cluster, eci["backend_options"])
    try:
        async with rights.given(lambda: run_controller(settings, backend_factory("eci"))):
            chosen = ("pods", "-n", SPACE, "-l", "placement.overspill.dev/pool")
            await eventually(lambda: len(cluster.get(*chosen)) == 2, "placed pods", rights.missing)
            indexed = ("pp", "-n", SPACE, "-l", "placement.overspill.dev/indexed")
            await eventually(lambda: cluster.get(*indexed), "policy in the index", rights.missing)
            cluster.kubectl("annotate", "deployment", "web", "-n", SPACE, "overspill.dev/base-replicas-")
            await eventually(
                lambda: rights.was_missed("patch", "events"), "event that is told twice", rights.missing
            )
            await eventually(
                lambda: not cluster.get("pp,placementindexes", "-n", SPACE),
                "end of the policy",
                rights.missing,
            )
            cluster.kubectl("delete", "pdb", "held", "-n", SPACE)
            await eventually(
                lambda: not cluster.kubectl("get", "node", GOING, "--ignore-not-found"),
                "end of the node",
                rights.missing,
            )
            secret = ("secret", "overspill-webhook-ca", "-n", "kube-system")
            await eventually(lambda: cluster.get(*secret).get("data"), "authority", rights.missing)
            cluster.kubectl("patch", *secret, "--type=merge", "-p", '{"data":null}')
            await eventually(lambda: cluster.get(*secret).get("data"), "another authority", rights.missing)
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", "overspill")
        cluster.kubectl("delete", "deployment", "web", "-n", SPACE)
        cluster.kubectl("delete", "node", GOING, "--ignore-not-found")
        forget(cluster, *KEPT_BY_THE_CONTROLLER)


async def test_the_guard_needs_each_right_that_it_has(control_plane, listing, space, placing, tmp_path):
    cluster = control_plane
    rights = Rights(cluster, "rights-guard", "placement/guard.yaml")
    pools = [{"name": "any", "nodeSelector": {"nowhere": "at-all"}}]
    gate = {"timeoutSeconds": 1, "onTimeout": "Release"}
    policy = {"selector": {"matchLabels": {"app": "web"}}, "pools": pools, "gate": gate}
    pod = {
        "containers": [{"name": "web", "image": "x"}],
        "schedulingGates": [{"name": "overspill.dev/assign"}],
    }
    cluster.apply(manifest("PlacementPolicy", "web", api="placement.overspill.dev/v1alpha1", spec=policy))
    cluster.apply(manifest("Pod", "web", meta={"labels": {"app": "web"}}, spec=pod))
    settings = GuardSettings(
        kubeconfig=kubeconfig(cluster, rights.account, listing, tmp_path), health_address="127.0.0.1:0"
    )
    async with rights.given(lambda: run_guard(settings)):
        await eventually(
            lambda: not cluster.get("pod", "web", "-n", SPACE)["spec"].get("schedulingGates"),
            "pod that is let go",
            rights.missing,
        )
