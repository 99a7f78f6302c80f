"""Creates or deletes the benchmark's pods, as fast as the apiserver takes them or at a pace.

    loader.py create|delete KUBECONFIG --pods N --namespaces c,d [--nodes a,b] [--gate NAME] [--rate R]

With `--nodes`, pods are bound in advance, so that neither scheduler nor ReplicaSets stand in the way. Prints one
JSON object: when each pod was created (monotonic seconds, as all processes of a machine share them).
"""

import argparse
import asyncio
import json
import sys
import time

import uvloop
from lean import Connection, Server

IN_FLIGHT = 24


def pod(name: str, node: str, gate: str) -> bytes:
    """A small, ordinary pod; one that is not bound goes at once when it is deleted, for there is no kubelet."""
    place = {"nodeName": node} if node else {"terminationGracePeriodSeconds": 0}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "bench", "pod-template-hash": "6f9c7d5b8"}},
            "spec": {
                **place,
                **({"schedulingGates": [{"name": gate}]} if gate else {}),
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "web",
                        "image": "registry.example/web:v1",
                        "ports": [{"containerPort": 8080}],
                        "env": [{"name": "MODE", "value": "bench"}, {"name": "LEVEL", "value": "info"}],
                        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    }
                ],
                "tolerations": [{"operator": "Exists"}],
            },
        }
    ).encode()


async def main() -> None:
    """Do it."""
    arguments = parsed()
    server = Server(arguments.kubeconfig)
    nodes, namespaces = arguments.nodes.split(","), arguments.namespaces.split(",")
    numbers = iter(range(arguments.pods))
    times: dict[str, float] = {}
    began = time.monotonic()

    async def work() -> None:
        async with Connection(server) as connection:
            for number in numbers:
                if arguments.rate:
                    await asyncio.sleep(began + number / arguments.rate - time.monotonic())
                name, path = (
                    f"web-{number:05d}",
                    f"/api/v1/namespaces/{namespaces[number % len(namespaces)]}/pods",
                )
                if arguments.verb == "create":
                    body = pod(name, nodes[number // len(namespaces) % len(nodes)], arguments.gate)
                    status, reply = await connection.request("POST", path, body, agent="bench-loader")
                else:
                    status, reply = await connection.request("DELETE", f"{path}/{name}", agent="bench-loader")
                if status >= 300:
                    sys.exit(f"{arguments.verb} {name}: {status} {reply[:300].decode()}")
                times[name] = time.monotonic()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(work())
    json.dump({"began": began, "took": time.monotonic() - began, "times": times}, sys.stdout)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["create", "delete"])
    parser.add_argument("kubeconfig")
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--namespaces", required=True)
    parser.add_argument("--nodes", default="")
    parser.add_argument("--gate", default="")
    parser.add_argument("--rate", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main())
