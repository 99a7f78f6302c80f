"""The bare minimum of placement: one watch, and a PATCH for every gated pod.

    ungate.py KUBECONFIG

What the whole controller is measured against. It sends what the controller sends: one JSON patch that takes the gate
off and adds pool, selector, toleration and deletion cost, `IN_FLIGHT` of them at once. It knows what the benchmark's
pods look like, counts in one variable, and neither elects, nor ranks, nor reports, nor retries.
"""

import asyncio
import contextlib
import json
import signal
import sys

import msgspec
import uvloop
from lean import Connection, Server
from msgspec import Struct

PATH = "/api/v1/pods?watch=1&allowWatchBookmarks=true&labelSelector=app%3Dbench&resourceVersion="
IN_FLIGHT = 50
BASE = 5


class Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Gate(Struct, frozen=True):
    name: str


class Spec(Struct, frozen=True, rename="camel"):
    scheduling_gates: list[Gate] = []


class Pod(Struct, frozen=True):
    metadata: Meta = Meta()
    spec: Spec = Spec()


class Event(Struct, frozen=True):
    type: str
    object: Pod


decode = msgspec.json.Decoder(Event).decode


def patch(meta: Meta, rank: int) -> bytes:
    """As the controller would place a pod of this rank."""
    virtual = {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [virtual]}]}
    toleration = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}
    base = {"/spec/affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}
    elastic = {"/spec/nodeSelector": {"type": "virtual-kubelet"}, "/spec/tolerations/-": toleration}
    pool = "base" if rank <= BASE else "elastic"
    annotations = {"controller.kubernetes.io/pod-deletion-cost": str(1_000_000 - rank)}
    values = {
        "/metadata/uid": meta.uid,
        "/metadata/resourceVersion": meta.resource_version,
        **(base if rank <= BASE else elastic),
        "/metadata/labels/placement.overspill.dev~1policy": "web",
        "/metadata/labels/placement.overspill.dev~1pool": pool,
        "/metadata/annotations": {"placement.overspill.dev/rank": str(rank), **annotations},
    }
    added = [{"op": "add", "path": path, "value": value} for path, value in values.items()]
    return json.dumps([{"op": "remove", "path": "/spec/schedulingGates/0"}, *added]).encode()


async def main() -> None:
    """Take gates off until SIGTERM."""
    server = Server(sys.argv[1])
    work: asyncio.Queue[tuple[Meta, int]] = asyncio.Queue()
    known: set[str] = set()

    async def write() -> None:
        async with Connection(server) as connection:
            while True:
                meta, rank = await work.get()
                path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}"
                body, kind = patch(meta, rank), "application/json-patch+json"
                status, reply = await connection.request(
                    "PATCH", path, body, content_type=kind, agent="bench-ungate"
                )
                if status >= 300:
                    raise SystemExit(f"{path}: {status} {reply[:300].decode()}")

    async def watch(version: str) -> str:
        async with Connection(server) as connection:
            if (status := await connection.watch(PATH + version, agent="bench-ungate")) != 200:
                raise SystemExit(f"watch: {status}")
            print("ready", flush=True)
            rest = b""
            async for chunk in connection.chunks():
                *lines, rest = (rest + chunk).split(b"\n")
                for event in map(decode, lines):
                    meta = event.object.metadata
                    version = meta.resource_version or version
                    if event.object.spec.scheduling_gates and meta.uid not in known:
                        known.add(meta.uid)
                        work.put_nowait((meta, len(known)))
        return version

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(write())
        version = "0"
        while True:
            version = await watch(version)


async def until_terminated() -> None:
    """Run until SIGTERM."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await main()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(until_terminated())
