"""A pod as a backend gets it: every reference resolved, every default filled in.

In: what `agent/spec` resolved from the Pod and the objects it refers to.
Out: to `Backend.create`. Invariant: a value holds no reference into the
cluster; a backend needs nothing else to start the pod.
"""

from typing import Literal

from msgspec import Struct, structs

__all__ = [
    "POD_IP",
    "POD_IPS",
    "Container",
    "CsiVolume",
    "Dns",
    "EmptyDir",
    "EnvVar",
    "ExecAction",
    "File",
    "Files",
    "FlexVolume",
    "GrpcAction",
    "Handler",
    "HookAction",
    "HostAlias",
    "HttpGetAction",
    "Identity",
    "Mount",
    "Nfs",
    "Port",
    "Probe",
    "ProbeAction",
    "RegistryCredential",
    "Resources",
    "RestartRule",
    "SecurityContext",
    "SleepAction",
    "TcpSocketAction",
    "Volume",
    "WorkSpec",
]

# The pod's address is known only once the backend has given it one. Where a
# value needs it, these stand in; NUL can be in no environment variable, so they
# cannot be mistaken for a user's text. `WorkSpec.with_address` puts the address in.
POD_IP = "\x00podIP\x00"
POD_IPS = "\x00podIPs\x00"


class Identity(Struct, frozen=True):
    """Whose work this is: what a backend tags it with and finds it again by.

    Attributes:
        cluster: uid of the namespace `kube-system`; tells apart two clusters in one account.
        node: name of the virtual node.
        namespace: namespace of the pod.
        name: name of the pod.
        uid: uid of the pod; with `attempt` the idempotency key of a create.
        attempt: counts the container groups made for one uid, from 0.
    """

    cluster: str
    node: str
    namespace: str
    name: str
    uid: str
    attempt: int = 0


class EnvVar(Struct, frozen=True):
    """One variable of a container's environment. Its value may be a secret, so repr leaves it out."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"EnvVar({self.name!r})"


class Mount(Struct, frozen=True):
    """Where a container sees a volume; `sub_path` is resolved, without variables."""

    volume: str
    path: str
    read_only: bool = False
    sub_path: str = ""
    propagation: Literal["None", "HostToContainer", "Bidirectional"] = "None"


class Port(Struct, frozen=True):
    """A port that a container declares; purely informative, unless `host_port` is set."""

    container_port: int
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    name: str = ""
    host_port: int = 0


class Resources(Struct, frozen=True):
    """Requests and limits; cpu in cores, memory and storage in bytes, None where nothing is set."""

    cpu_request: float | None = None
    memory_request: int | None = None
    cpu_limit: float | None = None
    memory_limit: int | None = None
    ephemeral_storage_request: int | None = None
    gpus: int = 0


class SecurityContext(Struct, frozen=True):
    """A container's, with the pod's already merged in. None leaves the image's or the backend's choice.

    Attributes:
        add_capabilities: as Linux names them, without `CAP_`; `ALL` for all of them. So with `drop_capabilities`,
            which go first.
        no_new_privileges: no process may gain more than its parent had, as by a setuid program.
    """

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    read_only_root_filesystem: bool = False
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: Literal["RuntimeDefault", "Unconfined"] | None = None


class ExecAction(Struct, frozen=True, tag="exec"):
    """Run a command in the container."""

    command: tuple[str, ...]


class HttpGetAction(Struct, frozen=True, tag="httpGet"):
    """GET a path; the port is a number already, an empty host is the pod's address."""

    port: int
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class TcpSocketAction(Struct, frozen=True, tag="tcpSocket"):
    """Open a connection; the port is a number already, an empty host is the pod's address."""

    port: int
    host: str = ""


class GrpcAction(Struct, frozen=True, tag="grpc"):
    """Ask the pod's own grpc.health.v1.Health about a service; "" is the server as a whole."""

    port: int
    service: str = ""


class SleepAction(Struct, frozen=True, tag="sleep"):
    """Do nothing for a while."""

    seconds: int


Handler = ExecAction | HttpGetAction | TcpSocketAction
ProbeAction = Handler | GrpcAction
HookAction = Handler | SleepAction


class Probe(Struct, frozen=True):
    """One probe of a container, with the API server's defaults filled in; times in seconds.

    Attributes:
        termination_grace_period_seconds: goes before the pod's when this probe's failure ends the container.
    """

    handler: ProbeAction
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class RestartRule(Struct, frozen=True):
    """Restart after these exit codes, or after all others, whatever the restart policy says (KEP-5307)."""

    operator: Literal["In", "NotIn"]
    values: tuple[int, ...]


class Container(Struct, frozen=True):
    """A container with its environment, command line and mounts resolved.

    Attributes:
        command: replaces the image's entrypoint; empty keeps it.
        args: replaces the image's command; empty keeps it.
        pull_policy: when to pull the image.
        restart_on_resize: of `cpu` and `memory`, those that cannot be changed while it runs.
        restart_policy: goes before the pod's; `Always` makes an init container a sidecar (KEP-753).
        restart_rules: go before either; the first that fits counts.
        stop_signal: name of the signal that asks it to stop, such as `SIGUSR1`; "" is the image's choice.
        target: of an ephemeral container, the container whose processes it sees; "" for none.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    resources: Resources = Resources()
    restart_on_resize: tuple[Literal["cpu", "memory"], ...] = ()
    security: SecurityContext = SecurityContext()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    liveness: Probe | None = None
    readiness: Probe | None = None
    startup: Probe | None = None
    post_start: HookAction | None = None
    pre_stop: HookAction | None = None
    stop_signal: str = ""
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    restart_rules: tuple[RestartRule, ...] = ()
    target: str = ""
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: Literal["File", "FallbackToLogsOnError"] = "File"


class EmptyDir(Struct, frozen=True, tag="emptyDir"):
    """Scratch space that lives as long as the pod. `size_limit` in bytes, None for no limit."""

    medium: Literal["", "Memory"] = ""
    size_limit: int | None = None


class File(Struct, frozen=True):
    """One file of a volume. Its content may be a secret, so repr leaves it out.

    Attributes:
        owner: uid of its owner; None leaves root's.
    """

    path: str
    data: bytes
    mode: int = 0o644
    owner: int | None = None

    def __repr__(self) -> str:
        return f"File({self.path!r}, {len(self.data)} bytes, {self.mode:o})"


class Files(Struct, frozen=True, tag="files"):
    """configMap, secret, downwardAPI and projected volumes, all resolved to files.

    Attributes:
        refresh_after: seconds until the agent resolves the volume again (a token that ages); None for never.
    """

    files: tuple[File, ...] = ()
    refresh_after: float | None = None


class Nfs(Struct, frozen=True, tag="nfs"):
    """A directory of an NFS server."""

    server: str
    path: str
    read_only: bool = False


class FlexVolume(Struct, frozen=True, tag="flexVolume"):
    """A volume of a cloud's driver, such as `alicloud/disk`; options as the driver knows them."""

    driver: str
    fs_type: str = ""
    read_only: bool = False
    options: dict[str, str] = {}


class CsiVolume(Struct, frozen=True, tag="csi"):
    """A volume of a CSI driver's that a PersistentVolume names. It may hold secrets, so repr leaves them out.

    Attributes:
        handle: the driver's name of it.
        attributes, mount_options: of the PersistentVolume.
        secret: the content of the Secret that the PersistentVolume refers to.
    """

    driver: str
    handle: str
    fs_type: str = ""
    attributes: dict[str, str] = {}
    mount_options: tuple[str, ...] = ()
    secret: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"CsiVolume({self.driver!r}, {self.handle!r})"


Volume = EmptyDir | Files | Nfs | FlexVolume | CsiVolume


class Dns(Struct, frozen=True):
    """What goes into resolv.conf, in the order written."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class HostAlias(Struct, frozen=True):
    """One line of /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...]


class RegistryCredential(Struct, frozen=True):
    """Login for one registry, from a pod's image pull secrets."""

    server: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"RegistryCredential({self.server!r})"


class WorkSpec(Struct, frozen=True, kw_only=True):
    """All that a backend needs to run one pod.

    Attributes:
        domain: the pod's own DNS domain where it has a subdomain, else "": /etc/hosts then names it
            `ADDRESS HOSTNAME.DOMAIN HOSTNAME`.
        dns: None leaves the backend's default (dnsPolicy `Default`).
        volumes: by volume name; every mount's volume is in it.
        annotations: the pod's, for the settings that backends read from them.
        sysctls: names and values, as the pod's securityContext has them.
        fs_group: the group to which the volumes belong, and of which every process is a member.
        supplemental_groups: further groups of every process.
        only_these_groups: what the image says of its user's groups does not count.
        hostname_is_fqdn: the kernel's host name is `hostname.domain`.
        ephemeral_containers: those that `Backend.add_ephemeral` was asked for so far.
    """

    identity: Identity
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()
    volumes: dict[str, Volume] = {}
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    hostname: str
    domain: str = ""
    dns: Dns | None = None
    host_aliases: tuple[HostAlias, ...] = ()
    registry_credentials: tuple[RegistryCredential, ...] = ()
    annotations: dict[str, str] = {}
    share_process_namespace: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    only_these_groups: bool = False
    hostname_is_fqdn: bool = False

    def with_address(self, address: str) -> "WorkSpec":
        """The same work with the pod's address put in wherever a value waits for it."""

        def fill(text: str) -> str:
            return text.replace(POD_IP, address).replace(POD_IPS, address) if "\x00" in text else text

        def fill_container(container: Container) -> Container:
            return structs.replace(
                container,
                command=tuple(map(fill, container.command)),
                args=tuple(map(fill, container.args)),
                env=tuple(EnvVar(var.name, fill(var.value)) for var in container.env),
            )

        return structs.replace(
            self,
            containers=tuple(map(fill_container, self.containers)),
            init_containers=tuple(map(fill_container, self.init_containers)),
            ephemeral_containers=tuple(map(fill_container, self.ephemeral_containers)),
        )
