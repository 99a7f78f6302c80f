"""The certificate that a node serves with, kept valid.

In: a mode. Out: `use(certificate, key)` at each change. Invariants: a private key is never written
anywhere; the node serves from the first moment, with a certificate of its own making until the
cluster has signed one.
Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/.
"""

import asyncio
import random
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from overspill.errors import Misconfigured, NotFound, OverspillError, Retry, Unsettled
from overspill.kube.client import Client
from overspill.kube.resources import CERTIFICATESIGNINGREQUESTS
from overspill.serve.kubelet.keys import NodeKey, expires_at, new_node_key

__all__ = ["SIGNER", "USAGES", "follow_files", "rotation_delay", "self_sign", "sign_by_cluster"]

log = structlog.get_logger(__name__)

SIGNER = "kubernetes.io/kubelet-serving"
USAGES = ("digital signature", "server auth")
LOOK_FIRST, LOOK_CAP = 0.25, 15.0  # seconds between two looks at a request that nobody has approved yet
REFUSED_PAUSE = 900.0
FILES_EVERY = 60.0

Use = Callable[[bytes, bytes], None]


class _Condition(Struct, frozen=True):
    type: str
    reason: str = ""
    message: str = ""


class _Status(Struct, frozen=True):
    certificate: bytes = b""  # base64 in JSON
    conditions: tuple[_Condition, ...] = ()


class _Meta(Struct, frozen=True):
    name: str


class _Request(Struct, frozen=True):
    metadata: _Meta
    status: _Status = _Status()


def rotation_delay(expires: float, *, now: float, at: float) -> float:
    """Seconds until a certificate that begins now is replaced: at `at` (0.7 to 0.9) of its life, as kubelets do."""
    return max((expires - now) * at, 0.0)


async def self_sign(node: str, hosts: Sequence[str], use: Use) -> None:
    """Serve with certificates that nobody else vouches for: for clusters whose apiserver asks for none."""
    while True:
        try:
            made = await new_node_key(node, hosts)
            use(made.self_signed, made.key)
            await _until_rotation(made.self_signed)
        except Retry as error:
            log.warning("no serving certificate made; trying again", error=str(error))
            await asyncio.sleep(LOOK_CAP)


async def follow_files(certificate: str, key: str, use: Use) -> None:
    """Serve with what two PEM files hold; read anew when they change.

    Raises:
        Misconfigured: they cannot be read at the start. Later the old ones stay in use.
    """
    known = b"", b""
    while True:
        try:
            found = _read(certificate), _read(key)
            if found != known:
                use(*found)
                known = found
        except (OSError, Misconfigured) as error:
            if not any(known):
                raise Misconfigured(f"serving certificate {certificate}: {error}") from error
            log.warning(
                "serving certificate not renewed; the old one stays", file=certificate, error=str(error)
            )
        await asyncio.sleep(FILES_EVERY)


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


async def sign_by_cluster(client: Client, node: str, hosts: Sequence[str], use: Use) -> None:
    """Serve with certificates that the cluster signs, as a kubelet with serverTLSBootstrap does."""
    made = await new_node_key(node, hosts)
    use(made.self_signed, made.key)
    while True:
        try:
            certificate = await _signed(client, node, made)
            use(certificate, made.key)
            log.info("serving certificate signed by the cluster", node=node)
            await _until_rotation(certificate)
            made = await new_node_key(node, hosts)
        except OverspillError as error:
            log.warning("no serving certificate from the cluster; asking again later", error=str(error))
            pause = LOOK_CAP if isinstance(error, Retry | Unsettled) else REFUSED_PAUSE
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load


async def _signed(client: Client, node: str, made: NodeKey) -> bytes:
    """The certificate of a request, as soon as somebody has approved it."""
    name = await _ask(client, node, made)
    log.info(
        "serving certificate requested; until it is approved the node serves with a self-signed one",
        request=name,
        approve=f"kubectl certificate approve {name}",
    )
    pause = LOOK_FIRST
    while True:
        await asyncio.sleep(pause)
        pause = min(pause * 2, LOOK_CAP)
        try:
            found = (await client.get(CERTIFICATESIGNINGREQUESTS, name, kind=_Request)).status
        except Retry as error:
            log.warning("serving certificate not looked for; looking again", request=name, error=str(error))
            continue
        for condition in found.conditions:
            if condition.type in {"Denied", "Failed"}:
                raise NotFound(
                    f"request {name} is {condition.type}: {condition.reason} {condition.message}".rstrip()
                )
        if found.certificate:
            return found.certificate


async def _ask(client: Client, node: str, made: NodeKey) -> str:
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": f"{node}-"},
        "spec": {"signerName": SIGNER, "usages": USAGES, "request": b64encode(made.request).decode()},
    }
    return (await client.create(CERTIFICATESIGNINGREQUESTS, body, kind=_Request)).metadata.name


async def _until_rotation(certificate: bytes) -> None:
    expires = await expires_at(certificate)
    await asyncio.sleep(rotation_delay(expires, now=time.time(), at=random.uniform(0.7, 0.9)))  # noqa: S311 - spreads load
