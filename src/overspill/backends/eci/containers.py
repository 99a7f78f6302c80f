"""A container of a pod as `Container.N` or `InitContainer.N` of CreateContainerGroup.

In: a `Container` of a work spec that `refusals` found nothing wrong with. Out: a tree
of parameters. Pure. Invariant: every field of the container is in it; what ECI has
no parameter for was refused before.
"""

from typing import Any

from overspill.backends.eci.refusals import ADDABLE
from overspill.backends.eci.wire import Params
from overspill.model.work import (
    POD_IP,
    POD_IPS,
    Container,
    EnvVar,
    ExecAction,
    HookAction,
    HttpGetAction,
    Mount,
    Probe,
    ProbeAction,
    SecurityContext,
    SleepAction,
    TcpSocketAction,
)

__all__ = ["container", "init_container", "says_by_log"]

GIB = 1 << 30
# The API's own spelling.
PROPAGATION = {"HostToContainer": "HostToCotainer", "Bidirectional": "Bidirectional"}


def container(wanted: Container) -> Params:
    """One of the pod's containers."""
    return {
        **_common(wanted),
        "Stdin": wanted.stdin or None,
        "StdinOnce": wanted.stdin_once or None,
        "Tty": wanted.tty or None,
        "LivenessProbe": _probe(wanted.liveness),
        "ReadinessProbe": _probe(wanted.readiness),
        **_hook("LifecyclePostStartHandler", wanted.post_start),
        **_hook("LifecyclePreStopHandler", wanted.pre_stop),
        "SecurityContextRunAsGroup": wanted.security.run_as_group,
        "SecurityContextRunAsNonRoot": wanted.security.run_as_non_root or None,
        # Nobody needs to read the variables back, and they may hold secrets.
        "EnvironmentVarHide": True if wanted.env else None,
    }


def init_container(wanted: Container) -> Params:
    """One of the pod's init containers, which ECI knows fewer fields of."""
    return _common(wanted)


def says_by_log(wanted: Container) -> bool:
    """Whether the end of its log stands for its message where it wrote none; `messages` sees to it."""
    return wanted.termination_message_policy == "FallbackToLogsOnError"


def _common(wanted: Container) -> dict[str, Any]:
    resources = wanted.resources
    return {
        "Name": wanted.name,
        "Image": wanted.image,
        "ImagePullPolicy": wanted.pull_policy,
        "WorkingDir": wanted.working_dir or None,
        "Command": wanted.command,
        "Arg": wanted.args,
        "Cpu": resources.cpu_limit,
        "Memory": resources.memory_limit / GIB if resources.memory_limit else None,
        "Gpu": resources.gpus or None,
        "EnvironmentVar": [_variable(var) for var in wanted.env],
        "Port": [{"Port": port.container_port, "Protocol": port.protocol} for port in wanted.ports],
        "VolumeMount": [_mount(mount) for mount in wanted.mounts],
        "SecurityContext": _security(wanted.security),
        "TerminationMessagePath": wanted.termination_message_path,
    }


def _variable(var: EnvVar) -> Params:
    if var.value in (POD_IP, POD_IPS):
        return {"Key": var.name, "FieldRef": {"FieldPath": "status.podIP"}}
    return {"Key": var.name, "Value": var.value}


def _mount(mount: Mount) -> Params:
    return {
        "Name": mount.volume,
        "MountPath": mount.path,
        "SubPath": mount.sub_path or None,
        "ReadOnly": mount.read_only,
        "MountPropagation": PROPAGATION.get(mount.propagation),
    }


def _security(wanted: SecurityContext) -> Params:
    return {
        "RunAsUser": wanted.run_as_user,
        "ReadOnlyRootFilesystem": wanted.read_only_root_filesystem or None,
        "Capability": {"Add": [name for name in wanted.add_capabilities if name in ADDABLE]},
    }


def _probe(probe: Probe | None) -> Params | None:
    if probe is None:
        return None
    return {
        **_probed(probe.handler),
        "InitialDelaySeconds": probe.initial_delay_seconds,
        "PeriodSeconds": probe.period_seconds,
        "TimeoutSeconds": probe.timeout_seconds,
        "SuccessThreshold": probe.success_threshold,
        "FailureThreshold": probe.failure_threshold,
    }


def _probed(handler: ProbeAction) -> Params:
    if isinstance(handler, ExecAction):
        return {"Exec": {"Command": handler.command}}
    if isinstance(handler, HttpGetAction):
        return {"HttpGet": {"Path": handler.path, "Port": handler.port, "Scheme": handler.scheme}}
    if isinstance(handler, TcpSocketAction):
        return {"TcpSocket": {"Port": handler.port}}
    raise NotImplementedError  # grpc is refused before it comes to this


def _hook(prefix: str, handler: HookAction | None) -> dict[str, Any]:
    """Hooks are flat: `LifecyclePreStopHandlerExec.1`."""
    if handler is None:
        return {}
    if isinstance(handler, SleepAction):
        # ECI has no word for it, but images have a program.
        handler = ExecAction(("sleep", str(handler.seconds)))
    if isinstance(handler, ExecAction):
        return {f"{prefix}Exec": handler.command}
    if isinstance(handler, HttpGetAction):
        return {
            f"{prefix}HttpGetHost": handler.host or None,
            f"{prefix}HttpGetPath": handler.path,
            f"{prefix}HttpGetPort": handler.port,
            f"{prefix}HttpGetScheme": handler.scheme,
            f"{prefix}HttpGetHttpHeader": [{"Name": n, "Value": v} for n, v in handler.headers],
        }
    return {f"{prefix}TcpSocketHost": handler.host or None, f"{prefix}TcpSocketPort": handler.port}
