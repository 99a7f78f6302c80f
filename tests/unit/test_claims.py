"""What a pod that names a PersistentVolumeClaim is given, and what ECI makes of it."""

import json

import msgspec
import pytest
from podmaking import make_found, make_pod, work_of

from overspill.agent.references import references
from overspill.agent.spec import Missing
from overspill.backends.eci.refusals import refusals
from overspill.backends.eci.volumes import volume as eci_volume
from overspill.errors import Unsupported
from overspill.model.claims import Claim, Claimed, PersistentVolume
from overspill.model.work import CsiVolume, FlexVolume, Nfs

DISK, NAS, OSS = (f"{kind}plugin.csi.alibabacloud.com" for kind in ("disk", "nas", "oss"))
CLAIM = {
    "metadata": {"name": "data", "uid": "uid-1"},
    "spec": {"volumeName": "pv-1"},
    "status": {"phase": "Bound"},
}
BOUND = {"claimRef": {"uid": "uid-1", "name": "data"}}


def claimed(spec, *, secret=None, claim=CLAIM, bound=BOUND) -> Claimed:
    volume = {"metadata": {"name": "pv-1"}, "spec": bound | spec} if spec is not None else None
    return Claimed(
        msgspec.convert(claim, Claim),
        msgspec.convert(volume, PersistentVolume) if volume else None,
        secret,
    )


def work(found, **source):
    mount = {"name": "v", "mountPath": "/data"}
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "data", **source}}
    pod = make_pod({"volumeMounts": [mount]}, volumes=[volume])
    assert references(pod.decoded_spec()).claims == {"data"}
    return work_of(pod, msgspec.structs.replace(make_found(), claims={"data": found}))


def csi(driver, handle="d-1", **more):
    return {"csi": {"driver": driver, "volumeHandle": handle, **more}}


VOLUMES = {
    "a disk": (csi(DISK, fsType="ext4"), CsiVolume(DISK, "d-1", "ext4")),
    "with options": (
        csi(NAS, volumeAttributes={"server": "s"}) | {"mountOptions": ["vers=3"]},
        CsiVolume(NAS, "d-1", attributes={"server": "s"}, mount_options=("vers=3",)),
    ),
    "nfs": ({"nfs": {"server": "s", "path": "/p"}}, Nfs("s", "/p")),
    "flexVolume": (
        {"flexVolume": {"driver": "alicloud/disk", "options": {"volumeId": "d-2"}}},
        FlexVolume("alicloud/disk", options={"volumeId": "d-2"}),
    ),
}


@pytest.mark.parametrize(("spec", "volume"), VOLUMES.values(), ids=VOLUMES)
def test_a_claim_is_the_volume_behind_it(spec, volume):
    made = work(claimed(spec))
    assert made.volumes == {"v": volume}
    assert not made.containers[0].mounts[0].read_only


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        (csi(DISK), {"readOnly": True}),
        (csi(DISK, readOnly=True), {}),
        ({"nfs": {"server": "s", "path": "/p", "readOnly": True}}, {}),
    ],
)
def test_what_may_only_be_read_is_mounted_so(spec, source):
    assert work(claimed(spec), **source).containers[0].mounts[0].read_only


def test_a_secret_of_the_driver_is_handed_on_and_shows_in_no_repr():
    spec = csi(OSS, nodePublishSecretRef={"name": "keys", "namespace": "storage"})
    found = claimed(spec, secret={"akId": b"id", "akSecret": b"hidden"})
    volume = work(found).volumes["v"]
    assert volume.secret == {"akId": "id", "akSecret": "hidden"}
    assert "hidden" not in repr((found, volume))


WAITING = {
    "no claim": (None, "failed to fetch PVC from API server: persistentvolumeclaims 'data' not found"),
    "not bound": (
        claimed(None, claim={"metadata": {"name": "data"}, "status": {"phase": "Pending"}}),
        'PVC data has non-bound phase ("Pending") or empty pvc.Spec.VolumeName ("")',
    ),
    "no volume": (claimed(None), 'persistentvolume "pv-1" not found'),
    "another's volume": (
        claimed(csi(DISK), bound={"claimRef": {"uid": "uid-2"}}),
        'PV "pv-1" is not bound to the claim "data"',
    ),
    "no secret": (
        claimed(csi(OSS, nodePublishSecretRef={"name": "keys", "namespace": "storage"})),
        'secret "storage/keys" of PV "pv-1" not found',
    ),
}


@pytest.mark.parametrize(("found", "message"), WAITING.values(), ids=WAITING)
def test_a_pod_waits_for_what_is_missing(found, message):
    with pytest.raises(Missing) as raised:
        work(found)
    assert str(raised.value) == f'MountVolume.SetUp failed for volume "v" : {message}'
    assert raised.value.event == "FailedMount"


def test_a_secret_is_looked_for_only_if_the_volume_is_the_claims():
    spec = csi(OSS, nodePublishSecretRef={"name": "keys", "namespace": "storage"})
    mine, others = claimed(spec), claimed(spec, bound={"claimRef": {"uid": "uid-2"}})
    assert mine.volume.secret_name(mine.claim).name == "keys"
    assert others.volume.secret_name(others.claim) is None


REFUSED = {
    "a block device": (csi(DISK) | {"volumeMode": "Block"}, "its volumeMode is Block"),
    "a local disk": ({}, "it is none of csi, nfs and flexVolume"),
    "nfs with options": (
        {"nfs": {"server": "s", "path": "/p"}, "mountOptions": ["ro"]},
        "it has mountOptions, which only volumes of CSI drivers are given",
    ),
    "staged with a secret": (
        csi(DISK, nodeStageSecretRef={"name": "a", "namespace": "b"}),
        "its driver has a nodeStageSecretRef",
    ),
}


@pytest.mark.parametrize(("spec", "why"), REFUSED.values(), ids=REFUSED)
def test_kinds_of_volumes_that_nobody_honours(spec, why):
    with pytest.raises(Unsupported) as raised:
        work(claimed(spec))
    field = "spec.volumes[0].persistentVolumeClaim"
    assert str(raised.value) == f"{field}: PersistentVolume pv-1 is not honoured: {why}"
    assert raised.value.fields == (field,)


# --- on ECI ---


NAS_OPTIONS = {"server": "s", "path": "/p", "vers": "3", "options": "nolock,tcp"}
ON_ECI = {
    "a disk": (CsiVolume(DISK, "d-1", "ext4"), "alicloud/disk", {"volumeId": "d-1"}),
    "a file system": (
        CsiVolume(
            NAS, "pv", attributes={"server": "s", "path": "/p"}, mount_options=("nolock,tcp", "vers=3")
        ),
        "alicloud/nas",
        NAS_OPTIONS,
    ),
    "its options among the attributes": (
        CsiVolume(
            NAS,
            "pv",
            attributes={
                "server": "s",
                "path": "/p",
                "options": "nolock,tcp",
                "vers": "3",
                "volumeAs": "subpath",
            },
        ),
        "alicloud/nas",
        NAS_OPTIONS,
    ),
    "a bucket": (
        CsiVolume(
            OSS,
            "pv",
            attributes={"bucket": "b", "url": "u", "otherOpts": "-o allow_other", "fuseType": "ossfs"},
            secret={"akId": "i", "akSecret": "s", "more": "x"},
        ),
        "alicloud/oss",
        {"bucket": "b", "url": "u", "otherOpts": "-o allow_other", "akId": "i", "akSecret": "s"},
    ),
}


@pytest.mark.parametrize(("volume", "driver", "options"), ON_ECI.values(), ids=ON_ECI)
def test_alibabas_volumes_are_eci_flex_volumes(volume, driver, options):
    sent = eci_volume("v", volume)["FlexVolume"]
    assert sent["Driver"] == driver
    assert json.loads(sent["Options"]) == options


NOT_ON_ECI = {
    "another driver": (
        CsiVolume("ebs.csi.aws.com", "vol-1"),
        f"of CSI drivers ECI has {DISK}, {NAS} and {OSS} only",
    ),
    "a disk with options": (CsiVolume(DISK, "d", mount_options=("ro",)), "ECI's disks take no mountOptions"),
    "no server": (CsiVolume(NAS, "pv"), "the volume has no server"),
    "a protocol": (
        CsiVolume(NAS, "pv", attributes={"server": "s", "mountProtocol": "efc"}),
        "ECI mounts volumes with mountProtocol nfs only, not efc",
    ),
    "an attribute": (
        CsiVolume(OSS, "pv", attributes={"bucket": "b", "url": "u", "encrypted": "kms"}),
        "ECI has no word for the volume attribute encrypted",
    ),
    "no keys": (
        CsiVolume(OSS, "pv", attributes={"bucket": "b", "url": "u"}),
        "the volume has no akId and no akSecret",
    ),
}


@pytest.mark.parametrize(("volume", "why"), NOT_ON_ECI.values(), ids=NOT_ON_ECI)
def test_what_eci_cannot_mount_is_refused_by_name(volume, why):
    spec = msgspec.structs.replace(work(claimed(csi(DISK))), volumes={"v": volume})
    (refusal,) = refusals(spec)
    assert refusal.field == "spec.volumes[v].persistentVolumeClaim"
    assert refusal.why.startswith(why)


def test_a_pod_has_six_disks_at_most():
    disks = {f"v{number}": CsiVolume(DISK, f"d-{number}") for number in range(7)}
    spec = msgspec.structs.replace(work(claimed(csi(DISK))), volumes=disks)
    assert [str(each) for each in refusals(spec)] == ["spec.volumes: ECI attaches 6 disks to a pod, not 7"]
