"""What a v1.Container says of its life: probes, hooks, and after which ends it runs again.

In: a spec's bytes, decoded as a part of `pods.py`. Out: to `agent/handlers.py`. Invariant: a field that is not
here is refused by `fields.py`.
Source: k8s.io/api/core/v1/types.go.
"""

from typing import Literal

from msgspec import Struct

__all__ = [
    "ExecAction",
    "ExitCodes",
    "GrpcAction",
    "Handler",
    "Hook",
    "HttpGetAction",
    "HttpHeader",
    "Lifecycle",
    "Probe",
    "RestartRule",
    "SleepAction",
    "TcpSocketAction",
]


class ExecAction(Struct, frozen=True):
    """Run a command in the container."""

    command: tuple[str, ...] = ()


class HttpHeader(Struct, frozen=True):
    """One header of a request."""

    name: str
    value: str


class HttpGetAction(Struct, frozen=True, rename="camel"):
    """GET a path; the port may be a declared port's name."""

    port: int | str
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    host: str = ""
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocketAction(Struct, frozen=True):
    """Open a connection; the port may be a declared port's name."""

    port: int | str
    host: str = ""


class GrpcAction(Struct, frozen=True):
    """Ask grpc.health.v1.Health."""

    port: int
    service: str | None = None


class SleepAction(Struct, frozen=True):
    """Wait."""

    seconds: int = 0


class Handler(Struct, frozen=True, rename="camel"):
    """What a probe or hook does; one of these is set, or one of its own, or one that is not honoured."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None


class Hook(Handler, frozen=True, rename="camel"):
    """What a hook does."""

    sleep: SleepAction | None = None


class Probe(Handler, frozen=True, rename="camel"):
    """What a probe does, and when."""

    grpc: GrpcAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(Struct, frozen=True, rename="camel"):
    """A container's hooks, and by which signal it is asked to stop."""

    post_start: Hook | None = None
    pre_stop: Hook | None = None
    stop_signal: str = ""


class ExitCodes(Struct, frozen=True):
    """Which exit codes a rule is about."""

    operator: Literal["In", "NotIn"] = "In"
    values: tuple[int, ...] = ()


class RestartRule(Struct, frozen=True, rename="camel"):
    """What is done after some exit codes."""

    action: str = ""
    exit_codes: ExitCodes = ExitCodes()
