"""The transport to Podman: HTTP/1.1 over the service's unix socket, and the errors it ends in.

In: a method, a path below `/libpod`, a body. Out: decoded answers, or an error
of the tree in `errors.py`. Invariant: a service that is away, or answers
nothing within its time, is always `Retry`, never `NotFound`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError  # what reading a line that is too long ends in
from msgspec import Struct

from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Rejected, Retry

__all__ = ["API", "PULL_TIMEOUT", "Client", "PodmanError", "decode"]

T = TypeVar("T")

# The oldest API that serves all that is used here; Podman 4 and 5 both answer to it.
API = "/v4.0.0/libpod"
# Stopping and removing wait for processes and for locks; no call takes longer unless Podman hangs.
TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
# A large image over a slow line; the pod's end cancels its pull before that.
PULL_TIMEOUT = aiohttp.ClientTimeout(total=3600, sock_connect=5)
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)


class PodmanError(Rejected):
    """Podman answered that it could not do it.

    Attributes:
        cause: Podman's own name of the error's kind, such as `OCI runtime error`.
    """

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class Failure(Struct, frozen=True):
    """The body of an answer of 400 and more."""

    message: str = ""
    cause: str = ""


class Client:
    """One service. Used as an async context manager."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(self.socket, limit=0)
        self._session = aiohttp.ClientSession("http://podman", connector=connector, timeout=TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def get(
        self, path: str, kind: type[T], *, query: Mapping[str, str] | Sequence[tuple[str, str]] | None = None
    ) -> T:
        """Fetch and decode."""
        return decode(await self.request("GET", path, query=query), kind)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> bytes:
        """One call; returns the answer's body.

        Raises:
            Retry: the service is away or did not answer in time.
            NotFound, Conflict: as it says.
            PodmanError: it refused for another reason.
        """
        try:
            async with self._open().request(
                method,
                API + path,
                params=query,
                data=None if body is None else msgspec.json.encode(body),
                headers={"Content-Type": "application/json", **(headers or {})},
                timeout=timeout,
            ) as response:
                content = await response.read()
                if response.status >= 400:
                    raise _refusal(f"{method} {path}", response.status, content)
                return content
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._away(error) from error

    async def lines(self, path: str, *, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """An empty line once the answer has begun, then the lines of it; it does not end by itself.

        Raises:
            Retry: the stream could not be opened or broke; also when the service ended it.
        """
        try:
            async with self._open().get(API + path, params=query, timeout=STREAM_TIMEOUT) as response:
                if response.status >= 400:
                    raise _refusal(f"GET {path}", response.status, await response.read())
                yield b""
                async for line in response.content:
                    yield line
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            raise self._away(error) from error
        raise Retry(f"Podman at {self.socket} ended the stream {path}")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside of its context")
        return self._session

    def _away(self, error: Exception) -> OverspillError:
        if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
            return Misconfigured(f"Podman's socket {self.socket} may not be opened: run as root or its owner")
        detail = str(error) or type(error).__name__
        return Retry(
            f"Podman at {self.socket} does not answer ({detail}): is `podman system service` running?"
        )


def decode(content: bytes, kind: type[T]) -> T:
    """An answer as a value.

    Raises:
        PodmanError: it is not of the shape that was asked for.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise PodmanError(f"Podman answered something else than {kind}: {error}") from error


def _refusal(call: str, status: int, content: bytes) -> OverspillError:
    try:
        failure = msgspec.json.decode(content, type=Failure)
    except msgspec.DecodeError:
        failure = Failure(message=content[:200].decode(errors="replace"))
    text = failure.message or f"HTTP {status}"
    if status == 404:
        return NotFound(f"Podman: {call}: {text}")
    if status == 409:
        return Conflict(f"Podman: {call}: {text}")
    return PodmanError(text, cause=failure.cause)
