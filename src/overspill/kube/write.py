"""The one writer of pod statuses.

In: the status that a pod should have. Out: one PATCH when it differs from what was last sent, or somebody
else has written another. Invariant: at most one PATCH of a pod is in flight, and the newest status wins over
those that waited behind it, also when a failed one is sent again; a pod that is gone is forgotten.
Source: kubelet, pkg/util/pod/pod.go: a strategic merge with the uid as the only precondition.
"""

import asyncio
import hashlib
import random
from collections.abc import Mapping

import msgspec
import structlog
from msgspec import Struct

from overspill import metrics
from overspill.backoff import backoff
from overspill.errors import Conflict, Misconfigured, NotFound, OverspillError, Rejected, Retry, Throttled
from overspill.kube.cache import Key
from overspill.kube.client import METADATA_ONLY, STRATEGIC, Client
from overspill.kube.resources import PODS

__all__ = ["StatusWriter"]

log = structlog.get_logger(__name__)
PAUSE_FIRST, PAUSE_CAP = 0.1, 5.0
# What only a person can mend is tried again at this pace, since an apiserver that starts refuses in the same way.
FORBIDDEN_PAUSE = 10.0
# What was refused as wrong is tried again at this pace: a policy or a webhook may have changed its mind.
REFUSED_PAUSE = 60.0
# Who waits for a status to be sent is let go after this time: a webhook that is down may take half a minute to fail.
ANSWERED_WITHIN = 5.0


class _Meta(Struct, rename="camel", gc=False):
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None


class _Written(Struct, gc=False):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _Slot(Struct):
    wanted: bytes | None = None  # not sent yet
    sent: bytes = b""  # digest of the last one that arrived; none once somebody else may have written another
    version: str = ""  # resourceVersion that our last PATCH was answered with
    echo: bool = False  # nothing else is new in that version
    doubted: str = ""  # resourceVersion in which somebody else may have written the status
    generation: int = 0
    failures: int = 0
    busy: bool = False  # in the queue, in flight, or waiting to be sent again
    settled: asyncio.Event | None = None  # of those who wait in flush


written = msgspec.json.Decoder(_Written)
encoder = msgspec.json.Encoder()
NOTHING: Mapping[str, str] = {}


class StatusWriter:
    """Writes pod statuses with a bounded number of requests in flight."""

    def __init__(self, client: Client, *, workers: int = 8) -> None:
        self._client = client
        self._workers = workers
        self._slots: dict[Key, _Slot] = {}
        self._dirty: asyncio.Queue[tuple[Key, _Slot]] = asyncio.Queue()
        self._failing = False
        metrics.STATUS_WAITING.set_function(self._dirty.qsize)

    def put(self, key: Key, status: bytes, *, annotations: Mapping[str, str] = NOTHING) -> None:
        """Have a pod's status written: PodStatus as JSON, encoded the same way each time.

        `annotations` are set by the same PATCH; those of the pod that are not among them stay.
        """
        body = _body(key, status, annotations)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot()
        if not slot.busy:
            if _digest(body) == slot.sent:
                return
            slot.busy = True
            self._dirty.put_nowait((key, slot))
        slot.wanted = body

    def forget(self, key: Key) -> None:
        """Drop what is known of a pod, an unsent status included."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            slot.wanted = None
            _settle(slot)

    async def flush(self, key: Key) -> None:
        """Return when the newest status of a pod has been sent, or the pod is forgotten.

        Raises:
            Retry: it cannot be sent now; the writer tries on.
        """
        slot = self._slots.get(key)
        if slot is None or not slot.busy:
            return
        if not slot.failures:
            slot.settled = slot.settled or asyncio.Event()
            try:
                async with asyncio.timeout(ANSWERED_WITHIN):
                    await slot.settled.wait()
            except TimeoutError:
                raise Retry("the pod's status waits for an answer of the apiserver") from None
        if slot.failures and self._slots.get(key) is slot:
            raise Retry("the pod's status cannot be written now")

    def is_echo(self, key: Key, resource_version: str) -> bool:
        """Whether this version of a pod is our own PATCH coming back, and holds nothing else that is new."""
        slot = self._slots.get(key)
        return slot is not None and slot.echo and slot.version == resource_version != ""

    def doubt(self, key: Key, resource_version: str, *, listed: bool) -> None:
        """This version of a pod has another status than the one before; if that is not ours, the next `put` sends it.

        One that is `listed` may be older than our last PATCH, and still the newest: etcd was restored.
        """
        slot = self._slots.get(key)
        if slot is not None and (listed or _is_later(resource_version, slot.version)):
            slot.sent, slot.doubted = b"", resource_version

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._work(), name=f"status writer {number}")

    async def _work(self) -> None:
        while True:
            key, slot = await self._dirty.get()
            body, slot.wanted = slot.wanted, None
            pause = await self._write(key, slot, body) if body is not None else 0.0
            if self._slots.get(key) is not slot:  # forgotten meanwhile
                _settle(slot)
            elif pause:
                _settle(slot)
                asyncio.get_running_loop().call_later(pause, self._dirty.put_nowait, (key, slot))
            elif slot.wanted is not None and _digest(slot.wanted) != slot.sent:
                self._dirty.put_nowait((key, slot))
            else:
                slot.busy, slot.wanted = False, None
                _settle(slot)

    async def _write(self, key: Key, slot: _Slot, body: bytes) -> float:
        """Send one status; returns the seconds after which to try again, 0 for never."""
        path = PODS.path(namespace=key.namespace, name=key.name, subresource="status")
        try:
            reply = await self._client.request(
                "PATCH", path, body=body, content_type=STRATEGIC, accept=METADATA_ONLY, retry=False
            )
        except (NotFound, Conflict):
            self.forget(key)
        except Rejected as error:
            self._refused(key, slot, body, error)
        except OverspillError as error:
            slot.wanted = slot.wanted or body
            return self._pause(slot, error)
        else:
            self._note(slot, _digest(body), _meta_of(reply))
        return 0.0

    def _refused(self, key: Key, slot: _Slot, body: bytes, error: Rejected) -> None:
        """The same would be refused again, for now."""
        digest = _digest(body)
        if digest != slot.sent:  # told once
            log.error("pod status refused", pod=f"{key.namespace}/{key.name}", error=str(error))
        slot.sent, slot.failures = digest, 0

        def try_again() -> None:
            # By identity: a later refusal of the same has a timer of its own.
            if self._slots.get(key) is slot and slot.sent is digest and not slot.busy:
                slot.wanted, slot.busy = body, True
                self._dirty.put_nowait((key, slot))

        asyncio.get_running_loop().call_later(REFUSED_PAUSE, try_again)

    def _note(self, slot: _Slot, sent: bytes, meta: _Meta) -> None:
        # A PATCH that changes nothing answers with the version that somebody else's write made, whose
        # event is still on its way. Hence no echo of a pod that may have changed beside its status.
        unchanged = meta.generation in {0, 1, slot.generation} and meta.deletion_timestamp is None
        slot.version, slot.echo = meta.resource_version, unchanged and not slot.doubted
        if not _is_later(slot.doubted, slot.version):  # it is what this PATCH wrote, or what it wrote over
            slot.sent, slot.doubted = sent, ""
        slot.generation, slot.failures = meta.generation, 0
        if self._failing:
            log.info("pod statuses are written again")
            self._failing = False

    def _pause(self, slot: _Slot, error: OverspillError) -> float:
        if (
            not self._failing
        ):  # an apiserver that is away fails every pod: told once, and once when it is back
            log.warning("pod statuses cannot be written; trying on", error=str(error))
            self._failing = True
        slot.failures += 1
        pause = backoff(slot.failures, first=PAUSE_FIRST, cap=PAUSE_CAP) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if isinstance(error, Throttled):
            return max(pause, error.retry_after)
        return FORBIDDEN_PAUSE if isinstance(error, Misconfigured) else pause


def _body(key: Key, status: bytes, annotations: Mapping[str, str]) -> bytes:
    more = b',"annotations":' + encoder.encode(annotations) if annotations else b""
    return b'{"metadata":{"uid":"%s"%s},"status":%s}' % (key.uid.encode(), more, status)


def _digest(body: bytes) -> bytes:
    """Stands for what was sent: a node of 3,000 pods need not keep 3 MB to compare with."""
    return hashlib.blake2b(body, digest_size=16).digest()


def _is_later(version: str, other: str) -> bool:
    """Whether one resourceVersion of a pod comes after another: they are numbers that grow (KEP-5504)."""
    return (len(version), version) > (len(other), other)


def _meta_of(reply: bytes) -> _Meta:
    try:
        return written.decode(reply).metadata
    except msgspec.DecodeError:  # it was written all the same; only its echo will not be known
        return _Meta()


def _settle(slot: _Slot) -> None:
    if slot.settled is not None:
        slot.settled.set()
        slot.settled = None
