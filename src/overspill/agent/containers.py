"""One container of a pod, resolved.

In: a container as the API has it. Out: a container as a backend gets it. Pure. Invariant: every field
that `model/fields.py` lets a backend honour is handed on here.
"""

from overspill.agent.env import environment
from overspill.agent.scope import Scope
from overspill.model import pods
from overspill.model.quantity import parse_quantity, whole
from overspill.model.work import Container, Mount, Port, Resources, SecurityContext

__all__ = ["container"]


def container(declared: pods.Container, scope: Scope) -> Container:
    """A container with its environment, command line, mounts and security settled."""
    made = environment(declared, scope)
    return Container(
        name=declared.name,
        image=declared.image,
        command=made.expanded(declared.command),
        args=made.expanded(declared.args),
        working_dir=declared.working_dir,
        env=made.variables(),
        mounts=tuple(
            [Mount(mount.name, mount.mount_path, mount.read_only) for mount in declared.volume_mounts]
        ),
        ports=tuple([Port(p.container_port, p.protocol, p.name, p.host_port) for p in declared.ports]),
        resources=_resources(declared.resources),
        security=_security(declared.security_context, scope.spec.security_context),
        pull_policy=declared.image_pull_policy,
        stdin=declared.stdin,
        stdin_once=declared.stdin_once,
        tty=declared.tty,
    )


def _resources(declared: pods.ResourceRequirements) -> Resources:
    requests, limits = declared.requests, declared.limits
    return Resources(
        cpu_request=_cores(requests.get("cpu")),
        memory_request=_bytes(requests.get("memory")),
        cpu_limit=_cores(limits.get("cpu")),
        memory_limit=_bytes(limits.get("memory")),
    )


def _cores(quantity: str | int | None) -> float | None:
    return None if quantity is None else float(parse_quantity(str(quantity)))


def _bytes(quantity: str | int | None) -> int | None:
    return None if quantity is None else whole(quantity)


def _security(own: pods.SecurityContext, of_pod: pods.SecurityContext) -> SecurityContext:
    """A container's settings go before the pod's, field by field."""
    return SecurityContext(
        run_as_user=of_pod.run_as_user if own.run_as_user is None else own.run_as_user,
        run_as_group=of_pod.run_as_group if own.run_as_group is None else own.run_as_group,
    )
