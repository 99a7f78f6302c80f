"""The volumes of a v1.PodSpec, and the selectors of a pod's own fields that they share with variables.

In: decoded as part of `model/pods.py`. Source: k8s.io/api/core/v1/types.go.
"""

import msgspec
from msgspec import Struct

__all__ = [
    "ClaimVolumeSource",
    "ConfigMapSource",
    "DownwardItem",
    "DownwardSource",
    "EmptyDirSource",
    "FlexVolumeSource",
    "KeyToPath",
    "NfsSource",
    "ObjectFieldSelector",
    "ProjectedSource",
    "Projection",
    "ResourceFieldSelector",
    "SecretSource",
    "TokenProjection",
    "Volume",
]


class ObjectFieldSelector(Struct, frozen=True, rename="camel"):
    """A field of the pod itself."""

    field_path: str
    api_version: str = "v1"


class ResourceFieldSelector(Struct, frozen=True, rename="camel"):
    """A container's limit or request."""

    resource: str
    container_name: str = ""
    divisor: str | int = "0"


class KeyToPath(Struct, frozen=True, rename="camel"):
    """One key of a ConfigMap or Secret as a file."""

    key: str
    path: str
    mode: int | None = None


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


class NfsSource(Struct, frozen=True, rename="camel"):
    """A directory of an NFS server."""

    server: str
    path: str
    read_only: bool = False


class FlexVolumeSource(Struct, frozen=True, rename="camel"):
    """A volume of some driver's."""

    driver: str
    fs_type: str = ""
    read_only: bool = False
    options: dict[str, str] = {}


class ClaimVolumeSource(Struct, frozen=True, rename="camel"):
    """A PersistentVolumeClaim of the pod's namespace."""

    claim_name: str
    read_only: bool = False


class Volume(Struct, frozen=True, rename="camel"):
    """A volume; one of its sources is set, or one that is not honoured."""

    name: str
    empty_dir: EmptyDirSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    projected: ProjectedSource | None = None
    nfs: NfsSource | None = None
    flex_volume: FlexVolumeSource | None = None
    persistent_volume_claim: ClaimVolumeSource | None = None
