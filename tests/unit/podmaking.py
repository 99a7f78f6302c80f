"""Pods and what is found for them, for the tests of resolving."""

import msgspec

from overspill.agent.references import ConfigMap, Found, Secret, Service, Token, TokenWish, service_links
from overspill.agent.scope import NodeFacts, Scope
from overspill.agent.spec import build
from overspill.model.pods import Pod

NODE = NodeFacts(
    cluster="cluster-uid",
    name="vn-0",
    ip="10.0.0.9",
    allocatable={"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "100"},
    cluster_dns=("10.96.0.10",),
    cluster_domain="cluster.local",
)


def make_pod(*containers, name="web-0", labels=None, annotations=None, owners=(), uid="uid-1", **spec) -> Pod:
    """A pod as the API server gives it; a container needs no more than what is said of it."""
    meta = {
        "name": name,
        "namespace": "shop",
        "uid": uid,
        "labels": labels or {},
        "annotations": annotations or {},
        "ownerReferences": list(owners),
    }
    spec = {
        "containers": [make_container(**one) for one in containers or ({},)],
        "serviceAccountName": "clerk",
    } | spec
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)


def make_container(**fields):
    return {"name": "main", "image": "example.test/app:1"} | fields


def make_found(*, config_maps=None, secrets=None, services=(), tokens=None) -> Found:
    """What was found; a ConfigMap is given by its data, a Secret by (type, data) or its data."""
    return Found(
        {name: None if one is None else config_map(one) for name, one in (config_maps or {}).items()},
        {name: None if one is None else secret(one) for name, one in (secrets or {}).items()},
        service_links(msgspec.convert(list(services), list[Service])),
        {} if tokens is None else tokens,
    )


def config_map(data) -> ConfigMap:
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    return ConfigMap(texts, {key: value for key, value in data.items() if isinstance(value, bytes)})


def secret(data) -> Secret:
    kind, data = data if isinstance(data, tuple) else ("Opaque", data)
    return Secret(
        {key: value if isinstance(value, bytes) else value.encode() for key, value in data.items()}, kind
    )


def service(name, ip="10.96.0.80", *ports):
    return {"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": list(ports) or [{"port": 80}]}}


def make_token(text="token-text", *, renew_after=2880.0, audience="", seconds=3600):
    return {TokenWish("clerk", audience, seconds): Token(text.encode(), renew_after)}


def make_scope(pod: Pod, found: Found) -> Scope:
    return Scope(pod, pod.decoded_spec(), found, NODE)


def resolved(pod: Pod, found: Found | None = None, node: NodeFacts = NODE):
    """What `build` makes of a pod."""
    return build(pod, pod.decoded_spec(), found or make_found(), node)


def work_of(pod: Pod, found: Found | None = None):
    """The work spec of a pod."""
    return resolved(pod, found).work
