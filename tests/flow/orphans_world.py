"""An apiserver that lists what a test wants, and groups at an emulator, for the tests of orphans."""

import contextlib
import socket
import uuid
from collections.abc import AsyncIterator

from aiohttp import web
from emulators import KEY, Rig, tag
from kube_server import refusal, serving

from overspill import names
from overspill.backends.eci.inventory import EciInventory
from overspill.backends.eci.tags import tags
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.model.work import Identity
from overspill.orphans.collector import Collector, Rules
from overspill.orphans.record import Record


class Kube:
    """Pods, nodes and the namespace kube-system of one cluster, and Events that it was told."""

    def __init__(self, *, cluster: str = "") -> None:
        self.cluster = cluster or f"cluster-{uuid.uuid4()}"
        self.pods: dict[str, dict] = {}
        self.nodes = {"vn-0": "True"}
        self.leaving: dict[str, str] = {}
        self.version = 100
        self.refused: str = ""
        self.cut_after: int | None = None
        self.events: list[dict] = []
        self.record: dict = {}
        self.pod("of-another-node")

    def pod(self, name: str, *, instance: str = "") -> Identity:
        """A pod of node vn-0 that exists."""
        uid = str(uuid.uuid4())
        annotations = {names.INSTANCE_ANNOTATION: instance} if instance else {}
        self.pods[uid] = {
            "metadata": {"name": name, "namespace": "default", "uid": uid, "annotations": annotations}
        }
        return Identity(self.cluster, "vn-0", "default", name, uid, 0)

    def name_instance(self, identity: Identity, group: str) -> None:
        self.pods[identity.uid]["metadata"]["annotations"] = {names.INSTANCE_ANNOTATION: group}

    async def handle(self, request: web.Request) -> web.Response:
        kind = request.path.rsplit("/", 1)[-1]
        if kind == "events":
            self.events.append(await request.json())
            return web.json_response({})
        if "configmaps" in request.path:
            return await self._record(request)
        if kind == self.refused:
            return refusal(403, "Forbidden", f"cannot list {kind}")
        if kind == "kube-system":
            return web.json_response({"metadata": {"name": "kube-system", "uid": self.cluster}})
        if kind == "nodes":
            nodes = [node(name, ready, self.leaving.get(name)) for name, ready in self.nodes.items()]
            return web.json_response({"metadata": {}, "items": nodes})
        assert kind == "pods"
        return self._pods(request)

    async def _record(self, request: web.Request) -> web.Response:
        """The one ConfigMap."""
        if self.refused == "configmaps":
            return refusal(403, "Forbidden", "cannot get configmaps")
        if request.method == "GET":
            return web.json_response(self.record) if self.record else refusal(404, "NotFound", "none")
        body = await request.json()
        version = self.record.get("metadata", {}).get("resourceVersion")
        if body["metadata"].get("resourceVersion") != version:
            return refusal(409, "Conflict", "the object has been modified")
        self.record = {**body, "metadata": {"resourceVersion": str(int(version or 0) + 1)}}
        return web.json_response(self.record)

    def _pods(self, request: web.Request) -> web.Response:
        """In pages of one pod; a list that is cut ends with an expired token, again and again."""
        begin = int(request.query.get("continue", 0))
        if self.cut_after is not None and begin >= self.cut_after:
            return refusal(410, "Expired", "The provided continue parameter is too old")
        every = list(self.pods.values())
        more = str(begin + 1) if begin + 1 < len(every) else ""
        meta = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": meta, "items": every[begin : begin + 1]})


def node(name: str, ready: str, leaving: str | None) -> dict:
    conditions = [{"type": "Ready", "status": ready, "lastTransitionTime": None}]
    if leaving:
        conditions.append({"type": "Decommissioning", "status": "True", "lastTransitionTime": leaving})
    return {"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions}}


class World:
    """A collector whose clock and leadership are the test's."""

    def __init__(self, rig: Rig, kube: Kube, client: Client, inventory: EciInventory, events: Events) -> None:
        self.rig, self.kube, self.client, self.inventory, self.events = rig, kube, client, inventory, events
        self.now = 1000.0
        self.leads = True

    def collector(self, **rules) -> Collector:
        given = {
            "backend": "eci",
            "delete": True,
            "quiet_seconds": 60.0,
            "period_seconds": 0.05,
            "per_minute": 30,
        }
        return Collector(
            self.client,
            self.inventory,
            self.events,
            Rules(**(given | rules)),
            Record(self.client, "orphans", namespace="kube-system"),
            sure=lambda: self.leads,
            clock=lambda: self.now,
        )

    async def looks(self, collector: Collector, *, times: int = 3, seconds: float = 60.0) -> None:
        """Looks that far apart."""
        for _ in range(times):
            await collector.look()
            self.now += seconds

    async def groups(self) -> set[str]:
        """What there is, of whomever, that is not on its way out."""
        return {id_ for id_, item in (await self.rig.statuses()).items() if item["Status"] != "Terminating"}

    async def group(self, owner: Identity) -> str:
        """A group as an agent would make it."""
        return await self.rig.create(tag=[tag(each["Key"], each["Value"]) for each in tags(owner, more={})])

    async def orphan(self, name: str = "gone") -> str:
        """A group of a pod that does not exist."""
        identity = self.kube.pod(name)
        del self.kube.pods[identity.uid]
        return await self.group(identity)


def eci_options(rig: Rig) -> dict[str, str]:
    return {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
    }


@contextlib.asynccontextmanager
async def orphan_world(rig: Rig, monkeypatch) -> AsyncIterator[World]:
    """A cluster whose groups are at this emulator."""
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)
    kube = Kube()
    async with (
        serving(kube.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
        EciInventory(cluster=kube.cluster, options=eci_options(rig)) as inventory,
    ):
        yield World(rig, kube, client, inventory, Events(client, instance=socket.gethostname()))
