"""The agent's side of its node's kubelet API: what is read of it, and its parts wired.

In: settings, a bound socket, the pods. Out: `ServedNode`; tasks. Invariant: without a client of this
API nothing is done here but waiting; reviews have connections of their own, so that strangers at the
port never keep pods from being started.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from overspill.agent.pods import Pods
from overspill.agent.spec import NodeFacts
from overspill.agent.usage import Usage
from overspill.backends.base import Backend, PodUsage
from overspill.kube.cache import key_of
from overspill.kube.client import Client
from overspill.model.pods import Pod
from overspill.model.podstatus import encode
from overspill.model.quantity import parse_quantity
from overspill.model.work import Identity
from overspill.serve.kubelet.certificate import follow_files, self_sign, sign_by_cluster
from overspill.serve.kubelet.clientca import follow_client_ca
from overspill.serve.kubelet.node import ServedPod
from overspill.serve.kubelet.review import Reviews
from overspill.serve.kubelet.routes import Routes
from overspill.serve.kubelet.server import Server
from overspill.serve.listener import Bound
from overspill.settings import AgentSettings

__all__ = ["WEBSOCKETS", "KubeletApi"]

# The feature by which an apiserver (KEP-4006) knows that it need not translate a client's WebSocket.
WEBSOCKETS = "ExtendWebSocketsToKubelet"


class Node:
    """One virtual node, for `serve.kubelet`."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        backend: Backend,
        pods: Pods,
        facts: NodeFacts,
        port: int,
        trouble: Callable[[], str | None],
    ) -> None:
        self.name = facts.name
        self.backend = backend
        self.settings = configuration(settings, port=port)
        self.sync_trouble = trouble
        self._pods = pods
        self._facts = facts
        self._usage = Usage(
            backend, node_name=facts.name, memory_bytes=int(parse_quantity(facts.allocatable["memory"]))
        )

    def find(self, namespace: str, name: str) -> ServedPod | None:
        """The pod of this name."""
        pod = self._pods.cache.find(namespace, name)
        return None if pod is None else self._served(pod)

    def pods(self) -> Iterator[ServedPod]:
        """Every pod that the apiserver has on this node."""
        return map(self._served, self._pods.cache.values())

    def pod_status(self, served: ServedPod) -> dict[str, Any]:
        """The v1.PodStatus of a pod: what is seen, or of one that is not seen or unknown what the apiserver has."""
        pod, seen = served.pod, served.seen
        if seen is None or seen.unknown:
            return {"phase": pod.status.phase or "Pending"}
        decoded: dict[str, Any] = msgspec.json.decode(encode(self._pods.status(key_of(pod), pod, seen)))
        return decoded

    async def resource_metrics(self) -> bytes:
        """The text of /metrics/resource."""
        return await self._usage.resource_metrics()

    async def summary(self) -> bytes:
        """The JSON of /stats/summary."""
        return await self._usage.summary()

    async def usage(self) -> Iterable[PodUsage]:
        """The newest sample."""
        return [measured.latest for measured in (await self._usage.latest()).pods.values()]

    def _served(self, pod: Pod) -> ServedPod:
        meta = pod.metadata
        seen = self._pods.seen(meta.uid)
        if seen is not None:
            return ServedPod(pod, seen.identity, seen)
        return ServedPod(
            pod, Identity(self._facts.cluster, self._facts.name, meta.namespace, meta.name, meta.uid)
        )


class KubeletApi:
    """The kubelet API of one node."""

    def __init__(
        self, settings: AgentSettings, bound: Bound, *, client: Client, reviews: Client, node: Node
    ) -> None:
        self._settings = settings
        self._client = client
        self._hosts = (node.name, settings.node_ip)
        self._node = node
        self._server = Server(
            bound,
            reviews=Reviews(reviews, node=node.name),
            router=Routes(node, websockets=settings.kubelet_websockets),
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        listener = self._server.listener
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.run(), name="kubelet API")
            tasks.create_task(follow_client_ca(self._client, listener.use_client_ca), name="client CA")
            tasks.create_task(self._keep_certificate(), name="serving certificate")

    async def _keep_certificate(self) -> None:
        settings, use = self._settings, self._server.listener.use_certificate
        match settings.kubelet_certificate:
            case "files":
                await follow_files(settings.kubelet_certificate_file, settings.kubelet_key_file, use)
            case "self-signed":
                await self_sign(self._node.name, self._hosts, use)
            case _:
                await sign_by_cluster(self._client, self._node.name, self._hosts, use)


def configuration(settings: AgentSettings, *, port: int) -> dict[str, Any]:
    """What /configz shows: the settings in a KubeletConfiguration's words; a backend's options may be secret."""
    return {
        "kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": settings.kubelet_address.rpartition(":")[0],
            "port": port,
            "serverTLSBootstrap": settings.kubelet_certificate == "csr",
            "tlsCertFile": settings.kubelet_certificate_file,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
            "authorization": {"mode": "Webhook"},
            "enableSystemLogHandler": False,
            "maxPods": settings.pods,
            "clusterDNS": settings.cluster_dns,
            "clusterDomain": settings.cluster_domain,
            "nodeLeaseDurationSeconds": 40,
        }
    }
