"""The one writer of pod statuses.

In: the status a pod should have. Out: one PATCH when it differs from what was last sent.
Invariant: at most one PATCH per pod is in flight, and the newest status wins over those that
waited behind it; a pod that is gone is forgotten.
"""

import asyncio

import structlog
from msgspec import Struct

from overspill.errors import Conflict, NotFound, OverspillError, Retry, Throttled
from overspill.kube.cache import Key
from overspill.kube.client import Client
from overspill.kube.replies import resource_version_of
from overspill.kube.resources import PODS

__all__ = ["StatusWriter"]

log = structlog.get_logger(__name__)
PAUSE_FIRST, PAUSE_CAP = 0.2, 10.0


class _Slot(Struct, gc=False):
    wanted: bytes | None = None  # not sent yet
    sent: bytes = b""
    version: str = ""  # resourceVersion our last PATCH made
    failures: int = 0
    flying: bool = False


class StatusWriter:
    """Writes pod statuses with a bounded number of requests in flight."""

    def __init__(self, client: Client, *, workers: int = 8) -> None:
        self._client = client
        self._workers = workers
        self._slots: dict[Key, _Slot] = {}
        self._dirty: asyncio.Queue[Key] = asyncio.Queue()
        self._idle: dict[Key, asyncio.Event] = {}  # of those who wait in flush

    def put(self, key: Key, status: bytes) -> None:
        """Have a pod's status written: PodStatus as JSON, built the same way each time."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot()
        if slot.wanted is None:
            if status == slot.sent:
                return
            if not slot.flying:
                self._dirty.put_nowait(key)
        slot.wanted = status

    def forget(self, key: Key) -> None:
        """Drop what is known of a pod, unsent status included."""
        self._slots.pop(key, None)
        self._settle(key)

    async def flush(self, key: Key) -> None:
        """Return when nothing waits to be written for a pod."""
        slot = self._slots.get(key)
        while slot is not None and (slot.wanted is not None or slot.flying):
            await self._idle.setdefault(key, asyncio.Event()).wait()
            slot = self._slots.get(key)

    def is_echo(self, key: Key, resource_version: str) -> bool:
        """Whether this version of a pod is our own PATCH coming back."""
        slot = self._slots.get(key)
        return slot is not None and slot.version == resource_version

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._work(), name=f"status writer {number}")

    async def _work(self) -> None:
        while True:
            key = await self._dirty.get()
            slot = self._slots.get(key)
            if slot is not None and slot.wanted is not None:
                await self._write(key, slot)

    async def _write(self, key: Key, slot: _Slot) -> None:
        status, slot.wanted, slot.flying = slot.wanted or b"", None, True
        body = b'{"metadata":{"uid":"%s"},"status":%s}' % (key.uid.encode(), status)
        pause = 0.0
        try:
            reply = await self._client.patch(
                PODS, key.name, body, namespace=key.namespace, subresource="status"
            )
        except (NotFound, Conflict):
            self.forget(key)
        except Retry as error:
            pause = self._put_back(slot, status, error)
        except OverspillError as error:
            log.exception("pod status refused", pod=f"{key.namespace}/{key.name}", error=str(error))
        else:
            slot.sent, slot.failures = status, 0
            slot.version = resource_version_of(reply)
        finally:
            slot.flying = False
        if pause:
            asyncio.get_running_loop().call_later(pause, self._dirty.put_nowait, key)
        elif slot.wanted is not None:
            self._dirty.put_nowait(key)
        else:
            self._settle(key)

    def _put_back(self, slot: _Slot, status: bytes, error: Retry) -> float:
        slot.wanted = status if slot.wanted is None else slot.wanted
        slot.failures += 1
        asked = error.retry_after if isinstance(error, Throttled) else 0.0
        return asked or min(PAUSE_FIRST * 2.0 ** min(slot.failures, 8), PAUSE_CAP)

    def _settle(self, key: Key) -> None:
        event = self._idle.pop(key, None)
        if event is not None:
            event.set()
