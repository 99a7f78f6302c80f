"""The walkthrough: seven steps on a fresh local cluster, each of which checks itself.

In: a `Walk` over a cluster with one worker and one virtual node. Out: a session on stdout.
Invariant: every step asks the apiserver and, where containers are concerned, Podman; the first thing that
does not hold ends the walk. Steps build on one another and run in order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from overspill.local import expect
from overspill.local.autoscaling import grow_and_shrink
from overspill.local.images import WEB
from overspill.local.scale import thousand_simulated
from overspill.local.walk import Unmet, Walk

__all__ = ["STEPS", "walk_through"]

WORKER = "worker-0"
NODES = tuple(f"virtual-node-eci-{number}" for number in range(4))
AGENTS = ("-n", "kube-system", "-l", "app.kubernetes.io/instance=virtual-node-eci")
REPLICAS = 10


async def walk_through(walk: Walk) -> None:
    """All steps.

    Raises:
        Unmet: something did not hold.
        OverspillError: a command failed.
    """
    for number, (title, step) in enumerate(STEPS, start=1):
        walk.title(number, title)
        await step(walk)


async def see_nodes(walk: Walk) -> None:
    """A real node and a virtual one."""
    await walk.until("both nodes are Ready", lambda: _nodes_ready(walk, NODES[:1]))
    roles = _column(await walk.show("get", "nodes"), "ROLES")
    if roles.get(NODES[0]) != "agent":
        raise Unmet(f"{NODES[0]} has ROLES {roles.get(NODES[0])!r} instead of 'agent'")


async def scale_nodes(walk: Walk) -> None:
    """One virtual node becomes four."""
    await walk.show("-n", "kube-system", "scale", "statefulset", "virtual-node-eci", "--replicas=4")
    await walk.until("four agents run on the worker", lambda: _agents_run(walk, len(NODES)))
    await walk.until("four virtual nodes are Ready", lambda: _nodes_ready(walk, NODES))
    await walk.show("get", "pods", *AGENTS, "-o", "wide")
    await walk.show("get", "nodes")


async def deploy(walk: Walk) -> None:
    """Ten pods of a labelled namespace run as containers in the cloud."""
    await walk.show("create", "namespace", "vk")
    await walk.show("label", "namespace", "vk", "virtual-node-affinity-injection=enabled")
    await walk.show(
        "-n", "vk", "create", "deployment", "web", f"--image={WEB[0]}", f"--replicas={REPLICAS}", "--port=80"
    )
    await _settled(walk)
    await walk.until(
        "every pod has an address of its own", lambda: _about_pods(walk, expect.addresses_distinct)
    )
    await walk.until(
        "two or three pods per virtual node",
        lambda: _about_pods(walk, lambda pods: expect.spread_evenly(pods, NODES)),
    )
    await walk.show("-n", "vk", "get", "pod", "-o", "wide")
    await _served(walk, version=1)


async def update(walk: Walk) -> None:
    """Rolling update, rollback, and a pod that is deleted."""
    await walk.show("-n", "vk", "set", "image", "deployment/web", f"web={WEB[1]}")
    await walk.show("-n", "vk", "rollout", "status", "deployment/web")
    await _settled(walk)
    await _served(walk, version=2)
    await walk.show("-n", "vk", "rollout", "undo", "deployment/web")
    await walk.show("-n", "vk", "rollout", "status", "deployment/web")
    await _settled(walk)
    await _served(walk, version=1)
    doomed = (await _web_pods(walk))[0]["metadata"]["name"]
    await walk.show("-n", "vk", "delete", "pod", doomed)
    await _settled(walk)
    if doomed in {pod["metadata"]["name"] for pod in await _web_pods(walk)}:
        raise Unmet(f"pod {doomed} is still there after its deletion")


async def drain(walk: Walk) -> None:
    """One command: the agents empty their nodes and take them away; nothing of them stays in the cloud."""
    await walk.show("-n", "kube-system", "scale", "statefulset", "virtual-node-eci", "--replicas=1")
    await walk.until("three nodes are emptied and gone, with their agents", lambda: _left_alone(walk))
    await walk.until(
        f"all pods have moved to {NODES[0]}",
        lambda: _about_pods(walk, lambda pods: expect.pods_on(pods, NODES[0])),
    )
    await _settled(walk)
    await walk.show("-n", "vk", "get", "pod", "-o", "wide")
    await walk.show("get", "nodes")
    await walk.show("-n", "vk", "delete", "deployment", "web")
    await walk.until("nothing is left in the cloud", lambda: _cloud_empty(walk))
    await walk.show_containers()


async def autoscale(walk: Walk) -> None:
    """Three pods stay on the node; what an autoscaler adds under load is on virtual nodes, and goes first."""
    await grow_and_shrink(walk, worker=WORKER)
    await walk.until("nothing is left in the cloud", lambda: _cloud_empty(walk))


STEPS: Sequence[tuple[str, Callable[[Walk], Awaitable[None]]]] = (
    ("A cluster with its own node, and a virtual one", see_nodes),
    ("More capacity: scale the virtual nodes", scale_nodes),
    ("Ten pods of a labelled namespace run on virtual nodes", deploy),
    ("Update, roll back, delete: as on any node", update),
    ("Drain the virtual nodes and remove them", drain),
    ("Base and overflow: under load from 3 pods to 12, a rollout, and back to 3", autoscale),
    ("A taste of scale: 1,000 pods on simulated nodes", thousand_simulated),
)


async def _nodes_ready(walk: Walk, virtual: Sequence[str]) -> str:
    return expect.nodes_ready(await walk.objects("nodes"), [WORKER, *virtual])


async def _left_alone(walk: Walk) -> str:
    return await _nodes_ready(walk, NODES[:1]) or await _agents_run(walk, 1)


async def _agents_run(walk: Walk, count: int) -> str:
    pods = await walk.objects("pods", *AGENTS)
    return expect.pods_run(pods, count) or expect.pods_on(pods, WORKER)


async def _web_pods(walk: Walk) -> list[expect.Object]:
    return await walk.objects("pods", "-n", "vk", "-l", "app=web")


async def _about_pods(walk: Walk, judge: Callable[[expect.Listing], str]) -> str:
    return judge(await _web_pods(walk))


async def _settled(walk: Walk) -> None:
    """Ten pods run, and exactly their containers."""
    await walk.until(
        f"{REPLICAS} pods are Running",
        lambda: _about_pods(walk, lambda pods: expect.pods_run(pods, REPLICAS)),
    )
    await walk.until(f"exactly their {REPLICAS} containers run at Podman", lambda: _cloud_agrees(walk))


async def _cloud_agrees(walk: Walk) -> str:
    return expect.same_in_cloud(await _web_pods(walk), await walk.containers())


async def _cloud_empty(walk: Walk) -> str:
    return expect.same_in_cloud([], await walk.containers(infra=True))


async def _served(walk: Walk, *, version: int) -> None:
    what = f"every pod answers HTTP with its own name and version {version}"
    await walk.until(what, lambda: _answers_differ(walk, version))
    pod = (await _web_pods(walk))[0]
    walk.say(f"http://{pod['status']['podIP']}/ answers: {await _fetch(pod['status']['podIP'])}")


async def _answers_differ(walk: Walk, version: int) -> str:
    pods = await _web_pods(walk)
    answers = await asyncio.gather(*(_fetch(pod["status"].get("podIP", "")) for pod in pods))
    for pod, answer in zip(pods, answers, strict=True):
        if answer != (wanted := f"hello from {pod['metadata']['name']}, version {version}"):
            return f"{answer!r} instead of {wanted!r}"
    return ""


async def _fetch(address: str) -> str:
    timeout = aiohttp.ClientTimeout(total=3)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}/") as got,
        ):
            return (await got.text()).strip()
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"no answer: {type(error).__name__} {error}"


def _column(table: str, heading: str) -> dict[str, str]:
    """One column of a table of kubectl's, by the first."""
    head, *rows = (line.split() for line in table.splitlines())
    place = head.index(heading)
    return {row[0]: row[place] for row in rows}
