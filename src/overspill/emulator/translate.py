"""From a container group to what an engine runs: pure.

In: a group and its request. Out: a `WorkSpec`. Invariant: whatever a request asks for is in the result, or
named by `unhonoured`; nothing is left out in silence.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import structs

from overspill.backends.base import Capabilities
from overspill.emulator import requests as eci
from overspill.emulator.groups import Group
from overspill.emulator.requests import CreateContainerGroup, Hook
from overspill.emulator.sidecars import apps, sidecars
from overspill.errors import Rejected
from overspill.model.quantity import parse_quantity
from overspill.model.work import (
    POD_IP,
    Container,
    Dns,
    EmptyDir,
    EnvVar,
    ExecAction,
    File,
    Files,
    FlexVolume,
    Handler,
    HostAlias,
    HttpGetAction,
    Identity,
    Mount,
    Nfs,
    Port,
    Probe,
    RegistryCredential,
    Resources,
    SecurityContext,
    TcpSocketAction,
    Volume,
    WorkSpec,
)

__all__ = ["identity", "unhonoured", "volumes", "work_spec"]

# Also what DescribeContainerGroupStatus says of every group.
NAMESPACE = "default"
GIB = 1 << 30
# The engines' driver of directories that outlive what they run.
KEPT = "overspill.dev/kept"
# Failures of a probe that nobody is ended for.
PATIENT = 1_000_000


def identity(emulator: str, group: Group, *, attempt: int) -> Identity:
    """Whose work it is, as the engine sees it."""
    return Identity(emulator, group.region, NAMESPACE, group.name, group.id, attempt)


def work_spec(
    emulator: str, group: Group, request: CreateContainerGroup, *, engine: str, network: str = ""
) -> WorkSpec:
    """All that the engine needs.

    The engine reads the address and its network from its own annotations; a tag of the group below the
    same prefix is handed on as one, so that a test can tell a simulated container what to do.

    Raises:
        Rejected: a value cannot be read, such as an emptyDir's size.
    """
    prefix = f"{engine}.overspill.dev/"
    annotations = {key: value for key, value in group.tags.items() if key.startswith(prefix)}
    annotations[f"{prefix}ip"] = group.address
    if network:
        annotations[f"{prefix}network"] = network
    return WorkSpec(
        identity=identity(emulator, group, attempt=group.attempt),
        containers=tuple(_container(c, group) for c in apps(request.container)),
        init_containers=(
            *(_container(c, group) for c in request.init_container),
            *(_sidecar(_container(c, group)) for c in sidecars(request.container)),
        ),
        volumes=volumes(request.volume),
        restart_policy=request.restart_policy,
        termination_grace_period_seconds=request.termination_grace_period_seconds,
        active_deadline_seconds=request.active_deadline_seconds,
        hostname=request.host_name or request.container_group_name[:63].rstrip("-"),
        dns=_dns(request),
        host_aliases=tuple(HostAlias(alias.ip, alias.hostname) for alias in request.host_aliase),
        registry_credentials=tuple(
            RegistryCredential(c.server, c.user_name, c.password) for c in request.image_registry_credential
        ),
        annotations=annotations,
        share_process_namespace=request.share_process_namespace,
        sysctls=tuple(
            (setting.name, setting.value)
            for setting in (*request.security_context.sysctl, *request.host_security_context.sysctl)
        ),
    )


def _container(container: eci.Container, group: Group) -> Container:
    security = container.security_context
    return Container(
        name=container.name,
        image=container.image,
        command=container.command,
        args=container.arg,
        working_dir=container.working_dir,
        env=tuple(_env(var) for var in container.environment_var),
        mounts=tuple(_mount(mount) for mount in container.volume_mount),
        ports=tuple(Port(port.port, _protocol(port.protocol)) for port in container.port),
        resources=_resources(container, group),
        security=SecurityContext(
            run_as_user=security.run_as_user,
            run_as_group=container.security_context_run_as_group,
            run_as_non_root=container.security_context_run_as_non_root,
            read_only_root_filesystem=security.read_only_root_filesystem,
            add_capabilities=security.capability.add,
        ),
        pull_policy=container.image_pull_policy or "IfNotPresent",
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
        liveness=_probe(container.liveness_probe),
        readiness=_probe(container.readiness_probe),
        post_start=_hook(container.hook("post_start")),
        pre_stop=_hook(container.hook("pre_stop")),
        termination_message_path=container.termination_message_path or "/dev/termination-log",
        termination_message_policy=_message_policy(container.termination_message_policy),
    )


def _sidecar(container: Container) -> Container:
    """As engines know it; the others wait until it is ready, where it has a probe of that."""
    ready = container.readiness
    wait = structs.replace(ready, failure_threshold=PATIENT, success_threshold=1) if ready else None
    return structs.replace(container, restart_policy="Always", startup=wait)


def _resources(container: eci.Container, group: Group) -> Resources:
    """A container's own limits; one without any may use all that the group has."""
    cpu, memory = container.cpu or group.cpu, container.memory or group.memory
    return Resources(
        cpu_request=container.cpu or None,
        memory_request=int(container.memory * GIB) or None,
        cpu_limit=cpu,
        memory_limit=int(memory * GIB),
        gpus=container.gpu,
    )


def _env(var: eci.EnvironmentVar) -> EnvVar:
    return EnvVar(var.key, POD_IP if var.field_ref else var.value)


def _mount(mount: eci.VolumeMount) -> Mount:
    # The API misspells HostToContainer; both spellings are taken.
    spelled = {"HostToCotainer": "HostToContainer", "": "None"}
    propagation: Any = spelled.get(mount.mount_propagation, mount.mount_propagation)
    if propagation not in {"None", "HostToContainer", "Bidirectional"}:
        raise Rejected(f"the mount propagation {propagation} is none")
    return Mount(mount.name, mount.mount_path, mount.read_only, mount.sub_path, propagation)


def _protocol(text: str) -> Literal["TCP", "UDP"]:
    return "UDP" if text.upper() == "UDP" else "TCP"


def _message_policy(text: str) -> Literal["File", "FallbackToLogsOnError"]:
    return "FallbackToLogsOnError" if text == "FallbackToLogsOnError" else "File"


def _probe(probe: eci.Probe | None) -> Probe | None:
    if probe is None:
        return None
    handler: Handler
    if probe.http_get:
        handler = HttpGetAction(probe.http_get.port, probe.http_get.path, _scheme(probe.http_get.scheme))
    elif probe.tcp_socket:
        handler = TcpSocketAction(probe.tcp_socket.port)
    elif probe.exec:
        handler = ExecAction(probe.exec.command)
    else:
        raise Rejected("a probe has none of HttpGet, TcpSocket and Exec")
    return Probe(
        handler,
        probe.initial_delay_seconds,
        probe.period_seconds,
        probe.timeout_seconds,
        probe.success_threshold,
        probe.failure_threshold,
    )


def _hook(hook: Hook) -> Handler | None:
    if hook.exec:
        return ExecAction(hook.exec)
    if hook.http_get_port:
        headers = tuple((header.name, header.value) for header in hook.http_get_http_header)
        path, scheme = hook.http_get_path or "/", _scheme(hook.http_get_scheme)
        return HttpGetAction(hook.http_get_port, path, scheme, hook.http_get_host, headers)
    if hook.tcp_socket_port:
        return TcpSocketAction(hook.tcp_socket_port, hook.tcp_socket_host)
    if hook != Hook():
        raise Rejected("a lifecycle handler has no command and no port")
    return None


def _scheme(text: str) -> Literal["HTTP", "HTTPS"]:
    return "HTTPS" if text.upper() == "HTTPS" else "HTTP"


def _dns(request: CreateContainerGroup) -> Dns | None:
    config = request.dns_config
    if config is None:
        return Dns() if request.dns_policy == "None" else None
    options = tuple(f"{o.name}:{o.value}" if o.value else o.name for o in config.option)
    return Dns(config.name_server, config.search, options)


def volumes(listed: Iterable[eci.Volume]) -> dict[str, Volume]:
    """The volumes by name.

    Raises:
        Rejected: a size or the options of a driver cannot be read.
    """
    return {volume.name: _volume(volume) for volume in listed}


def _volume(volume: eci.Volume) -> Volume:
    if volume.type == "ConfigFileVolume":
        return _files(volume.config_file_volume)
    if volume.nfs_volume:
        return Nfs(volume.nfs_volume.server, volume.nfs_volume.path, volume.nfs_volume.read_only)
    if volume.flex_volume:
        flex = volume.flex_volume
        return _flex(flex.driver, _options(flex.options))
    if volume.type == "EmptyDirVolume":
        return _empty_dir(volume.empty_dir_volume)
    raise Rejected(f"the volume {volume.name} of type {volume.type} cannot be mounted here")


def _files(volume: eci.ConfigFileVolume) -> Files:
    return Files(
        tuple(
            File(
                file.path,
                base64.b64decode(file.content),
                volume.default_mode if file.mode is None else file.mode,
            )
            for file in volume.config_file_to_path
        )
    )


def _empty_dir(volume: eci.EmptyDirVolume) -> EmptyDir:
    if volume.medium not in {"", "Memory"}:
        raise Rejected(f"the medium {volume.medium} of an EmptyDirVolume is not to be had here")
    try:
        size = int(parse_quantity(volume.size_limit)) if volume.size_limit else None
    except ValueError as error:
        raise Rejected(f"the SizeLimit of an EmptyDirVolume: {error}") from error
    return EmptyDir("Memory" if volume.medium == "Memory" else "", size)


def _flex(driver: str, options: Mapping[str, str]) -> Volume:
    """A directory that outlives its groups, one for each disk, file system or bucket; a disk made for a group is scratch."""
    if driver == "alicloud/disk" and "volumeId" not in options:
        size = options.get("volumeSize", "20")
        if not re.fullmatch("[0-9]{1,5}", size):
            raise Rejected(f"the volumeSize of a FlexVolume is whole GiB, such as 20, not {size!r}")
        return EmptyDir("", int(size) * GIB)
    what = {
        "alicloud/disk": ("volumeId",),
        "alicloud/nas": ("server", "path"),
        "alicloud/oss": ("bucket", "path"),
    }.get(driver)
    if what is None:
        raise Rejected(f"there is no driver {driver} of a FlexVolume")
    named = json.dumps([driver, *(options.get(each, "") for each in what)])
    name = f"{driver.rpartition('/')[2]}-{hashlib.sha256(named.encode()).hexdigest()[:20]}"
    return FlexVolume(KEPT, options={"name": name})


def _options(text: str) -> dict[str, str]:
    try:
        options: Any = json.loads(text or "{}")
    except ValueError as error:
        raise Rejected("the Options of a FlexVolume are not JSON") from error
    if not isinstance(options, dict):
        raise Rejected("the Options of a FlexVolume are not a JSON object")
    return {str(name): str(value) for name, value in options.items()}


def unhonoured(request: CreateContainerGroup, work: WorkSpec, capabilities: Capabilities) -> list[str]:
    """What a request asks for and an engine with these capabilities does not do with its work, as paths of a pod."""
    asked: dict[str, object] = {
        "shareProcessNamespace": work.share_process_namespace,
        "securityContext.sysctls": work.sysctls,
        "volumes[].nfs": any(isinstance(volume, Nfs) for volume in work.volumes.values()),
        "volumes[].flexVolume": any(isinstance(volume, FlexVolume) for volume in work.volumes.values()),
        # No work of ours is privileged, so that none can say it.
        "containers[].securityContext.privileged": any(
            each.security_context_privileged for each in (*request.container, *request.init_container)
        ),
    }
    for kind, containers in (("containers", work.containers), ("initContainers", work.init_containers)):
        for container in containers:
            asked |= {f"{kind}[].{path}": value for path, value in _asked(container).items() if value}
    return [path for path, value in asked.items() if value and not _covered(path, capabilities.pod_fields)]


def _asked(container: Container) -> Mapping[str, object]:
    security = container.security
    return {
        "livenessProbe": container.liveness,
        "restartPolicy": container.restart_policy,
        "readinessProbe": container.readiness,
        "lifecycle.postStart": container.post_start,
        "lifecycle.preStop": container.pre_stop,
        "resources.limits.nvidia.com/gpu": container.resources.gpus,
        "securityContext.capabilities": security.add_capabilities,
        "securityContext.readOnlyRootFilesystem": security.read_only_root_filesystem,
        "securityContext.runAsNonRoot": security.run_as_non_root,
        "terminationMessagePath": container.termination_message_path != "/dev/termination-log",
        "terminationMessagePolicy": container.termination_message_policy != "File",
        "volumeMounts[].subPath": any(mount.sub_path for mount in container.mounts),
        "volumeMounts[].mountPropagation": any(mount.propagation != "None" for mount in container.mounts),
    }


def _covered(path: str, fields: frozenset[str]) -> bool:
    """Whether the path, something below it, or everything above it is in the list."""
    return any(
        listed == path
        or listed.startswith(f"{path}.")
        or (listed.endswith(".*") and f"{path}.".startswith(listed[:-1]))
        for listed in fields
    )
