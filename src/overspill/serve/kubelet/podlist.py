"""`/pods` and `/runningpods`: v1.PodLists from what the agent keeps.

In: `ServedPod`s. Out: JSON, in pieces, so that 3,000 pods are never one string. Invariant: specs are
passed on as the apiserver sent them, without being decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from overspill.model.observation import Running
from overspill.model.pods import Pod
from overspill.serve.kubelet.node import ServedNode, ServedPod

__all__ = ["all_pods", "running_pods"]

HEAD = b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":['
AT_ONCE = 50  # pods rendered before others get their turn

encoder = msgspec.json.Encoder()


def all_pods(node: ServedNode) -> AsyncIterator[bytes]:
    """Every pod of the node, with the status it has now."""

    def item(served: ServedPod) -> dict[str, Any]:
        return {
            "metadata": _metadata(served.pod),
            "spec": served.pod.spec,
            "status": _plain(node.pod_status(served)),
        }

    return _listed(node.pods(), item)


def running_pods(node: ServedNode) -> AsyncIterator[bytes]:
    """Those pods and containers that run now, as the runtime knows them."""
    return _listed((served for served in node.pods() if _running(served)), _running_item)


async def _listed(
    pods: Iterable[ServedPod], item: Callable[[ServedPod], dict[str, Any]]
) -> AsyncIterator[bytes]:
    yield HEAD
    pending: list[bytes] = []
    comma = b""
    for served in list(pods):
        pending += [comma, encoder.encode(item(served))]
        comma = b","
        if len(pending) >= 2 * AT_ONCE:
            yield b"".join(pending)
            pending.clear()
            await asyncio.sleep(0)
    yield b"".join((*pending, b"]}\n"))


def _metadata(pod: Pod) -> dict[str, Any]:
    """ObjectMeta without what is not set."""
    decoded: dict[str, Any] = msgspec.json.decode(encoder.encode(pod.metadata))
    return {name: value for name, value in decoded.items() if value}


def _plain(status: Any) -> Any:
    """A status for reading: without the directives of a patch."""
    if isinstance(status, dict):
        return {name: _plain(value) for name, value in status.items()}
    if isinstance(status, list):
        return [_plain(each) for each in status if not (isinstance(each, dict) and "$patch" in each)]
    return status


def _running(served: ServedPod) -> list[Any]:
    return [each for each in served.containers() if isinstance(each.state, Running)]


def _running_item(served: ServedPod) -> dict[str, Any]:
    identity = served.identity
    return {
        "metadata": {
            "name": identity.name,
            "namespace": identity.namespace,
            "uid": identity.uid,
            "creationTimestamp": None,
        },
        "spec": {
            "containers": [
                {"name": each.name, "image": each.image, "resources": {}} for each in _running(served)
            ]
        },
        "status": {},
    }
