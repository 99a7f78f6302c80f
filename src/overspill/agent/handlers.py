"""A container's probes and hooks, resolved.

In: a probe or hook as the API has it, and its container. Out: as a backend gets it. Pure.
Invariant: a port is a number; what is done is known, or the pod is refused.
Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/.
"""

from overspill.errors import Unsupported
from overspill.model import podlife, pods, work

__all__ = ["hook", "probe", "restart_rules"]


def probe(declared: podlife.Probe | None, container: pods.Container, name: str) -> work.Probe | None:
    """A probe; `name` is its field's.

    Raises:
        Unsupported: it does something that is not honoured, or names a port that is not declared.
    """
    if declared is None:
        return None
    return work.Probe(
        handler=_asked(declared, container, name),
        initial_delay_seconds=declared.initial_delay_seconds,
        period_seconds=declared.period_seconds,
        timeout_seconds=declared.timeout_seconds,
        success_threshold=declared.success_threshold,
        failure_threshold=declared.failure_threshold,
        termination_grace_period_seconds=declared.termination_grace_period_seconds,
    )


def hook(declared: podlife.Hook | None, container: pods.Container, name: str) -> work.HookAction | None:
    """A hook; raises as `probe` does."""
    if declared is None:
        return None
    return work.SleepAction(declared.sleep.seconds) if declared.sleep else _handler(declared, container, name)


def restart_rules(container: pods.Container) -> tuple[work.RestartRule, ...]:
    """After which exit codes a container is restarted whatever its policy says.

    Raises:
        Unsupported: more than this container is to be restarted (KEP-5532).
    """
    made = []
    for index, rule in enumerate(container.restart_policy_rules):
        if rule.action != "Restart":
            field = f"restartPolicyRules[{index}].action"
            why = f"container {container.name}: {field} {rule.action!r} is not honoured, only 'Restart'"
            raise Unsupported(why, fields=(field,))
        made.append(work.RestartRule(rule.exit_codes.operator, rule.exit_codes.values))
    return tuple(made)


def _asked(declared: podlife.Probe, container: pods.Container, name: str) -> work.ProbeAction:
    if declared.grpc is not None:
        return work.GrpcAction(declared.grpc.port, declared.grpc.service or "")
    return _handler(declared, container, name)


def _handler(declared: podlife.Handler, container: pods.Container, name: str) -> work.Handler:
    if declared.exec is not None:
        return work.ExecAction(declared.exec.command)
    if declared.http_get is not None:
        get = declared.http_get
        headers = tuple((header.name, header.value) for header in get.http_headers)
        return work.HttpGetAction(_port(get.port, container, name), get.path, get.scheme, get.host, headers)
    if declared.tcp_socket is not None:
        socket = declared.tcp_socket
        return work.TcpSocketAction(_port(socket.port, container, name), socket.host)
    raise Unsupported(f"{name} of container {container.name}: its action is not honoured", fields=(name,))


def _port(port: int | str, container: pods.Container, name: str) -> int:
    if isinstance(port, int):
        return port
    for declared in container.ports:
        if declared.name == port:
            return declared.container_port
    if port.isdecimal():
        return int(port)
    raise Unsupported(f"{name} of container {container.name}: it declares no port {port!r}", fields=(name,))
