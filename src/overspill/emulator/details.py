"""A container group as DescribeContainerGroups shows it: pure.

In: a group and its request. Out: a dict in the service's own spellings.
Invariant: files of volumes are named, never shown, as they may be secrets; nor are environment variables
that the request wants to be hidden.
Source: models of the official SDK 2.1.0.
"""

from typing import Any

from overspill.emulator import requests as eci
from overspill.emulator.groups import Group
from overspill.emulator.requests import CreateContainerGroup
from overspill.emulator.specs import spec_name
from overspill.emulator.views import event, moment
from overspill.model.observation import ContainerObservation, Observation, Running, State, Waiting

__all__ = ["detail"]

Json = dict[str, Any]


def detail(group: Group, request: CreateContainerGroup) -> Json:
    """One item of DescribeContainerGroups; its volumes are flattened, as the service has them."""
    seen = group.observation
    return {
        "ContainerGroupId": group.id,
        "ContainerGroupName": group.name,
        "RegionId": group.region,
        "ZoneId": group.zone,
        "VpcId": group.vpc,
        "VSwitchId": group.vswitch,
        "SecurityGroupId": group.security_group,
        "EniInstanceId": group.id.replace("eci-", "eni-", 1),
        "ResourceGroupId": group.resource_group,
        "RamRoleName": request.ram_role_name,
        "Tags": [{"Key": key, "Value": value} for key, value in group.tags.items()],
        "InstanceType": spec_name((group.cpu, group.memory)),
        "ComputeCategory": group.compute_category,
        "Cpu": group.cpu,
        "Memory": group.memory,
        "Discount": 0,
        "EphemeralStorage": request.ephemeral_storage,
        "RestartPolicy": request.restart_policy,
        "SpotStrategy": group.spot_strategy,
        "SpotPriceLimit": group.spot_price_limit,
        "IntranetIp": group.address,
        "Status": group.status,
        "Containers": [_container(c, seen) for c in request.container],
        "InitContainers": [_init_container(c, seen) for c in request.init_container],
        "Volumes": [_volume(volume) for volume in request.volume],
        "DnsConfig": _dns(request.dns_config),
        "HostAliases": [{"Ip": a.ip, "Hostnames": list(a.hostname)} for a in request.host_aliase],
        "EciSecurityContext": {
            "Sysctls": [{"Name": s.name, "Value": s.value} for s in request.security_context.sysctl]
        },
        "Events": [event(happening, group) for happening in group.events],
        "CreationTime": moment(group.created_at),
        **_end(group),
    }


def _end(group: Group) -> Json:
    name = {"Succeeded": "SucceededTime", "Failed": "FailedTime", "Expired": "ExpiredTime"}.get(group.status)
    return {name: moment(group.ended_at)} if name else {}


def _container(container: eci.Container, seen: Observation | None) -> Json:
    return {
        **_common(container, _find(container.name, seen.containers if seen else ())),
        "Args": list(container.arg),
        "Commands": list(container.command),
        "Stdin": container.stdin,
        "StdinOnce": container.stdin_once,
        "Tty": container.tty,
        **_probe("LivenessProbe", container.liveness_probe),
        **_probe("ReadinessProbe", container.readiness_probe),
    }


def _init_container(container: eci.Container, seen: Observation | None) -> Json:
    return {
        **_common(container, _find(container.name, seen.init_containers if seen else ())),
        "Args": list(container.arg),
        "Command": list(container.command),
    }


def _find(name: str, observed: tuple[ContainerObservation, ...]) -> ContainerObservation | None:
    return next((c for c in observed if c.name == name), None)


def _common(container: eci.Container, observed: ContainerObservation | None) -> Json:
    shown: Json = {
        "Name": container.name,
        "Image": container.image,
        "ImagePullPolicy": container.image_pull_policy or "IfNotPresent",
        "Cpu": container.cpu,
        "Memory": container.memory,
        "Gpu": container.gpu,
        "WorkingDir": container.working_dir,
        "Ports": [{"Port": port.port, "Protocol": port.protocol} for port in container.port],
        "EnvironmentVars": []
        if container.environment_var_hide
        else [_env(var) for var in container.environment_var],
        "VolumeMounts": [_mount(mount) for mount in container.volume_mount],
        "SecurityContext": _security(container),
        "Ready": bool(observed and observed.ready),
        "RestartCount": observed.restarts if observed else 0,
    }
    if observed:
        shown["CurrentState"] = _current(observed.state)
        if observed.last_state:
            shown["PreviousState"] = _current(observed.last_state)
    return shown


def _env(var: eci.EnvironmentVar) -> Json:
    if var.field_ref:
        return {"Key": var.key, "ValueFrom": {"FieldRef": {"FieldPath": var.field_ref.field_path}}}
    return {"Key": var.key, "Value": var.value}


def _mount(mount: eci.VolumeMount) -> Json:
    return {
        "Name": mount.name,
        "MountPath": mount.mount_path,
        "ReadOnly": mount.read_only,
        "SubPath": mount.sub_path,
        "MountPropagation": mount.mount_propagation,
    }


def _security(container: eci.Container) -> Json:
    security = container.security_context
    shown: Json = {"ReadOnlyRootFilesystem": security.read_only_root_filesystem}
    if security.run_as_user is not None:
        shown["RunAsUser"] = security.run_as_user
    if security.capability.add:
        shown["Capability"] = {"Adds": list(security.capability.add)}
    return shown


def _current(state: State) -> Json:
    if isinstance(state, Waiting):
        return {
            "State": "Waiting",
            "DetailStatus": state.reason,
            "Reason": state.reason,
            "Message": state.message,
        }
    if isinstance(state, Running):
        return {"State": "Running", "DetailStatus": "", "StartTime": moment(state.started_at)}
    return {
        "State": "Terminated",
        "DetailStatus": state.reason,
        "Reason": state.reason,
        "Message": state.message,
        "ExitCode": state.exit_code,
        "Signal": state.signal,
        "StartTime": moment(state.started_at),
        "FinishTime": moment(state.finished_at),
    }


def _probe(name: str, probe: eci.Probe | None) -> Json:
    if probe is None:
        return {}
    shown: Json = {
        "InitialDelaySeconds": probe.initial_delay_seconds,
        "PeriodSeconds": probe.period_seconds,
        "TimeoutSeconds": probe.timeout_seconds,
        "SuccessThreshold": probe.success_threshold,
        "FailureThreshold": probe.failure_threshold,
        "Execs": list(probe.exec.command) if probe.exec else [],
    }
    if probe.http_get:
        get = probe.http_get
        shown["HttpGet"] = {"Path": get.path, "Port": get.port, "Scheme": get.scheme}
    if probe.tcp_socket:
        shown["TcpSocket"] = {"Port": probe.tcp_socket.port}
    return {name: shown}


def _volume(volume: eci.Volume) -> Json:
    shown: Json = {"Name": volume.name, "Type": volume.type}
    if volume.type == "EmptyDirVolume":
        shown["EmptyDirVolumeMedium"] = volume.empty_dir_volume.medium
        shown["EmptyDirVolumeSizeLimit"] = volume.empty_dir_volume.size_limit
    elif volume.type == "ConfigFileVolume":
        # The service often leaves the content out; the emulator always does, as it may be a secret.
        files = volume.config_file_volume.config_file_to_path
        shown["ConfigFileVolumeConfigFileToPaths"] = [{"Path": file.path} for file in files]
    elif volume.nfs_volume:
        nfs = volume.nfs_volume
        shown |= {
            "NFSVolumeServer": nfs.server,
            "NFSVolumePath": nfs.path,
            "NFSVolumeReadOnly": nfs.read_only,
        }
    elif volume.flex_volume:
        flex = volume.flex_volume
        shown |= {
            "FlexVolumeDriver": flex.driver,
            "FlexVolumeFsType": flex.fs_type,
            "FlexVolumeOptions": flex.options,
        }
    return shown


def _dns(config: eci.DnsConfig | None) -> Json:
    if config is None:
        return {"NameServers": [], "Searches": [], "Options": []}
    return {
        "NameServers": list(config.name_server),
        "Searches": list(config.search),
        "Options": [{"Name": option.name, "Value": option.value} for option in config.option],
    }
