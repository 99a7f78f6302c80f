"""What runs while things go wrong: Deployments that roll and scale, a StatefulSet, Jobs, spot pods, a placed service.

In: a seed and a size. Out: objects, and what is done to them over time, by the same seed. Invariant: at the end
every workload is given a number of replicas, so that there is something to converge to.
"""

import asyncio
import random
from collections.abc import AsyncIterator

from chaos.api import Api, Refused

NAMESPACE, PLACED = "chaos", "chaos-placed"
NAMESPACES = {NAMESPACE, PLACED}
BASE = 3
IMAGE = "localhost/overspill/busybox:1"
TAGS = "k8s.aliyun.com/eci-custom-tags"
SPOT = {"k8s.aliyun.com/eci-spot-strategy": "SpotAsPriceGo"}
APPS = {
    ("web", NAMESPACE): "deployments",
    ("spot", NAMESPACE): "deployments",
    ("db", NAMESPACE): "statefulsets",
    ("placed", PLACED): "deployments",
}
# Of the most pods that there may be, which part is whose.
PARTS = {"web": 0.5, "placed": 0.15, "db": 0.08, "spot": 0.04}
JOB_PODS = 5


def template(app: str, *, annotations: dict | None = None, **spec) -> dict:
    """A pod that does nothing, for as long as it is let."""
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sleep", "1000000"],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    }
    if app == "placed":
        # Some of these are real containers of the worker.
        container["resources"] = {"requests": {"cpu": "10m", "memory": "8Mi"}}
    return {
        "metadata": {"labels": {"app": app}, "annotations": annotations or {}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [container], **spec},
    }


def deployment(app: str, replicas: int, **more) -> dict:
    """A Deployment."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": app}},
            "template": template(app, **more),
        },
    }


def stateful_set(app: str, replicas: int) -> dict:
    """A StatefulSet whose pods need not wait for each other."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": app},
        "spec": {
            "replicas": replicas,
            "serviceName": app,
            "podManagementPolicy": "Parallel",
            # One after the other, two dozen pods would take longer to replace than all is given to come right.
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "25%"}},
            "selector": {"matchLabels": {"app": app}},
            "template": template(app),
        },
    }


def job(number: int, seconds: int) -> dict:
    """A Job whose pods end by themselves."""
    tags = {TAGS: f"simulated.overspill.dev/run-seconds:{seconds}"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"job-{number}"},
        "spec": {
            "completions": JOB_PODS,
            "parallelism": JOB_PODS,
            "ttlSecondsAfterFinished": 20,
            "backoffLimit": 50,
            "template": template("job", annotations=tags, restartPolicy="Never"),
        },
    }


POLICY = {
    "apiVersion": "placement.overspill.dev/v1alpha1",
    "kind": "PlacementPolicy",
    "metadata": {"name": "placed"},
    "spec": {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "placed"},
        "pools": [
            {
                "name": "base",
                "maxReplicas": BASE,
                "nodeAffinity": {
                    "matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]
                },
            },
            {
                "name": "elastic",
                # By default two minutes, for which pods then wait that find no instance anywhere.
                "cooldownSeconds": 15,
                "nodeSelector": {"type": "virtual-kubelet"},
                "tolerations": [
                    {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}
                ],
            },
        ],
    },
}


def path(app: str, namespace: str) -> str:
    """Where a workload is."""
    return f"/apis/apps/v1/namespaces/{namespace}/{APPS[app, namespace]}"


class Workload:
    """All of it."""

    def __init__(self, api: Api, *, pods: int, seed: int) -> None:
        self._api, self._pods = api, pods
        self._luck = random.Random(seed)
        self._jobs = 0

    def most(self, app: str) -> int:
        """How many replicas a workload has at most; a rollout adds a quarter."""
        return max(int(self._pods * PARTS[app]), BASE + 2)

    async def begin(self) -> None:
        """Make everything."""
        # Else a pod that is made while an apiserver starts may not wait for its pool, and be one too many on the base.
        exact = {"placement.overspill.dev/exact": "true"}
        labels = {NAMESPACE: {"virtual-node-affinity-injection": "enabled"}, PLACED: exact}
        for name in sorted(NAMESPACES):
            found = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels[name]},
            }
            await self._api.apply("/api/v1/namespaces", found)
        policies = f"/apis/placement.overspill.dev/v1alpha1/namespaces/{PLACED}/placementpolicies"
        await self._api.apply(policies, POLICY)
        for found, namespace in (
            (deployment("web", self.most("web") // 2), NAMESPACE),
            (deployment("spot", self.most("spot"), annotations=SPOT), NAMESPACE),
            (stateful_set("db", self.most("db")), NAMESPACE),
            (deployment("placed", BASE + 2), PLACED),
        ):
            await self._api.apply(path(found["metadata"]["name"], namespace), found)

    async def churn(self, *, every: float) -> None:
        """Scale, roll out, run Jobs, until cancelled."""
        while True:
            await asyncio.sleep(self._luck.uniform(0.5, 1.5) * every)
            await self._change()

    async def _change(self) -> None:
        app, namespace = self._luck.choice(sorted(APPS))
        done = self._luck.choices(["scale", "roll", "job"], [5, 2, 2])[0]
        if done == "job":
            await self._run_job()
        elif done == "roll":
            stamp = {"chaos": str(self._luck.randrange(1 << 30))}
            await self._change_to(app, namespace, {"template": {"metadata": {"annotations": stamp}}})
        else:
            await self._change_to(app, namespace, {"replicas": self._luck.randrange(self.most(app) + 1)})

    async def _run_job(self) -> None:
        self._jobs += 1
        found = job(self._jobs, self._luck.randrange(3, 30))
        await self._api.apply(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", found)

    async def _change_to(self, app: str, namespace: str, spec: dict) -> None:
        await self._api.merge(f"{path(app, namespace)}/{app}", {"spec": spec})

    async def settle(self) -> None:
        """Say what there is to be at the end."""
        for app, namespace in APPS:
            await self._change_to(app, namespace, {"replicas": max(self.most(app) * 2 // 3, BASE + 2)})

    async def desired(self) -> dict[tuple[str, str], int]:
        """How many pods of each workload there are to be now."""
        found = {}
        for app, namespace in APPS:
            told = await self._api.ask("GET", f"{path(app, namespace)}/{app}")
            found[namespace, app] = told["spec"]["replicas"]
        return found

    async def unfinished(self) -> list[str]:
        """Jobs that have not succeeded yet, and how far each is."""
        jobs = await self._api.items(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")
        left = [each for each in jobs if each["status"].get("succeeded", 0) < JOB_PODS]
        return [f"{each['metadata']['name']}: {counted(each['status'])}" for each in left]

    async def end(self) -> None:
        """Take everything away."""
        for name in sorted(NAMESPACES):
            try:
                await self._api.ask("DELETE", f"/api/v1/namespaces/{name}")
            except Refused as refused:
                if refused.status not in {404, 409}:
                    raise

    async def is_gone(self) -> bool:
        """Whether the namespaces are no more."""
        names = {each["metadata"]["name"] for each in await self._api.items("/api/v1/namespaces")}
        return not names & NAMESPACES


def counted(status: dict) -> str:
    """How many pods of a Job are in which state. Failed ones alone: it waits, longer with each, before it makes more."""
    states = ("succeeded", "active", "ready", "terminating", "failed")
    return ", ".join(f"{status[state]} {state}" for state in states if status.get(state))


async def ticks(seconds: float) -> AsyncIterator[None]:
    """Once in so many seconds, for ever."""
    while True:
        yield
        await asyncio.sleep(seconds)
