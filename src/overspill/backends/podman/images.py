"""Image references, as the kubelet reads them, and which logins fit which.

In: what a pod says. Out: a checked, full reference and credentials. Pure.
Sources: the grammar, https://pkg.go.dev/github.com/distribution/reference; the logins,
https://kubernetes.io/docs/concepts/containers/images/#config-json.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from overspill.model.work import RegistryCredential

__all__ = ["credentials_for", "digest_for", "is_valid", "normalize"]

DOMAIN = r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
REFERENCE = re.compile(rf"(?:{DOMAIN}/)?{PART}(?:/{PART})*(?::{TAG})?(?:@{DIGEST})?")
DEFAULT_REGISTRY = "docker.io"
# The name under which logins for the default registry are usually kept.
DEFAULT_REGISTRY_ALIASES = {"index.docker.io", "registry-1.docker.io"}


def is_valid(reference: str) -> bool:
    """Whether a text can name an image."""
    return REFERENCE.fullmatch(normalize(reference)) is not None


def normalize(reference: str) -> str:
    """The full reference that a short one stands for: registry and tag filled in."""
    first, slash, _ = reference.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if not has_registry:
        reference = f"{DEFAULT_REGISTRY}/{reference if slash else f'library/{reference}'}"
    last = reference.rsplit("/", 1)[1]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def digest_for(reference: str, digests: Sequence[str]) -> str | None:
    """Of an image's `repository@digest`s, the one of the repository asked for; else the first, if any."""
    repository = re.sub(rf"(?::{TAG})?(?:@{DIGEST})?$", "", normalize(reference))
    named = (digest for digest in digests if digest.partition("@")[0] == repository)
    return next(named, digests[0] if digests else None)


def credentials_for(reference: str, credentials: Sequence[RegistryCredential]) -> list[RegistryCredential]:
    """The logins for an image: all whose server (and path) lead to it, the longest first."""
    full = normalize(reference)
    fitting = [login for login in credentials if _leads_to(_server(login.server), full)]
    return sorted(fitting, key=lambda login: len(_server(login.server)), reverse=True)


def _server(text: str) -> str:
    """A server as it stands in a docker config: with or without scheme, API version and closing slash."""
    text = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    text = re.sub(r"/v[12]$", "", text)
    host, slash, path = text.partition("/")
    return (DEFAULT_REGISTRY if host in DEFAULT_REGISTRY_ALIASES else host) + slash + path


def _leads_to(server: str, reference: str) -> bool:
    """`*` stands for any part of one label of the host."""
    (host, _, path), (asked_host, _, asked_path) = server.partition("/"), reference.partition("/")
    (name, _, port), (asked_name, _, asked_port) = host.partition(":"), asked_host.partition(":")
    labels, asked = name.split("."), asked_name.split(".")
    same_host = port == asked_port and len(labels) == len(asked) and all(map(fnmatchcase, asked, labels))
    return same_host and (not path or asked_path.startswith(tuple(path + end for end in "/:@")))
