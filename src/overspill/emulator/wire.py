"""Parameters as ECI's RPC interface flattens them: `Container.1.Arg.2=x`.

In: query, form or JSON body. Out: a tree of dicts, lists and strings, and typed values from it.
Invariant: `flatten` and `unflatten` are each other's inverse for trees without empty branches.

Numbers and booleans come as text; the official SDKs write `True`, `1.0`, others `true`, `1`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from overspill.emulator.refusals import Refused

__all__ = ["Tree", "flatten", "from_body", "read", "strings", "unflatten"]

T = TypeVar("T")
Tree = dict[str, Any]

# A list index beyond this is a mistake or an attack, not a list.
MAX_INDEX = 10_000
MAX_DEPTH = 16


def from_body(body: bytes, content_type: str) -> dict[str, str]:
    """The parameters of a form or JSON body, flattened.

    Raises:
        Refused: the body is not what its content type says.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return {}
    if kind == "application/json":
        return _from_json(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Refused("InvalidParameter", "The body is neither a form nor JSON.") from error
    return dict(parse_qsl(text, keep_blank_values=True))


def _from_json(body: bytes) -> dict[str, str]:
    try:
        tree = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("InvalidParameter", "The JSON body cannot be read.") from error
    return dict(flatten(tree))


def flatten(tree: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Pairs of dotted name and text; lists count from 1."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree, 1):
            yield from flatten(value, f"{prefix}.{index}")
    elif isinstance(tree, bool):
        yield prefix, "true" if tree else "false"
    elif tree is not None:
        yield prefix, str(tree)


def unflatten(parameters: Mapping[str, str]) -> Tree:
    """The tree of dotted names; levels that hold nothing but numbers become lists, in the numbers' order.

    Raises:
        Refused: a name is both a value and a prefix of others, or a list index is no list index.
    """
    root: Tree = {}
    for name, value in parameters.items():
        _put(root, name, value)
    return {key: _listed(value, key) for key, value in root.items()}


def _put(root: Tree, name: str, value: str) -> None:
    *path, last = name.split(".")
    if len(path) > MAX_DEPTH:
        raise Refused("InvalidParameter", f"The parameter {name[:200]} is nested too deeply.")
    node: Any = root
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise Refused("InvalidParameter", f"The parameter {name[:200]} is below a plain value.")
    if isinstance(node.get(last), dict):
        raise Refused("InvalidParameter", f"The parameter {name[:200]} has a value and parts.")
    node[last] = value


def _listed(node: Any, name: str) -> Any:
    if not isinstance(node, dict):
        return node
    if not all(key.isascii() and key.isdigit() for key in node):
        return {key: _listed(value, f"{name}.{key}") for key, value in node.items()}
    numbered = {int(key): value for key, value in node.items() if len(key) <= 6}
    if len(numbered) < len(node) or not all(1 <= index <= MAX_INDEX for index in numbered):
        raise Refused("InvalidParameter", f"The list {name[:200]} is not numbered 1, 2, 3 and so on.")
    return [_listed(numbered[index], f"{name}.{index}") for index in sorted(numbered)]


def read(tree: Any, kind: type[T]) -> T:
    """The tree as a typed request.

    Raises:
        Refused: `MissingParameter` or `InvalidParameter`, naming the parameter as the client wrote it.
    """
    try:
        return msgspec.convert(tree, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error


def _refusal(text: str) -> Refused:
    """From msgspec's text, which ends in ` - at `$.Container[0].Name``."""
    what, _, where = text.partition(" - at `$")
    path = where.rstrip("`")
    while "[" in path:
        before, _, rest = path.partition("[")
        index, _, after = rest.partition("]")
        path = f"{before}.{int(index) + 1 if index.isdigit() else index}{after}"
    path = path.removeprefix(".")
    if what.startswith("Object missing required field"):
        name = what.split("`")[1]
        full = f"{path}.{name}" if path else name
        return Refused("MissingParameter", f"The input parameter {full} that is mandatory is not supplied.")
    return Refused("InvalidParameter", f"The specified parameter {path} is not valid: {what}.")


def strings(text: str, name: str) -> tuple[str, ...]:
    """A parameter that is a JSON array of strings, such as ContainerGroupIds.

    Raises:
        Refused: it is not.
    """
    if not text:
        return ()
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise Refused("InvalidParameter", f"The specified parameter {name} is not a JSON array.") from error
