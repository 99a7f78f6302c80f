"""PersistentVolumeClaims: the volume that a pod which names one is given.

In: a claim and what is behind it. Out: a volume of `model/work`. Pure. Invariant: a volume counts only if
it says itself that it is bound to this very claim.
Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/; words of the kubelet
(pkg/kubelet/volumemanager/populator).
"""

from overspill.agent.scope import Unresolved
from overspill.errors import Unsupported
from overspill.model.claims import Claimed, CsiSource, PersistentVolume
from overspill.model.work import CsiVolume, FlexVolume, Nfs, Volume

__all__ = ["claimed_volume"]


def claimed_volume(found: Claimed, where: str) -> tuple[Volume, bool]:
    """The volume, and whether it may only be read; `where` is the path of the pod's field.

    Raises:
        Unresolved: the claim is not bound (yet), or something behind it is missing.
        Unsupported: what is behind it is of a kind that is not honoured.
    """
    volume = _bound(found)
    spec = volume.spec
    if spec.volume_mode != "Filesystem":
        raise _unsupported(volume, where, f"its volumeMode is {spec.volume_mode}")
    if spec.csi is not None:
        return _csi(spec.csi, found, volume, where), spec.csi.read_only
    if spec.mount_options and (spec.nfs or spec.flex_volume):
        raise _unsupported(volume, where, "it has mountOptions, which only volumes of CSI drivers are given")
    if spec.nfs is not None:
        return Nfs(spec.nfs.server, spec.nfs.path), spec.nfs.read_only
    if spec.flex_volume is not None:
        flex = spec.flex_volume
        if flex.secret_ref is not None:
            raise _unsupported(volume, where, "its flexVolume has a secretRef")
        return FlexVolume(flex.driver, flex.fs_type, options=flex.options), flex.read_only
    raise _unsupported(volume, where, "it is none of csi, nfs and flexVolume")


def _bound(found: Claimed) -> PersistentVolume:
    claim, volume = found.claim, found.volume
    if claim.status.phase != "Bound" or not claim.spec.volume_name:
        raise Unresolved(
            f'PVC {claim.metadata.name} has non-bound phase ("{claim.status.phase}") '
            f'or empty pvc.Spec.VolumeName ("{claim.spec.volume_name}")'
        )
    if volume is None:
        raise Unresolved(f'persistentvolume "{claim.spec.volume_name}" not found')
    if volume.spec.claim_ref.uid != claim.metadata.uid:
        raise Unresolved(f'PV "{volume.metadata.name}" is not bound to the claim "{claim.metadata.name}"')
    return volume


def _csi(csi: CsiSource, found: Claimed, volume: PersistentVolume, where: str) -> CsiVolume:
    if csi.node_stage_secret_ref is not None:
        raise _unsupported(volume, where, "its driver has a nodeStageSecretRef")
    name = csi.node_publish_secret_ref
    if name is not None and found.secret is None:
        raise Unresolved(f'secret "{name.namespace}/{name.name}" of PV "{volume.metadata.name}" not found')
    return CsiVolume(
        csi.driver,
        csi.volume_handle,
        csi.fs_type,
        csi.volume_attributes,
        volume.spec.mount_options,
        {key: value.decode(errors="replace") for key, value in (found.secret or {}).items()},
    )


def _unsupported(volume: PersistentVolume, where: str, why: str) -> Unsupported:
    message = f"{where}: PersistentVolume {volume.metadata.name} is not honoured: {why}"
    return Unsupported(message, fields=(where,))
