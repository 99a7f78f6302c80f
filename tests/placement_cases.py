"""Pods and policies, and which of them belong together: for the code that decides and for the gates' expressions."""

import pytest

HASH = "5d8f"


def pod(owner="", name="", *, group="apps/v1", labels=None, controller=True, **spec):
    """A pod with an owner of this kind and name."""
    metadata = {"name": "p", "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [
            {"apiVersion": group, "kind": owner, "name": name, "uid": "u", "controller": controller}
        ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "image": "x"}], **spec},
    }


def of_deployment(name, **more):
    return pod("ReplicaSet", f"{name}-{HASH}", labels={"pod-template-hash": HASH, **more})


def target(kind, name, group="apps/v1"):
    return {"targetRef": {"apiVersion": group, "kind": kind, "name": name}}


def selector(**content):
    return {"selector": content}


def expression(key, operator, *values):
    return {
        "matchExpressions": [
            {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
        ]
    }


def unstored(manifest):
    """As apiservers before 1.34 show a pod that is not stored yet (kubernetes/kubernetes#130989)."""
    manifest["metadata"]["creationTimestamp"] = None
    return {**manifest, "status": {}}


BURST = {"tier": "burst"}
WEB = target("Deployment", "web")

CASES = [
    pytest.param(WEB, of_deployment("web"), True, id="Deployment"),
    pytest.param(WEB, unstored(of_deployment("web")), True, id="Deployment, its pod not stored yet"),
    pytest.param(WEB, of_deployment("webx"), False, id="Deployment with a longer name"),
    pytest.param(WEB, of_deployment("we"), False, id="Deployment with a shorter name"),
    pytest.param(WEB, pod("ReplicaSet", f"web-{HASH}"), False, id="ReplicaSet without a template hash"),
    pytest.param(
        WEB, pod("ReplicaSet", "web", labels={"pod-template-hash": HASH}), False, id="ReplicaSet of the name"
    ),
    pytest.param(WEB, pod("StatefulSet", "web"), False, id="another kind of the name"),
    pytest.param(WEB, pod(), False, id="pod of nobody"),
    pytest.param(
        WEB,
        pod("ReplicaSet", f"web-{HASH}", labels={"pod-template-hash": HASH}, controller=False),
        False,
        id="owner that is no controller",
    ),
    pytest.param(target("ReplicaSet", f"web-{HASH}"), of_deployment("web"), True, id="ReplicaSet"),
    pytest.param(target("StatefulSet", "db"), pod("StatefulSet", "db"), True, id="StatefulSet"),
    pytest.param(
        target("StatefulSet", "db", "apps.kruise.io/v1beta1"),
        pod("StatefulSet", "db"),
        False,
        id="StatefulSet of another API group",
    ),
    pytest.param(
        target("CloneSet", "cs", "apps.kruise.io/v1alpha1"),
        pod("CloneSet", "cs", group="apps.kruise.io/v1alpha1"),
        True,
        id="CloneSet",
    ),
    pytest.param(
        target("Rollout", "ro", "argoproj.io/v1alpha1"),
        pod("ReplicaSet", f"ro-{HASH}", labels={"rollouts-pod-template-hash": HASH}),
        True,
        id="Argo Rollout",
    ),
    pytest.param(
        target("Rollout", "web", "argoproj.io/v1alpha1"),
        of_deployment("web"),
        False,
        id="Deployment, not Rollout",
    ),
    pytest.param(target("Job", "j", "batch/v1"), pod("Job", "j", group="batch/v1"), True, id="Job"),
    pytest.param(
        target("CronJob", "c", "batch/v1"), pod("Job", "c-29012345", group="batch/v1"), True, id="CronJob"
    ),
    pytest.param(
        target("CronJob", "c", "batch/v1"),
        pod("Job", "c-by-hand", group="batch/v1"),
        False,
        id="Job with a like name",
    ),
    pytest.param(selector(matchLabels=BURST), pod(labels=BURST), True, id="label"),
    pytest.param(selector(matchLabels=BURST), pod(labels={"tier": "other"}), False, id="other value"),
    pytest.param(selector(matchLabels={"tier": ""}), pod(), False, id="no label is no empty label"),
    pytest.param(selector(**expression("tier", "In", "a", "burst")), pod(labels=BURST), True, id="In"),
    pytest.param(selector(**expression("tier", "In", "a")), pod(labels=BURST), False, id="not In"),
    pytest.param(selector(**expression("tier", "NotIn", "a")), pod(labels=BURST), True, id="NotIn"),
    pytest.param(selector(**expression("tier", "NotIn", "a")), pod(), True, id="NotIn without the label"),
    pytest.param(selector(**expression("tier", "NotIn", "burst")), pod(labels=BURST), False, id="not NotIn"),
    pytest.param(selector(**expression("tier", "Exists")), pod(labels=BURST), True, id="Exists"),
    pytest.param(selector(**expression("tier", "Exists")), pod(), False, id="not Exists"),
    pytest.param(selector(**expression("tier", "DoesNotExist")), pod(), True, id="DoesNotExist"),
    pytest.param(
        selector(**expression("tier", "DoesNotExist")), pod(labels=BURST), False, id="not DoesNotExist"
    ),
    pytest.param(
        selector(matchLabels=BURST, **expression("app", "Exists")),
        pod(labels=BURST),
        False,
        id="all must hold",
    ),
    pytest.param(
        selector(matchLabels=BURST), pod("DaemonSet", "d", labels=BURST), False, id="pod of a DaemonSet"
    ),
]


def marked(manifest):
    """A pod whose template was marked, as that of an annotated Deployment is."""
    manifest["metadata"]["annotations"] = {"overspill.dev/base-replicas": "from the Deployment"}
    return manifest


def generated(manifest):
    """A pod whose name is yet to be generated."""
    del manifest["metadata"]["name"]
    manifest["metadata"]["generateName"] = "p-"
    return manifest


# Without a policy.
MARKED = [
    pytest.param(marked(of_deployment("web")), True, id="marked"),
    pytest.param(generated(marked(of_deployment("web"))), True, id="marked, name to be generated"),
    pytest.param(unstored(marked(of_deployment("web"))), True, id="marked, not stored yet"),
    pytest.param(marked(pod("ReplicaSet", f"web-{HASH}")), False, id="marked, without a template hash"),
    pytest.param(
        marked(pod("StatefulSet", "db", labels={"pod-template-hash": HASH})), False, id="of a StatefulSet"
    ),
    pytest.param(marked(pod()), False, id="marked, of nobody"),
    pytest.param(of_deployment("web"), False, id="not marked"),
]
