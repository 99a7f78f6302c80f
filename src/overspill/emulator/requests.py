"""The requests that carry a container group, typed.

In: the tree of a request's parameters. Out: frozen values. Invariant: field names are the API's own
(`HostAliase` included); a parameter that is not here is in `NOT_EMULATED`, in `WITHOUT_EFFECT`, or is
none of ECI's, which the service ignores as well.
Source: models of the official SDK 2.1.0.
"""

from typing import Any, Literal

from msgspec import Struct, field

__all__ = [
    "NOT_EMULATED",
    "WITHOUT_EFFECT",
    "Container",
    "CreateContainerGroup",
    "EnvironmentVar",
    "Hook",
    "HostAlias",
    "Pair",
    "Probe",
    "RegistryCredential",
    "UpdateContainerGroup",
    "Volume",
    "as_in_create",
]


class Pair(Struct, frozen=True, rename="pascal"):
    """A tag."""

    key: str
    value: str = ""


class NamedValue(Struct, frozen=True, rename="pascal"):
    """An option of resolv.conf or a kernel setting."""

    name: str
    value: str = ""


class FieldRef(Struct, frozen=True, rename="pascal"):
    """Where a variable's value comes from; only `status.podIP` is possible."""

    field_path: Literal["status.podIP"]


class EnvironmentVar(Struct, frozen=True, rename="pascal"):
    """One variable. Its value may be a secret, so repr leaves it out."""

    key: str
    value: str = ""
    field_ref: FieldRef | None = None

    def __repr__(self) -> str:
        return f"EnvironmentVar({self.key!r})"


class ContainerPort(Struct, frozen=True, rename="pascal"):
    """A declared port."""

    port: int
    protocol: str = "TCP"


class VolumeMount(Struct, frozen=True, rename="pascal"):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False
    mount_propagation: str = ""


class Capability(Struct, frozen=True, rename="pascal"):
    """Capabilities added; ECI knows only NET_ADMIN and NET_RAW."""

    add: tuple[str, ...] = ()


class ProbeExec(Struct, frozen=True, rename="pascal"):
    """A command that must end with 0."""

    command: tuple[str, ...] = ()


class ProbeHttpGet(Struct, frozen=True, rename="pascal"):
    """A GET of the group's own address."""

    port: int
    path: str = "/"
    scheme: str = "HTTP"


class ProbeTcpSocket(Struct, frozen=True, rename="pascal"):
    """A connection to the group's own address."""

    port: int


class Probe(Struct, frozen=True, rename="pascal"):
    """A liveness or readiness probe; times in seconds."""

    exec: ProbeExec | None = None
    http_get: ProbeHttpGet | None = None
    tcp_socket: ProbeTcpSocket | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class Hook(Struct, frozen=True):
    """A lifecycle handler, put together from its flat parameters."""

    exec: tuple[str, ...] = ()
    http_get_host: str = ""
    http_get_path: str = ""
    http_get_port: int = 0
    http_get_scheme: str = ""
    http_get_http_header: tuple[NamedValue, ...] = ()
    tcp_socket_host: str = ""
    tcp_socket_port: int = 0


class ContainerSecurityContext(Struct, frozen=True, rename="pascal"):
    """The part of a container's security settings that the API nests."""

    run_as_user: int | None = None
    read_only_root_filesystem: bool = False
    capability: Capability = Capability()


class Container(Struct, frozen=True, rename="pascal"):
    """A container or init container."""

    name: str
    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never", ""] = ""
    working_dir: str = ""
    command: tuple[str, ...] = ()
    arg: tuple[str, ...] = ()
    cpu: float = 0.0
    memory: float = 0.0
    gpu: int = 0
    environment_var: tuple[EnvironmentVar, ...] = ()
    environment_var_hide: bool = False
    port: tuple[ContainerPort, ...] = ()
    volume_mount: tuple[VolumeMount, ...] = ()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    security_context: ContainerSecurityContext = ContainerSecurityContext()
    security_context_run_as_group: int | None = None
    security_context_run_as_non_root: bool = False
    security_context_privileged: bool = False
    termination_message_path: str = ""
    termination_message_policy: str = ""
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    lifecycle_post_start_handler_exec: tuple[str, ...] = ()
    lifecycle_post_start_handler_http_get_host: str = ""
    lifecycle_post_start_handler_http_get_path: str = ""
    lifecycle_post_start_handler_http_get_port: int = 0
    lifecycle_post_start_handler_http_get_scheme: str = ""
    lifecycle_post_start_handler_http_get_http_header: tuple[NamedValue, ...] = ()
    lifecycle_post_start_handler_tcp_socket_host: str = ""
    lifecycle_post_start_handler_tcp_socket_port: int = 0
    lifecycle_pre_stop_handler_exec: tuple[str, ...] = ()
    lifecycle_pre_stop_handler_http_get_host: str = ""
    lifecycle_pre_stop_handler_http_get_path: str = ""
    lifecycle_pre_stop_handler_http_get_port: int = 0
    lifecycle_pre_stop_handler_http_get_scheme: str = ""
    lifecycle_pre_stop_handler_http_get_http_header: tuple[NamedValue, ...] = ()
    lifecycle_pre_stop_handler_tcp_socket_host: str = ""
    lifecycle_pre_stop_handler_tcp_socket_port: int = 0

    def hook(self, kind: Literal["post_start", "pre_stop"]) -> Hook:
        """A handler of its flat parameters; equal to `Hook()` where there is none."""
        prefix = f"lifecycle_{kind}_handler_"
        return Hook(**{name: getattr(self, prefix + name) for name in Hook.__struct_fields__})


class EmptyDirVolume(Struct, frozen=True, rename="pascal"):
    """Scratch space; the size is a quantity such as `256Mi`."""

    medium: str = ""
    size_limit: str = ""


class NFSVolume(Struct, frozen=True, rename="pascal"):
    """A file system of a server."""

    server: str = ""
    path: str = ""
    read_only: bool = False


class ConfigFileToPath(Struct, frozen=True, rename="pascal"):
    """One file, in base64. It may be a secret, so repr leaves it out."""

    path: str
    content: str = ""
    mode: int | None = None

    def __repr__(self) -> str:
        return f"ConfigFileToPath({self.path!r})"


class ConfigFileVolume(Struct, frozen=True, rename="pascal"):
    """Files that come with the request; `default_mode` is the decimal of the octal mode."""

    default_mode: int = 0o644
    config_file_to_path: tuple[ConfigFileToPath, ...] = ()


class FlexVolume(Struct, frozen=True, rename="pascal"):
    """A volume of a driver such as alicloud/disk."""

    driver: str = ""
    fs_type: str = ""
    options: str = ""


class DiskVolume(Struct, frozen=True, rename="pascal"):
    """A cloud disk."""

    disk_id: str = ""
    disk_size: int = 0
    fs_type: str = ""


class HostPathVolume(Struct, frozen=True, rename="pascal"):
    """A path of the host; only accounts on a list may use it."""

    path: str = ""
    type: str = ""


class Volume(Struct, frozen=True, rename="pascal"):
    """A volume; `type` says which of the parts holds."""

    name: str
    type: str = ""
    empty_dir_volume: EmptyDirVolume = EmptyDirVolume()
    config_file_volume: ConfigFileVolume = ConfigFileVolume()
    nfs_volume: NFSVolume | None = field(name="NFSVolume", default=None)
    flex_volume: FlexVolume | None = None
    disk_volume: DiskVolume | None = None
    host_path_volume: HostPathVolume | None = None


class DnsConfig(Struct, frozen=True, rename="pascal"):
    """What goes into resolv.conf."""

    name_server: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    option: tuple[NamedValue, ...] = ()


class HostAlias(Struct, frozen=True, rename="pascal"):
    """A line of /etc/hosts."""

    ip: str
    hostname: tuple[str, ...] = ()


class Sysctls(Struct, frozen=True, rename="pascal"):
    """Kernel settings."""

    sysctl: tuple[NamedValue, ...] = ()


class RegistryCredential(Struct, frozen=True, rename="pascal"):
    """Login for one registry."""

    server: str
    user_name: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"RegistryCredential({self.server!r})"


class CreateContainerGroup(Struct, frozen=True, kw_only=True, rename="pascal"):
    """All of CreateContainerGroup that is emulated."""

    container_group_name: str
    container: tuple[Container, ...]
    init_container: tuple[Container, ...] = ()
    volume: tuple[Volume, ...] = ()
    zone_id: str = ""
    security_group_id: str = ""
    v_switch_id: str = ""
    schedule_strategy: Literal["VSwitchOrdered", "VSwitchRandom", ""] = ""
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    cpu: float = 0.0
    memory: float = 0.0
    instance_type: str = ""
    compute_category: tuple[str, ...] = ()
    spot_strategy: Literal["NoSpot", "SpotAsPriceGo", "SpotWithPriceLimit"] = "NoSpot"
    spot_price_limit: float = 0.0
    spot_duration: int = 1
    ephemeral_storage: int = 0
    active_deadline_seconds: int | None = None
    termination_grace_period_seconds: int = 30
    dns_policy: Literal["None", "Default", ""] = ""
    dns_config: DnsConfig | None = None
    host_name: str = ""
    host_aliase: tuple[HostAlias, ...] = ()
    security_context: Sysctls = Sysctls()
    host_security_context: Sysctls = Sysctls()
    share_process_namespace: bool = False
    image_registry_credential: tuple[RegistryCredential, ...] = ()
    image_snapshot_id: str = ""
    auto_match_image_cache: bool = False
    private_ip_address: str = ""
    resource_group_id: str = ""
    ram_role_name: str = ""
    max_pending_minute: int = 240
    tag: tuple[Pair, ...] = ()
    client_token: str = ""
    dry_run: bool = False


class UpdateContainerGroup(Struct, frozen=True, kw_only=True, rename="pascal"):
    """All of UpdateContainerGroup that is emulated; None is what the request leaves alone."""

    container_group_id: str
    update_type: Literal["RenewUpdate", "IncrementalUpdate"] = "RenewUpdate"
    container: tuple[Container, ...] | None = None
    init_container: tuple[Container, ...] | None = None
    volume: tuple[Volume, ...] | None = None
    dns_config: DnsConfig | None = None
    cpu: float | None = None
    memory: float | None = None
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    image_registry_credential: tuple[RegistryCredential, ...] | None = None
    tag: tuple[Pair, ...] | None = None
    resource_group_id: str | None = None


def as_in_create(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of UpdateContainerGroup, whose lists of hooks' headers end in `Headers`, in create's spelling."""
    containers = tree.get("Container")
    if not isinstance(containers, list):
        return tree
    spelled = [
        {name.removesuffix("s") if name.endswith("HttpHeaders") else name: value for name, value in c.items()}
        if isinstance(c, dict)
        else c
        for c in containers
    ]
    return tree | {"Container": spelled}


# ECI does these; no engine behind the emulator does. Refused by name, never left out in silence.
NOT_EMULATED = frozenset(
    {
        "AcrRegistryInfo",
        "AutoCreateEip",
        "DataCacheBucket",
        "EgressBandwidth",
        "EipInstanceId",
        "FixedIp",
        "GpuDriverVersion",
        "IngressBandwidth",
        "Ipv6AddressCount",
    }
)
# Taken and kept out of the way: nothing that can be seen from outside depends on them here.
WITHOUT_EFFECT = frozenset(
    {
        "ContainerResourceView",
        "CorePattern",
        "CpuArchitecture",
        "CpuOptionsCore",
        "CpuOptionsNuma",
        "CpuOptionsThreadsPerCore",
        "DataCacheBurstingEnabled",
        "DataCachePL",
        "DataCacheProvisionedIops",
        "EipBandwidth",
        "EipCommonBandwidthPackage",
        "EipISP",
        "FixedIpRetainHour",
        "ImageAccelerateMode",
        "InsecureRegistry",
        "Ipv6GatewayBandwidth",
        "Ipv6GatewayBandwidthEnable",
        "NtpServer",
        "OsType",
        "OverheadReservationOption",
        "PlainHttpRegistry",
        "StrictSpot",
    }
)
