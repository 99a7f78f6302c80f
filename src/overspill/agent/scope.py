"""What every part of resolving one pod looks at, and where each leaves what it could not resolve.

In: the pod, what was found for it, its node. Out: `Problem`s. Invariant: a part that cannot resolve
something raises `Unresolved` or leaves a `Problem`, so that a pod's troubles are told all at once.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct

from overspill.agent.references import ConfigMap, Found, Secret
from overspill.errors import NotFound
from overspill.model.pods import Pod, PodSpec

__all__ = ["Missing", "NodeFacts", "Problem", "Scope", "Unresolved"]

NO_CONFIG_MAP, NO_SECRET = ConfigMap(), Secret()


class NodeFacts(Struct, frozen=True, kw_only=True):
    """What a pod is told of its node and cluster.

    Attributes:
        cluster: uid of the namespace `kube-system`.
        allocatable: quantities by resource name: what `resourceFieldRef` says where no limit is set.
        cluster_dns: name servers of dnsPolicy `ClusterFirst`; none leaves the backend's default.
    """

    cluster: str
    name: str
    ip: str
    allocatable: dict[str, str]
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"


class Unresolved(NotFound):
    """One value, file or volume cannot be made (yet); the message is the kubelet's."""


class Problem(Struct, frozen=True):
    """What keeps a container's environment or a volume from being made; `subject` is its name."""

    kind: Literal["environment", "volume"]
    subject: str
    message: str


class Missing(NotFound):
    """Something that a pod cannot start without is not there, or not yet.

    Attributes:
        reason: why the containers wait, in the kubelet's words.
        event: the reason of the Event about it.
        problems: all that is missing.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(dict.fromkeys(map(_told, problems))))
        self.problems = tuple(problems)
        # The kubelet mounts before it makes any container: a volume's trouble is the first to show.
        mounts = any(problem.kind == "volume" for problem in problems)
        self.reason = "ContainerCreating" if mounts else "CreateContainerConfigError"
        self.event = "FailedMount" if mounts else "Failed"


def _told(problem: Problem) -> str:
    if problem.kind == "volume":
        return f'MountVolume.SetUp failed for volume "{problem.subject}" : {problem.message}'
    return problem.message


class Scope:
    """One pod in the course of being resolved."""

    def __init__(self, pod: Pod, spec: PodSpec, found: Found, node: NodeFacts) -> None:
        self.meta = pod.metadata
        self.spec = spec
        self.found = found
        self.node = node
        self.problems: list[Problem] = []
        # Volumes that may only be read, whatever their mounts say.
        self.read_only: set[str] = set()

    @cached_property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return self.meta.decoded_labels()

    @cached_property
    def annotations(self) -> dict[str, str]:
        """The pod's annotations."""
        return self.meta.decoded_annotations()

    def config_map(self, name: str, *, optional: bool) -> ConfigMap:
        """A ConfigMap; an empty one in place of an optional one that is not there.

        Raises:
            Unresolved: it is not there.
        """
        config_map = self.found.config_maps[name]
        if config_map is None and not optional:
            raise Unresolved(f'configmap "{name}" not found')
        return config_map or NO_CONFIG_MAP

    def secret(self, name: str, *, optional: bool) -> Secret:
        """A Secret; an empty one in place of an optional one that is not there.

        Raises:
            Unresolved: it is not there.
        """
        secret = self.found.secrets[name]
        if secret is None and not optional:
            raise Unresolved(f'secret "{name}" not found')
        return secret or NO_SECRET
