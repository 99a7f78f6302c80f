"""Whether a request is signed by a key that is known, in time, and only once.

In: a request as it stood on the wire. Out: the access key id, or `Refused` with the service's code.
Invariant: a nonce is remembered only for requests whose signature is right, so that nobody without a key
can make another's request fail.
Sources: Alibaba's signature V3 (ACS3-HMAC-SHA256) and V1 (HMAC-SHA1) for RPC; both take the canonical
query from the decoded parameters, since clients differ in how they encode them on the wire.
"""

import base64
import calendar
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import quote

from msgspec import Struct

from overspill.emulator.refusals import Refused

__all__ = ["ALGORITHM", "SKEW", "AccessKey", "Nonces", "SignedRequest", "sign_v1", "sign_v3", "verify"]

ALGORITHM = "ACS3-HMAC-SHA256"
SKEW = 15 * 60.0  # seconds
MOST_NONCES = 200_000


class AccessKey(Struct, frozen=True):
    """A key pair; with `token` one of those that STS hands out. The secret stays out of repr."""

    id: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        return f"AccessKey({self.id!r})"


class SignedRequest(Struct, frozen=True):
    """What a signature covers. `headers` have lower-case names; `query` is decoded, the form body is not."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    form: Mapping[str, str] = {}


class Nonces:
    """The nonces of the last half hour; beyond a bound the oldest are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()

    def use(self, nonce: str, now: float) -> bool:
        """Take note of a nonce; False when it was used before."""
        while self._seen and (
            len(self._seen) >= MOST_NONCES or next(iter(self._seen.values())) < now - 2 * SKEW
        ):
            self._seen.popitem(last=False)
        if nonce in self._seen:
            return False
        self._seen[nonce] = now
        return True


def verify(request: SignedRequest, *, keys: Mapping[str, AccessKey], nonces: Nonces, now: float) -> str:
    """The id of the key that signed this request.

    Raises:
        Refused: it is not signed as it must be; the code says in what way.
    """
    if request.headers.get("authorization", "").startswith(ALGORITHM):
        return _verify_v3(request, keys, nonces, now)
    return _verify_v1(request, keys, nonces, now)


def _verify_v3(request: SignedRequest, keys: Mapping[str, AccessKey], nonces: Nonces, now: float) -> str:
    claims = dict(
        part.strip().partition("=")[::2]
        for part in request.headers["authorization"].removeprefix(ALGORITHM).split(",")
    )
    key = _key(keys, claims.get("Credential", ""))
    names = claims.get("SignedHeaders", "").split(";")
    missing = {"host", "x-acs-action", "x-acs-date"} - set(names)
    if missing:
        raise Refused("SignatureDoesNotMatch", f"The header {min(missing)} is not signed.")
    _check_time(request.headers.get("x-acs-date", ""), now)
    expected = sign_v3(request, signed_headers=names, secret=key.secret)
    if not hmac.compare_digest(expected, claims.get("Signature", "")):
        raise _mismatch(request.headers.get("x-acs-action", ""))
    _check_token(key, request.headers.get("x-acs-security-token", ""))
    _check_nonce(nonces, request.headers.get("x-acs-signature-nonce", ""), key, now)
    return key.id


def sign_v3(request: SignedRequest, *, signed_headers: list[str], secret: str) -> str:
    """The signature of ACS3-HMAC-SHA256 in hex; the body is hashed anew, whatever its header claims."""
    digest = hashlib.sha256(request.body).hexdigest()
    headers = dict(request.headers) | {"x-acs-content-sha256": digest}
    canonical = "\n".join(
        (
            request.method,
            request.path,
            _canonical_query(request.query),
            "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in sorted(signed_headers)),
            ";".join(signed_headers),
            digest,
        )
    )
    to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()


def _verify_v1(request: SignedRequest, keys: Mapping[str, AccessKey], nonces: Nonces, now: float) -> str:
    parameters = {**request.query, **request.form}
    if "Signature" not in parameters:
        raise Refused("MissingSignature", "The request is not signed.")
    key = _key(keys, parameters.get("AccessKeyId", ""))
    if (method := parameters.get("SignatureMethod", "HMAC-SHA1")) != "HMAC-SHA1":
        raise Refused("InvalidSignatureMethod", f"The signature method {method} is not supported.")
    _check_time(parameters.get("Timestamp", ""), now)
    expected = sign_v1(request.method, parameters, secret=key.secret)
    if not hmac.compare_digest(expected, parameters["Signature"]):
        raise _mismatch(parameters.get("Action", ""))
    _check_token(key, parameters.get("SecurityToken", ""))
    _check_nonce(nonces, parameters.get("SignatureNonce", ""), key, now)
    return key.id


def sign_v1(method: str, parameters: Mapping[str, str], *, secret: str) -> str:
    """The signature of HMAC-SHA1 in base64, over all parameters but itself."""
    query = _canonical_query({k: v for k, v in parameters.items() if k != "Signature"})
    to_sign = f"{method}&%2F&{_encode(query)}"
    digest = hmac.new(f"{secret}&".encode(), to_sign.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _canonical_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{_encode(name)}={_encode(value)}" for name, value in sorted(query.items()))


def _encode(text: str) -> str:
    return quote(text, safe="~")


def _key(keys: Mapping[str, AccessKey], key_id: str) -> AccessKey:
    if not key_id:
        raise Refused("MissingAccessKeyId", "AccessKeyId is mandatory for this action.")
    if key_id not in keys:
        raise Refused("InvalidAccessKeyId.NotFound", "Specified access key is not found.")
    return keys[key_id]


def _check_time(text: str, now: float) -> None:
    try:
        stamp = calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError as error:
        raise Refused(
            "InvalidTimeStamp.Format", "The specified time stamp or date is not well formatted."
        ) from error
    if abs(now - stamp) > SKEW:
        raise Refused("InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")


def _check_token(key: AccessKey, token: str) -> None:
    if key.token and not token:
        raise Refused("MissingSecurityToken", "SecurityToken is mandatory for this action.")
    if not hmac.compare_digest(key.token.encode(), token.encode()):
        raise Refused("InvalidSecurityToken.Malformed", "The specified SecurityToken is malformed.")


def _check_nonce(nonces: Nonces, nonce: str, key: AccessKey, now: float) -> None:
    if not nonce:
        raise Refused("MissingParameter", "The input parameter SignatureNonce is not supplied.")
    if not nonces.use(f"{key.id}/{nonce}", now):
        raise Refused("SignatureNonceUsed", "Specified signature nonce was used already.")


def _mismatch(action: str) -> Refused:
    return Refused(
        "SignatureDoesNotMatch",
        "Specified signature is not matched with our calculation: "
        f"check the access key secret and the string to sign of {action or 'the request'}.",
    )
