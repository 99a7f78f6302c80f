"""Logins for registries, from a pod's image pull secrets.

In: the Secrets that `imagePullSecrets` names. Out: `RegistryCredential`s, and which secrets gave none.
Pure. Invariant: no message tells anything of a secret but its name.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/.
"""

import base64
import binascii

import msgspec
from msgspec import Struct

from overspill.agent.references import Secret
from overspill.agent.scope import Scope
from overspill.model.work import RegistryCredential

__all__ = ["registry_credentials"]


class _Login(Struct):
    username: str = ""
    password: str = ""
    auth: str = ""


class _DockerConfig(Struct):
    auths: dict[str, _Login] = {}


KINDS = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}


def registry_credentials(scope: Scope) -> tuple[tuple[RegistryCredential, ...], list[str]]:
    """The logins, and the names of secrets that are missing or unusable; these do not stop the pod."""
    logins: list[RegistryCredential] = []
    unusable: list[str] = []
    for reference in scope.spec.image_pull_secrets:
        if not reference.name:
            continue  # the API lets an empty name through, and the kubelet passes over it
        secret = scope.found.secrets[reference.name]
        found = None if secret is None else _logins(secret)
        if found is None:
            unusable.append(reference.name)
        else:
            logins += found
    return tuple(logins), unusable


def _logins(secret: Secret) -> list[RegistryCredential] | None:
    """The logins in a pull secret, None if it is not one that can be read."""
    content = secret.data.get(KINDS.get(secret.type, ""))
    if content is None:
        return None
    try:
        if secret.type == "kubernetes.io/dockercfg":
            auths = msgspec.json.decode(content, type=dict[str, _Login])
        else:
            auths = msgspec.json.decode(content, type=_DockerConfig).auths
        return [RegistryCredential(server, *_name_and_password(login)) for server, login in auths.items()]
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError):
        return None


def _name_and_password(login: _Login) -> tuple[str, str]:
    if not login.auth:
        return login.username, login.password
    encoded = login.auth.strip()
    text = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    username, _, password = text.partition(":")
    return username, password
