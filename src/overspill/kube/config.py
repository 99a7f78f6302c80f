"""How to reach an apiserver: kubeconfig or the pod's own account.

In: files and environment. Out: `Config`. Invariant: TLS is always verified; credentials are read
again when they age, and never shown.
Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

import asyncio
import base64
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from overspill.errors import Misconfigured

__all__ = ["Config", "TokenSource", "load_config"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD = 60.0
EXEC_API = "client.authentication.k8s.io/v1"


class TokenSource(Protocol):
    """Where bearer tokens come from."""

    async def token(self, *, renew: bool = False) -> str:
        """A valid token, or "" for none; `renew` after the server refused the last one."""


class NoToken:
    """Authentication by client certificate alone."""

    async def token(self, *, renew: bool = False) -> str:  # noqa: ARG002 - nothing to renew
        """No token."""
        return ""


class StaticToken:
    """A token from the kubeconfig."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, *, renew: bool = False) -> str:  # noqa: ARG002 - it is the only one
        """The token."""
        return self._token


class FileToken:
    """A token that somebody rotates in a file, as the kubelet does in a pod."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token, self._read_at = "", float("-inf")

    async def token(self, *, renew: bool = False) -> str:
        """The file's content, read again every minute."""
        if renew or time.monotonic() - self._read_at > TOKEN_REREAD:
            try:
                self._token = self._path.read_text(encoding="ascii").strip()
            except OSError as error:
                raise Misconfigured(f"token file {self._path} cannot be read: {error.strerror}") from error
            self._read_at = time.monotonic()
        return self._token


class ExecToken:
    """A token from a credential plugin."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._command = [str(spec["command"]), *map(str, spec.get("args") or [])]
        self._env = {item["name"]: item["value"] for item in spec.get("env") or []}
        self._hint = str(spec.get("installHint") or "")
        self._api = str(spec.get("apiVersion") or EXEC_API)
        self._token, self._expires = "", 0.0
        self._lock = asyncio.Lock()

    async def token(self, *, renew: bool = False) -> str:
        """The plugin's token, asked for again when it has expired or was refused."""
        async with self._lock:
            if renew or not self._token or time.time() >= self._expires:
                await self._ask()
            return self._token

    async def _ask(self) -> None:
        info = {"apiVersion": self._api, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = os.environ | self._env | {"KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise Misconfigured(
                f"credential plugin {self._command[0]}: {error.strerror}. {self._hint}".strip()
            ) from error
        out, err = await process.communicate()
        if process.returncode:
            raise Misconfigured(
                f"credential plugin {self._command[0]} ended with {process.returncode}: {err.decode(errors='replace').strip()[:500]}"
            )
        try:
            status = json.loads(out)["status"]
            self._token = status["token"]
            expires = status.get("expirationTimestamp")
            self._expires = datetime.fromisoformat(expires).timestamp() if expires else float("inf")
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(
                f"credential plugin {self._command[0]} gave no token: {type(error).__name__}"
            ) from error


class Config:
    """One apiserver: where it is, how to trust it, who we are."""

    def __init__(
        self, *, server: str, tls: ssl.SSLContext | None, tokens: TokenSource, namespace: str, origin: str
    ) -> None:
        self.server = server.rstrip("/")
        self.tls = tls
        self.tokens = tokens
        self.namespace = namespace
        self.origin = origin

    def __repr__(self) -> str:
        return f"Config({self.server}, from {self.origin})"


def load_config(path: str | None = None, context: str | None = None) -> Config:
    """The configuration from `path`, else $KUBECONFIG, else the pod's own account, else ~/.kube/config.

    Raises:
        Misconfigured: none of them is usable; says which were tried and what is wrong.
    """
    if path:
        return _from_kubeconfig([Path(path)], context)
    listed = [Path(item) for item in os.environ.get("KUBECONFIG", "").split(os.pathsep) if item]
    if listed:
        return _from_kubeconfig(listed, context)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (ACCOUNT / "token").exists() and not context:
        return _from_account()
    home = Path.home() / ".kube" / "config"
    if home.exists():
        return _from_kubeconfig([home], context)
    raise Misconfigured(
        "no way to the apiserver: give --kubeconfig, set KUBECONFIG, run in a pod with a service account,"
        f" or write {home}"
    )


def _from_account() -> Config:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    return Config(
        server=f"https://{address}:{port}",
        tls=_trust(ACCOUNT / "ca.crt", "service account"),
        tokens=FileToken(ACCOUNT / "token"),
        namespace=(ACCOUNT / "namespace").read_text(encoding="utf-8").strip(),
        origin="the pod's service account",
    )


def _trust(ca: Path, origin: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{origin}: CA file {ca} cannot be used: {error}") from error


def _from_kubeconfig(paths: list[Path], wanted: str | None) -> Config:
    merged = _merge(paths)
    origin = ", ".join(map(str, paths))
    name = wanted or merged["current-context"]
    if not name:
        raise Misconfigured(f"{origin}: no current-context; choose one with --context")
    context = _named(merged, "contexts", name, "context", origin)
    cluster = _named(merged, "clusters", context.get("cluster", ""), "cluster", origin)
    user = _named(merged, "users", context["user"], "user", origin) if context.get("user") else {}
    if cluster.get("insecure-skip-tls-verify"):
        raise Misconfigured(
            f"{origin}: insecure-skip-tls-verify is set; give certificate-authority instead, TLS is always verified"
        )
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise Misconfigured(f"{origin}: cluster {context.get('cluster')!r} has no server URL")
    return Config(
        server=server,
        tls=_tls(cluster, user, origin) if server.startswith("https://") else None,
        tokens=_tokens(user, origin),
        namespace=str(context.get("namespace") or "default"),
        origin=origin,
    )


def _merge(paths: list[Path]) -> dict[str, Any]:
    """Kubeconfigs as kubectl merges them: the first file that sets a thing wins."""
    merged: dict[str, Any] = {"current-context": "", "clusters": {}, "contexts": {}, "users": {}}
    found = [path for path in paths if path.exists()]
    if not found:
        raise Misconfigured(f"kubeconfig {', '.join(map(str, paths))} does not exist")
    for path in found:
        content = _read(path)
        merged["current-context"] = merged["current-context"] or content.get("current-context") or ""
        for kind, item in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
            for entry in content.get(kind) or []:
                merged[kind].setdefault(entry.get("name"), (entry.get(item) or {}) | {"_folder": path.parent})
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"kubeconfig {path} cannot be read: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise Misconfigured(f"kubeconfig {path} is empty or not a kubeconfig")
    return content


def _named(merged: Mapping[str, Any], kind: str, name: str, word: str, origin: str) -> dict[str, Any]:
    found = merged[kind].get(name)
    if found is None:
        known = ", ".join(sorted(map(str, merged[kind]))) or "none"
        raise Misconfigured(f"{origin}: no {word} {name!r}; there is: {known}")
    result: dict[str, Any] = found
    return result


def _data(entry: Mapping[str, Any], key: str, origin: str) -> bytes | None:
    """The content of `key-data` (base64) or of the file that `key` names, relative to its kubeconfig."""
    try:
        if entry.get(f"{key}-data"):
            return base64.b64decode(entry[f"{key}-data"], validate=True)
        if entry.get(key):
            return Path(entry["_folder"], entry[key]).read_bytes()
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{origin}: {key} cannot be read: {error}") from error
    return None


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], origin: str) -> ssl.SSLContext:
    ca = _data(cluster, "certificate-authority", origin)
    certificate, key = _data(user, "client-certificate", origin), _data(user, "client-key", origin)
    try:
        context = ssl.create_default_context(cadata=ca.decode() if ca else None)
        if certificate and key:
            _present(context, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"{origin}: certificates cannot be used: {error}") from error
    return context


def _present(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a client certificate; Python's ssl takes files only, so it goes through a private one."""
    with tempfile.NamedTemporaryFile(prefix="overspill-", suffix=".pem") as file:  # created with mode 0600
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


def _tokens(user: Mapping[str, Any], origin: str) -> TokenSource:
    if user.get("exec"):
        return ExecToken(user["exec"])
    if user.get("tokenFile"):
        return FileToken(user["_folder"] / user["tokenFile"])
    if user.get("token"):
        return StaticToken(str(user["token"]))
    unsupported = sorted({"auth-provider", "username", "password"} & set(user))
    if unsupported:
        raise Misconfigured(
            f"{origin}: user has {', '.join(unsupported)}; use a certificate, a token or an exec plugin"
        )
    return NoToken()
