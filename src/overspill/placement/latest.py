"""What is to be placed in a namespace as the apiserver has it, past the watches, which may be late.

In: a client. Out: what a pod's policy is, or will be. Invariant: asked before a pod is let go for want of a policy,
and of what was listed after that pod was seen: the apiserver made it wait, so somebody's policy was there.
"""

import time

from msgspec import Struct

from overspill.kube.client import Client
from overspill.kube.resources import DEPLOYMENTS, PLACEMENT_POLICIES
from overspill.placement.annotated import lacks_policy
from overspill.placement.match import Directory, workload_keys
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy
from overspill.placement.workloads import Workload

__all__ = ["Latest", "latest"]


class Latest(Struct, frozen=True):
    """Policies and annotated Deployments of one namespace.

    Attributes:
        at: when they were asked for, as `time.monotonic` tells it.
        lacking: keys of the Deployments that are to have a policy by their annotation, and have none yet.
    """

    at: float
    policies: Directory
    lacking: frozenset[str]

    def places(self, pod: Pod) -> bool:
        """Whether a pod is to wait: its policy gates it, or is to be made."""
        deciding = self.policies.matching(pod)[:1]
        return any(policy.gates for policy in deciding) or not self.lacking.isdisjoint(workload_keys(pod))


async def latest(client: Client, namespace: str) -> Latest:
    """Ask for all that places pods of a namespace.

    Raises:
        OverspillError: the apiserver could not be asked.
    """
    at, policies = time.monotonic(), Directory()
    found = await client.list(PLACEMENT_POLICIES, namespace=namespace, kind=Policy)
    for policy in found:
        policies.put(policy)
    by_name = {policy.metadata.name: policy for policy in found}
    lacking = [
        f"apps/Deployment/{each.metadata.name}"
        for each in await client.list(DEPLOYMENTS, namespace=namespace, kind=Workload)
        if lacks_policy(each, by_name.get(each.metadata.name))
    ]
    return Latest(at, policies, frozenset(lacking))
