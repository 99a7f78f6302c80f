"""What the walkthrough expects, judged from listings.

In: objects as `kubectl get -o json` and `podman ps --format json` print them. Out: "" when it is so,
else what is otherwise, in words. Invariant: pure; the walkthrough asks until the answer is "".
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from overspill import names

__all__ = [
    "addresses_distinct",
    "nodes_ready",
    "pods_on",
    "pods_run",
    "same_in_cloud",
    "spread_evenly",
    "unready_reason",
]

Object = Mapping[str, Any]
Listing = Sequence[Object]


def nodes_ready(nodes: Listing, wanted: Collection[str]) -> str:
    """Exactly these nodes, all Ready."""
    found = {_name(node): _ready(node) for node in nodes}
    if missing := sorted(set(wanted) - set(found)):
        return f"no node {', '.join(missing)}"
    if extra := sorted(set(found) - set(wanted)):
        return f"unexpected node {', '.join(extra)}"
    unready = sorted(name for name, status in found.items() if status != "True")
    return f"not Ready: {', '.join(unready)}" if unready else ""


def pods_run(pods: Listing, count: int) -> str:
    """So many pods, each Running and ready, none on its way out."""
    if len(pods) != count:
        return f"{len(pods)} pods instead of {count}"
    waiting = {_name(pod): reason for pod in pods if (reason := unready_reason(pod))}
    return "; ".join(f"{name} {reason}" for name, reason in sorted(waiting.items())[:3])


def unready_reason(pod: Object) -> str:
    """Why a pod is not Running and ready, as `kubectl get pod` would put it; "" when it is."""
    if pod["metadata"].get("deletionTimestamp"):
        return "is Terminating"
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason"):
            return f"waits: {waiting['reason']}"
    if status.get("phase") != "Running":
        return f"is {status.get('phase', 'Pending')}"
    ready = [container["ready"] for container in status.get("containerStatuses", ())]
    return "" if ready and all(ready) else "is not ready"


def addresses_distinct(pods: Listing) -> str:
    """Every pod has an address of its own."""
    counts = Counter(pod.get("status", {}).get("podIP", "") for pod in pods)
    if "" in counts:
        return f"{counts['']} pods without an address"
    shared = sorted(address for address, count in counts.items() if count > 1)
    return f"several pods have {', '.join(shared)}" if shared else ""


def spread_evenly(pods: Listing, nodes: Collection[str]) -> str:
    """Numbers of pods on these nodes differ by one at most, and no pod is elsewhere."""
    counts = Counter(dict.fromkeys(nodes, 0))
    counts.update(_node(pod) for pod in pods)
    if max(counts.values()) - min(counts.values()) <= 1 and set(counts) == set(nodes):
        return ""
    return ", ".join(f"{count} on {name}" for name, count in sorted(counts.items()))


def pods_on(pods: Listing, node: str) -> str:
    """All pods are on this node."""
    elsewhere = sorted(_name(pod) for pod in pods if _node(pod) != node)
    return f"not on {node}: {', '.join(elsewhere)}" if elsewhere else ""


def same_in_cloud(pods: Listing, containers: Listing) -> str:
    """For each container of each pod one runs, on the pod's node; nothing else of ours is there at all."""
    wanted = Counter(
        (pod["metadata"]["uid"], _node(pod), container["name"])
        for pod in pods
        for container in pod["spec"]["containers"]
    )
    found = Counter(_tags(container) for container in containers)
    missing, extra = wanted - found, found - wanted
    parts = [f"{missing.total()} containers missing"] if missing else []
    parts += [f"{extra.total()} too many: {_shown(extra)}"] if extra else []
    dead = [container for container in containers if container.get("State") != "running"]
    parts += [f"{len(dead)} not running"] if dead else []
    return ", ".join(parts)


def _tags(container: Object) -> tuple[str, str, str]:
    labels = container.get("Labels") or {}
    return (
        labels.get(names.UID_TAG, ""),
        labels.get(names.NODE_TAG, ""),
        labels.get(f"{names.DOMAIN}/container", ""),
    )


def _shown(tags: Iterable[tuple[str, str, str]]) -> str:
    return ", ".join(f"{container or '?'} of {uid or '?'} on {node or '?'}" for uid, node, container in tags)


def _ready(node: Object) -> str:
    conditions = node.get("status", {}).get("conditions", ())
    return next((each["status"] for each in conditions if each["type"] == "Ready"), "Unknown")


def _name(item: Object) -> str:
    name: str = item["metadata"]["name"]
    return name


def _node(pod: Object) -> str:
    node: str = pod["spec"].get("nodeName", "")
    return node
