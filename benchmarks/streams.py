"""What streams cost: exec and port-forward beside plain TCP on loopback, and the memory of open ones.

    streams.py [--mib 256] [--open 100] [--json FILE]

One agent on the simulated backend, whose pods echo, on a fresh control plane. kubectl carries data there and
back through the apiserver, in both of its modes; before that, the same client code does so over plain TCP.
Prints a table, writes JSON. benchmarks/README.md says what the numbers mean.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from gauges import cpu_seconds, descriptors, memory
from lean import Server
from pods import aligned, control_plane, free_port, say

from overspill.local.kubectl import kubectl_path

PIECE = os.urandom(64 << 10)
MIB = 1 << 20
NODE, POD = "virtual-node-eci-0", "echo"
EXEC = f"/api/v1/namespaces/default/pods/{POD}/exec?command=cat&stdin=true&stdout=true"
MANIFEST = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": POD, "namespace": "default"},
    "spec": {
        "nodeName": NODE,
        "containers": [{"name": "c", "image": "echo", "ports": [{"containerPort": 7}]}],
    },
}
ECHO = """
import asyncio, sys
async def echo(reader, writer):
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    async with await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


@dataclass
class Carried:
    """One way of carrying data there and back."""

    way: str
    seconds: float
    mib: int
    agent_seconds: float

    @property
    def speed(self) -> str:
        """Of one direction, while the other is as busy."""
        return f"{self.mib * MIB / 1e6 / self.seconds:.0f} MB/s"

    @property
    def cost(self) -> str:
        """Of carrying one gigabyte there and back."""
        return f"{self.agent_seconds / (self.mib * MIB / 1e9):.2f} s" if self.agent_seconds else "-"


@dataclass
class Kept:
    """The agent, with streams open that are silent."""

    what: str
    memory_mb: float
    descriptors: int


class Bench:
    """One agent."""

    def __init__(self, plane: dict, name: str, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.server = Server(plane["kubeconfig"])
        self.agent = next(each["pid"] for each in plane["processes"] if each["name"] == NODE)
        self.program, self.environment = kubectl_path(name)

    async def kubectl(self, *args: str, websockets: bool = True, **streams: int) -> Process:
        """Start kubectl in one of its modes."""
        mode = str(websockets).lower()
        modes = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": mode, "KUBECTL_PORT_FORWARD_WEBSOCKETS": mode}
        environment = os.environ | self.environment | modes
        return await asyncio.create_subprocess_exec(
            self.program, *args, env=environment, limit=1 << 20, **streams
        )

    async def prepare(self) -> None:
        """Have the pod running; its service account comes a moment after its namespace."""
        async with asyncio.timeout(60):
            while True:
                applying = await self.kubectl("apply", "-f", "-", stdin=PIPE, stdout=PIPE, stderr=PIPE)
                await applying.communicate(json.dumps(MANIFEST).encode())
                if not applying.returncode:
                    break
        waiting = await self.kubectl(
            "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=60s", stdout=PIPE
        )
        if await waiting.wait():
            raise SystemExit("the pod does not run")

    async def carried(self, way: str, carry: Callable[[], Awaitable[float]]) -> Carried:
        """Measure."""
        say(way)
        before = cpu_seconds(self.agent)
        seconds = await carry()
        return Carried(way, seconds, self.arguments.mib, cpu_seconds(self.agent) - before)

    async def plain(self) -> float:
        """Through a server that does nothing but echo."""
        port = free_port()
        echo = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, str(port))
        try:
            return await self.over_tcp(port)
        finally:
            echo.kill()
            await echo.wait()

    async def over_tcp(self, port: int) -> float:
        """There and back over a port of this machine."""
        reader, writer = await connected(port)
        seconds = await there_and_back(reader, writer, self.arguments.mib)
        writer.close()
        return seconds

    async def forwarded(self, *, websockets: bool) -> float:
        """Through `kubectl port-forward`."""
        async with self.forwarding(websockets=websockets) as port:
            return await self.over_tcp(port)

    async def executed(self, *, websockets: bool) -> float:
        """Through `kubectl exec -i`."""
        args = ("exec", "-i", POD, "--", "cat")
        process = await self.kubectl(*args, websockets=websockets, stdin=PIPE, stdout=PIPE)
        assert process.stdin
        assert process.stdout
        seconds = await there_and_back(process.stdout, process.stdin, self.arguments.mib)
        process.stdin.close()
        await process.wait()
        return seconds

    @contextlib.asynccontextmanager
    async def forwarding(self, *, websockets: bool = True) -> AsyncIterator[int]:
        """A port of this machine that leads to the pod's."""
        process = await self.kubectl("port-forward", f"pod/{POD}", ":7", websockets=websockets, stdout=PIPE)
        assert process.stdout
        found = re.search(rb":(\d+) ->", await process.stdout.readline())
        try:
            yield int(found[1]) if found else 0
        finally:
            process.kill()
            await process.wait()

    async def open_ones(self) -> list[Kept]:
        """Without streams, with execs, with forwarded connections."""
        count = self.arguments.open
        kept = [self.kept("no stream")]
        say(f"{count} execs")
        execs = [await opened(self.server) for _ in range(count)]
        kept.append(self.kept(f"{count} execs"))
        for _, writer in execs:
            writer.close()
        say(f"{count} forwarded connections")
        async with self.forwarding() as port:
            connections = [await connected(port) for _ in range(count)]
            for reader, writer in connections:
                await there_and_back(reader, writer, 0)
            kept.append(self.kept(f"{count} forwarded connections"))
            for _, writer in connections:
                writer.close()
        return kept

    def kept(self, what: str) -> Kept:
        """The agent as it is now."""
        return Kept(what, round(memory(self.agent), 1), descriptors(self.agent))


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a server that may be just starting."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)


async def there_and_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mib: int) -> float:
    """Seconds that the data takes, from when the first byte has come back."""
    writer.write(b"!")
    await reader.readexactly(1)
    began = time.perf_counter()

    async def send() -> None:
        for _ in range(mib * MIB // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        left = mib * MIB
        while left:
            data = await reader.read(1 << 20)
            if not data:
                raise SystemExit("the stream ended early")
            left -= len(data)
    return time.perf_counter() - began


async def opened(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An exec over a WebSocket, as the Python client makes it; it has echoed a byte."""
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=server.tls)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {EXEC} HTTP/1.1\r\nHost: {server.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode()
    )
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    if status != b"101":
        raise SystemExit(f"exec: {status.decode()}")
    writer.write(b"\x82\x82\0\0\0\0" + b"\0!")  # a binary message of two bytes under a mask of zeros
    while await reader.readexactly((await reader.readexactly(2))[1]) != b"\x01!":
        pass
    return reader, writer


async def main() -> None:
    """Measure on a control plane of its own."""
    arguments = parsed()
    name = f"bench-{os.getpid()}-streams"
    async with control_plane(
        name, "--workers", "0", "--virtual-nodes", "1", "--backend", "simulated"
    ) as plane:
        bench = Bench(plane, name, arguments)
        await bench.prepare()
        kept = await bench.open_ones()
        carried = [await bench.carried("plain TCP", bench.plain)]
        carried[0].agent_seconds = 0.0  # what it does meanwhile has nothing to do with it
        for mode, websockets in (("WebSocket to the apiserver", True), ("SPDY all the way", False)):
            for verb, carry in (("port-forward", bench.forwarded), ("exec", bench.executed)):
                carried.append(await bench.carried(f"{verb}, {mode}", partial(carry, websockets=websockets)))
    print(table(carried, kept, arguments))
    report = {
        "load": os.getloadavg(),
        "carried": [asdict(each) for each in carried],
        "kept": [asdict(each) for each in kept],
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {arguments.json}")


def table(carried: list[Carried], kept: list[Kept], arguments: argparse.Namespace) -> str:
    """Both tables."""
    ways = [[f"{arguments.mib} MiB there and back", "each way", "agent CPU per GB"]]
    ways += [[each.way, each.speed, each.cost] for each in carried]
    memories = [["streams open in one agent", "RSS", "descriptors"]]
    memories += [[each.what, f"{each.memory_mb:.1f} MB", str(each.descriptors)] for each in kept]
    return f"{aligned(ways)}\n\n{aligned(memories)}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--open", type=int, default=100)
    parser.add_argument("--json", type=Path, default=Path("bench-streams.json"))
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
