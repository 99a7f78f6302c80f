"""Each right of an agent is needed: without it, the agent says so by the right's name.

One agent for each right that is taken away, all at the same time, on the `simulated` backend.
"""

import contextlib
import json
import pathlib
import ssl
import subprocess
import sys
import urllib.request

import pytest
import yaml

from overspill.agent.permissions import PERMISSIONS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RBAC = pathlib.Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"
OVERSPILL = str(pathlib.Path(sys.executable).parent / "overspill")
NAMESPACE = "rights"
READER = "extension-apiserver-authentication-reader"
# Not needed by this backend: what is asked of a quota that agents share.
OF_OTHERS = {("leases", "list"), ("leases", "patch")}


def wanted():
    """Every (resource, verb); those of the cluster's own role for authentication are taken away as one."""
    for each in PERMISSIONS:
        resource = "/".join(filter(None, (each.resource.plural, each.subresource)))
        if each.namespace == "kube-system":
            yield READER, "get"
            continue
        for verb in each.verbs:
            if (resource, verb) not in OF_OTHERS:
                yield resource, verb


RIGHTS = list(wanted())


def name_of(number):
    return f"without-{number}"


def roles_without(name, resource, verb):
    """An account with all of rbac.yaml but one right."""
    objects = list(yaml.safe_load_all(RBAC.read_text()))
    for each in objects:
        each["metadata"]["name"] += f"-{name}"
        for rule in each.get("rules", ()):
            if resource in rule["resources"]:
                rule["verbs"] = [kept for kept in rule["verbs"] if kept != verb] or ["deletecollection"]
        if each["kind"] == "ServiceAccount":
            each["metadata"]["name"] = name
        if "roleRef" in each:
            each["subjects"][0]["name"] = name
            if each["roleRef"]["name"] != READER:
                each["roleRef"]["name"] += f"-{name}"
    return [each for each in objects if resource != READER or each.get("roleRef", {}).get("name") != READER]


def pods(name):
    """One that reads all that there is to read, and one that waits again and again."""
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    main = {"name": "main", "image": "localhost/overspill/busybox:1"}
    reads = {"envFrom": [{"configMapRef": {"name": "given"}}, {"secretRef": {"name": "given"}}]}
    lacks = {"envFrom": [{"configMapRef": {"name": "missing"}}]}
    volumes = [{"name": "token", "projected": {"sources": [token]}}]
    for kind, more, its in (("reads", reads, volumes), ("lacks", lacks, [])):
        spec = {"nodeName": name, "containers": [main | more], "volumes": its}
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{kind}-{name}", "namespace": NAMESPACE},
            "spec": spec | {"terminationGracePeriodSeconds": 1},
        }


@pytest.fixture
def agents(control_plane, tmp_path, until):
    """Name -> log of the agents, each without one right."""
    given = {"apiVersion": "v1", "metadata": {"name": "given", "namespace": NAMESPACE}}
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    control_plane.apply({**given, "kind": "ConfigMap", "data": {"a": "1"}})
    control_plane.apply({**given, "kind": "Secret", "stringData": {"b": "2"}})
    until(lambda: control_plane.kubectl("get", "serviceaccount", "default", "-n", NAMESPACE))
    names = {name_of(number): right for number, right in enumerate(RIGHTS)}
    control_plane.apply(*(each for name, right in names.items() for each in roles_without(name, *right)))
    control_plane.apply(*(each for name in names for each in pods(name)))
    control_plane.apply(
        *(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            for name, right in names.items()
            if right == ("nodes", "get")  # of a node that is there already
        )
    )
    admin = yaml.safe_load(control_plane.overspill("kubeconfig").stdout)
    processes = []
    with contextlib.ExitStack() as stack:
        logs = {}
        for name in names:
            token = control_plane.kubectl("create", "token", name, "-n", "kube-system").strip()
            admin["users"][0]["user"] = {"token": token}
            kubeconfig, log = tmp_path / f"{name}.json", tmp_path / f"{name}.log"
            kubeconfig.write_text(json.dumps(admin))
            argv = [
                OVERSPILL,
                "agent",
                "--node-name",
                name,
                "--backend",
                "simulated",
                "--node-ip",
                "127.0.0.1",
            ]
            argv += ["--kubeconfig", str(kubeconfig), "--health-address", "127.0.0.1:0"]
            argv += ["--kubelet-address", "127.0.0.1:0"]
            file = stack.enter_context(log.open("wb"))
            processes.append(subprocess.Popen(argv, stdout=file, stderr=file, stdin=subprocess.DEVNULL))
            logs[name] = log
        yield logs
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def test_every_right_is_missed_by_name(control_plane, agents, until):
    token = control_plane.kubectl("create", "token", "default", "-n", NAMESPACE).strip()
    missed = {}

    def all_missed():
        poke(control_plane, token)
        for number, (resource, verb) in enumerate(RIGHTS):
            said = agents[name_of(number)].read_text()
            what = "configmaps" if resource == READER else resource
            if f'cannot {verb} resource "{what}"' in said:
                missed[resource, verb] = True
        assert missed.keys() == set(RIGHTS), sorted(set(RIGHTS) - missed.keys())
        return True

    until(all_missed, seconds=180, what="every agent to name the right that it has not")


def poke(cluster, token):
    """What happens to nodes sooner or later: somebody changes them, asks them, deletes their pods."""
    cluster.kubectl("label", "nodes", "--all", "type-", check=False)
    cluster.kubectl("delete", "pods", "-n", NAMESPACE, "-l", "!kept", "--wait=false", check=False)
    for node in cluster.get("nodes"):
        port = node["status"].get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port")
        if port:
            ask(port, token)


def ask(port, token):
    url, headers = f"https://127.0.0.1:{port}/pods", {"Authorization": f"Bearer {token}"}
    unverified = ssl._create_unverified_context()
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=unverified, timeout=5)
