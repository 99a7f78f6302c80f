"""Fields of the pod itself as text, for variables and files.

In: a `fieldRef` or `resourceFieldRef`. Out: text. Pure. Invariant: an address that is not known yet
stands as a placeholder of `model/work.py`, wherever the text ends up.
Source: https://kubernetes.io/docs/concepts/workloads/pods/downward-api/.
"""

import re
from collections.abc import Mapping

from overspill.agent.scope import Scope, Unresolved
from overspill.model.pods import Container
from overspill.model.podvolumes import ResourceFieldSelector
from overspill.model.quantity import milli, whole
from overspill.model.work import POD_IP, POD_IPS

__all__ = ["field_text", "quoted", "resource_text"]

SUBSCRIPTED = re.compile(r"(metadata\.(?:labels|annotations))\['(.*)'\]", re.DOTALL)
ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    '"': r"\"",
    "\\": r"\\",
}
RESOURCES = {"cpu": milli, "memory": whole, "ephemeral-storage": whole}


def field_text(path: str, scope: Scope) -> str:
    """The value of a fieldRef.

    Raises:
        Unresolved: there is no such field.
    """
    plain = {
        "metadata.name": scope.meta.name,
        "metadata.namespace": scope.meta.namespace,
        "metadata.uid": scope.meta.uid,
        "spec.nodeName": scope.node.name,
        "spec.serviceAccountName": scope.spec.service_account_name,
        "status.hostIP": scope.node.ip,
        "status.hostIPs": scope.node.ip,
        "status.podIP": POD_IP,
        "status.podIPs": POD_IPS,
    }
    text = plain.get(path)
    return _map_text(path, scope) if text is None else text


def _map_text(path: str, scope: Scope) -> str:
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = _map(path, scope)
        return "\n".join(f"{key}={quoted(entries[key])}" for key in sorted(entries))
    match = SUBSCRIPTED.fullmatch(path)
    if match is None:
        raise Unresolved(f"unsupported fieldPath: {path}")
    return _map(match[1], scope).get(match[2], "")


def _map(path: str, scope: Scope) -> Mapping[str, str]:
    return scope.labels if path == "metadata.labels" else scope.annotations


def quoted(text: str) -> str:
    """Text in double quotes, escaped as Go's strconv.Quote does."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def resource_text(selector: ResourceFieldSelector, scope: Scope, *, own: Container | None = None) -> str:
    """The value of a resourceFieldRef, in units of its divisor, rounded up; `own` is asked unless it names another.

    Raises:
        Unresolved: there is no such container or resource.
    """
    container = _container(selector.container_name, scope) if selector.container_name else own
    kind, _, resource = selector.resource.partition(".")
    count = RESOURCES.get(resource)
    if count is None or container is None or kind not in {"limits", "requests"}:
        raise Unresolved(f"unsupported container resource : {selector.resource}")
    if kind == "requests":
        amount = count(container.resources.requests.get(resource, "0"))
    else:
        amount = count(container.resources.limits.get(resource, "0"))
        amount = amount or count(scope.node.allocatable.get(resource, "0"))
    return str(-(-amount // (count(selector.divisor) or count("1"))))


def _container(name: str, scope: Scope) -> Container:
    for container in (*scope.spec.containers, *scope.spec.init_containers):
        if container.name == name:
            return container
    raise Unresolved(f"container {name} not found")
