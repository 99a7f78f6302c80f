"""Asking for a pod to make way.

In: a pod. Out: "" once it is on its way out, or why it is not. Invariant: only the pod of this uid is evicted, and
only as its PodDisruptionBudgets allow.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/.
"""

from typing import Protocol

from overspill.errors import Conflict, NotFound, Rejected, Retry
from overspill.kube.client import Client, encoder
from overspill.kube.resources import PODS

__all__ = ["evict"]


class Named(Protocol):
    """ObjectMeta of a pod, in part."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...


async def evict(client: Client, meta: Named) -> str:
    """Evict a pod; returns "" if that was granted or it is gone, else why it is not to go for now.

    Raises:
        Misconfigured: this account may not.
    """
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        "deleteOptions": {"preconditions": {"uid": meta.uid}},
    }
    path = PODS.path(namespace=meta.namespace, name=meta.name, subresource="eviction")
    try:
        await client.request("POST", path, body=encoder.encode(body), retry=False)
    except (Conflict, NotFound):
        return ""
    except (Retry, Rejected) as error:  # 429 of a budget; 500 of two; 403 in a namespace that is going
        return str(error)
    return ""
