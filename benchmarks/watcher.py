"""Sees pods become Running and vanish, independently of whoever makes that happen.

    watcher.py KUBECONFIG --pods N --out FILE

Prints `ready`, `running`, `gone` as it comes to that, a count once a second, and writes to FILE when
each pod was first seen Running and gone (monotonic seconds). Goes on from the last resourceVersion
when the apiserver ends the watch, which under load it does.
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


class Status(Struct, frozen=True):
    phase: str = ""


class Pod(Struct, frozen=True):
    metadata: Meta = Meta()
    status: Status = Status()


class Event(Struct, frozen=True):
    type: str
    object: Pod


decode = msgspec.json.Decoder(Event).decode


class Witness:
    """What was seen, and when."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.running: dict[str, float] = {}
        self.gone: dict[str, float] = {}
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
        if event.type == "DELETED":
            self.gone.setdefault(pod.metadata.name, now)
            if len(self.gone) == self.pods:
                say("gone")
        elif pod.status.phase == "Running" and pod.metadata.name not in self.running:
            self.running[pod.metadata.name] = now
            if len(self.running) == self.pods:
                say("running")


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
        while len(witness.gone) < arguments.pods:
            await asyncio.sleep(1)
            say(f"{len(witness.running)} {len(witness.gone)}")
        watching.cancel()
    seen = {"running": witness.running, "gone": witness.gone, "watches": witness.watches}
    arguments.out.write_text(json.dumps(seen))
    say("written")


if __name__ == "__main__":
    uvloop.run(main())
