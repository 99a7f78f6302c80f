"""What ECI's API refuses with: code, HTTP status and message.

In: a code and what the message names. Out: `Refused`, which `api` writes as the service's error body.
Invariant: a code and its HTTP status stand together in one table, so that no handler can mix them up.
Source: the error codes of ECI 2018-08-08 and of the API gateway in front of it; codes that the public
documentation does not give are marked as such, and docs/emulator.md lists them.
"""

from overspill.errors import Rejected

__all__ = ["STATUS", "Refused"]

STATUS = {
    # The gateway's.
    "MissingParameter": 400,
    "InvalidParameter": 400,
    "InvalidAction.NotFound": 404,
    "InvalidVersion": 400,
    "InvalidRegionId.NotFound": 404,
    "UnsupportedHTTPMethod": 405,
    "InvalidFormat": 400,
    "MissingAccessKeyId": 400,
    "MissingSignature": 400,
    "InvalidAccessKeyId.NotFound": 404,
    "SignatureDoesNotMatch": 400,
    "SignatureNonceUsed": 400,
    "InvalidTimeStamp.Expired": 400,
    "InvalidTimeStamp.Format": 400,
    "InvalidSignatureMethod": 400,
    "MissingSecurityToken": 400,
    "InvalidSecurityToken.Malformed": 400,
    "InvalidSecurityToken.Expired": 400,
    "Throttling": 400,
    "Throttling.User": 400,
    "Throttling.Api": 400,
    "Throttling.Vcpu.PerDay": 403,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    # ECI's.
    "InvalidParameter.CPU.Memory": 400,
    "InvalidParameter.DuplicatedName": 400,
    "InvalidParameter.DuplicatedVolumeName": 400,
    "InvalidParameter.ValueExceeded": 400,
    "InvalidInstanceTypeForEciBuy": 400,
    "InvalidVolumeType": 400,
    "IdempotentParameterMismatch": 400,
    "IncorrectStatus": 400,
    "OperationConflict": 400,
    "DryRunOperation": 400,
    "QuotaExceeded": 403,
    "OperationDenied.NoStock": 403,
    "OperationDenied.VswZoneMisMatch": 403,
    "OperationDenied.SecurityGroupMisMatch": 403,
    "Zone.NotOnSale": 403,
    "Spot.NotMatched": 403,
    "InvalidVSwitchId.IpNotEnough": 403,
    "SecurityGroupInstanceLimitExceed": 403,
    "PrivateIpAddress.Already.InUse": 400,
    "ImageSnapshot.NotFound": 404,
    "ImageSnapshot.IncorrectStatus": 400,
    # Not given by the documentation, chosen after the pattern of the others.
    "InvalidVSwitchId.NotFound": 404,
    "InvalidSecurityGroupId.NotFound": 404,
    "InvalidContainerGroupId.NotFound": 404,
    "InvalidImageCacheId.NotFound": 404,
    "InvalidNextToken": 400,
    # Ours: the service can do it, the engine behind the emulator cannot.
    "NotEmulated": 400,
}


class Refused(Rejected):
    """The request ends with an error body.

    Attributes:
        code: ECI's word for it.
        status: the HTTP status.
        retry_after: milliseconds for the header `x-acs-retry-after`; 0 leaves it out.
    """

    def __init__(self, code: str, message: str, *, status: int = 0, retry_after: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or STATUS.get(code, 400)
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The text of the error body."""
        return str(self)
