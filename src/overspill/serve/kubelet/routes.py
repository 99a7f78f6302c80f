"""Which path does what: the routes of the kubelet API.

In: a request that is allowed. Out: a `Reply`. Invariants: a pod or container that is not there is told
before a connection is upgraded, while a readable answer is still possible; what the backend cannot do
is answered with 501 and why.
Source: pkg/kubelet/server/server.go.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from overspill import metrics
from overspill.backends.base import Probing
from overspill.model.observation import Running
from overspill.serve.http import JSON, PLAIN, Answer, Refused, Reply, Streamed, Upgraded
from overspill.serve.kubelet.cadvisor import cadvisor_metrics
from overspill.serve.kubelet.containerlogs import log_options, refuse_unlogged
from overspill.serve.kubelet.node import ServedNode, ServedPod
from overspill.serve.kubelet.podlist import all_pods, running_pods
from overspill.serve.request import Request

if TYPE_CHECKING:
    from overspill.backends.base import Process
    from overspill.serve import streams

__all__ = ["VERBS_OF_ROUTES", "Routes"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
RUN_OUTPUT_LIMIT = 16 << 20
# What of kubectl needs which verb of a backend.
VERBS_OF_ROUTES = {
    "containerLogs": "logs",
    "exec": "exec",
    "run": "exec",
    "attach": "attach",
    "portForward": "port-forward",
}

Named = Mapping[str, str]
Handler = Callable[[Request, Named], Awaitable[Reply]]


class _Name(Struct, frozen=True):
    name: str


class _Containers(Struct, frozen=True, rename="camel"):
    containers: tuple[_Name, ...] = ()
    init_containers: tuple[_Name, ...] = ()
    ephemeral_containers: tuple[_Name, ...] = ()


class Route(Struct, frozen=True):
    """Methods, a path of fixed and `{named}` segments, and what answers."""

    methods: tuple[str, ...]
    pattern: tuple[str, ...]
    handler: Handler

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The named segments, if the path is of this pattern."""
        if len(segments) != len(self.pattern):
            return None
        named = {}
        for wanted, found in zip(self.pattern, segments, strict=True):
            if wanted.startswith("{") and found:
                named[wanted[1:-1]] = found
            elif wanted != found:
                return None
        return named


class Routes:
    """Answers for one node."""

    def __init__(
        self, node: ServedNode, *, websockets: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """`websockets`: take what apiservers send only to nodes that declare it."""
        self._node = node
        self._websockets = websockets
        self._clock = clock
        get, both, post = ("GET",), ("GET", "POST"), ("POST",)
        self._routes = [
            Route(methods, tuple(pattern.strip("/").split("/")), handler)
            for methods, pattern, handler in (
                (get, "/containerLogs/{namespace}/{pod}/{container}", self._logs),
                (both, "/exec/{namespace}/{pod}/{container}", self._exec),
                (both, "/exec/{namespace}/{pod}/{uid}/{container}", self._exec),
                (both, "/attach/{namespace}/{pod}/{container}", self._attach),
                (both, "/attach/{namespace}/{pod}/{uid}/{container}", self._attach),
                (both, "/portForward/{namespace}/{pod}", self._port_forward),
                (both, "/portForward/{namespace}/{pod}/{uid}", self._port_forward),
                (post, "/run/{namespace}/{pod}/{container}", self._run),
                (post, "/run/{namespace}/{pod}/{uid}/{container}", self._run),
                (get, "/pods", self._pods),
                (get, "/runningpods", self._running_pods),
                (get, "/healthz", self._healthz),
                (get, "/healthz/{check}", self._healthz),
                (get, "/configz", self._configz),
                (get, "/stats/summary", self._summary),
                (get, "/metrics", self._metrics),
                (get, "/metrics/resource", self._resource_metrics),
                (get, "/metrics/cadvisor", self._cadvisor),
                (get, "/metrics/probes", self._probes),
            )
        ]

    async def __call__(self, request: Request) -> Reply:
        """Answer a request.

        Raises:
            Refused, or any other of `errors.py`.
        """
        segments = request.path.strip("/").split("/")
        if segments[0] == "logs":
            raise Refused(
                405, "logs endpoint is disabled: a virtual node has no machine with logs of its own"
            )
        matching = [(route, named) for route in self._routes if (named := route.match(segments)) is not None]
        if not matching:
            raise Refused(404, "404 page not found\n")
        route, named = matching[0]
        if request.method not in route.methods:
            allow = {"Allow": ", ".join(route.methods)}
            return Answer(405, b"405: Method Not Allowed", headers=allow)
        self._refuse_unable(segments[0])
        return await route.handler(request, named)

    def _refuse_unable(self, first: str) -> None:
        verb = VERBS_OF_ROUTES.get(first)
        backend = self._node.backend
        if verb and verb not in backend.capabilities.verbs:
            raise Refused(501, f"pods on this node run at {backend.name}, which has no {verb}")

    # --- containers ---

    async def _logs(self, request: Request, named: Named) -> Reply:
        options = log_options(request.query, now=self._clock())
        served = self._node.find(named["namespace"], named["pod"])
        if served is None:
            raise Refused(404, f'pod "{named["pod"]}" does not exist')
        if named["container"] not in _container_names(served):
            raise Refused(404, f'container "{named["container"]}" not found in pod "{named["pod"]}"')
        refuse_unlogged(served, named["container"], previous=options.previous)
        return Streamed(self._node.backend.logs(served.identity, named["container"], options), PLAIN)

    async def _exec(self, request: Request, named: Named) -> Reply:
        served, container = self._running(named)
        command = request.query.get("command", ())
        if not command:
            raise Refused(400, "you must specify at least 1 command for the container")
        exec_ = self._node.backend.exec
        return self._remote_command(
            request,
            lambda asked: exec_(served.identity, container, command, stdin=asked.stdin, tty=asked.tty),
        )

    async def _attach(self, request: Request, named: Named) -> Reply:
        served, container = self._running(named)
        attach = self._node.backend.attach
        return self._remote_command(
            request, lambda asked: attach(served.identity, container, stdin=asked.stdin, tty=asked.tty)
        )

    def _remote_command(
        self, request: Request, start: "Callable[[streams.Wanted], Awaitable[Process]]"
    ) -> Upgraded:
        from overspill.serve import streams  # noqa: PLC0415 - an agent that nobody execs into never needs it

        wanted = streams.wanted(request)
        limits = streams.Limits(websocket_v5=self._websockets)
        return Upgraded(
            lambda reader, writer: streams.remote_command(
                request, reader, writer, wanted=wanted, start=lambda: start(wanted), limits=limits
            )
        )

    async def _port_forward(self, request: Request, named: Named) -> Reply:
        from overspill.serve import streams  # noqa: PLC0415 - as above

        served = self._pod(named)
        if served.seen is None:
            raise Refused(500, f'pod "{named["pod"]}" does not run yet')
        identity, forward = served.identity, self._node.backend.port_forward
        limits = streams.Limits(websocket_v5=self._websockets)
        return Upgraded(
            lambda reader, writer: streams.port_forward(
                request,
                reader,
                writer,
                connect=lambda port: forward(identity, port),
                limits=limits,
                target=f"pod {identity.name}, uid {identity.uid}",
            )
        )

    async def _run(self, request: Request, named: Named) -> Reply:
        served, container = self._running(named)
        command = request.parameter("cmd").split(" ")
        process = await self._node.backend.exec(served.identity, container, command, stdin=False, tty=False)
        output = bytearray()
        try:
            async for _, data in process.output():
                output += data
                if len(output) > RUN_OUTPUT_LIMIT:
                    raise Refused(500, f"the command wrote more than {RUN_OUTPUT_LIMIT} bytes; use exec")
            code = await process.wait()
        finally:
            await process.close()
        if code:
            text = f"command '{' '.join(command)}' exited with {code}: "
            return Answer(500, text.encode() + output)
        return Answer(200, bytes(output))

    def _pod(self, named: Named) -> ServedPod:
        served = self._node.find(named["namespace"], named["pod"])
        if served is None or named.get("uid", served.identity.uid) != served.identity.uid:
            raise Refused(404, "pod does not exist")
        return served

    def _running(self, named: Named) -> tuple[ServedPod, str]:
        """The pod and the name of a container of it that runs; kubectl prints the refusal as it is."""
        served, name = self._pod(named), named["container"]
        seen = served.container(name)
        if seen is None or not isinstance(seen.state, Running):
            raise Refused(500, f'container not found ("{name}")')
        return served, name

    # --- the node ---

    async def _pods(self, _request: Request, _named: Named) -> Reply:
        return Streamed(all_pods(self._node), JSON)

    async def _running_pods(self, _request: Request, _named: Named) -> Reply:
        return Streamed(running_pods(self._node), JSON)

    async def _healthz(self, request: Request, named: Named) -> Reply:
        troubles = {"ping": None, "log": None, "syncloop": self._node.sync_trouble()}
        if (check := named.get("check")) is not None:
            if check not in troubles:
                raise Refused(404, "404 page not found\n")
            troubles = {check: troubles[check]}
        healthy = not any(troubles.values())
        if healthy and "verbose" not in request.query:
            return Answer(200, b"ok")
        lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in troubles.items()]
        lines.append(f"healthz check {'passed' if healthy else 'failed'}\n")
        return Answer(200 if healthy else 500, "\n".join(lines).encode())

    async def _configz(self, _request: Request, _named: Named) -> Reply:
        return Answer(200, msgspec.json.encode(self._node.settings), JSON)

    async def _summary(self, _request: Request, _named: Named) -> Reply:
        return Answer(200, await self._node.summary(), JSON)

    async def _metrics(self, _request: Request, _named: Named) -> Reply:
        return Answer(200, metrics.exposition(), metrics.CONTENT_TYPE)

    async def _resource_metrics(self, _request: Request, _named: Named) -> Reply:
        return Answer(200, await self._node.resource_metrics(), PROMETHEUS)

    async def _cadvisor(self, _request: Request, _named: Named) -> Reply:
        seen = {
            (served.identity.uid, each.name): each
            for served in self._node.pods()
            for each in served.containers()
        }
        return Answer(200, cadvisor_metrics(await self._node.usage(), seen), PROMETHEUS)

    async def _probes(self, _request: Request, _named: Named) -> Reply:
        from overspill.serve.probemetrics import probe_metrics  # noqa: PLC0415 - few nodes are asked for it

        backend = self._node.backend
        if isinstance(backend, Probing):
            return Answer(200, probe_metrics(backend.probe_counts()), PROMETHEUS)
        why = f"# Pods of this node run at {backend.name}, from which nobody hears of single probes.\n"
        return Answer(200, why.encode(), PROMETHEUS)


def _container_names(served: ServedPod) -> set[str]:
    spec = msgspec.json.decode(served.pod.spec, type=_Containers)
    return {each.name for each in (*spec.containers, *spec.init_containers, *spec.ephemeral_containers)}
