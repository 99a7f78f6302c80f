"""Sees pods pass their stages, independently of whoever makes that happen.

    watcher.py KUBECONFIG --pods N --out FILE

The stages: `free` of scheduling gates, `bound`, `running`, `gone`. Prints `ready`, then each stage when all pods have
come to it, counts once a second, and writes to FILE when each pod was first seen at each stage (monotonic seconds).
Goes on from the last resourceVersion when the apiserver ends the watch, which under load it does.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import msgspec
import uvloop
from lean import Connection, Server
from msgspec import Struct

PATH = "/api/v1/pods?watch=1&allowWatchBookmarks=true&labelSelector=app%3Dbench&resourceVersion="


class Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""


class Spec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    scheduling_gates: list[Meta] = []


class Status(Struct, frozen=True):
    phase: str = ""


class Pod(Struct, frozen=True):
    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: Status = Status()


class Event(Struct, frozen=True):
    type: str
    object: Pod


decode = msgspec.json.Decoder(Event).decode


class Witness:
    """What was seen, and when."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.seen: dict[str, dict[str, float]] = {"free": {}, "bound": {}, "running": {}, "gone": {}}
        self.version = "0"
        self.watches = 0

    async def watch(self, server: Server) -> None:
        """Watch for ever."""
        while True:
            async with Connection(server) as connection:
                status = await connection.watch(PATH + self.version, agent="bench-watcher")
                if status != 200:
                    raise SystemExit(f"watch: {status}")
                if not self.watches:
                    say("ready")
                self.watches += 1
                rest = b""
                async for chunk in connection.chunks():
                    *lines, rest = (rest + chunk).split(b"\n")
                    now = time.monotonic()
                    for line in lines:
                        self.take(decode(line), now)

    def take(self, event: Event, now: float) -> None:
        """Take one event in."""
        pod = event.object
        self.version = pod.metadata.resource_version or self.version
        if event.type == "ERROR":
            raise SystemExit("watch: the resourceVersion is too old")
        if event.type == "BOOKMARK":
            return
        if event.type == "DELETED":
            self.reached("gone", pod, now)
            return
        if not pod.spec.scheduling_gates:
            self.reached("free", pod, now)
        if pod.spec.node_name:
            self.reached("bound", pod, now)
        if pod.status.phase == "Running":
            self.reached("running", pod, now)

    def reached(self, stage: str, pod: Pod, now: float) -> None:
        """Remember the first time."""
        times = self.seen[stage]
        if pod.metadata.name not in times:
            times[pod.metadata.name] = now
            if len(times) == self.pods:
                say(stage)


def say(word: str) -> None:
    """Tell the benchmark."""
    print(word, flush=True)


async def main() -> None:
    """Watch until everything is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    witness = Witness(arguments.pods)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(witness.watch(Server(arguments.kubeconfig)))
        while len(witness.seen["gone"]) < arguments.pods:
            await asyncio.sleep(1)
            say(", ".join(f"{len(times)} {stage}" for stage, times in witness.seen.items()))
        watching.cancel()
    arguments.out.write_text(json.dumps(witness.seen | {"watches": witness.watches}))
    say("written")


if __name__ == "__main__":
    uvloop.run(main())
