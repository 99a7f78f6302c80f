"""Parameters and answers as ECI's RPC interface has them.

In: a tree of parameters; an answer's bytes. Out: flat `Container.1.Arg.2=x`
pairs; typed values. Pure. Invariant: what is None is not sent, what is null or
unknown in an answer is not seen, and the case of an answer's keys does not
matter: the service's own are mixed (`type` beside `Reason`, `StartedAtstartedAt`).
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

__all__ = ["Params", "decode", "flatten", "fold", "form"]

T = TypeVar("T")
Params = Mapping[str, Any]
"""A tree: values are dicts, lists, tuples, text, numbers, booleans, or None for what is left out."""


def flatten(params: Params) -> dict[str, str]:
    """`{"A": {"B": [1, 2]}}` as `{"A.B.1": "1", "A.B.2": "2"}`; lists count from 1."""
    return dict(_leaves(params))


def form(params: Params) -> bytes:
    """The parameters as a form body.

    Quoted by a regular expression: `urlencode` goes through a text with a single `+` or `/` byte by
    byte, and the files of a pod are long texts of base64.
    """
    return b"&".join([_quoted(name) + b"=" + _quoted(value) for name, value in _leaves(params)])


UNSAFE = re.compile(rb"[^A-Za-z0-9_.~-]")
QUOTES = {bytes([byte]): b"%%%02X" % byte for byte in range(256)} | {b" ": b"+"}


def _quoted(text: str) -> bytes:
    return UNSAFE.sub(_quote, text.encode())


def _quote(match: re.Match[bytes]) -> bytes:
    return QUOTES[match[0]]


def _leaves(params: Params) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in params.items():
        _collect(name, value, found)
    return found


def _collect(path: str, value: Any, found: list[tuple[str, str]]) -> None:
    if value is None:
        return
    if isinstance(value, str):
        found.append((path, value))
    elif isinstance(value, dict):
        for name, inner in value.items():
            _collect(f"{path}.{name}", inner, found)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value, 1):
            _collect(f"{path}.{index}", inner, found)
    else:
        found.append((path, _text(value)))


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

    What is no UTF-8 is replaced, or nobody could read a log with such a byte.

    Raises:
        msgspec.MsgspecError: it is not JSON, or has another shape.
    """
    return msgspec.convert(fold(msgspec.json.decode(body.decode(errors="replace"))), kind, strict=False)
