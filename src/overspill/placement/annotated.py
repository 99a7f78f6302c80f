"""The one-line way in: `overspill.dev/base-replicas: "5"` on a Deployment.

In: Deployments, policies. Out: a policy for each annotated Deployment, owned by it. Invariant: a policy that
somebody else wrote is never touched; whatever the annotation does not say is a PlacementPolicy's default.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from overspill import names
from overspill.errors import Conflict, NotFound, Rejected
from overspill.kube.cache import Cache
from overspill.kube.client import MERGE, Client
from overspill.kube.events import Events, ObjectRef
from overspill.kube.queue import Queue
from overspill.kube.resources import PLACEMENT_POLICIES
from overspill.placement.match import PolicyKey
from overspill.placement.policy import Policy
from overspill.placement.workloads import Workload

__all__ = ["AnnotatedDeployments", "base_replicas", "lacks_policy", "policy_for"]

BASE = re.compile(r"[0-9]{1,5}|(100|[1-9]?[0-9])%")


def base_replicas(text: str) -> int | str | None:
    """The annotation's value: a number of pods or a percentage of them; None when it is neither."""
    if not BASE.fullmatch(text):
        return None
    return text if text.endswith("%") else int(text)


def policy_for(deployment: Workload, base: int | str) -> dict[str, Any]:
    """The policy that the annotation stands for: so many pods on the cluster's own nodes, the rest on virtual ones."""
    meta = deployment.metadata
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    virtual = {"key": names.NODE_TYPE_LABEL, "operator": "NotIn", "values": [names.NODE_TYPE]}
    pools = [
        {"name": "base", "maxReplicas": base, "nodeAffinity": {"matchExpressions": [virtual]}},
        {
            "name": "elastic",
            "nodeSelector": {names.NODE_TYPE_LABEL: names.NODE_TYPE},
            "tolerations": [{"key": names.PROVIDER_TAINT, "operator": "Exists", "effect": "NoSchedule"}],
        },
    ]
    return {
        "apiVersion": "placement.overspill.dev/v1alpha1",
        "kind": "PlacementPolicy",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "ownerReferences": [owner]},
        "spec": {"targetRef": {"name": meta.name}, "pools": pools},
    }


def lacks_policy(deployment: Workload, policy: Policy | None) -> bool:
    """Whether a Deployment is to have a policy by its annotation, and the one of its name is none, or going."""
    return (
        deployment.metadata.deletion_timestamp is None
        and base_replicas(deployment.metadata.annotations.base or "") is not None
        and (policy is None or policy.metadata.deletion_timestamp is not None)
    )


class _Written(msgspec.Struct):
    """The apiserver's answer, of which nothing is needed."""


class AnnotatedDeployments:
    """Keeps the policies of annotated Deployments."""

    def __init__(
        self,
        client: Client,
        deployments: Cache[Workload],
        policy: Callable[[PolicyKey], Policy | None],
        events: Events,
    ) -> None:
        self._client = client
        self._deployments = deployments
        self._policy = policy
        self._events = events
        self.queue: Queue[PolicyKey] = Queue(self._keep, name="placement-annotated", workers=4)

    def changed(self, namespace: str, name: str) -> None:
        """A Deployment has changed: look at it if it is, or was, annotated."""
        found, policy = self._deployments.find(namespace, name), self._policy((namespace, name))
        if found is not None and (found.metadata.annotations.base is not None or _owned(policy, found)):
            self.queue.add((namespace, name))

    def makes(self, namespace: str, name: str) -> bool:
        """Whether a Deployment is to have a policy by its annotation, and has none, or one that is going."""
        found = self._deployments.find(namespace, name)
        return found is not None and lacks_policy(found, self._policy((namespace, name)))

    async def _keep(self, key: PolicyKey) -> None:
        deployment, policy = self._deployments.find(*key), self._policy(key)
        if deployment is None or deployment.metadata.deletion_timestamp is not None:
            return  # its policy goes with it
        if policy is not None and policy.metadata.deletion_timestamp is not None:
            return  # when it is gone, the Deployment is looked at again
        text = deployment.metadata.annotations.base
        if text is None:
            if policy is not None and _owned(policy, deployment):
                await self._delete(policy)
            return
        base = base_replicas(text)
        if base is None:
            wrong = f'{names.BASE_ANNOTATION} is {text!r}, not a number of pods or a percentage such as "30%"'
            self._events.warning(_reference(deployment), "BaseReplicasInvalid", wrong)
        elif policy is None:
            await self._create(deployment, base)
        elif not _owned(policy, deployment):
            text = f"PlacementPolicy {key[1]} is there already and decides; the annotation is left out of account"
            self._events.warning(_reference(deployment), "BaseReplicasIgnored", text)
        elif policy.spec.pools[0].max_replicas != base:
            await self._change(policy, deployment, base)

    async def _create(self, deployment: Workload, base: int | str) -> None:
        meta, body = deployment.metadata, policy_for(deployment, base)
        try:
            await self._client.create(PLACEMENT_POLICIES, body, namespace=meta.namespace, kind=_Written)
        except Conflict:
            return  # it is there by now; the watch brings it, and the Deployment is looked at again
        except Rejected as error:
            text = f"its pods wait, since the apiserver takes no PlacementPolicy for it: {error}"
            self._events.warning(_reference(deployment), "PolicyRefused", text)
            raise
        self._events.normal(
            _reference(deployment), "PolicyCreated", f"PlacementPolicy {meta.name}: base {base}"
        )

    async def _change(self, policy: Policy, deployment: Workload, base: int | str) -> None:
        meta = policy.metadata
        change = {
            "metadata": {"resourceVersion": meta.resource_version},
            "spec": {"pools": policy_for(deployment, base)["spec"]["pools"]},
        }
        await self._client.patch(
            PLACEMENT_POLICIES, meta.name, change, namespace=meta.namespace, content_type=MERGE
        )

    async def _delete(self, policy: Policy) -> None:
        meta = policy.metadata
        try:
            await self._client.delete(PLACEMENT_POLICIES, meta.name, namespace=meta.namespace, uid=meta.uid)
        except (Conflict, NotFound):
            return


def _owned(policy: Policy | None, deployment: Workload) -> bool:
    return policy is not None and any(
        owner.uid == deployment.metadata.uid and owner.controller
        for owner in policy.metadata.owner_references
    )


def _reference(deployment: Workload) -> ObjectRef:
    meta = deployment.metadata
    return ObjectRef(
        kind="Deployment", name=meta.name, uid=meta.uid, namespace=meta.namespace, api_version="apps/v1"
    )
