"""What the collector has seen, kept in a ConfigMap for whoever leads next.

In: a client, sightings. Out: the same. Invariant: nothing is written where nothing is unwanted and nothing was; a
text that is not ours counts as nothing seen.
"""

import msgspec
import structlog
from msgspec import Struct, field

from overspill.errors import NotFound, OverspillError
from overspill.kube.client import Client
from overspill.kube.resources import CONFIGMAPS
from overspill.orphans.sightings import Sighting

__all__ = ["Record"]

log = structlog.get_logger(__name__)

KEY = "sightings"


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _ConfigMap(Struct, frozen=True):
    metadata: _Meta = _Meta()
    data: dict[str, str] = field(default_factory=dict)


class Record:
    """One ConfigMap."""

    def __init__(self, client: Client, name: str, *, namespace: str) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._kept: dict[str, Sighting] | None = None

    async def read(self) -> dict[str, Sighting]:
        """What was kept last, by group.

        Raises:
            OverspillError: it cannot be told.
        """
        try:
            found = await self._get()
            self._kept = msgspec.json.decode(found.data.get(KEY, "{}"), type=dict[str, Sighting])
        except NotFound:
            self._kept = {}
        except msgspec.DecodeError as error:
            log.warning("sightings of orphans cannot be read; they are counted anew", error=str(error))
            self._kept = {}
        return self._kept

    async def keep(self, seen: dict[str, Sighting]) -> None:
        """Keep this instead; what could not be kept costs a successor time and nothing else."""
        if seen == self._kept:
            return
        try:
            await self._write(seen)
        except OverspillError as error:
            self._kept = None
            log.warning("sightings of orphans could not be kept for a successor", error=str(error))
        else:
            self._kept = dict(seen)

    async def _write(self, seen: dict[str, Sighting]) -> None:
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        body |= {"data": {KEY: msgspec.json.encode(seen).decode()}}
        try:
            # Another process that writes in between leads by now.
            metadata["resourceVersion"] = (await self._get()).metadata.resource_version
        except NotFound:
            await self._client.create(CONFIGMAPS, body, namespace=self._namespace, kind=_ConfigMap)
        else:
            await self._client.update(
                CONFIGMAPS, self._name, body, namespace=self._namespace, kind=_ConfigMap
            )

    async def _get(self) -> _ConfigMap:
        return await self._client.get(CONFIGMAPS, self._name, namespace=self._namespace, kind=_ConfigMap)
