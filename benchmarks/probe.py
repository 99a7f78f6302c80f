"""The bare minimum of an agent: one watch, a PATCH for a new pod, a DELETE for one that is to end.

    probe.py NODE KUBECONFIG

What the whole agent is measured against. It keeps nothing, checks nothing, retries nothing but its
watch, and says at its end how often that began.
"""

import asyncio
import contextlib
import signal
import sys
from datetime import UTC, datetime

import aiohttp
import msgspec
import uvloop
from lean import Server
from msgspec import Struct

TICK, WORKERS = 0.025, 8
PATCH = "application/strategic-merge-patch+json"
REPLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"


class Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class Pod(Struct, frozen=True):
    metadata: Meta = Meta()


class Event(Struct, frozen=True):
    type: str
    object: Pod


decode = msgspec.json.Decoder(Event).decode


def status_of(uid: str, number: int) -> bytes:
    """A status as a real agent would write it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    address = f"100.64.{number // 250 % 128}.{number % 250 + 1}"
    conditions = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
    return msgspec.json.encode(
        {
            "metadata": {"uid": uid},
            "status": {
                "phase": "Running",
                "startTime": now,
                "hostIP": "127.0.0.1",
                "hostIPs": [{"ip": "127.0.0.1"}],
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [
                    {"type": name, "status": "True", "lastTransitionTime": now, "reason": "", "message": ""}
                    for name in conditions
                ],
                "containerStatuses": [
                    {
                        "name": "web",
                        "state": {"running": {"startedAt": now}},
                        "lastState": {},
                        "ready": True,
                        "started": True,
                        "restartCount": 0,
                        "image": "registry.example/web:v1",
                        "imageID": "simulated://registry.example/web:v1",
                        "containerID": f"simulated://{uid}/web/0",
                    }
                ],
            },
        }
    )


class Probe:
    """One node's."""

    def __init__(self, node: str, server: Server) -> None:
        self.node, self.server = node, server
        self.known: dict[str, bool] = {}  # uid: whether its end was asked for
        self.work: asyncio.Queue[tuple[Meta, bool]] = asyncio.Queue()
        self.version = "0"
        self.watches = 0
        self.started = 0

    async def run(self) -> None:
        """Work until cancelled."""
        connector = aiohttp.TCPConnector(ssl=self.server.tls, limit=32)
        base = f"https://{self.server.host}:{self.server.port}"
        async with (
            aiohttp.ClientSession(
                base,
                connector=connector,
                timeout=aiohttp.ClientTimeout(),
                skip_auto_headers=["Accept-Encoding"],
                headers={"User-Agent": "bench-probe"},
            ) as self.http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(WORKERS):
                tasks.create_task(self.act())
            while True:
                await self.watch()

    async def watch(self) -> None:
        """One watch, to its end."""
        self.watches += 1
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "fieldSelector": f"spec.nodeName={self.node}",
            "resourceVersion": self.version,
        }
        async with self.http.get("/api/v1/pods", params=query) as reply:
            rest = b""
            while True:
                chunk = await reply.content.readany()
                if not chunk and reply.content.at_eof():
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.take(decode(line))
                await asyncio.sleep(TICK)

    def take(self, event: Event) -> None:
        """What an event asks for."""
        meta = event.object.metadata
        self.version = meta.resource_version or self.version
        if event.type == "DELETED":
            self.known.pop(meta.uid, None)
        elif meta.uid and self.known.get(meta.uid) is not True:
            ends = meta.deletion_timestamp is not None
            if ends or meta.uid not in self.known:
                self.known[meta.uid] = ends
                self.work.put_nowait((meta, ends))

    async def act(self) -> None:
        """One worker."""
        while True:
            meta, ends = await self.work.get()
            path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}"
            if ends:
                body = msgspec.json.encode({"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}})
                async with self.http.delete(
                    path, data=body, headers={"Content-Type": "application/json", "Accept": REPLY}
                ) as reply:
                    await reply.read()
            else:
                self.started += 1
                body = status_of(meta.uid, self.started)
                async with self.http.patch(
                    f"{path}/status", data=body, headers={"Content-Type": PATCH, "Accept": REPLY}
                ) as reply:
                    await reply.read()
            if reply.status >= 300 and reply.status != 404:
                raise SystemExit(f"{path}: {reply.status}")


async def main() -> None:
    """Be a node until SIGTERM."""
    node, kubeconfig = sys.argv[1:]
    probe = Probe(node, Server(kubeconfig))
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await probe.run()
    finally:
        print(probe.watches, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(main())
