"""One container of a pod, resolved.

In: a container as the API has it. Out: a container as a backend gets it. Pure. Invariant: every field
that `model/fields.py` lets a backend honour is handed on here.
"""

from typing import Literal

from overspill.agent.env import Environment, environment
from overspill.agent.handlers import hook, probe, restart_rules
from overspill.agent.scope import Problem, Scope
from overspill.errors import Unsupported
from overspill.model import pods
from overspill.model.quantity import parse_quantity, whole
from overspill.model.work import Container, Mount, Port, Resources, SecurityContext

__all__ = ["container", "resources"]

GPU = "nvidia.com/gpu"
RESIZABLE: tuple[Literal["cpu", "memory"], ...] = ("cpu", "memory")


def container(declared: pods.Container, scope: Scope) -> Container:
    """A container with its environment, command line, mounts and security settled.

    Raises:
        Unsupported: a value cannot be honoured.
    """
    made = environment(declared, scope)
    return Container(
        name=declared.name,
        image=declared.image,
        command=made.expanded(declared.command),
        args=made.expanded(declared.args),
        working_dir=declared.working_dir,
        env=made.variables(),
        mounts=tuple([_mount(mount, declared, made, scope) for mount in declared.volume_mounts]),
        ports=tuple([Port(p.container_port, p.protocol, p.name, p.host_port) for p in declared.ports]),
        resources=resources(declared.resources),
        restart_on_resize=_restart_on_resize(declared.resize_policy),
        security=_security(declared.security_context, scope.spec.security_context),
        pull_policy=declared.image_pull_policy,
        stdin=declared.stdin,
        stdin_once=declared.stdin_once,
        tty=declared.tty,
        liveness=probe(declared.liveness_probe, declared, "livenessProbe"),
        readiness=probe(declared.readiness_probe, declared, "readinessProbe"),
        startup=probe(declared.startup_probe, declared, "startupProbe"),
        post_start=hook(declared.lifecycle.post_start, declared, "lifecycle.postStart"),
        pre_stop=hook(declared.lifecycle.pre_stop, declared, "lifecycle.preStop"),
        stop_signal=declared.lifecycle.stop_signal,
        restart_policy=declared.restart_policy,
        restart_rules=restart_rules(declared) if declared.restart_policy_rules else (),
        termination_message_path=declared.termination_message_path,
        termination_message_policy=declared.termination_message_policy,
    )


def _mount(mount: pods.VolumeMount, declared: pods.Container, made: Environment, scope: Scope) -> Mount:
    sub_path = mount.sub_path
    if mount.sub_path_expr:
        sub_path = made.expanded_whole(mount.sub_path_expr) or ""
        if complaint := _sub_path_complaint(mount, sub_path):
            scope.problems.append(Problem("environment", declared.name, complaint))
        elif "\0" in sub_path:
            field = "volumeMounts.subPathExpr"
            raise Unsupported(
                f"{field} of container {declared.name}: the pod's address is not known when volumes are mounted",
                fields=(field,),
            )
    read_only = mount.read_only or mount.name in scope.read_only
    return Mount(mount.name, mount.mount_path, read_only, sub_path, mount.mount_propagation)


def _sub_path_complaint(mount: pods.VolumeMount, sub_path: str) -> str:
    """Why the expression of a mount's subPath leads nowhere, in the kubelet's words; "" if it leads somewhere."""
    if not sub_path:
        return f"missing value for {mount.sub_path_expr!r}"
    if sub_path.startswith("/"):
        return f"error SubPath `{sub_path}` must not be an absolute path"
    if ".." in sub_path.split("/"):
        return f"unable to provision SubPath `{sub_path}`: must not contain '..'"
    return ""


def _seccomp(kind: str) -> Literal["RuntimeDefault", "Unconfined"]:
    if kind == "Localhost":
        field = "securityContext.seccompProfile.type"
        raise Unsupported(f"{field}: a virtual node has no profiles of its own", fields=(field,))
    return "Unconfined" if kind == "Unconfined" else "RuntimeDefault"


def _restart_on_resize(
    policies: tuple[pods.ResizePolicy, ...],
) -> tuple[Literal["cpu", "memory"], ...]:
    asked = {policy.resource_name for policy in policies if policy.restart_policy == "RestartContainer"}
    return tuple(name for name in RESIZABLE if name in asked)


def resources(declared: pods.ResourceRequirements) -> Resources:
    """Requests and limits as numbers."""
    requests, limits = declared.requests, declared.limits
    return Resources(
        cpu_request=_cores(requests.get("cpu")),
        memory_request=_count(requests.get("memory")),
        cpu_limit=_cores(limits.get("cpu")),
        memory_limit=_count(limits.get("memory")),
        ephemeral_storage_request=_count(requests.get("ephemeral-storage")),
        gpus=whole(limits.get(GPU, 0)),
    )


def _cores(quantity: str | int | None) -> float | None:
    return None if quantity is None else float(parse_quantity(str(quantity)))


def _count(quantity: str | int | None) -> int | None:
    return None if quantity is None else whole(quantity)


def _security(own: pods.SecurityContext, of_pod: pods.SecurityContext) -> SecurityContext:
    """A container's settings go before the pod's, field by field."""
    non_root = of_pod.run_as_non_root if own.run_as_non_root is None else own.run_as_non_root
    seccomp = own.seccomp_profile or of_pod.seccomp_profile
    return SecurityContext(
        run_as_user=of_pod.run_as_user if own.run_as_user is None else own.run_as_user,
        run_as_group=of_pod.run_as_group if own.run_as_group is None else own.run_as_group,
        run_as_non_root=bool(non_root),
        read_only_root_filesystem=own.read_only_root_filesystem,
        add_capabilities=own.capabilities.add,
        drop_capabilities=own.capabilities.drop,
        no_new_privileges=not own.allow_privilege_escalation,
        seccomp=None if seccomp is None else _seccomp(seccomp.type),
    )
