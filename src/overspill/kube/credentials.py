"""Who we are to the apiserver: tokens and client certificates, read again as they age.

In: values and files of a kubeconfig, the pod's service account, a credential plugin's answer.
Out: `Credential`, the same object for as long as it is the same. Invariant: nothing here shows a
secret, and a rotation that fails for a moment does not take away what worked before.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog
from msgspec import Struct

from overspill.errors import Misconfigured, Retry

__all__ = ["Credential", "Credentials", "ExecCredentials", "FileCredentials"]

log = structlog.get_logger(__name__)

# The kubelet renews a pod's token at 80 % of its life, so a file a minute old is still good.
REREAD_EVERY = 60.0
# A token that ends within this time would not survive the request it is sent with.
EXPIRY_MARGIN = 10.0
EXEC_TIMEOUT = 60.0
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Credential(Struct, frozen=True):
    """What proves our identity: a bearer token, a client certificate with its key (PEM), both or neither."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""

    def __repr__(self) -> str:
        parts = (("token", self.token), ("certificate", self.certificate))
        return f"Credential({' and '.join(name for name, value in parts if value) or 'none'})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (name, "…") for name, value in (("token", self.token), ("certificate", self.certificate)) if value
        ]


class Credentials(Protocol):
    """Where credentials come from."""

    async def get(self, *, refused: Credential | None = None) -> Credential:
        """The credential to use now; asked for anew if it is the one that the apiserver has refused.

        Raises:
            Misconfigured: there is none. Retry: there was one, and there may be again.
        """


class FileCredentials:
    """Values of a kubeconfig, and files that somebody rotates, as the kubelet does in a pod."""

    def __init__(
        self,
        *,
        token: str | Path = "",
        certificate: bytes | Path = b"",
        key: bytes | Path = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if bool(certificate) != bool(key):
            raise Misconfigured("a client certificate needs its key, and a key its certificate")
        self._token, self._certificate, self._key = token, certificate, key
        self._rotates = any(isinstance(source, Path) for source in (token, certificate, key))
        self._clock = clock
        self._current: Credential | None = None
        self._read_again = 0.0

    async def get(self, *, refused: Credential | None = None) -> Credential:
        """The files' content, read again every minute."""
        current = self._current
        if current is not None and current is not refused and self._clock() < self._read_again:
            return current
        try:
            fresh = self._read()
        except (OSError, ValueError) as error:
            if current is None:
                raise Misconfigured(f"credential file cannot be read: {error}") from error
            log.warning("credential file cannot be read; using what was read before", error=str(error))
            fresh = current
        self._read_again = self._clock() + REREAD_EVERY if self._rotates else float("inf")
        if fresh != current:
            self._current = current = fresh
        return current

    def _read(self) -> Credential:
        token = self._token
        return Credential(
            token.read_text(encoding="ascii").strip() if isinstance(token, Path) else token,
            _bytes(self._certificate),
            _bytes(self._key),
        )


def _bytes(source: bytes | Path) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


class _ExecStatus(Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(Struct, rename="camel"):
    api_version: str
    status: _ExecStatus


class ExecCredentials:
    """A program that hands out credentials, run again when they expire or are refused."""

    def __init__(self, spec: Mapping[str, Any], *, folder: Path, cluster: Mapping[str, Any]) -> None:
        """`spec` is the `exec` of a kubeconfig's user; `folder` its kubeconfig's; `cluster` what it may know.

        Raises:
            Misconfigured: the plugin's API version is not known, or it needs a terminal.
        """
        self._version = str(spec.get("apiVersion") or "")
        if self._version not in EXEC_VERSIONS:
            raise Misconfigured(f"exec plugin: apiVersion {self._version!r} is not {EXEC_VERSIONS[0]}")
        if spec.get("interactiveMode") == "Always":
            raise Misconfigured(
                f"exec plugin {spec.get('command')}: it asks at a terminal, which is not there"
            )
        command = str(spec.get("command") or "")
        # A path is relative to the kubeconfig; a bare name is looked up in $PATH.
        self._command = [str(folder / command) if os.sep in command else command]
        self._command += map(str, spec.get("args") or ())
        self._env = {str(item["name"]): str(item["value"]) for item in spec.get("env") or ()}
        self._hint = " ".join(str(spec.get("installHint") or "").split())
        self._cluster = dict(cluster) if spec.get("provideClusterInfo") else None
        self._current: Credential | None = None
        self._expires = datetime.max.replace(tzinfo=UTC)
        self._lock = asyncio.Lock()

    async def get(self, *, refused: Credential | None = None) -> Credential:
        """The plugin's answer, for as long as it is valid."""
        async with self._lock:  # many callers find out at the same time, one of them asks
            current = self._current
            if current is None or current is refused or self._has_expired():
                current = await self._ask()
            return current

    def _has_expired(self) -> bool:
        return (self._expires - datetime.now(UTC)).total_seconds() < EXPIRY_MARGIN

    async def _ask(self) -> Credential:
        try:
            status = _exec_status(await self._run(), version=self._version)
        except (OSError, TimeoutError, ValueError) as error:
            kind = Misconfigured if self._current is None else Retry
            text = f"exec plugin {self._command[0]}: {str(error) or 'no answer in time'}"
            raise kind(f"{text}. {self._hint}" if self._hint else text) from error
        certificate, key = status.client_certificate_data.encode(), status.client_key_data.encode()
        fresh = Credential(status.token, certificate, key)
        if status.expiration_timestamp is not None:
            self._expires = status.expiration_timestamp
        if self._current is None or fresh != self._current:
            self._current = fresh
        return self._current

    async def _run(self) -> bytes:
        spec: dict[str, Any] = {"interactive": False}
        if self._cluster is not None:
            spec["cluster"] = self._cluster
        info = {"apiVersion": self._version, "kind": "ExecCredential", "spec": spec}
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=os.environ | self._env | {"KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(EXEC_TIMEOUT):
                answer, told = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = told.decode(errors="replace").strip().rpartition("\n")[2][:200]
            raise ValueError(f"ended with exit code {process.returncode}: {last}")
        return answer


def _exec_status(answer: bytes, *, version: str) -> _ExecStatus:
    try:
        credential = msgspec.json.decode(answer, type=_ExecCredential)
    except msgspec.DecodeError as error:
        # msgspec names the field, never its value.
        raise ValueError(f"its answer is no ExecCredential: {error}") from error
    status = credential.status
    if credential.api_version != version:
        raise ValueError(f"it was asked for {version} and answered {credential.api_version}")
    if not status.token and not status.client_certificate_data:
        raise ValueError("it gave neither a token nor a certificate")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise ValueError("it gave only half of certificate and key")
    return status
