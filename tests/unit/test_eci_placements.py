"""Which vSwitches and security groups are left out, and after whose refusals; when a spot instance is given up."""

import json

import pytest

from overspill.backends.eci.faults import NoRoom, fault
from overspill.backends.eci.options import read_options
from overspill.backends.eci.placements import Placements
from overspill.model.work import Container, Identity, WorkSpec

OPTIONS = read_options({"region": "cn-hangzhou", "vSwitchIds": "vsw-a", "securityGroupIds": "sg-a"})
FULL = {
    "eci-vswitch": ("NoAddress", "InvalidVSwitchId.IpNotEnough"),
    "eci-security-group": ("QuotaExceeded", "SecurityGroupInstanceLimitExceed"),
}


def work(**annotations):
    identity = Identity("cluster", "vn-0", "shop", "web", "uid")
    annotations = {f"k8s.aliyun.com/{name}": value for name, value in annotations.items()}
    containers = (Container("web", "nginx:1"),)
    return WorkSpec(identity=identity, hostname="web", containers=containers, annotations=annotations)


def refused(placements, pod, *, full):
    """Place a pod, and have ECI refuse it; whether it may be asked for elsewhere at once."""
    error = NoRoom(f"({FULL[full][1]})")
    error.reason, error.code = FULL[full]
    return placements.next_after(error, work=pod, placement=placements.choose(pod, spot=True))


@pytest.mark.parametrize("full", FULL)
def test_what_is_full_is_left_out(full):
    placements = Placements(OPTIONS)
    assert not refused(placements, work(), full=full)
    assert placements.choose(work(), spot=True) is None


@pytest.mark.parametrize("full", FULL)
def test_a_full_resource_that_a_pod_names_itself_turns_no_other_pod_away(full):
    placements = Placements(OPTIONS)
    assert not refused(placements, work(**{full: "its-own"}), full=full)
    assert placements.choose(work(), spot=True) is not None


SPOT = {"eci-spot-strategy": "SpotAsPriceGo"}


@pytest.mark.parametrize(
    "code", ["Spot.NotMatched", "InvalidSpotCpuMemorySpec", "InvalidInstanceTypeForEciBuy"]
)
def test_spot_is_given_up_at_once_by_pods_that_allow_it(code):
    body = json.dumps({"Code": code, "Message": "no", "RequestId": "REQ"}).encode()
    error = fault("CreateContainerGroup", status=400, body=body, headers={})
    placements, pod, stubborn = (
        Placements(OPTIONS),
        work(**SPOT, **{"eci-spot-fallback": "true"}),
        work(**SPOT),
    )
    assert placements.next_after(error, work=pod, placement=placements.choose(pod, spot=True))
    assert not placements.next_after(error, work=pod, placement=placements.choose(pod, spot=False))
    assert not placements.next_after(error, work=stubborn, placement=placements.choose(stubborn, spot=True))
