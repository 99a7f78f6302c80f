"""The `simulated` backend: the contract of `backends/base.py` on a `Cloud`.

In: the agent's calls. Out: what `life` plays. Invariant: it does nothing by itself; whatever happens
to pods happens in the cloud.

Its pods live in this process and nowhere else. A restarted agent finds none of them, and the agent's
plan does the rest: pods are started anew, those that must not run twice (restartPolicy `Never`) fail.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from overspill.backends.base import Capabilities, Inventory, LogOptions, PodUsage, Process
from overspill.backends.simulated.addresses import node_cidr
from overspill.backends.simulated.cloud import Cloud
from overspill.backends.simulated.options import load_options
from overspill.backends.simulated.output import pod_logs
from overspill.backends.simulated.streams import EchoProcess, ShellProcess, running_container
from overspill.backends.simulated.usage import pod_usage
from overspill.errors import NotFound, Unsupported
from overspill.model.observation import Observation, Running, Sighting
from overspill.model.work import Container, Identity, Resources, Volume, WorkSpec

__all__ = ["SimulatedBackend"]

# Fields that are for a process have nothing to act on here, and so nothing is lost by taking them.
OF_CONTAINERS = (
    "resources.limits.cpu",
    "resources.limits.memory",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.add",
    "securityContext.capabilities.drop",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    "stdin",
    "stdinOnce",
    "tty",
    "volumeMounts[].recursiveReadOnly",
    "volumeMounts[].subPath",
    "volumeMounts[].subPathExpr",
)
CAPABILITIES = Capabilities(
    pod_fields=frozenset(
        {
            "activeDeadlineSeconds",
            "dnsConfig.*",
            "hostAliases.*",
            "initContainers[].restartPolicy",
            "securityContext.fsGroup",
            "securityContext.fsGroupChangePolicy",
            "securityContext.runAsGroup",
            "securityContext.runAsNonRoot",
            "securityContext.runAsUser",
            "securityContext.seccompProfile.type",
            "securityContext.supplementalGroups",
            "securityContext.supplementalGroupsPolicy",
            "volumes[].emptyDir.medium",
            "volumes[].emptyDir.sizeLimit",
            "volumes[].flexVolume.*",
            "volumes[].nfs.*",
            "volumes[].persistentVolumeClaim.*",
            *(f"{kind}[].{field}" for kind in ("containers", "initContainers") for field in OF_CONTAINERS),
        }
    ),
    verbs=frozenset({"logs", "exec", "attach", "port-forward", "metrics"}),
    reads_files=False,
)


class SimulatedBackend:
    """The pods of one virtual node. `cloud` is shared where two backends are to see the same pods."""

    name = "simulated"
    capabilities: Capabilities = CAPABILITIES

    def __init__(
        self, *, cluster: str, node: str, options: Mapping[str, Any], cloud: Cloud | None = None
    ) -> None:
        self._owner = (cluster, node)
        if cloud is None:
            loaded = load_options(options)
            cloud = Cloud(loaded, cidr=loaded.cidr or node_cidr(node))
        self._cloud = cloud

    async def __aenter__(self) -> Self:
        """Let the cloud's time until its outage run."""
        self._cloud.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cloud as it is."""

    async def create(self, work: WorkSpec) -> None:
        """Take a pod on."""
        self._cloud.reach()
        if fields := _refused(work):
            raise Unsupported(f"the simulated backend has no {', '.join(fields)}", fields=fields)
        self._cloud.take(work)

    async def delete(self, identity: Identity, *, grace_seconds: int) -> None:
        """Ask for a pod's end."""
        self._cloud.reach()
        self._cloud.end(identity, grace=grace_seconds)

    async def list(self) -> Sequence[Observation]:
        """Every pod of this node."""
        self._cloud.reach()
        return [pod.observation() for pod in self._cloud.pods(self._owner)]

    def watch(self) -> AsyncIterator[Sequence[Sighting]]:
        """Batches of what changed."""
        self._cloud.reach()
        return self._cloud.subscribe(self._owner).batches()

    async def refresh(self, identity: Identity, volumes: Mapping[str, Volume]) -> None:
        """Replace the files of a pod's volumes."""
        self._cloud.reach()
        pod = self._cloud.find(identity)
        pod.volumes = {**pod.volumes, **volumes}

    async def add_ephemeral(self, identity: Identity, containers: Sequence[Container]) -> None:
        """Refuse: there is no process to look at."""
        self._cloud.find(identity)
        names = ", ".join(container.name for container in containers)
        raise Unsupported(f"simulated pods have no ephemeral containers: {names}")

    async def resize(self, identity: Identity, resources: Mapping[str, Resources]) -> None:
        """Refuse: there is nothing whose size could change."""
        self._cloud.find(identity)
        raise Unsupported(f"simulated pods keep the size of their containers: {', '.join(resources)}")

    async def change_images(self, identity: Identity, images: Mapping[str, str]) -> None:
        """Refuse: nothing is played anew."""
        self._cloud.find(identity)
        raise Unsupported(
            f"simulated pods keep the images that they were made with: image of {', '.join(images)}"
        )

    async def logs(self, identity: Identity, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's output."""
        self._cloud.reach()
        pod = self._cloud.find(identity)
        async for piece in pod_logs(pod, container, options, clock=self._cloud.now):
            yield piece

    async def exec(
        self, identity: Identity, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> Process:
        """Play a command; see `shell` for those that there are."""
        self._cloud.reach()
        pod = self._cloud.find(identity)
        return ShellProcess(pod, running_container(pod, container), command, stdin=stdin, tty=tty)

    async def attach(self, identity: Identity, container: str, *, stdin: bool, tty: bool) -> Process:  # noqa: ARG002 - echoing needs no terminal
        """Attach to a main process, which writes what it reads."""
        self._cloud.reach()
        pod = self._cloud.find(identity)
        return EchoProcess(pod, running_container(pod, container), stdin=stdin)

    async def port_forward(self, identity: Identity, port: int) -> Process:
        """Connect to a server that writes what it reads; one listens on each port that a container declares."""
        self._cloud.reach()
        pod = self._cloud.find(identity)
        for container in pod.containers:
            declared = any(declared.container_port == port for declared in container.spec.ports)
            if declared and isinstance(container.state, Running):
                return EchoProcess(pod, container, stdin=True)
        raise NotFound(f'nothing listens on port {port} of pod "{identity.name}"')

    async def usage(self) -> Sequence[PodUsage]:
        """What the running containers use."""
        self._cloud.reach()
        now = self._cloud.now()
        usages = (pod_usage(pod, now) for pod in self._cloud.pods(self._owner))
        return [usage for usage in usages if usage]

    async def health(self) -> None:
        """Say whether there is an outage."""
        self._cloud.reach()

    @staticmethod
    def inventory(*, cluster: str, options: Mapping[str, Any]) -> Inventory:  # noqa: ARG004 - refused
        """Refuse.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("simulated pods live in their agent and end with it: there are no orphans")


def _refused(work: WorkSpec) -> Sequence[str]:
    """What a `WorkSpec` asks for that nothing here plays."""
    fields: list[str] = []
    for kind, containers in (("containers", work.containers), ("initContainers", work.init_containers)):
        for index, container in enumerate(containers):
            sidecar = kind == "initContainers" and container.restart_policy == "Always"
            played = structs.replace(container, restart_policy=None) if sidecar else container
            fields += [f"spec.{kind}[{index}].{field}" for field in _unplayed(played)]
    return fields


@lru_cache(maxsize=256)
def _unplayed(container: Container) -> Sequence[str]:
    asked = (
        ("livenessProbe", container.liveness),
        ("readinessProbe", container.readiness),
        ("startupProbe", container.startup),
        ("restartPolicy", container.restart_policy),
        ("restartPolicyRules", container.restart_rules),
        ("lifecycle.postStart", container.post_start),
        ("lifecycle.preStop", container.pre_stop),
        ("resources.limits[nvidia.com/gpu]", container.resources.gpus),
        ("ports[].hostPort", any(port.host_port for port in container.ports)),
    )
    return [field for field, wanted in asked if wanted]
