"""`overspill capabilities`: what kubectl can do on virtual nodes, by backend, as a table that docs/kubelet-api.md has.

In: what the installed backends say of themselves. Out: Markdown on stdout. Invariant: whether a verb works is read
from its backend's `Capabilities`; only how is said here.
"""

from collections.abc import Mapping

from overspill.backends.base import Capabilities
from overspill.backends.registry import backend_factory, backend_names

__all__ = ["COMMANDS_OF_VERBS", "capabilities", "table"]

COMMANDS_OF_VERBS = {
    "logs": "`kubectl logs`, also `-f`, `--previous`, `--tail`, `--since`, `--timestamps`, `--limit-bytes`",
    "exec": "`kubectl exec`, also `-it`; `kubectl cp`",
    "attach": "`kubectl attach`, `kubectl run -it`",
    "port-forward": "`kubectl port-forward`",
    "metrics": "`kubectl top`, autoscaling by CPU and memory",
    "debug": "`kubectl debug POD` (ephemeral container)",
}
HOW = {
    ("eci", "logs"): "the last 2,000 lines or 1 MiB",
    ("simulated", "exec"): "a shell that is played",
    ("simulated", "attach"): "an echo",
    ("simulated", "port-forward"): "an echo",
    ("simulated", "metrics"): "made-up figures",
}


def capabilities() -> None:
    """Print which commands of kubectl work on which backend, as Markdown."""
    print(table({name: backend_factory(name).capabilities for name in backend_names()}), end="")


def table(backends: Mapping[str, Capabilities]) -> str:
    """The table."""
    names = [f"`{name}`" for name in backends]
    rows = [["Command", *names], ["---"] * (len(names) + 1)]
    for verb, command in COMMANDS_OF_VERBS.items():
        rows.append([command, *(_cell(name, verb, able) for name, able in backends.items())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(name: str, verb: str, able: Capabilities) -> str:
    if verb not in able.verbs:
        return "no"
    how = HOW.get((name, verb))
    return f"yes, {how}" if how else "yes"
