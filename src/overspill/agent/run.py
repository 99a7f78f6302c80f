"""The agent's composition root: every part made, wired and run in one TaskGroup.

In: settings. Out: a virtual node, until cancelled. Invariant: no pod is touched before both
sides are known whole: the apiserver's pods of this node and the backend's.
"""

import asyncio
import gc
import os
import socket
from contextlib import AsyncExitStack, aclosing

import msgspec
import structlog
from msgspec import Struct

from overspill.agent.admission import Admission
from overspill.agent.kubelet import WEBSOCKETS, KubeletApi, Node
from overspill.agent.node import VirtualNode
from overspill.agent.pods import Pods
from overspill.agent.scalein import ScaleIn, find_place
from overspill.agent.sharing import Sharing
from overspill.agent.sources import Sources
from overspill.agent.spec import NodeFacts
from overspill.backends.base import Backend, Located, Metered
from overspill.backends.registry import BackendFactory
from overspill.errors import NotFound, OverspillError
from overspill.kube.client import Client
from overspill.kube.config import load_config
from overspill.kube.events import Events
from overspill.kube.lease import NodeLease
from overspill.kube.resources import NAMESPACES, PODS, SERVICES
from overspill.kube.watch import Watch
from overspill.kube.write import StatusWriter
from overspill.metrics import observe_pods
from overspill.model.node import NodeObject, NodeProfile, new_node
from overspill.model.pods import Meta, Pod
from overspill.model.scalein import Member, annotations_of
from overspill.process import patiently
from overspill.serve import health
from overspill.serve.listener import bind
from overspill.settings import AgentSettings

__all__ = ["run_agent"]

log = structlog.get_logger(__name__)

# Bookmarks come about once a minute; a watch that heard nothing for longer is not believed.
WATCH_AGE_LIMIT = 150.0
LEASE_AGE_LIMIT = 40.0
BACKEND_RETRY = 1.0
WATCHES_AND_MORE = 5
REVIEWS = 4


class _Named(Struct, frozen=True):
    metadata: Meta


class _ServiceSpec(Struct, frozen=True, rename="camel"):
    cluster_ip: str = msgspec.field(name="clusterIP", default="")


class _Service(Struct, frozen=True):
    spec: _ServiceSpec = _ServiceSpec()


class _Version(Struct, frozen=True, rename="camel"):
    git_version: str


async def run_agent(settings: AgentSettings, factory: BackendFactory, asked: asyncio.Event) -> None:
    """Be one virtual node until cancelled, or until the end that is `asked` for; `factory` makes its backend.

    Health is served once everything is found; until then a kubelet waits for five minutes.

    Raises:
        Misconfigured: settings, credentials, permissions or the node's name are not usable.
        Retry: the apiserver could not be reached for so long.
    """
    await patiently(lambda: _run_once(settings, factory, asked), hurried=asked.is_set)


async def _run_once(settings: AgentSettings, factory: BackendFactory, asked: asyncio.Event) -> None:
    name = settings.require_node_name()
    async with AsyncExitStack() as stack:
        config = load_config(settings.kubeconfig or None, settings.context or None)
        # Each connection keeps a buffer of 256 KiB: no more of them than there are requests at once.
        connections = settings.workers + settings.status_writers + WATCHES_AND_MORE
        client = await stack.enter_async_context(Client(config, connections=connections))
        # The heartbeat waits behind nobody, however much there is to do.
        heart = await stack.enter_async_context(Client(config, connections=1))
        place = await find_place(client, settings)
        if place.ending:
            asked.set()
        kube_system = await client.get(NAMESPACES, "kube-system", kind=_Named)
        cluster = kube_system.metadata.uid
        backend = factory(cluster=cluster, node=name, options=settings.backend_options)
        # A pod's uid tells it from another one of the same name; elsewhere the process does.
        holder = f"{socket.gethostname()}/{settings.pod_uid or os.getpid()}"
        lease = NodeLease(heart, name, holder=holder)
        sharing = Sharing(client, lease, backend) if isinstance(backend, Metered) else None
        await lease.acquire()
        if sharing is not None:
            await sharing.read()
        await stack.enter_async_context(backend)
        reviews = await stack.enter_async_context(Client(config, connections=REVIEWS))
        bound = stack.enter_context(
            bind(settings.kubelet_address, what="kubelet API", flag="--kubelet-address")
        )
        port = bound.getsockname()[1]
        agent = await _assemble(client, settings, backend, lease, cluster, member=place.member, port=port)
        stack.callback(observe_pods(agent.phases))
        api = KubeletApi(settings, bound, client=client, reviews=reviews, node=agent.served)
        await agent.run(api, sharing, asked)


async def _assemble(
    client: Client,
    settings: AgentSettings,
    backend: Backend,
    lease: NodeLease,
    cluster: str,
    *,
    member: Member | None,
    port: int,
) -> "Agent":
    version = msgspec.json.decode(await client.request("GET", "/version"), type=_Version)
    profile = NodeProfile(
        name=settings.node_name,
        ip=settings.node_ip,
        backend=backend.name,
        kubernetes_version=version.git_version.partition("+")[0].partition("-")[0],
        capacity={
            "cpu": settings.cpu,
            "memory": settings.memory,
            "ephemeral-storage": settings.ephemeral_storage,
            "pods": str(settings.pods),
        },
        labels={**(await backend.node_labels() if isinstance(backend, Located) else {}), **settings.labels},
        annotations=annotations_of(member),
        taint=settings.backend if settings.taint else "",
        kubelet_port=port,
        features=(WEBSOCKETS,) if settings.kubelet_websockets else (),
    )
    facts = NodeFacts(
        cluster=cluster,
        name=profile.name,
        ip=profile.ip,
        allocatable=profile.capacity,
        cluster_dns=tuple(settings.cluster_dns) or await _cluster_dns(client),
        cluster_domain=settings.cluster_domain,
    )
    return Agent(client, settings, backend, lease, profile, facts, member)


async def _cluster_dns(client: Client) -> tuple[str, ...]:
    try:
        service = await client.get(SERVICES, "kube-dns", namespace="kube-system", kind=_Service)
    except NotFound:
        log.warning("no Service kube-system/kube-dns: pods get the backend's name servers")
        return ()
    return (service.spec.cluster_ip,)


class Agent:
    """The parts of one running agent."""

    def __init__(
        self,
        client: Client,
        settings: AgentSettings,
        backend: Backend,
        lease: NodeLease,
        profile: NodeProfile,
        facts: NodeFacts,
        member: Member | None,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._lease = lease
        self._events = Events(client, instance=profile.name)
        self._writer = StatusWriter(client, workers=settings.status_writers)
        self._watch = Watch(
            client, PODS, kind=Pod, keep=Pod.kept, field_selector=f"spec.nodeName={profile.name}"
        )
        self._admission = Admission(
            node_name=profile.name,
            labels=new_node(profile)["metadata"]["labels"],
            allocatable=profile.capacity,
            capabilities=backend.capabilities,
        )
        self._pods = Pods(
            client=client,
            backend=backend,
            writer=self._writer,
            events=self._events,
            sources=Sources(client, issue_tokens=backend.capabilities.reads_files),
            sure=lambda: lease.sure,
            admission=self._admission,
            node=facts,
            workers=settings.workers,
        )
        self.phases = self._pods.phases
        self._node = VirtualNode(
            client,
            profile,
            check=self._trouble,
            groups=lambda: self._pods.groups,
            changed=self._node_changed,
        )
        self._scale_in = ScaleIn(
            client,
            node=self._node,
            pods=self._pods,
            events=self._events,
            member=member,
            bare_pods=settings.bare_pods,
        )
        self.served = Node(
            settings,
            backend=backend,
            pods=self._pods,
            facts=facts,
            port=profile.kubelet_port,
            trouble=self._watch_trouble,
        )
        self._backend_listed = asyncio.Event()
        self._health_trouble = self._list_trouble = ""

    async def run(self, api: KubeletApi, sharing: Sharing | None, asked: asyncio.Event) -> None:
        """Run every part until cancelled, or until the end that is asked for; a node that goes is deleted."""
        # A new Node that is to go again at once takes no pods meanwhile; who stays after all undoes that.
        await self._node.register(cordoned=asked.is_set())
        host, _, port = self._settings.health_address.rpartition(":")
        checks = {
            "watch": self._watch_trouble,
            "lease": self._lease_trouble,
            "backend": lambda: self._health_trouble or self._list_trouble or None,
        }
        parts = {
            "lease": self._lease.run(),
            "events": self._events.run(),
            "status writer": self._writer.run(),
            "pod watch": self._follow_apiserver(),
            "backend watch": self._follow_backend(),
            "pods": self._work(),
            "files": self._pods.freshness.run(),
            "node": self._node.run(),
            "kubelet API": api.run(),
            "health": health.serve(host, int(port), checks),
        }
        if sharing is not None:
            parts["quota share"] = sharing.run()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(part, name=name) for name, part in parts.items()]
            gone = await self._scale_in.run(asked)
            for task in running:
                task.cancel()
        if gone:
            await self._node.remove()
            await self._lease.remove()

    async def _follow_apiserver(self) -> None:
        async for batch in self._watch.batches():
            self._pods.changed(batch)

    async def _follow_backend(self) -> None:
        while True:
            try:
                async with aclosing(self._backend.watch()) as batches:  # type: ignore[type-var]  # the iterators are generators
                    await self._pods.relist()
                    self._list_trouble = ""
                    self._backend_listed.set()
                    async for batch in batches:
                        self._pods.sighted(batch)
            except OverspillError as error:
                self._list_trouble = f"backend {self._backend.name}: {error}"
                log.warning("backend cannot tell; watching it anew", error=str(error))
            await asyncio.sleep(BACKEND_RETRY)

    async def _work(self) -> None:
        await self._pods.cache.synced.wait()
        await self._backend_listed.wait()
        gc.freeze()  # what lives from here on is pods; the modules' objects need no more looking at
        await self._pods.queue.run()

    async def _trouble(self) -> str:
        """Why the node cannot run pods now, or ""."""
        try:
            await self._backend.health()
        except OverspillError as error:
            self._health_trouble = f"backend {self._backend.name}: {error}"
        else:
            self._health_trouble = ""
        return self._health_trouble or self._list_trouble or self._watch_trouble() or ""

    def _node_changed(self, node: NodeObject) -> None:
        self._admission.node_changed(node.metadata.labels, node.spec.taints)
        # A Node that was deleted and registered again has another uid; the lease would go with the old one.
        self._lease.owner_uid = node.metadata.uid

    def _watch_trouble(self) -> str | None:
        if not self._pods.cache.synced.is_set():
            return "pods of this node are not listed yet"
        age = self._watch.age
        return (
            f"nothing heard from the apiserver's pod watch for {age:.0f} s" if age > WATCH_AGE_LIMIT else None
        )

    def _lease_trouble(self) -> str | None:
        age = self._lease.age
        return f"lease not renewed for {age:.0f} s" if age > LEASE_AGE_LIMIT else None
