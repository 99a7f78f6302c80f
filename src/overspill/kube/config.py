"""How to reach an apiserver: kubeconfig or the pod's own account.

In: files and environment. Out: `Config`. Invariant: TLS is always verified, and whatever of a
kubeconfig is not honoured is refused by name.
Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from overspill.errors import Misconfigured
from overspill.kube.credentials import Credentials, ExecCredentials, FileCredentials

__all__ = ["Config", "load_config"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
INSTEAD_OF_CLUSTER = {
    "insecure-skip-tls-verify": "TLS is always verified: give certificate-authority",
    "proxy-url": "proxies are not supported: give an address that is reachable directly",
}
INSTEAD_OF_USER = {
    "auth-provider": "use exec, its successor",
    "username": "use a certificate, a token or an exec plugin",
    "password": "use a certificate, a token or an exec plugin",
    "as": "impersonation is not supported",
}


class Config:
    """One apiserver: where it is, how to trust it, who we are.

    Attributes:
        server: URL without a trailing slash.
        ca: certificates to trust, PEM; empty: the system's.
        tls_server_name: the name expected in the certificate when it is not the server's host.
        namespace: the context's.
        origin: where all this was read, for messages.
    """

    def __init__(
        self,
        *,
        server: str,
        credentials: Credentials,
        ca: bytes = b"",
        tls_server_name: str = "",
        namespace: str = "default",
        origin: str = "",
    ) -> None:
        """All fields are checked.

        Raises:
            Misconfigured: the server's address is no URL, or would carry credentials in the clear.
        """
        self.server = _checked(server, origin)
        self.credentials = credentials
        self.ca = ca
        self.tls_server_name = tls_server_name
        self.namespace = namespace
        self.origin = origin

    def __repr__(self) -> str:
        return f"Config({self.server}, from {self.origin})"


def _checked(server: str, origin: str) -> str:
    url = urlsplit(server)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise Misconfigured(f"{origin}: server {server!r} is not a URL like https://host:6443")
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        raise Misconfigured(f"{origin}: server {server} must be https; http is for this machine alone")
    return server.rstrip("/")


def load_config(
    path: str | None = None,
    context: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    account: Path = ACCOUNT,
) -> Config:
    """The configuration from `path`, else $KUBECONFIG, else the pod's own account, else ~/.kube/config.

    Raises:
        Misconfigured: none of them is usable; says which were tried and what is wrong.
    """
    if path:
        return _from_kubeconfig([Path(path)], context)
    listed = [Path(item) for item in environ.get("KUBECONFIG", "").split(os.pathsep) if item]
    if listed:
        return _from_kubeconfig(listed, context)
    if environ.get("KUBERNETES_SERVICE_HOST") and not context and (account / "token").exists():
        return _from_account(environ, account)
    home = Path(environ.get("HOME") or Path.home()) / ".kube" / "config"
    if home.exists():
        return _from_kubeconfig([home], context)
    raise Misconfigured(
        "no way to the apiserver: KUBECONFIG is not set, this is no pod with a service account, and there is"
        f" no {home}; give --kubeconfig"
    )


def _from_account(environ: Mapping[str, str], account: Path) -> Config:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    origin = f"service account in {account}"
    return Config(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        credentials=FileCredentials(token=account / "token"),
        ca=_file(account / "ca.crt", origin),
        namespace=_file(account / "namespace", origin).decode().strip(),
        origin=origin,
    )


def _from_kubeconfig(paths: Sequence[Path], wanted: str | None) -> Config:
    origin = f"kubeconfig {os.pathsep.join(map(str, paths))}"
    merged = _merge(paths, origin)
    name = wanted or merged["current-context"]
    if not name:
        raise Misconfigured(f"{origin}: no current-context; choose one with --context")
    context = _named(merged, "context", name, origin)
    cluster = _named(merged, "cluster", context.get("cluster", ""), origin)
    user = _named(merged, "user", context["user"], origin) if context.get("user") else {"folder": Path()}
    _refuse(cluster, INSTEAD_OF_CLUSTER, f"{origin}: cluster {context.get('cluster')}")
    _refuse(user, INSTEAD_OF_USER, f"{origin}: user {context.get('user')}")
    return Config(
        server=str(cluster.get("server") or ""),
        credentials=_credentials(user, cluster, origin),
        ca=_content(cluster, "certificate-authority", origin),
        tls_server_name=str(cluster.get("tls-server-name") or ""),
        namespace=str(context.get("namespace") or "default"),
        origin=origin,
    )


def _merge(paths: Sequence[Path], origin: str) -> dict[str, Any]:
    """Kubeconfigs as kubectl merges them: the first file that sets a thing wins, missing files are skipped."""
    merged: dict[str, Any] = {"current-context": "", "cluster": {}, "context": {}, "user": {}}
    found = [path for path in paths if path.exists()]
    if not found:
        raise Misconfigured(f"{origin}: no such file")
    for path in found:
        content = _read(path)
        merged["current-context"] = merged["current-context"] or content.get("current-context") or ""
        for kind in ("cluster", "context", "user"):
            for entry in content.get(f"{kind}s") or ():
                merged[kind].setdefault(entry.get("name"), {**(entry.get(kind) or {}), "folder": path.parent})
    return merged


def _read(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - 1 MB; an agent in a cluster reads no file of this kind

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        # A YAML error quotes the line it stumbled on, which may hold a token: only its place is told.
        mark = getattr(error, "problem_mark", None)
        where = (
            f"line {mark.line + 1} is not YAML" if mark else (getattr(error, "strerror", "") or "not YAML")
        )
        raise Misconfigured(f"kubeconfig {path} cannot be read: {where}") from None
    if not isinstance(content, dict):
        raise Misconfigured(f"kubeconfig {path} is empty or not a kubeconfig")
    return content


def _named(merged: Mapping[str, Any], kind: str, name: str, origin: str) -> dict[str, Any]:
    found: dict[str, Any] | None = merged[kind].get(name)
    if found is None:
        known = ", ".join(sorted(map(str, merged[kind]))) or "none"
        raise Misconfigured(f"{origin}: no {kind} {name!r}; there is: {known}")
    return found


def _refuse(entry: Mapping[str, Any], instead: Mapping[str, str], what: str) -> None:
    for field, advice in instead.items():
        if entry.get(field):
            raise Misconfigured(f"{what}: {field} is set; {advice}")


def _credentials(user: Mapping[str, Any], cluster: Mapping[str, Any], origin: str) -> Credentials:
    if user.get("exec"):
        ca = _content(cluster, "certificate-authority", origin)
        known = {"server": cluster.get("server"), "tls-server-name": cluster.get("tls-server-name")}
        known["certificate-authority-data"] = base64.b64encode(ca).decode()
        about = {field: value for field, value in known.items() if value}
        return ExecCredentials(user["exec"], folder=user["folder"], cluster=about)
    token_file = user.get("tokenFile")
    try:
        return FileCredentials(
            token=user["folder"] / token_file if token_file else str(user.get("token") or ""),
            certificate=_source(user, "client-certificate", origin),
            key=_source(user, "client-key", origin),
        )
    except Misconfigured as error:
        raise Misconfigured(f"{origin}: {error}") from error


def _source(entry: Mapping[str, Any], key: str, origin: str) -> bytes | Path:
    """The content of `key-data`, else the file that `key` names, relative to its kubeconfig."""
    if entry.get(f"{key}-data"):
        try:
            return base64.b64decode("".join(str(entry[f"{key}-data"]).split()), validate=True)
        except ValueError as error:
            raise Misconfigured(f"{origin}: {key}-data is not base64") from error
    return entry["folder"] / entry[key] if entry.get(key) else b""


def _content(entry: Mapping[str, Any], key: str, origin: str) -> bytes:
    source = _source(entry, key, origin)
    return _file(source, origin) if isinstance(source, Path) else source


def _file(path: Path, origin: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{origin}: {path} cannot be read: {error.strerror}") from error
