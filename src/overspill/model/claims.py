"""PersistentVolumeClaims and PersistentVolumes, as far as they are read.

In: decoded from the API. Out: to `agent/claims.py`. Source: k8s.io/api/core/v1/types.go.
"""

from collections.abc import Mapping

from msgspec import Struct

from overspill.model.podvolumes import FlexVolumeSource, NfsSource

__all__ = [
    "Bound",
    "Claim",
    "ClaimMeta",
    "ClaimSpec",
    "ClaimStatus",
    "Claimed",
    "CsiSource",
    "PersistentFlexSource",
    "PersistentMeta",
    "PersistentSpec",
    "PersistentVolume",
    "SecretName",
]


class SecretName(Struct, frozen=True):
    """Where a volume's credentials are."""

    name: str = ""
    namespace: str = ""


class ClaimMeta(Struct, frozen=True):
    """What is read of a claim's metadata."""

    name: str
    uid: str = ""


class ClaimSpec(Struct, frozen=True, rename="camel"):
    """What is read of a claim's spec."""

    volume_name: str = ""


class ClaimStatus(Struct, frozen=True):
    """What is read of a claim's status."""

    phase: str = ""


class Claim(Struct, frozen=True):
    """A PersistentVolumeClaim."""

    metadata: ClaimMeta
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class Bound(Struct, frozen=True):
    """The claim that a volume says it is bound to; without a uid it is only meant for it."""

    uid: str = ""
    name: str = ""


class CsiSource(Struct, frozen=True, rename="camel"):
    """A volume of a CSI driver's."""

    driver: str
    volume_handle: str
    fs_type: str = ""
    read_only: bool = False
    volume_attributes: dict[str, str] = {}
    node_publish_secret_ref: SecretName | None = None
    node_stage_secret_ref: SecretName | None = None


class PersistentFlexSource(FlexVolumeSource, frozen=True, rename="camel"):
    """A FlexVolume with its credentials."""

    secret_ref: SecretName | None = None


class PersistentSpec(Struct, frozen=True, rename="camel"):
    """What is read of a volume's spec; of the kinds of volume, those that somebody honours."""

    claim_ref: Bound = Bound()
    mount_options: tuple[str, ...] = ()
    volume_mode: str = "Filesystem"
    csi: CsiSource | None = None
    nfs: NfsSource | None = None
    flex_volume: PersistentFlexSource | None = None


class PersistentMeta(Struct, frozen=True):
    """What is read of a volume's metadata."""

    name: str


class PersistentVolume(Struct, frozen=True):
    """A PersistentVolume."""

    metadata: PersistentMeta
    spec: PersistentSpec = PersistentSpec()

    def secret_name(self, claim: Claim) -> SecretName | None:
        """The Secret that its driver is to be given; None unless it is bound to this claim."""
        csi = self.spec.csi
        return csi.node_publish_secret_ref if csi and self.spec.claim_ref.uid == claim.metadata.uid else None


class Claimed(Struct, frozen=True):
    """A claim and what was found behind it; a volume or a Secret's content that is not there is None."""

    claim: Claim
    volume: PersistentVolume | None = None
    secret: Mapping[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"Claimed({self.claim.metadata.name!r})"
