"""Whether the apiserver itself can make pods wait for their pool.

In: an apiserver. Out: what is missing, in words. Invariant: what cannot be is said once, at the start.
"""

import msgspec
import structlog
from msgspec import Struct

from overspill.errors import Misconfigured, Retry
from overspill.kube.client import Client

__all__ = ["Gates"]

log = structlog.get_logger(__name__)

API = "/apis/admissionregistration.k8s.io/v1"
POLICIES = "mutatingadmissionpolicies"
MISSING = (
    "this apiserver has no MutatingAdmissionPolicy, which is of Kubernetes 1.36 and newer: add the component "
    "deploy/webhook to your kustomization, which sets --webhook-address"
)


class _Resource(Struct, frozen=True):
    name: str


class _Resources(Struct, frozen=True):
    resources: tuple[_Resource, ...] = ()


class Gates:
    """Looks once.

    Attributes:
        trouble: why pods are not made to wait by MutatingAdmissionPolicies; None when the apiserver has them.
    """

    def __init__(self, client: Client) -> None:
        self.trouble: str | None = None
        self._client = client

    async def run(self) -> None:
        """Look until the apiserver has answered.

        Raises:
            Misconfigured: something else than an apiserver has.
        """
        while True:
            try:
                found = _decoded(await self._client.request("GET", API))
            except Retry as error:  # after half a minute of trying
                log.warning("it is not known yet whether pods can be made to wait", error=str(error))
                continue
            break
        if not any(each.name == POLICIES for each in found.resources):
            self.trouble = MISSING
            log.error("no pod will wait for its pool", why=MISSING)


def _decoded(content: bytes) -> _Resources:
    try:
        return msgspec.json.decode(content, type=_Resources)
    except msgspec.DecodeError as error:
        raise Misconfigured(f"{API} is answered by something else than an apiserver: {error}") from error
