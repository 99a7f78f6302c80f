"""From a Pod to a WorkSpec: every reference resolved, every default filled in.

In: a Pod, `Sources`. Out: `Resolved`, for `Backend.create`. Invariant: `resolve` is all I/O and no
decision, `build` all decision and no I/O; what is missing is raised at once and whole, as `Missing`.
"""

from collections.abc import Collection

from msgspec import Struct

from overspill.agent.containers import container
from overspill.agent.credentials import registry_credentials
from overspill.agent.dns import dns, domain, host_aliases, hostname, hostname_is_fqdn
from overspill.agent.references import Found, ObjectName, file_references, references, volume_objects
from overspill.agent.scope import Missing, NodeFacts, Problem, Scope
from overspill.agent.sources import Sources
from overspill.agent.volumes import volumes
from overspill.model.pods import Pod, PodSpec
from overspill.model.podvolumes import Volume as DeclaredVolume
from overspill.model.work import Identity, Volume, WorkSpec

__all__ = ["Missing", "NodeFacts", "Renewed", "Resolved", "Warned", "build", "resolve", "resolve_volumes"]


class Warned(Struct, frozen=True):
    """Something that the user should know and that does not stop the pod: reason and message of an Event."""

    reason: str
    message: str


class Resolved(Struct, frozen=True):
    """A pod ready for a backend.

    Attributes:
        used: the objects that its files were made of, each with its resourceVersion, "" if it was not there.
    """

    work: WorkSpec
    warnings: tuple[Warned, ...] = ()
    used: dict[ObjectName, str] = {}


class Renewed(Struct, frozen=True):
    """Volumes resolved again, what they were made of, and why others of them could not be made."""

    volumes: dict[str, Volume]
    used: dict[ObjectName, str]
    problems: tuple[Problem, ...] = ()


async def resolve(pod: Pod, sources: Sources, node: NodeFacts, *, attempt: int = 0) -> Resolved:
    """Fetch what the pod refers to, and resolve it.

    Raises:
        Missing: something that the pod cannot start without is not there (yet).
        Unsupported: a value cannot be honoured.
        Retry: the apiserver did not answer.
        Misconfigured: the agent may not read what the pod refers to.
    """
    spec = pod.decoded_spec()
    found = await sources.find(pod.metadata, references(spec))
    return build(pod, spec, found, node, attempt=attempt)


async def resolve_volumes(
    pod: Pod, spec: PodSpec, names: Collection[str], sources: Sources, node: NodeFacts
) -> Renewed:
    """The volumes of these names with their files as of now.

    Raises:
        Retry: the apiserver did not answer.
        Misconfigured: the agent may not read what they refer to.
    """
    wanted = tuple(volume for volume in spec.volumes if volume.name in names)
    found = await sources.find(pod.metadata, file_references(spec, wanted))
    scope = Scope(pod, spec, found, node)
    made = volumes(scope, wanted)
    return Renewed(made, _used(wanted, found, pod.metadata.namespace), tuple(scope.problems))


def _used(declared: Collection[DeclaredVolume], found: Found, namespace: str) -> dict[ObjectName, str]:
    return {name: found.version(name) for volume in declared for name in volume_objects(volume, namespace)}


def build(pod: Pod, spec: PodSpec, found: Found, node: NodeFacts, *, attempt: int = 0) -> Resolved:
    """Resolve a pod with what was found for it.

    Raises:
        Missing: something that the pod cannot start without was not found.
        Unsupported: a value cannot be honoured.
    """
    scope = Scope(pod, spec, found, node)
    made_volumes = volumes(scope, spec.volumes)
    init_containers = tuple([container(one, scope) for one in spec.init_containers])
    containers = tuple([container(one, scope) for one in spec.containers])
    if scope.problems:
        raise Missing(scope.problems)
    meta = pod.metadata
    resolv_conf, left_out = dns(spec, meta.namespace, node)
    logins, unusable = registry_credentials(scope)
    own_name, own_domain = hostname(spec, meta.name), domain(spec, meta.namespace, node.cluster_domain)
    security = spec.security_context
    work = WorkSpec(
        identity=Identity(node.cluster, node.name, meta.namespace, meta.name, meta.uid, attempt),
        containers=containers,
        init_containers=init_containers,
        volumes=made_volumes,
        restart_policy=spec.restart_policy,
        termination_grace_period_seconds=spec.termination_grace_period_seconds,
        active_deadline_seconds=spec.active_deadline_seconds,
        hostname=own_name,
        domain=own_domain,
        dns=resolv_conf,
        host_aliases=host_aliases(spec),
        registry_credentials=logins,
        annotations=scope.annotations,
        share_process_namespace=spec.share_process_namespace,
        sysctls=tuple((sysctl.name, sysctl.value) for sysctl in security.sysctls),
        fs_group=security.fs_group,
        supplemental_groups=security.supplemental_groups,
        only_these_groups=security.supplemental_groups_policy == "Strict",
        hostname_is_fqdn=hostname_is_fqdn(spec, own_name, own_domain),
    )
    used = _used(spec.volumes, found, meta.namespace)
    return Resolved(work, tuple(_warnings(unusable, left_out)), used)


def _warnings(unusable: list[str], left_out: list[str]) -> list[Warned]:
    warnings = [Warned("DNSConfigForming", message) for message in left_out]
    if unusable:
        names = ", ".join(unusable)
        warnings.append(
            Warned(
                "FailedToRetrieveImagePullSecret",
                f"Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed.",
            )
        )
    return warnings
