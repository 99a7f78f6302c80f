"""One connection after another: request, identity, permission, answer.

In: TLS connections. Out: answers of `routes`. Invariants: nothing is routed before somebody is known
and allowed to; whatever goes wrong on a connection ends that connection and nothing else; a client
that goes away ends what was done for it.
"""

import asyncio
import socket
import time
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from msgspec import Struct

from overspill import metrics
from overspill.errors import NotFound, OverspillError, Rejected, Unsupported
from overspill.serve import http
from overspill.serve.http import Answer, Refused, Reply, Streamed, Upgraded
from overspill.serve.kubelet.auth import User, access, bearer_token, forbidden, user_of_certificate
from overspill.serve.kubelet.review import Reviews
from overspill.serve.listener import Era, Listener
from overspill.serve.request import Request

if TYPE_CHECKING:
    import ssl

__all__ = ["Router", "Server"]

log = structlog.get_logger(__name__)

FIRST_SEGMENTS = frozenset(
    [
        "attach",
        "configz",
        "containerLogs",
        "exec",
        "healthz",
        "logs",
        "metrics",
        "pods",
        "portForward",
        "run",
        "runningpods",
        "stats",
    ]
)
# The kubelet's: pkg/kubelet/server/server.go.
IDLE_SECONDS = 90.0
CLOSE_SECONDS = 5.0
LOOK_SECONDS = 0.5  # how soon it is noticed that a silent client is gone
# What the caller of a backend is told about its errors; 500 for the others, with their text.
STATUSES: dict[type[OverspillError], int] = {NotFound: 404, Unsupported: 501, Rejected: 400}


class Router(Protocol):
    """Answers requests that are allowed."""

    async def __call__(self, request: Request) -> Reply:
        """The answer.

        Raises:
            Refused, or any other of `errors.py`.
        """


class Connection(Struct, frozen=True):
    """One connection; `certificate` is the client's, verified."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    certificate: dict[str, Any] | None
    era: Era

    @property
    def peer(self) -> str:
        """The client's address."""
        return str((self.writer.get_extra_info("peername") or ("",))[0])


class Server:
    """The kubelet API at one socket."""

    def __init__(self, bound: socket.socket, *, reviews: Reviews, router: Router) -> None:
        self.listener = Listener(bound, self._accept)
        self._reviews = reviews
        self._router = router
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self.listener.run()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, era: Era) -> None:
        assert self._tasks is not None
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert() if tls else None
        connection = Connection(reader, writer, certificate or None, era)
        self._tasks.create_task(self._serve(connection), name="kubelet API connection")

    async def _serve(self, connection: Connection) -> None:
        """Requests of one connection until it ends; nothing is raised but cancellation."""
        writer = connection.writer
        metrics.KUBELET_CONNECTIONS.inc()
        try:
            while await self._one(connection):
                pass
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("kubelet API connection ended", peer=connection.peer, error=str(error))
        except Exception:
            log.exception("kubelet API connection failed", peer=connection.peer)
        finally:
            metrics.KUBELET_CONNECTIONS.dec()
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await writer.wait_closed()

    async def _one(self, connection: Connection) -> bool:
        """One request and its answer; returns whether another one may come."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await http.read_head(connection.reader)
                if head is None:
                    return False
                request, modern = http.parse_head(head)
                await http.discard_body(request, connection.reader)
            if connection.era.client_ca != self.listener.era.client_ca:
                return False  # who was somebody may be nobody by now; a client without an answer asks anew
        except Refused as refused:
            await _send(connection, http.answer_bytes(refused.answer(), keep_alive=False))
            return False
        keep_alive = http.keeps_alive(request, modern=modern)
        # To HEAD no body is read, and an answer of ours has one.
        keep_alive &= request.method != "HEAD" and connection.era == self.listener.era
        reply = await self._answer(connection, request)
        _count(request, reply)
        return await self._reply(connection, reply, modern=modern, keep_alive=keep_alive)

    async def _answer(self, connection: Connection, request: Request) -> Reply:
        try:
            await self._check(connection, request)
            return await self._router(request)
        except OverspillError as error:
            return _answer_of(error)
        except Exception:
            log.exception("kubelet API request failed", method=request.method, path=request.path)
            return Answer(500, b"the node's agent has a defect; its log says more")

    async def _check(self, connection: Connection, request: Request) -> None:
        """See that somebody asks who may.

        Raises:
            Refused: 401, 403, or 500 when that cannot be told now.
        """
        user = await self._user(connection, request)
        wanted = access(request.method, request.path)
        if user is None:
            refusal = Refused(401, "Unauthorized")
        elif not await self._reviews.allowed(user, wanted):
            refusal = Refused(403, forbidden(user, wanted))
        else:
            return
        log.warning(
            "kubelet API request refused",
            status=refusal.status,
            user=user.name if user else "",
            method=request.method,
            path=request.path,  # never the query: a command may hold a secret
            peer=connection.peer,
        )
        raise refusal

    async def _user(self, connection: Connection, request: Request) -> User | None:
        """By certificate, else by token; nobody is anonymous."""
        user = user_of_certificate(connection.certificate, now=time.time())
        if user is not None:
            return user
        token = bearer_token(request.header("authorization"))
        return await self._reviews.user_of_token(token) if token else None

    async def _reply(self, connection: Connection, reply: Reply, *, modern: bool, keep_alive: bool) -> bool:
        if isinstance(reply, Answer):
            await _send(connection, http.answer_bytes(reply, keep_alive=keep_alive))
            return keep_alive
        if isinstance(reply, Upgraded):
            await reply.run(connection.reader, connection.writer)
            return False
        finished = await _while_connected(
            connection, _stream(connection, reply, chunked=modern, keep_alive=keep_alive)
        )
        return finished and keep_alive and modern


async def _stream(connection: Connection, reply: Streamed, *, chunked: bool, keep_alive: bool) -> bool:
    """Send piece by piece; returns whether it was sent to its end.

    What fails before the first piece is an ordinary refusal; later the connection is cut, so that the
    client does not take a part for the whole.
    """
    framed = http.chunk if chunked else bytes
    try:
        async with aclosing(reply.pieces) as pieces:  # type: ignore[type-var]  # the iterators are generators
            try:
                piece = await anext(pieces, b"")
            except OverspillError as error:
                await _send(connection, http.answer_bytes(_answer_of(error), keep_alive=keep_alive))
                return True
            head = http.streamed_head(reply.content_type, chunked=chunked, keep_alive=keep_alive)
            await _send(connection, head + framed(piece))
            async for piece in pieces:
                await _send(connection, framed(piece))
        await _send(connection, http.LAST_CHUNK if chunked else b"")
    except OverspillError as error:
        log.warning("answer cut short", error=str(error))
        return False
    except OSError:  # the client is gone
        return False
    return True


def _count(request: Request, reply: Reply) -> None:
    """By routes that there are: a stranger's paths are no labels."""
    first = request.path.split("/", 2)[1]
    code = reply.status if isinstance(reply, Answer) else 101 if isinstance(reply, Upgraded) else 200
    metrics.KUBELET_REQUESTS.labels(first if first in FIRST_SEGMENTS else "other", code).inc()


async def _while_connected(connection: Connection, work: Coroutine[Any, Any, bool]) -> bool:
    """Do it unless the client goes away first, which is noticed also while there is nothing to send."""
    async with asyncio.TaskGroup() as tasks:
        doing = tasks.create_task(work)
        watching = tasks.create_task(_gone(connection.writer))
        await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        watching.cancel()
    return not doing.cancelled() and doing.result()


async def _gone(writer: asyncio.StreamWriter) -> None:
    # Not `wait_closed`: cancelling that would cancel the connection's own future.
    while not writer.transport.is_closing():  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(LOOK_SECONDS)


async def _send(connection: Connection, data: bytes) -> None:
    if data:
        connection.writer.write(data)
    await connection.writer.drain()


def _answer_of(error: OverspillError) -> Answer:
    if isinstance(error, Refused):
        return error.answer()
    status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 500)
    return Answer(status, str(error).encode())
