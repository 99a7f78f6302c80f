"""Volumes of Alibaba's CSI drivers as ECI's FlexVolumes, which are the same disks, file systems and buckets.

In: a volume of a CSI driver's. Out: a `FlexVolume`, or why ECI has none for it. Pure. Invariant: an
attribute that changes what a container sees is handed on, or refused by name.
Sources: ECI's pages on volumes; attributes of https://github.com/kubernetes-sigs/alibaba-cloud-csi-driver.
"""

from collections.abc import Collection, Mapping

from overspill.model.work import CsiVolume, FlexVolume

__all__ = ["DISK", "flex_volume", "refusal"]

DISK, NAS, OSS = (f"{kind}plugin.csi.alibabacloud.com" for kind in ("disk", "nas", "oss"))
# Attributes that are handed on; of those with a value here, that value alone is known to mean the same.
NAS_ATTRIBUTES = {"server": "", "path": "", "vers": "", "options": "", "mountProtocol": "nfs"}
OSS_ATTRIBUTES = {
    "bucket": "",
    "url": "",
    "path": "",
    "otherOpts": "",
    "akId": "",
    "akSecret": "",
    "authType": "aksk",
    "fuseType": "ossfs",
}
OSS_SECRETS = ("akId", "akSecret")
# How a volume was made, or is accounted for; nothing that a container sees depends on these.
MADE_BY = frozenset(
    {
        "archiveOnDelete",
        "csi.storage.k8s.io/pv/name",
        "csi.storage.k8s.io/pvc/name",
        "csi.storage.k8s.io/pvc/namespace",
        "fileSystemId",
        "storage.kubernetes.io/csiProvisionerIdentity",
        "volumeAs",
        "volumeCapacity",
    }
)


def flex_volume(csi: CsiVolume) -> FlexVolume:
    """The same volume as ECI knows it; `refusal` found nothing wrong with it."""
    if csi.driver == DISK:
        return FlexVolume("alicloud/disk", csi.fs_type, options={"volumeId": csi.handle})
    if csi.driver == NAS:
        return FlexVolume("alicloud/nas", options=_nas(csi))
    chosen = {name: value for name, value in csi.attributes.items() if OSS_ATTRIBUTES.get(name) == ""}
    keys = {name: csi.secret[name] for name in OSS_SECRETS if name in csi.secret}
    return FlexVolume("alicloud/oss", options=chosen | keys)


def refusal(csi: CsiVolume) -> str:
    """Why ECI cannot mount it; "" if it can."""
    if csi.driver == DISK:
        return "ECI's disks take no mountOptions" if csi.mount_options else ""
    if csi.driver == NAS:
        return _unknown(csi.attributes, NAS_ATTRIBUTES) or _missing(csi.attributes, ("server",))
    if csi.driver == OSS:
        return (
            _unknown(csi.attributes, OSS_ATTRIBUTES)
            or _missing(csi.attributes, ("bucket", "url"))
            or _missing({**csi.attributes, **csi.secret}, OSS_SECRETS)
            or ("ECI's buckets take otherOpts, not mountOptions" if csi.mount_options else "")
        )
    return f"of CSI drivers ECI has {DISK}, {NAS} and {OSS} only, not {csi.driver}"


def _nas(csi: CsiVolume) -> dict[str, str]:
    """Options of the mount, wherever the volume has them; the version stands apart."""
    texts = [csi.attributes.get("options", ""), *csi.mount_options]
    options = [word for text in texts for word in text.split(",") if word]
    versions = [word.partition("=")[2] for word in options if word.startswith(("vers=", "nfsvers="))]
    rest = [word for word in options if not word.startswith(("vers=", "nfsvers="))]
    wanted = {
        "server": csi.attributes["server"],
        "path": csi.attributes.get("path", "/"),
        "vers": versions[-1] if versions else csi.attributes.get("vers", ""),
        "options": ",".join(rest),
    }
    return {name: value for name, value in wanted.items() if value}


def _unknown(attributes: Mapping[str, str], known: Mapping[str, str]) -> str:
    for name, value in attributes.items():
        if name not in known and name not in MADE_BY:
            return f"ECI has no word for the volume attribute {name}"
        if known.get(name) and value and value != known[name]:
            return f"ECI mounts volumes with {name} {known[name]} only, not {value}"
    return ""


def _missing(found: Mapping[str, str], needed: Collection[str]) -> str:
    missing = [name for name in needed if not found.get(name)]
    return f"the volume has no {' and no '.join(missing)}" if missing else ""
