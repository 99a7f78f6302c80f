"""HTTPS for the apiserver's requests for admission.

In: TLS connections, a decision for each path. Out: AdmissionReviews. Invariants: an answer is made of the request
and of what is in memory, so that nothing else can delay it; whatever goes wrong is an HTTP error, of which the
webhook's failurePolicy decides.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping

import msgspec
import structlog
from msgspec import Raw

from overspill import metrics
from overspill.errors import Rejected
from overspill.placement.patch import Operation
from overspill.serve import http
from overspill.serve.http import JSON, Answer, Refused
from overspill.serve.listener import Era, Listener
from overspill.serve.request import Request
from overspill.webhook.review import answer, read_review

__all__ = ["Decision", "Server"]

log = structlog.get_logger(__name__)

# An apiserver closes a connection that it has not used for 90 s; it shall never meet one that was closed here.
IDLE_SECONDS = 180.0
REQUEST_SECONDS = 10.0
# Two objects of the largest size that an apiserver takes, and what stands around them.
BODY_LIMIT = 8 << 20

Decision = Callable[[str, Raw], list[Operation]]


class Server:
    """The webhooks at one socket."""

    def __init__(self, bound: socket.socket, decisions: Mapping[str, Decision]) -> None:
        """`decisions` get the namespace and the object of a request, by its path."""
        self.listener = Listener(bound, self._accept)
        self._decisions = decisions
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled, from when the listener has a certificate."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self.listener.use_client_ca("")  # an apiserver shows webhooks no certificate unless it is told to
            await self.listener.run()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, era: Era) -> None:
        assert self._tasks is not None
        self._tasks.create_task(self._serve(reader, writer, era), name="webhook connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, era: Era) -> None:
        try:
            while await self._one(reader, writer, era):
                pass
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("webhook connection ended", error=str(error))
        except Exception:
            log.exception("webhook connection failed")
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, era: Era) -> bool:
        """One request and its answer; returns whether another one may come."""
        keep_alive = False
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await http.read_head(reader)
            if head is None:
                return False
            request, modern = http.parse_head(head)
            async with asyncio.timeout(REQUEST_SECONDS):
                body = await http.read_body(request, reader, limit=BODY_LIMIT)
            keep_alive = http.keeps_alive(request, modern=modern) and era == self.listener.era
            reply = self._answer(request, body)
        except Refused as refused:
            reply = refused.answer()
        async with asyncio.timeout(REQUEST_SECONDS):
            writer.write(http.answer_bytes(reply, keep_alive=keep_alive))
            await writer.drain()
        return keep_alive

    def _answer(self, request: Request, body: bytes) -> Answer:
        decide = self._decisions.get(request.path)
        if decide is None:
            raise Refused(404, "404 page not found")
        if request.method != "POST":
            raise Refused(405, "only POST is answered here")
        name = request.path.rpartition("/")[2]
        try:
            review = read_review(body)
            patch = decide(review.namespace, review.object)
        except (Rejected, msgspec.DecodeError) as error:
            log.warning("request for admission refused", webhook=name, error=str(error))
            metrics.WEBHOOK_REQUESTS.labels(name, "refused").inc()
            return Answer(400, str(error).encode())
        except Exception:
            log.exception("request for admission failed", webhook=name)
            metrics.WEBHOOK_REQUESTS.labels(name, "refused").inc()
            return Answer(500, b"the controller has a defect; its log says more")
        metrics.WEBHOOK_REQUESTS.labels(name, "patched" if patch else "unchanged").inc()
        return Answer(200, answer(review.uid, patch), content_type=JSON)
