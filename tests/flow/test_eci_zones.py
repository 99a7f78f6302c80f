"""Region and zone of a node from its vSwitches, which the VPC's API tells."""

import pytest
from emulators import KEY, Rig, emulator

from overspill.backends.eci.backend import EciBackend
from overspill.backends.eci.zones import labels_of

REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"
DISKS = "topology.diskplugin.csi.alibabacloud.com/zone"


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)


async def labels(rig: Rig, v_switches: str, **more: str) -> dict[str, str]:
    endpoint = rig.endpoint.endpoint
    options = {"region": "cn-hangzhou", "endpoint": endpoint, "vSwitchIds": v_switches, **more}
    return dict(await EciBackend(cluster="c", node="n", options=options).node_labels())


async def test_labels_are_those_of_the_vswitches(tmp_path):
    async with emulator(tmp_path) as rig:
        vpc = {"vpcEndpoint": rig.endpoint.endpoint}
        zone = "cn-hangzhou-h"
        assert await labels(rig, "vsw-a", **vpc) == {REGION: "cn-hangzhou", ZONE: zone, DISKS: zone}
        assert await labels(rig, "vsw-a,vsw-b", **vpc) == {REGION: "cn-hangzhou"}


async def test_what_cannot_be_found_out_holds_nothing_up(tmp_path):
    async with emulator(tmp_path) as rig:
        vpc = {"vpcEndpoint": rig.endpoint.endpoint}
        assert await labels(rig, "vsw-a,vsw-none", **vpc) == {REGION: "cn-hangzhou"}
        denied = {"kind": "error", "code": "NoPermission", "status": 403}
        await rig.admin("POST", "/faults", denied | {"actions": ["DescribeVSwitchAttributes"]})
        assert await labels(rig, "vsw-a", **vpc) == {REGION: "cn-hangzhou"}


async def test_an_endpoint_alone_is_asked_for_groups_only(tmp_path):
    async with emulator(tmp_path) as rig:
        assert await labels(rig, "vsw-a") == {REGION: "cn-hangzhou"}
        assert "DescribeVSwitchAttributes" not in (await rig.admin("GET", "/status"))["calls"]


def test_only_one_zone_is_a_label():
    assert labels_of("r", {"z"}) == {REGION: "r", ZONE: "z", DISKS: "z"}
    assert labels_of("r", {"y", "z"}) == labels_of("r", set()) == {REGION: "r"}
