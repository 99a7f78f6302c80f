"""The parts of a v1.Pod that are read here, decoded lazily.

In: a watch event's or list's bytes. Out: `Pod`, small enough to keep 3,000 of
them, whose spec stays encoded until somebody needs it. Invariant: a kept Pod
owns its bytes (`Pod.kept`), so that it does not pin the buffer it came from.
Source: k8s.io/api/core/v1/types.go.
"""

from sys import intern
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

__all__ = [
    "ConfigMapKeySelector",
    "Container",
    "DownwardItem",
    "EnvFromSource",
    "EnvVar",
    "EnvVarSource",
    "KeyToPath",
    "Meta",
    "OwnerReference",
    "Pod",
    "PodHeadStatus",
    "PodSpec",
    "Projection",
    "Volume",
    "VolumeMount",
]


class OwnerReference(Struct, frozen=True, gc=False, rename="camel"):
    """Who made an object."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool = False


class Meta(Struct, gc=False, rename="camel"):
    """ObjectMeta. Labels, annotations and owners stay encoded: most pods' are never looked at."""

    name: str
    uid: str = ""
    namespace: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    labels: Raw = Raw(b"{}")
    annotations: Raw = Raw(b"{}")
    owner_references: Raw = Raw(b"[]")

    def decoded_labels(self) -> dict[str, str]:
        """The labels."""
        return msgspec.json.decode(self.labels, type=dict[str, str])

    def decoded_annotations(self) -> dict[str, str]:
        """The annotations."""
        return msgspec.json.decode(self.annotations, type=dict[str, str])

    def owners(self) -> list[OwnerReference]:
        """The owner references."""
        return msgspec.json.decode(self.owner_references, type=list[OwnerReference])


class PodHeadStatus(Struct, frozen=True, gc=False, rename="camel"):
    """What is read back of a pod's status: enough to know whether it has ended, and when it began."""

    phase: str = ""
    start_time: str | None = None


class Pod(Struct, gc=False):
    """A pod as the cache keeps it."""

    metadata: Meta
    spec: Raw = Raw(b"{}")
    status: PodHeadStatus = PodHeadStatus()

    def kept(self) -> "Pod":
        """This pod with bytes of its own; call before caching (a Raw pins its whole event)."""
        meta = self.metadata
        meta.namespace = intern(meta.namespace)
        meta.labels = meta.labels.copy()
        meta.annotations = meta.annotations.copy()
        meta.owner_references = meta.owner_references.copy()
        self.spec = self.spec.copy()
        return self

    def decoded_spec(self) -> "PodSpec":
        """The spec, decoded anew at each call."""
        return msgspec.json.decode(self.spec, type=PodSpec)

    def plain_spec(self) -> dict[str, Any]:
        """The spec with every field it has, to look for what cannot be honoured."""
        return msgspec.json.decode(self.spec, type=dict[str, Any])

    @property
    def ended(self) -> bool:
        """Whether its phase is terminal."""
        return self.status.phase in {"Succeeded", "Failed"}


# --- the spec, as far as it is honoured; `model/fields.py` names what is not ---


class KeyToPath(Struct, frozen=True, rename="camel"):
    """One key of a ConfigMap or Secret as a file."""

    key: str
    path: str
    mode: int | None = None


class ConfigMapKeySelector(Struct, frozen=True, rename="camel"):
    """A key of a ConfigMap or Secret."""

    key: str
    name: str = ""
    optional: bool = False


class ObjectFieldSelector(Struct, frozen=True, rename="camel"):
    """A field of the pod itself."""

    field_path: str
    api_version: str = "v1"


class ResourceFieldSelector(Struct, frozen=True, rename="camel"):
    """A container's limit or request."""

    resource: str
    container_name: str = ""
    divisor: str | int = "0"


class EnvVarSource(Struct, frozen=True, rename="camel"):
    """Where a variable's value comes from; one of them is set."""

    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: ConfigMapKeySelector | None = None
    secret_key_ref: ConfigMapKeySelector | None = None


class EnvVar(Struct, frozen=True, rename="camel"):
    """One variable."""

    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class ObjectRef(Struct, frozen=True, rename="camel"):
    """A whole ConfigMap or Secret."""

    name: str = ""
    optional: bool = False


class EnvFromSource(Struct, frozen=True, rename="camel"):
    """All keys of a ConfigMap or Secret as variables."""

    prefix: str = ""
    config_map_ref: ObjectRef | None = None
    secret_ref: ObjectRef | None = None


class VolumeMount(Struct, frozen=True, rename="camel"):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    read_only: bool = False


class ContainerPort(Struct, frozen=True, rename="camel"):
    """A declared port."""

    container_port: int
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    name: str = ""
    host_port: int = 0


class ResourceRequirements(Struct, frozen=True, rename="camel"):
    """Requests and limits as quantities."""

    requests: dict[str, str | int] = {}
    limits: dict[str, str | int] = {}


class SecurityContext(Struct, frozen=True, rename="camel"):
    """Of a pod or a container, as far as it is honoured."""

    run_as_user: int | None = None
    run_as_group: int | None = None


class Container(Struct, frozen=True, rename="camel"):
    """A container or init container."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    security_context: SecurityContext = SecurityContext()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class EmptyDirSource(Struct, frozen=True, rename="camel"):
    """Scratch space."""

    medium: str = ""
    size_limit: str | int | None = None


class ConfigMapSource(Struct, frozen=True, rename="camel"):
    """A ConfigMap's keys as files."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretSource(Struct, frozen=True, rename="camel"):
    """A Secret's keys as files; as a volume it says `secretName`, in a projection `name`."""

    secret_name: str = ""
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class DownwardItem(Struct, frozen=True, rename="camel"):
    """A field of the pod as a file."""

    path: str
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardSource(Struct, frozen=True, rename="camel"):
    """Fields of the pod as files."""

    items: tuple[DownwardItem, ...] = ()
    default_mode: int = 0o644


class TokenProjection(Struct, frozen=True, rename="camel"):
    """A service-account token as a file."""

    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class Projection(Struct, frozen=True, rename="camel"):
    """One source of a projected volume."""

    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: TokenProjection | None = None


class ProjectedSource(Struct, frozen=True, rename="camel"):
    """Several sources in one directory."""

    sources: tuple[Projection, ...] = ()
    default_mode: int = 0o644


class Volume(Struct, frozen=True, rename="camel"):
    """A volume; one of its sources is set, or one that is not honoured."""

    name: str
    empty_dir: EmptyDirSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    projected: ProjectedSource | None = None


class DnsOption(Struct, frozen=True, rename="camel"):
    """One option of resolv.conf."""

    name: str = ""
    value: str | None = None


class DnsConfig(Struct, frozen=True, rename="camel"):
    """What a pod adds to resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class HostAliasEntry(Struct, frozen=True, rename="camel"):
    """One line of /etc/hosts."""

    ip: str = ""
    hostnames: tuple[str, ...] = ()


class PodOs(Struct, frozen=True):
    """The operating system a pod is made for; "" for any."""

    name: str = ""


class PodSpec(Struct, frozen=True, rename="camel"):
    """The fields of a PodSpec that a virtual node acts on."""

    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    node_name: str = ""
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    service_account_name: str = ""
    enable_service_links: bool = True
    hostname: str = ""
    subdomain: str = ""
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = DnsConfig()
    host_aliases: tuple[HostAliasEntry, ...] = ()
    image_pull_secrets: tuple[ObjectRef, ...] = ()
    security_context: SecurityContext = SecurityContext()
    node_selector: dict[str, str] = {}
    affinity: Raw = Raw(b"{}")
    tolerations: Raw = Raw(b"[]")
    overhead: dict[str, str | int] = {}
    os: PodOs = PodOs()
