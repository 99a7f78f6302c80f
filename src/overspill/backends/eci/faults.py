"""What ECI's error codes mean for whoever called.

In: HTTP status, error body, header. Out: an error of the tree in `errors.py` that knows ECI's
code and RequestId. Pure. Invariant: every message holds code and RequestId, and none a secret.
Source: ECI's published error codes (API metadata) and those of the gateway before it.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from overspill.backends.eci.status import provision_reason
from overspill.errors import (
    Conflict,
    Misconfigured,
    NotFound,
    OverspillError,
    Rejected,
    Retry,
    Throttled,
    Unsettled,
)

__all__ = [
    "ApiConflict",
    "ApiError",
    "ApiMisconfigured",
    "ApiNotFound",
    "ApiRejected",
    "ApiRetry",
    "ApiThrottled",
    "ApiUnsettled",
    "NoRoom",
    "TokenExpired",
    "fault",
]

LONGEST_MESSAGE = 300


class ApiError(OverspillError):
    """ECI refused a call.

    Attributes:
        code: ECI's word for why.
        request_id: by which Alibaba's support finds the call.
    """

    code: str = ""
    request_id: str = ""


class ApiRetry(ApiError, Retry):
    """It may work later."""


class TokenExpired(ApiRetry):
    """The session's key has run out: a new one has to be fetched first."""


class NoRoom(ApiError, Retry):
    """There is no stock, quota or address for a group now.

    Attributes:
        reason: of the condition InstanceProvisioned=False.
    """

    reason: str = ""


class ApiThrottled(ApiError, Throttled):
    """Too many calls."""


class ApiNotFound(ApiError, NotFound):
    """What was named is not there."""


class ApiConflict(ApiError, Conflict):
    """The group's state does not allow it now, or the client token stands for another request."""


class ApiRejected(ApiError, Rejected):
    """The request is wrong."""


class ApiMisconfigured(ApiError, Misconfigured):
    """Keys, permissions, payment, networks: a person may have to act; the same request may work later."""


class ApiUnsettled(ApiMisconfigured, Unsettled):
    """A person, unless this machine has just started and its clock is still to be set."""


ROOM = (
    "OperationDenied.NoStock",
    "Zone.NotOnSale",
    "Spot.NotMatched",
    "RecommendEmpty.",
    "InvalidSpotCpuMemorySpec",
    "InvalidInstanceTypeForEci",
    "InstanceTypeNotMatchCpuArch",
    "QuotaExceeded",
    "Throttling.Vcpu.PerDay",
    "InvalidVSwitchId.IpNotEnough",
    "SecurityGroupInstanceLimitExceed",
)
LATER = (
    "OperationConflict",
    "Idempotence.Processing",
    "IdempotentProcessing",
    "ServiceUnavailable",
    "InternalError",
    "SignatureNonceUsed",
)
STATE = ("IncorrectStatus", "IncorrectOperation", "IdempotentParameterMismatch", "IdempotenceParamNotMatch")
PERSON = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAccessKeyId",
    "InvalidSecurityToken",
    "MissingSecurityToken",
    "NoPermission",
    "Forbidden",
    "InvalidUser.",
    "CreateServiceLinkedRole.Denied",
    "FeatureAccessRestricted",
    "RamRole.NotSupport",
    "Account.",
    "InvalidPaymentMethod",
    "Payfor.",
    "RISK.",
    "SecurityRisk.",
    "ServiceNotEnabled",
    "InvalidRegionId",
    "RegionDissolved",
    "InvalidVSwitchId.NotFound",
    "InvalidVSwitchId.Malformed",
    "InvalidSecurityGroupId",
    "OperationDenied.VswZoneMisMatch",
    "OperationDenied.SecurityGroupMisMatch",
    "InvalidOperation.ResourceManagedByCloudProduct",
    "InvalidAction",
    "InvalidVersion",
    "EipPayInsufficientBalance",
    # Whoever has it may be on its way out: the pod before this one, for one.
    "PrivateIpAddress.Already.InUse",
    # Pass by themselves, or not: a limit on new addresses, an image cache that is not ready.
    "EipPurchaseFlowControl",
    "ImageSnapshot.IncorrectStatus",
)
HINTS = {
    "InvalidAccessKeyId": "check ALIBABA_CLOUD_ACCESS_KEY_ID or the credentials file",
    "SignatureDoesNotMatch": "the access key's secret does not belong to its id",
    "InvalidTimeStamp": "this machine's clock is off by more than 15 minutes: set it, and have it kept by NTP",
    "NoPermission": "grant the RAM policy of docs/backends/eci.md",
    "Forbidden": "grant the RAM policy of docs/backends/eci.md",
    "InvalidRegionId": "check the backend's setting region",
    "InvalidVSwitchId.IpNotEnough": "add a vSwitch to the setting vSwitchIds",
    "InvalidVSwitchId": "check the setting vSwitchIds",
    "InvalidSecurityGroupId": "check the setting securityGroupIds",
    "SecurityGroupInstanceLimitExceed": "add a security group to the setting securityGroupIds",
    "QuotaExceeded": "raise the vCPU quota in Alibaba's Quota Center",
    "OperationDenied.NoStock": "allow other sizes by k8s.aliyun.com/eci-use-specs, or add a vSwitch of another zone",
    "PrivateIpAddress.Already.InUse": "another container group has the address still",
    "Account.Arrearage": "settle the account's bill",
}


class _Body(Struct, rename="pascal"):
    request_id: str = ""
    code: str = ""
    message: str = ""


def fault(action: str, *, status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer of 4xx or 5xx stands for."""
    told = _read(body)
    kind = _kind(told.code, status)
    text = "" if told.code == "SignatureDoesNotMatch" else told.message[:LONGEST_MESSAGE].rstrip()
    hint = _hint(told.code)
    message = (
        f"ECI {action}: {text or 'refused'} ({told.code or 'no code'}, HTTP {status}, "
        f"RequestId {told.request_id or 'none'})" + (f"; {hint}" if hint else "")
    )
    error = kind(message)
    error.code, error.request_id = told.code, told.request_id
    if isinstance(error, NoRoom):
        error.reason = provision_reason(told.code)
    if isinstance(error, ApiThrottled):
        error.retry_after = _retry_after(headers)
    return error


def _read(body: bytes) -> _Body:
    text = body.decode(errors="replace")
    try:
        return msgspec.json.decode(text, type=_Body, strict=False)
    except msgspec.MsgspecError:
        return _Body(message=text[:80])


def _kind(code: str, status: int) -> type[ApiError]:
    if code.startswith("InvalidSecurityToken.Expired"):
        return TokenExpired
    for prefixes, kind in (
        (ROOM, NoRoom),
        (("Throttling",), ApiThrottled),
        (LATER, ApiRetry),
        (STATE, ApiConflict),
        (("InvalidTimeStamp",), ApiUnsettled),
        (PERSON, ApiMisconfigured),
    ):
        if code.startswith(prefixes) or (kind is ApiMisconfigured and code.endswith(".RiskControl")):
            return kind
    if status == 429:
        return ApiThrottled
    # What has no code is not ECI's, but a proxy's or a load balancer's before it.
    if status >= 500 or not code:
        return ApiRetry
    return ApiNotFound if "ContainerGroup" in code and code.endswith("NotFound") else ApiRejected


def _hint(code: str) -> str:
    return next((hint for prefix, hint in HINTS.items() if code.startswith(prefix)), "")


def _retry_after(headers: Mapping[str, str]) -> float:
    """The gateway says it in milliseconds."""
    text = headers.get("x-acs-retry-after", "")
    return int(text) / 1000 if text.isdigit() else 0.0
