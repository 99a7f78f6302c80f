"""Which policy a pod belongs to.

In: policies, pods. Out: the policies that match a pod, from the oldest. Pure. Invariant: the same decision as that
of the expressions in `deploy/placement/gate.yaml`; one table of cases drives the tests of both.
"""

import re

from overspill import names
from overspill.model.affinity import holds
from overspill.placement.pods import Pod
from overspill.placement.policy import Policy, Selector

__all__ = ["Directory", "target_key", "workload_keys"]

OF_CRONJOB = re.compile(r"(.+)-[0-9]+")
PolicyKey = tuple[str, str]


def target_key(policy: Policy) -> str | None:
    """Group/Kind/name of a policy's target; None for one with a selector."""
    target = policy.spec.target_ref
    if target is None:
        return None
    return f"{target.api_version.partition('/')[0]}/{target.kind}/{target.name}"


def workload_keys(pod: Pod) -> list[str]:
    """Group/Kind/name of the workloads that a pod is of: of its controller, and of that one's."""
    owner = pod.owner
    if owner is None or owner.kind == "DaemonSet":
        return []
    keys = [f"{owner.api_version.partition('/')[0]}/{owner.kind}/{owner.name}"]
    if owner.kind == "ReplicaSet":
        labels = pod.labels
        for label, kind in (
            (names.TEMPLATE_HASH, "apps/Deployment"),
            (names.ROLLOUT_HASH, "argoproj.io/Rollout"),
        ):
            suffix = f"-{labels.get(label, '')}"
            if suffix != "-" and owner.name.endswith(suffix):
                keys.append(f"{kind}/{owner.name.removesuffix(suffix)}")
    elif owner.kind == "Job" and (found := OF_CRONJOB.fullmatch(owner.name)):
        keys.append(f"batch/CronJob/{found[1]}")
    return keys


class Directory:
    """All policies, by what they place."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[str, Policy]] = {}
        self._targets: dict[tuple[str, str], list[Policy]] = {}
        self._selectors: dict[str, list[Policy]] = {}

    def put(self, policy: Policy) -> None:
        """Take in a policy as it is now."""
        self.remove(policy.metadata.namespace, policy.metadata.name)
        namespace = policy.metadata.namespace
        self._namespaces.setdefault(namespace, {})[policy.metadata.name] = policy
        self._list(policy).append(policy)
        self._list(policy).sort(key=lambda each: each.age)

    def remove(self, namespace: str, name: str) -> None:
        """Forget a policy."""
        policy = self._namespaces.get(namespace, {}).pop(name, None)
        if policy is not None:
            self._list(policy).remove(policy)
            if not self._namespaces[namespace]:
                del self._namespaces[namespace]

    def of(self, namespace: str) -> list[Policy]:
        """The policies of a namespace, from the oldest."""
        return sorted(self._namespaces.get(namespace, {}).values(), key=lambda each: each.age)

    def matching(self, pod: Pod) -> list[Policy]:
        """The policies that match a pod, from the oldest, which is the one that decides."""
        namespace = pod.metadata.namespace
        if namespace not in self._namespaces:
            return []
        owner = pod.owner
        if owner is not None and owner.kind == "DaemonSet":
            return []
        found = [each for key in workload_keys(pod) for each in self._targets.get((namespace, key), ())]
        by_label = self._selectors.get(namespace)
        if by_label:
            labels = pod.labels
            found += [each for each in by_label if each.spec.selector and selects(each.spec.selector, labels)]
        return sorted(found, key=lambda each: each.age) if len(found) > 1 else found

    def _list(self, policy: Policy) -> list[Policy]:
        key, namespace = target_key(policy), policy.metadata.namespace
        if key is None:
            return self._selectors.setdefault(namespace, [])
        return self._targets.setdefault((namespace, key), [])


def selects(selector: Selector, labels: dict[str, str]) -> bool:
    """Whether a label selector selects an object with these labels."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        holds(each, labels.get(each.key)) for each in selector.match_expressions
    )
