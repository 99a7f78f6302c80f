"""Parameters and answers as ECI's RPC interface has them.

In: a tree of parameters; an answer's bytes. Out: flat `Container.1.Arg.2=x`
pairs; typed values. Pure. Invariant: what is None is not sent, what is null or
unknown in an answer is not seen, and the case of an answer's keys does not
matter: the service's own are mixed (`type` beside `Reason`, `StartedAtstartedAt`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

__all__ = ["Params", "decode", "flatten", "fold", "form"]

T = TypeVar("T")
Params = Mapping[str, Any]
"""A tree: values are mappings, sequences, text, numbers, booleans, or None for what is left out."""


def flatten(params: Params) -> dict[str, str]:
    """`{"A": {"B": [1, 2]}}` as `{"A.B.1": "1", "A.B.2": "2"}`; lists count from 1."""
    return dict(_leaves("", params))


def form(params: Params) -> bytes:
    """The parameters as a form body."""
    return urlencode(flatten(params)).encode()


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value, 1):
            yield from _leaves(f"{path}.{index}", inner)
    else:
        yield path, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def fold(value: Any) -> Any:
    """The value with all keys in lower case and without nulls, so that defaults stand in for them."""
    if isinstance(value, dict):
        return {name.lower(): fold(inner) for name, inner in value.items() if inner is not None}
    return [fold(item) for item in value if item is not None] if isinstance(value, list) else value


def decode(body: bytes, kind: type[T]) -> T:
    """An answer as `kind`, whose fields are named in lower case; numbers and booleans may come as text.

    Raises:
        msgspec.MsgspecError: it is not JSON, or has another shape.
    """
    return msgspec.convert(fold(msgspec.json.decode(body)), kind, strict=False)
