"""What a refusal by the apiserver, or the lack of a reply, means for the caller.

In: HTTP status, metav1.Status, aiohttp's errors. Out: an error of `errors.py`. Invariant: pure but
for the wrapping of library errors; messages name verb, resource and the apiserver's own words.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ and apimachinery's api/errors.
"""

import contextlib
import ssl
from collections.abc import Iterator, Mapping

import aiohttp
import msgspec
from msgspec import Struct

from overspill.errors import (
    Conflict,
    Expired,
    Misconfigured,
    NotFound,
    OverspillError,
    Rejected,
    Retry,
    Throttled,
)

__all__ = ["Status", "connection_errors", "error_of", "resource_version_of", "status_error"]

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Details(Struct, rename="camel"):
    """Details of a Status."""

    retry_after_seconds: float = 0


class Status(Struct):
    """metav1.Status: the apiserver's answer when it does not give the object."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details = msgspec.field(default_factory=Details)


class _Meta(Struct, rename="camel"):
    resource_version: str = ""


class _Metadata(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_metadata = msgspec.json.Decoder(_Metadata)


def resource_version_of(content: bytes) -> str:
    """The resourceVersion in an object's bytes."""
    return _metadata.decode(content).metadata.resource_version


def error_of(
    code: int, content: bytes, *, method: str, path: str, headers: Mapping[str, str]
) -> OverspillError:
    """The error for a reply of 400 or above."""
    try:
        status = msgspec.json.decode(content, type=Status)
    except msgspec.DecodeError:
        status = Status(message=content[:300].decode(errors="replace").strip())
    status.code = code
    if not status.details.retry_after_seconds:
        status.details.retry_after_seconds = _seconds(headers.get("Retry-After", ""))
    return status_error(status, what=f"{VERBS.get(method, method.lower())} {path}")


def status_error(status: Status, *, what: str) -> OverspillError:
    """The error for a Status; also for one that comes inside a watch."""
    text = f"{what}: {status.message or status.reason or status.code}"
    retry_after = status.details.retry_after_seconds
    if status.code == 401:
        return Misconfigured(
            f"{text}: the apiserver does not accept these credentials; check the token or certificate"
        )
    if status.code == 403 and "exceeded quota" not in status.message:
        return Misconfigured(f"{text}: grant this verb on this resource by RBAC")
    simple = {404: NotFound, 409: Conflict, 410: Expired}.get(status.code)
    if simple is not None:
        return simple(text)
    if status.code == 429 or (status.code >= 500 and retry_after):
        return Throttled(text, retry_after=retry_after)
    return Retry(text) if status.code >= 500 or status.code == 408 else Rejected(text)


@contextlib.contextmanager
def connection_errors(server: str) -> Iterator[None]:
    """Turn aiohttp's errors into ours; they name the address and the cause."""
    try:
        yield
    except (
        aiohttp.ClientConnectorCertificateError,
        aiohttp.ClientConnectorSSLError,
        aiohttp.ClientSSLError,
    ) as error:
        raise _tls_error(server, error) from error
    except ssl.SSLError as error:
        raise _tls_error(server, error) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Retry(f"apiserver {server}: {str(error) or type(error).__name__}") from error
    except TimeoutError as error:
        raise Retry(f"apiserver {server}: no answer in time") from error


def _tls_error(server: str, error: Exception) -> OverspillError:
    text = str(error)
    if "certificate has expired" in text:
        return Misconfigured(
            f"apiserver {server}: its certificate has expired; renew it, or check this machine's clock"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Misconfigured(
            f"apiserver {server}: its certificate is not signed by the CA of this kubeconfig: {text}"
        )
    if "CERTIFICATE_EXPIRED" in text or "ALERT" in text.upper():
        return Misconfigured(
            f"apiserver {server} refuses the client certificate (expired or of another CA): {text}"
        )
    return Retry(f"apiserver {server}: {text}")


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 0.0
