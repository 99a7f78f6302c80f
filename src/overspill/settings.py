"""Settings of the agent and of the controller: a file, overridden by the environment, overridden by flags.

In: YAML, `OVERSPILL_*` variables, flags. Out: one frozen `AgentSettings` or `ControllerSettings`.
Invariant: these Structs are the only lists of settings; the flags, their help and
docs/settings.md are made from them. An unknown key is an error, never ignored; but one file, or one
environment, may serve all programs, of which each takes its own.
"""

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from overspill.errors import Misconfigured
from overspill.model.quantity import parse_quantity

__all__ = [
    "EMULATOR_SECRET_VARIABLE",
    "AgentSettings",
    "ControllerSettings",
    "GuardSettings",
    "SettingInfo",
    "load_agent_settings",
    "load_controller_settings",
    "load_guard_settings",
    "setting_infos",
]

ENV_PREFIX = "OVERSPILL_"
# The emulator's, which has flags but no settings.
EMULATOR_SECRET_VARIABLE = f"{ENV_PREFIX}EMULATOR_ACCESS_KEY_SECRET"


def _about(group: str, text: str) -> Meta:
    return Meta(description=text, extra={"group": group})


Kubeconfig = Annotated[
    str, _about("Cluster", "Path of a kubeconfig; else $KUBECONFIG, the pod's own account, ~/.kube/config.")
]
Context = Annotated[str, _about("Cluster", "Context of the kubeconfig.")]
BackendOptions = Annotated[
    dict[str, str | int | float | bool],
    _about("Backend", "Settings of the backend, key=value; see its page."),
]
HealthAddress = Annotated[
    str, _about("Serving", "host:port of /livez, /readyz and /metrics; port 0 takes a free one.")
]
LeaseNamespace = Annotated[
    str,
    _about(
        "Cluster",
        "Where the Lease is by which the controller's replicas choose the one that works. Roles, alerts and"
        " `overspill placement status` know only the default.",
    ),
]
LeaseName = Annotated[
    str,
    _about(
        "Cluster",
        "Its name; two names make two that work. Roles, alerts and `overspill placement status` know only the"
        " default.",
    ),
]
BarePods = Annotated[
    Literal["wait", "evict"],
    _about(
        "Scale-in",
        "Pods without a controller, which nobody makes again: a node that is to go waits for their end, or evicts"
        " them as `kubectl drain --force` does.",
    ),
]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], _about("Logging", "Least level logged.")]
LogFormat = Annotated[Literal["text", "json"], _about("Logging", "Shape of a log line.")]


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """All settings of one agent, which is one virtual node."""

    node_name: Annotated[str, _about("Node", "Name of the virtual node; required.")] = ""
    node_ip: Annotated[
        str, _about("Node", "Address published as InternalIP, at which the apiserver reaches this agent.")
    ] = "127.0.0.1"
    pod_uid: Annotated[
        str,
        _about(
            "Node", "Uid of the pod that the agent runs in, which tells it from another pod of that name."
        ),
    ] = ""
    pod_namespace: Annotated[
        str,
        _about("Node", "Namespace of that pod; with it the agent knows the StatefulSet that it is one of."),
    ] = ""
    cpu: Annotated[str, _about("Node", "CPU capacity, as a quantity.")] = "6000"
    memory: Annotated[str, _about("Node", "Memory capacity, as a quantity.")] = "24Ti"
    ephemeral_storage: Annotated[str, _about("Node", "Ephemeral storage capacity, as a quantity.")] = "90Ti"
    pods: Annotated[int, _about("Node", "How many pods the node takes."), Meta(ge=1)] = 3000
    labels: Annotated[dict[str, str], _about("Node", "Labels of the node beside its own, key=value.")] = {}
    taint: Annotated[
        bool, _about("Node", "Taint the node, so that only pods that tolerate virtual nodes come here.")
    ] = True
    cluster_dns: Annotated[
        list[str],
        _about(
            "Node", "Name servers of pods with dnsPolicy ClusterFirst; found from Service kube-dns if empty."
        ),
    ] = []
    cluster_domain: Annotated[str, _about("Node", "DNS domain of the cluster.")] = "cluster.local"
    kubeconfig: Kubeconfig = ""
    context: Context = ""
    backend: Annotated[str, _about("Backend", "Where pods run: a backend's name.")] = "simulated"
    backend_options: BackendOptions = {}
    health_address: HealthAddress = "127.0.0.1:10256"
    kubelet_address: Annotated[
        str,
        _about("Serving", "host:port of the kubelet API, for kubectl and scrapers; port 0 takes a free one."),
    ] = "0.0.0.0:10250"
    kubelet_certificate: Annotated[
        Literal["csr", "self-signed", "files"],
        _about(
            "Serving", "Who vouches for the kubelet API: the cluster, once approved; nobody; or two files."
        ),
    ] = "csr"
    kubelet_certificate_file: Annotated[
        str, _about("Serving", "PEM file of the certificate, with kubeletCertificate files.")
    ] = ""
    kubelet_key_file: Annotated[
        str, _about("Serving", "PEM file of its private key, with kubeletCertificate files.")
    ] = ""
    kubelet_websockets: Annotated[
        bool,
        _about(
            "Serving", "Take kubectl's WebSockets as they are, and declare it; else the apiserver translates."
        ),
    ] = False
    workers: Annotated[int, _about("Work", "Pods reconciled at the same time."), Meta(ge=1)] = 8
    status_writers: Annotated[
        int, _about("Work", "Status writes in flight at the same time."), Meta(ge=1)
    ] = 16
    bare_pods: BarePods = "wait"
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        for field in ("cpu", "memory", "ephemeral_storage"):
            if parse_quantity(getattr(self, field)) < 0:
                raise ValueError(f"{field} must not be negative")
        for key, address in (
            ("healthAddress", self.health_address),
            ("kubeletAddress", self.kubelet_address),
        ):
            _check_address(key, address)
        files = (self.kubelet_certificate_file, self.kubelet_key_file)
        if any(files) if self.kubelet_certificate != "files" else not all(files):
            raise ValueError(
                "kubeletCertificateFile and kubeletKeyFile go with kubeletCertificate files, and it with both"
            )

    def require_node_name(self) -> str:
        """The node's name, checked.

        Raises:
            Misconfigured: it is missing or not a DNS-1123 subdomain.
        """
        if not self.node_name:
            raise Misconfigured("the virtual node needs a name: give --node-name or OVERSPILL_NODE_NAME")
        if len(self.node_name) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", self.node_name):
            raise Misconfigured(
                f"{self.node_name!r} cannot name a node: use lower case letters, digits, '-' and '.'"
            )
        return self.node_name


class ControllerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """All settings of one replica of the controller."""

    kubeconfig: Kubeconfig = ""
    context: Context = ""
    lease_namespace: LeaseNamespace = "kube-system"
    lease_name: LeaseName = "overspill-controller"
    backend: Annotated[
        str, _about("Backend", "Where the agents run pods, to look for orphans there; nowhere if empty.")
    ] = ""
    backend_options: BackendOptions = {}
    orphan_policy: Annotated[
        Literal["delete", "report"],
        _about("Orphans", "What becomes of container groups without a pod: deleted, or only told of."),
    ] = "delete"
    orphan_quiet_seconds: Annotated[
        float, _about("Orphans", "How long a group must have been an orphan."), Meta(ge=0)
    ] = 300.0
    orphan_period_seconds: Annotated[
        float, _about("Orphans", "From one look at all groups to the next."), Meta(ge=0.1)
    ] = 60.0
    orphan_deletions_per_minute: Annotated[
        int, _about("Orphans", "How many groups are deleted in any minute, at most."), Meta(ge=1)
    ] = 30
    bare_pods: BarePods = "wait"
    health_address: HealthAddress = "127.0.0.1:10259"
    webhook_address: Annotated[
        str,
        _about(
            "Serving",
            "host:port of the webhook for apiservers without MutatingAdmissionPolicy (before 1.36); none if empty.",
        ),
    ] = ""
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        _check_address("healthAddress", self.health_address)
        if self.webhook_address:
            _check_address("webhookAddress", self.webhook_address)


class GuardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """All settings of the guard, which lets pods go while no controller leads."""

    kubeconfig: Kubeconfig = ""
    context: Context = ""
    lease_namespace: LeaseNamespace = "kube-system"
    lease_name: LeaseName = "overspill-controller"
    health_address: HealthAddress = "127.0.0.1:10260"
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        _check_address("healthAddress", self.health_address)


SETTINGS = (AgentSettings, ControllerSettings, GuardSettings)
S = TypeVar("S", AgentSettings, ControllerSettings, GuardSettings)


def _check_address(key: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 0xFFFF:
        raise ValueError(f"{key} must be host:port, not {address!r}")


class SettingInfo(Struct, frozen=True):
    """One setting, for flags and documentation."""

    name: str
    group: str
    text: str
    kind: Any
    default: Any

    @property
    def key(self) -> str:
        """Its name in a settings file."""
        return re.sub(r"_(.)", lambda match: match[1].upper(), self.name)

    @property
    def env(self) -> str:
        """Its environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its flag; one that is repeated for each entry of a mapping stands in the singular."""
        name = self.name.removesuffix("s") if get_origin(self.kind) is dict else self.name
        return "--" + name.replace("_", "-")

    @property
    def metavar(self) -> str:
        """What its value is, in a word."""
        origin = get_origin(self.kind)
        if origin is Literal:
            return "|".join(get_args(self.kind))
        scalars = {int: "INTEGER", float: "NUMBER", bool: "true|false"}
        return {dict: "KEY=VALUE", list: "TEXT"}.get(origin) or scalars.get(self.kind, "TEXT")


def setting_infos(kind: type[Struct] = AgentSettings) -> list[SettingInfo]:
    """Every setting in the order of the Struct."""
    hints = get_type_hints(kind, include_extras=True)
    infos = []
    for field in msgspec.structs.fields(kind):
        type_, *metas = get_args(hints[field.name])
        about = next(meta for meta in metas if meta.description)
        default = field.default_factory() if callable(field.default_factory) else field.default
        infos.append(SettingInfo(field.name, about.extra["group"], about.description, type_, default))
    return infos


def _load(
    kind: type[S],
    path: str | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> S:
    """Settings from a YAML file, `OVERSPILL_*` variables and flags (by field name; None: not given).

    Raises:
        Misconfigured: the file cannot be read, a key is unknown, or a value is wrong; names key and source.
    """
    infos = setting_infos(kind)
    merged: dict[str, Any] = {}
    for source, values in (
        (f"settings file {path}", _from_file(path, infos) if path else {}),
        ("environment", _from_environment(environ, infos)),
        ("flags", _from_flags(flags or {}, infos)),
    ):
        _convert(kind, values, source=source)
        merged |= values
    return _convert(kind, merged, source="settings")


load_agent_settings = partial(_load, AgentSettings)
load_controller_settings = partial(_load, ControllerSettings)
load_guard_settings = partial(_load, GuardSettings)


def _convert(kind: type[S], values: Mapping[str, Any], *, source: str) -> S:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{source}: {error}") from error


def _from_file(path: str, infos: Sequence[SettingInfo]) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - 1 MB; an agent in a cluster reads no file of this kind

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"settings file {path} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise Misconfigured(f"settings file {path} must hold key: value pairs")
    others = {info.key for kind in SETTINGS for info in setting_infos(kind)} - {info.key for info in infos}
    return {key: value for key, value in values.items() if key not in others}


def _from_environment(environ: Mapping[str, str], infos: Sequence[SettingInfo]) -> dict[str, Any]:
    known = {info.env: info for info in infos}
    others = {info.env for kind in SETTINGS for info in setting_infos(kind)} | {EMULATOR_SECRET_VARIABLE}
    unknown = sorted({name for name in environ if name.startswith(ENV_PREFIX)} - others)
    if unknown:
        raise Misconfigured(f"environment: unknown setting {', '.join(unknown)}; see `overspill settings`")
    return {info.key: _split(info, environ[name]) for name, info in known.items() if name in environ}


def _from_flags(flags: Mapping[str, Any], infos: Sequence[SettingInfo]) -> dict[str, Any]:
    known = {info.name: info for info in infos}
    return {
        known[name].key: _split(known[name], value)
        for name, value in flags.items()
        if value not in (None, [])
    }


def _split(info: SettingInfo, value: Any) -> Any:
    """Lists and mappings as they stand in a variable (`a,b`) or repeated flags (`[a, b]`)."""
    origin = get_origin(info.kind)
    if origin not in (list, dict):
        return value
    items = [part for part in value.split(",") if part] if isinstance(value, str) else list(value)
    if origin is list:
        return items
    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise Misconfigured(f"{info.flag}: {wrong[0]!r} is not key=value")
    return dict(item.split("=", 1) for item in items)
