"""The parts of a v1.Pod that are read here, decoded lazily.

In: a watch event's or list's bytes. Out: `Pod`, small enough to keep 3,000 of
them, whose spec stays encoded until somebody needs it. Invariant: a kept Pod
owns its bytes (`Pod.kept`), so that it does not pin the buffer it came from.
Source: k8s.io/api/core/v1/types.go.
"""

from functools import lru_cache
from sys import intern
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from overspill.model.podlife import Lifecycle, Probe, RestartRule
from overspill.model.podvolumes import ObjectFieldSelector, ResourceFieldSelector, Volume

__all__ = [
    "ConfigMapKeySelector",
    "Container",
    "EnvFromSource",
    "EnvVar",
    "EnvVarSource",
    "EphemeralContainer",
    "Meta",
    "OwnerReference",
    "Pod",
    "PodHeadStatus",
    "PodSpec",
    "VolumeMount",
]


@lru_cache(maxsize=1024)
def _raw(content: bytes) -> Raw:
    return Raw(content)


def _shared(content: Raw) -> Raw:
    """The same with bytes of its own, kept once for all pods of one template."""
    return _raw(bytes(content))


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
    """What is read back of a pod's status: enough to know whether it has ended, and when it began.

    Attributes:
        conditions: still encoded; kept of pods with readiness gates only, of these never empty.
        mark: tells a status from one with another phase or other conditions, as a hash.
    """

    phase: str = ""
    start_time: str | None = None
    conditions: Raw = Raw(b"")
    mark: int = 0

    def kept(self, *, gated: bool) -> "PodHeadStatus":
        """The same with bytes of its own."""
        found = bytes(self.conditions)
        conditions = Raw(found or b"[]") if gated else Raw(b"")
        return PodHeadStatus(self.phase, self.start_time, conditions, hash((self.phase, found)))


class Pod(Struct, gc=False):
    """A pod as the cache keeps it."""

    metadata: Meta
    spec: Raw = Raw(b"{}")
    status: PodHeadStatus = PodHeadStatus()

    def kept(self) -> "Pod":
        """This pod with bytes of its own; call before caching (a Raw pins its whole event)."""
        meta = self.metadata
        meta.namespace = intern(meta.namespace)
        meta.labels = _shared(meta.labels)
        meta.annotations = _shared(meta.annotations)
        meta.owner_references = _shared(meta.owner_references)
        self.spec = self.spec.copy()
        self.status = self.status.kept(gated=b'"readinessGates"' in bytes(self.spec))
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


class ConfigMapKeySelector(Struct, frozen=True, rename="camel"):
    """A key of a ConfigMap or Secret."""

    key: str
    name: str = ""
    optional: bool = False


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
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: Literal["None", "HostToContainer", "Bidirectional"] = "None"


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


class ResizePolicy(Struct, frozen=True, rename="camel"):
    """Whether a container has to be restarted when a resource of it changes."""

    resource_name: str
    restart_policy: str = "NotRequired"


class Capabilities(Struct, frozen=True):
    """Linux capabilities beside the usual ones, and those of these that are not wanted."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Struct, frozen=True):
    """Which system calls are let through."""

    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]


class Sysctl(Struct, frozen=True):
    """A kernel parameter."""

    name: str
    value: str


class SecurityContext(Struct, frozen=True, rename="camel"):
    """Of a pod (with sysctls and groups) or a container, as far as it is honoured."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool = True
    capabilities: Capabilities = Capabilities()
    seccomp_profile: SeccompProfile | None = None
    sysctls: tuple[Sysctl, ...] = ()
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: Literal["Merge", "Strict"] = "Merge"


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
    resize_policy: tuple[ResizePolicy, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    security_context: SecurityContext = SecurityContext()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    restart_policy_rules: tuple[RestartRule, ...] = ()
    lifecycle: Lifecycle = Lifecycle()
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: Literal["File", "FallbackToLogsOnError"] = "File"


class EphemeralContainer(Container, frozen=True, rename="camel"):
    """A container that was added to a running pod."""

    target_container_name: str = ""


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
    set_hostname_as_fqdn: bool = msgspec.field(name="setHostnameAsFQDN", default=False)
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = DnsConfig()
    host_aliases: tuple[HostAliasEntry, ...] = ()
    image_pull_secrets: tuple[ObjectRef, ...] = ()
    security_context: SecurityContext = SecurityContext()
    share_process_namespace: bool = False
    node_selector: dict[str, str] = {}
    affinity: Raw = Raw(b"{}")
    tolerations: Raw = Raw(b"[]")
    overhead: dict[str, str | int] = {}
    os: PodOs = PodOs()
