"""Signs a request to Alibaba Cloud's OpenAPI gateway with ACS3-HMAC-SHA256.

In: what is sent, a key, a time and a nonce. Out: the headers to send. Pure.
Invariant: every header that carries meaning is signed, and the secret is only
ever the key of a MAC.
Source: Alibaba Cloud, "Request syntax and signature method V3".
"""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote

from msgspec import Struct

__all__ = ["ALGORITHM", "API_VERSION", "FORM", "Key", "authorization", "canonical_query", "signed_headers"]

ALGORITHM = "ACS3-HMAC-SHA256"
API_VERSION = "2018-08-08"
FORM = "application/x-www-form-urlencoded"


class Key(Struct, frozen=True):
    """An access key; with `token` one that STS gave out until `expires_at` (seconds since 1970)."""

    id: str
    secret: str
    token: str = ""
    expires_at: float | None = None

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


def signed_headers(
    action: str,
    *,
    host: str,
    body: bytes,
    key: Key,
    date: str,
    nonce: str,
    query: Mapping[str, str] | None = None,
    version: str = API_VERSION,
) -> dict[str, str]:
    """The headers of a POST with a form body; `date` is `2026-11-23T09:16:48Z`, in UTC."""
    digest = hashlib.sha256(body).hexdigest()
    headers = {
        "content-type": FORM,
        "host": host,
        "x-acs-action": action,
        "x-acs-content-sha256": digest,
        "x-acs-date": date,
        "x-acs-signature-nonce": nonce,
        "x-acs-version": version,
    }
    if key.token:
        headers["x-acs-accesskey-id"] = key.id
        headers["x-acs-security-token"] = key.token
    headers["Authorization"] = authorization("POST", headers, digest=digest, key=key, query=query or {})
    return headers


def authorization(
    method: str,
    headers: Mapping[str, str],
    *,
    digest: str,
    key: Key,
    path: str = "/",
    query: Mapping[str, str],
) -> str:
    """The Authorization header; `headers` are those to sign, with names in lower case."""
    names = sorted(headers)
    signed = ";".join(names)
    canonical = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    request = f"{method}\n{path}\n{canonical_query(query)}\n{canonical}\n{signed}\n{digest}"
    text = f"{ALGORITHM}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.new(key.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return f"{ALGORITHM} Credential={key.id},SignedHeaders={signed},Signature={signature}"


def canonical_query(query: Mapping[str, str]) -> str:
    """Sorted by key and percent-encoded by RFC 3986."""
    return "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
