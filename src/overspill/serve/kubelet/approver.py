"""Approves the serving certificates of virtual nodes, which nothing in a stock cluster does.

In: CertificateSigningRequests of signer `kubernetes.io/kubelet-serving`. Out: approvals. Invariant: only
what the agents' own account asks for, for a virtual node that exists, under its own name and addresses;
anything else is left to a person.
Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/.
"""

import asyncio
from ipaddress import ip_address

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct

from overspill import names
from overspill.errors import NotFound
from overspill.kube.cache import Cache, Key
from overspill.kube.client import MERGE, Client
from overspill.kube.config import load_config
from overspill.kube.queue import Queue
from overspill.kube.resources import CERTIFICATESIGNINGREQUESTS, NODES
from overspill.kube.watch import Watch
from overspill.model.pods import Meta
from overspill.serve.kubelet.certificate import SIGNER, USAGES
from overspill.serve.kubelet.keys import GROUP, SUBJECT_PREFIX

__all__ = ["Node", "Request", "approve_requests", "objection"]

log = structlog.get_logger(__name__)

REQUESTER = "system:serviceaccount:kube-system:virtual-node-eci"
# The node's addresses may be told a moment after its agent asks.
AGAIN, TRIES = 2.0, 30


class _Condition(Struct, frozen=True):
    type: str


class _RequestSpec(Struct, frozen=True, rename="camel"):
    signer_name: str = ""
    username: str = ""
    usages: tuple[str, ...] = ()
    request: bytes = b""  # base64 in JSON


class _RequestStatus(Struct, frozen=True):
    conditions: tuple[_Condition, ...] = ()


class Request(Struct, frozen=True):
    """What is read of a CertificateSigningRequest."""

    metadata: Meta
    spec: _RequestSpec = _RequestSpec()
    status: _RequestStatus = _RequestStatus()


class _Address(Struct, frozen=True):
    type: str
    address: str


class _NodeMeta(Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}


class _NodeStatus(Struct, frozen=True):
    addresses: tuple[_Address, ...] = ()


class Node(Struct, frozen=True):
    """What is read of a Node."""

    metadata: _NodeMeta
    status: _NodeStatus = _NodeStatus()


async def approve_requests(kubeconfig: str) -> None:
    """Approve until cancelled."""
    async with Client(load_config(kubeconfig or None), connections=4) as client:
        approver = _Approver(client)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(approver.queue.run(), name="requests")
            tasks.create_task(approver.follow(), name="request watch")


class _Approver:
    def __init__(self, client: Client) -> None:
        self.queue = Queue(self._look, name="certificate requests", workers=1)
        self._client = client
        self._cache: Cache[Request] = Cache()
        self._tries: dict[Key, int] = {}

    async def follow(self) -> None:
        watch = Watch(
            self._client,
            CERTIFICATESIGNINGREQUESTS,
            kind=Request,
            field_selector=f"spec.signerName={SIGNER}",
        )
        async for batch in watch.batches():
            for key in self._cache.apply(batch):
                self.queue.add(key)

    async def _look(self, key: Key) -> float | None:
        """Decide on one request; returns when to look at it again."""
        request = self._cache.get(key)
        if request is None or request.status.conditions or request.spec.username != REQUESTER:
            self._tries.pop(key, None)
            return None
        name = requested_node(request)
        try:
            node = await self._client.get(NODES, name, kind=Node) if name else None
        except NotFound:
            node = None
        why_not = objection(request, node)
        if not why_not:
            await self._approve(request)
            return None
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if tries == 1:
            log.warning("request not approved", request=key.name, reason=why_not)
        return AGAIN if tries < TRIES else None

    async def _approve(self, request: Request) -> None:
        name = request.metadata.name
        approved = {
            "type": "Approved",
            "status": "True",
            "reason": "VirtualNode",
            "message": "serving certificate of a virtual node, asked for by its agent",
        }
        patch = {
            "metadata": {"resourceVersion": request.metadata.resource_version},
            "status": {"conditions": [approved]},
        }
        await self._client.patch(
            CERTIFICATESIGNINGREQUESTS, name, patch, subresource="approval", content_type=MERGE
        )
        log.info("request approved", request=name, node=requested_node(request))


def requested_node(request: Request) -> str:
    """The node that a request is for, or ""."""
    try:
        subject = x509.load_pem_x509_csr(request.spec.request).subject
    except ValueError:
        return ""
    common = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return common[0].removeprefix(SUBJECT_PREFIX) if common and common[0].startswith(SUBJECT_PREFIX) else ""


def objection(request: Request, node: Node | None) -> str:
    """Why a request is not to be approved, or "". Pure."""
    spec = request.spec
    if spec.signer_name != SIGNER or spec.username != REQUESTER:
        return "not asked for by the virtual nodes' agents"
    if set(spec.usages) != set(USAGES):
        return f"usages {sorted(spec.usages)} are not those of a server"
    if node is None or node.metadata.labels.get(names.NODE_TYPE_LABEL) != names.NODE_TYPE:
        return "there is no virtual node of this name"
    asked = x509.load_pem_x509_csr(spec.request)
    if not asked.is_signature_valid:
        return "not signed by its own key"
    subject = {(each.oid, each.value) for each in asked.subject}
    if subject != {
        (NameOID.ORGANIZATION_NAME, GROUP),
        (NameOID.COMMON_NAME, SUBJECT_PREFIX + node.metadata.name),
    }:
        return "its subject is not the node"
    known = {node.metadata.name, *(each.address for each in node.status.addresses)}
    foreign = _hosts(asked) - known
    return f"{', '.join(sorted(foreign))} are not names or addresses of the node" if foreign else ""


def _hosts(asked: x509.CertificateSigningRequest) -> set[str]:
    """Names and addresses; anything else in there is shown as what it is, and so known of no node."""
    try:
        found = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return {"no name at all"}
    return {_host(name) for name in found}


def _host(name: x509.GeneralName) -> str:
    if isinstance(name, x509.IPAddress):
        return str(ip_address(str(name.value)))
    return str(name.value) if isinstance(name, x509.DNSName) else repr(name)
