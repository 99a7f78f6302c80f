"""Whose client certificates count: the cluster's own client CA, followed.

In: ConfigMap kube-system/extension-apiserver-authentication, which every apiserver publishes for
servers such as this one. Out: PEM at each change. Invariant: until it is known, certificates count
for nothing, and a client has only its token.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.resources import CONFIGMAPS
from overspill.kube.watch import Watch
from overspill.model.pods import Meta

__all__ = ["AUTHENTICATION", "follow_client_ca"]

log = structlog.get_logger(__name__)

NAMESPACE, AUTHENTICATION = "kube-system", "extension-apiserver-authentication"
KEY = "client-ca-file"
FORBIDDEN_PAUSE = 30.0


class _ConfigMap(Struct, frozen=True):
    metadata: Meta
    data: dict[str, str] = {}


async def follow_client_ca(client: Client, use: Callable[[str], None]) -> None:
    """Call `use` with the PEM, or with "" when there is none to be had, now and at each change."""
    while True:
        try:
            async for batch in _watch(client).batches():
                found = [change.object.data for change in batch.changes if change.type != "DELETED"]
                if not found:
                    log.warning("no client CA: client certificates do not count", configmap=AUTHENTICATION)
                try:
                    use(found[-1].get(KEY, "") if found else "")
                except Misconfigured as error:
                    log.warning("client CA is no good; the one before counts", error=str(error))
        except Misconfigured as error:
            log.warning("client CA cannot be read: client certificates do not count", error=str(error))
            use("")
        await asyncio.sleep(FORBIDDEN_PAUSE)


def _watch(client: Client) -> Watch[_ConfigMap]:
    return Watch(
        client,
        CONFIGMAPS,
        kind=_ConfigMap,
        namespace=NAMESPACE,
        field_selector=f"metadata.name={AUTHENTICATION}",
        tick=1.0,
    )
