"""Each of ECI's codes ends in the error that says what to do next."""

import pytest

from overspill.backends.eci.faults import ApiThrottled, NoRoom, TokenExpired, fault
from overspill.errors import Conflict, Misconfigured, NotFound, Rejected, Retry, Throttled, Unsettled

CODES = {
    "Throttling": (400, Throttled),
    "Throttling.User": (400, Throttled),
    "OperationDenied.NoStock": (403, NoRoom),
    "Spot.NotMatched": (403, NoRoom),
    "RecommendEmpty.InstanceTypeFamilyNotMatched": (400, NoRoom),
    "Zone.NotOnSale": (403, NoRoom),
    "InvalidSpotCpuMemorySpec": (400, NoRoom),
    "InvalidInstanceTypeForEciBuy": (400, NoRoom),
    "InvalidInstanceTypeForEciSpotDurationBuy": (400, NoRoom),
    "InstanceTypeNotMatchCpuArch": (400, NoRoom),
    "QuotaExceeded": (403, NoRoom),
    "Throttling.Vcpu.PerDay": (403, NoRoom),
    "InvalidVSwitchId.IpNotEnough": (403, NoRoom),
    "SecurityGroupInstanceLimitExceed": (403, NoRoom),
    "OperationDenied.VswZoneMisMatch": (403, Misconfigured),
    "InvalidParameter.CPU.Memory": (400, Rejected),
    "InvalidParameter.ValueExceeded": (400, Rejected),
    "DiskVolume.NotInSameZone": (400, Rejected),
    "InvalidDiskId.NotFound": (404, Rejected),
    "IncorrectStatus": (400, Conflict),
    "OperationConflict": (400, Retry),
    "IdempotentParameterMismatch": (400, Conflict),
    "Account.Arrearage": (400, Misconfigured),
    "Eci.RiskControl": (403, Misconfigured),
    "NoPermission": (403, Misconfigured),
    "PrivateIpAddress.Already.InUse": (400, Misconfigured),
    "EipPurchaseFlowControl": (400, Misconfigured),
    "ImageSnapshot.IncorrectStatus": (400, Misconfigured),
    "Forbidden.SubUser": (403, Misconfigured),
    "InvalidAccessKeyId.NotFound": (404, Misconfigured),
    "SignatureDoesNotMatch": (400, Misconfigured),
    "InvalidTimeStamp.Expired": (400, Unsettled),
    "InvalidSecurityToken.Expired": (400, TokenExpired),
    "SignatureNonceUsed": (400, Retry),
    "InvalidRegionId.NotFound": (404, Misconfigured),
    "InvalidContainerGroupId.NotFound": (404, NotFound),
    "ServiceUnavailable": (503, Retry),
    "SomethingNew": (500, Retry),
    "SomethingWrong": (400, Rejected),
}


def refused(code, status=400, *, message="no", headers=None):
    body = b'{"RequestId":"REQ-1","Code":"%s","Message":"%s","HostId":"h"}' % (
        code.encode(),
        message.encode(),
    )
    return fault("DoThis", status=status, body=body, headers=headers or {})


@pytest.mark.parametrize(("code", "expected"), CODES.items(), ids=CODES)
def test_class_of(code, expected):
    status, kind = expected
    error = refused(code, status)
    assert isinstance(error, kind)
    assert (error.code, error.request_id) == (code, "REQ-1")
    assert code in str(error)
    assert "REQ-1" in str(error)
    assert "DoThis" in str(error)


def test_no_room_says_of_what():
    reasons = {code: refused(code, 403).reason for code, (_, kind) in CODES.items() if kind is NoRoom}
    assert set(reasons.values()) == {"NoStock", "QuotaExceeded", "NoAddress"}
    assert reasons["InvalidVSwitchId.IpNotEnough"] == "NoAddress"
    no_stock = {code for code, reason in reasons.items() if reason == "NoStock"}
    assert {code for code in reasons if "InstanceType" in code or "Spot" in code} <= no_stock


def test_throttling_says_when():
    error = refused("Throttling", headers={"x-acs-retry-after": "1500"})
    assert isinstance(error, ApiThrottled)
    assert error.retry_after == 1.5


def test_hints_name_the_next_step():
    assert "clock" in str(refused("InvalidTimeStamp.Expired"))
    assert "Quota Center" in str(refused("QuotaExceeded"))


def test_what_the_service_repeats_of_a_signature_is_not_told():
    error = refused("SignatureDoesNotMatch", message="server string to sign is: token-secret")
    assert "token-secret" not in str(error)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b'{"Code":"bad\xff"}'])
def test_an_answer_that_is_not_json(body):
    error = fault("DoThis", status=502, body=body, headers={})
    assert isinstance(error, Retry)
    assert "HTTP 502" in str(error)


@pytest.mark.parametrize("status", [302, 403, 404, 407, 413])
def test_an_answer_without_a_code_is_not_ecis(status):
    """A proxy or a load balancer before it, while it is changed."""
    for body in (b"<html>forbidden</html>", b'{"message":"no route"}', b""):
        assert isinstance(fault("DoThis", status=status, body=body, headers={}), Retry)
    assert isinstance(fault("DoThis", status=429, body=b"<html>", headers={}), Throttled)
