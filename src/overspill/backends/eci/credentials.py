"""Where the access key comes from.

In: environment, the credentials file, a service account's token, the ECS metadata service.
Out: a `Key` that is valid for a while yet. Invariant: the first source that is set up is the
only one used; a secret is in no message, log line or repr.
Order and names are those of Alibaba's SDKs (default credential provider chain).
"""

import asyncio
import configparser
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from overspill.backends.eci.answers import at
from overspill.backends.eci.sign import FORM, Key
from overspill.errors import Misconfigured, Retry

__all__ = ["Credentials", "find_credentials"]

log = structlog.get_logger(__name__)

PREFIX = "ALIBABA_CLOUD_"
METADATA = "http://100.100.100.200"
# A session's key is replaced this long before it ends, and where that fails asked for again after this.
EARLY, AGAIN = 300.0, 10.0
METADATA_TIMEOUT = aiohttp.ClientTimeout(total=3)
STS_TIMEOUT = aiohttp.ClientTimeout(total=10)

T = TypeVar("T")
Fetch = Callable[[aiohttp.ClientSession], Awaitable[Key]]


class Credentials:
    """A key that renews itself."""

    def __init__(self, source: str, fetch: Fetch, *, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self._fetch = fetch
        self._clock = clock
        self._key: Key | None = None
        self._renew_at = 0.0
        self._one = asyncio.Lock()

    async def key(self, session: aiohttp.ClientSession) -> Key:
        """A key that holds for some minutes yet; less only while the source gives no other.

        Raises:
            Retry: the source does not answer.
            Misconfigured: the source refuses.
        """
        if self._key is None or self._renew_at <= self._clock():
            async with self._one:
                if self._key is None or self._renew_at <= self._clock():
                    self._key = await self._renewed(session)
        return self._key

    async def _renewed(self, session: aiohttp.ClientSession) -> Key:
        try:
            key = await self._fetch(session)
        except (Retry, Misconfigured) as error:
            now, old = self._clock(), self._key
            if old is None or old.expires_at is None or old.expires_at <= now:
                raise
            log.warning(
                "access key is not renewed; the one before is used on", source=self.source, error=str(error)
            )
            self._renew_at = min(now + AGAIN, old.expires_at)
            return old
        self._renew_at = math.inf if key.expires_at is None else key.expires_at - EARLY
        return key

    def drop(self) -> None:
        """Fetch anew at the next call: the key was refused as too old."""
        self._key = None


def find_credentials(environ: Mapping[str, str], *, region: str, home: Path | None = None) -> Credentials:
    """The first source that is set up.

    Raises:
        Misconfigured: it is set up wrongly.
    """
    return (
        _from_environment(environ)
        or _from_token_file(environ, region=region)
        or _from_file(environ, region=region, home=home or Path.home())
        or _from_metadata(environ)
    )


def _static(source: str, key: Key) -> Credentials:
    async def fetch(_: aiohttp.ClientSession) -> Key:
        return key

    return Credentials(source, fetch)


def _from_environment(environ: Mapping[str, str]) -> Credentials | None:
    key_id, secret = environ.get(PREFIX + "ACCESS_KEY_ID", ""), environ.get(PREFIX + "ACCESS_KEY_SECRET", "")
    if not key_id and not secret:
        return None
    if not key_id or not secret:
        raise Misconfigured(f"set both {PREFIX}ACCESS_KEY_ID and {PREFIX}ACCESS_KEY_SECRET, or neither")
    return _static("environment", Key(key_id, secret, environ.get(PREFIX + "SECURITY_TOKEN", "")))


def _from_token_file(environ: Mapping[str, str], *, region: str) -> Credentials | None:
    """A RAM role for service accounts: the pod's token stands for the role."""
    role, provider, path = (
        environ.get(PREFIX + name, "") for name in ("ROLE_ARN", "OIDC_PROVIDER_ARN", "OIDC_TOKEN_FILE")
    )
    if not (role and provider and path):
        return None
    name = environ.get(PREFIX + "ROLE_SESSION_NAME", "overspill")
    endpoint = environ.get(PREFIX + "STS_ENDPOINT", f"sts.{region}.aliyuncs.com")
    return _role_by_token(role, provider=provider, path=path, session_name=name, endpoint=endpoint)


def _from_file(environ: Mapping[str, str], *, region: str, home: Path) -> Credentials | None:
    path = Path(environ.get(PREFIX + "CREDENTIALS_FILE", "") or home / ".alibabacloud" / "credentials")
    profile = environ.get(PREFIX + "PROFILE", "default")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        read = parser.read(path, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        # The parser's own message quotes the line, which may hold a secret.
        raise Misconfigured(f"credentials file {path} cannot be read: {type(error).__name__}") from None
    if not read:
        if PREFIX + "CREDENTIALS_FILE" in environ:
            raise Misconfigured(f"credentials file {path} does not exist or cannot be read")
        return None
    if not parser.has_section(profile):
        raise Misconfigured(f"credentials file {path} has no section [{profile}]")
    return _profile(f"{path} [{profile}]", parser[profile], region=region)


def _profile(source: str, section: Mapping[str, str], *, region: str) -> Credentials:
    def value(name: str) -> str:
        if not section.get(name):
            raise Misconfigured(f"credentials file {source}: {name} is missing")
        return section[name]

    match section.get("type", "access_key"):
        case "access_key":
            return _static(source, Key(value("access_key_id"), value("access_key_secret")))
        case "sts":
            return _static(
                source, Key(value("access_key_id"), value("access_key_secret"), value("security_token"))
            )
        case "ecs_ram_role":
            return Credentials(source, _metadata(section.get("role_name", "")))
        case "oidc_role_arn":
            return _role_by_token(
                value("role_arn"),
                provider=value("oidc_provider_arn"),
                path=value("oidc_token_file_path"),
                session_name=section.get("role_session_name", "overspill"),
                endpoint=section.get("sts_endpoint", f"sts.{region}.aliyuncs.com"),
            )
        case other:
            known = "access_key, sts, ecs_ram_role, oidc_role_arn"
            raise Misconfigured(f"credentials file {source}: type {other!r} is none of {known}")


class _Secret(Struct, rename="pascal"):
    access_key_id: str
    access_key_secret: str
    security_token: str
    expiration: str

    def key(self) -> Key:
        return Key(self.access_key_id, self.access_key_secret, self.security_token, at(self.expiration))


class _Assumed(Struct, rename="pascal"):
    credentials: _Secret


def _role_by_token(role: str, *, provider: str, path: str, session_name: str, endpoint: str) -> Credentials:
    url = endpoint if "://" in endpoint else f"https://{endpoint}"

    async def fetch(session: aiohttp.ClientSession) -> Key:
        form = {
            "Action": "AssumeRoleWithOIDC",
            "Format": "JSON",
            "Version": "2015-04-01",
            "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "SignatureNonce": secrets.token_hex(16),
            "RoleArn": role,
            "OIDCProviderArn": provider,
            "OIDCToken": await asyncio.to_thread(_read_token, path),
            "RoleSessionName": session_name,
        }
        what, headers = f"STS for role {role}", {"Content-Type": FORM}
        body = await _ask(session, "POST", url, what=what, headers=headers, data=form, timeout=STS_TIMEOUT)
        return _decoded(body, _Assumed, what).credentials.key()

    return Credentials(f"role {role}", fetch)


def _read_token(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"service account token {path} cannot be read: {error.strerror}") from error


def _from_metadata(environ: Mapping[str, str]) -> Credentials:
    if environ.get(PREFIX + "ECS_METADATA_DISABLED", "").lower() == "true":
        raise Misconfigured(
            f"no credentials for Alibaba Cloud: set {PREFIX}ACCESS_KEY_ID and {PREFIX}ACCESS_KEY_SECRET, write "
            "~/.alibabacloud/credentials, or give the agent a RAM role"
        )
    return Credentials("ECS metadata", _metadata(environ.get(PREFIX + "ECS_METADATA", "")))


def _metadata(role: str) -> Fetch:
    async def fetch(session: aiohttp.ClientSession) -> Key:
        what = "no key in the environment or in a file, and the ECS metadata service"
        headers = {"X-aliyun-ecs-metadata-token-ttl-seconds": "21600"}
        url = f"{METADATA}/latest/api/token"
        token = await _ask(session, "PUT", url, what=what, headers=headers, timeout=METADATA_TIMEOUT)
        headers = {"X-aliyun-ecs-metadata-token": token}
        url = f"{METADATA}/latest/meta-data/ram/security-credentials/"
        name = role or await _ask(session, "GET", url, what=what, headers=headers, timeout=METADATA_TIMEOUT)
        url += name.strip()
        body = await _ask(session, "GET", url, what=what, headers=headers, timeout=METADATA_TIMEOUT)
        return _decoded(body, _Secret, "the ECS metadata service").key()

    return fetch


async def _ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    what: str,
    timeout: aiohttp.ClientTimeout,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> str:
    try:
        async with session.request(
            method, url, headers=headers, data=data, timeout=timeout, allow_redirects=False
        ) as answer:
            body = (await answer.read()).decode(errors="replace")
            if answer.status == 200:
                return body
            if answer.status >= 500 or answer.status == 429:
                raise Retry(f"{what} answers HTTP {answer.status}; no access key for ECI yet")
            raise Misconfigured(f"{what} refuses with HTTP {answer.status}: {_code(body)}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Retry(f"{what} cannot be reached at {url}: {type(error).__name__}") from error


class _Refusal(Struct, rename="pascal"):
    code: str = "no code"
    request_id: str = "none"


def _code(body: str) -> str:
    try:
        told = msgspec.json.decode(body, type=_Refusal)
    except msgspec.MsgspecError:
        return "no code"
    return f"{told.code} (RequestId {told.request_id})"


def _decoded(body: str, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        # The decoder's message may quote what it read.
        raise Retry(f"{what} answered something else than credentials") from None
