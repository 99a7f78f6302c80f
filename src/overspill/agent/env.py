"""A container's environment, and the `$(VAR)` in its command line.

In: a container, what was found for its pod. Out: names and values. Pure. Invariant: later wins, in the
order service links, envFrom, env; a reference sees only what stands before it.
Source: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from overspill.agent.downward import field_text, resource_text
from overspill.agent.scope import Problem, Scope, Unresolved
from overspill.errors import Unsupported
from overspill.model.pods import ConfigMapKeySelector, Container, EnvFromSource, EnvVarSource
from overspill.model.pods import EnvVar as DeclaredVar
from overspill.model.work import EnvVar

__all__ = ["Environment", "environment", "expand"]

T = TypeVar("T")

# Of one argument or variable (MAX_ARG_STRLEN, linux/binfmts.h), and of all that a container's program is given.
LONGEST, LONGEST_ALL = 128 << 10, 6 << 20
REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")


class Environment:
    """The variables of one container."""

    def __init__(self, scope: Scope) -> None:
        self._declared: dict[str, str] = {}
        self._links = scope.found.links
        self._left = LONGEST_ALL

    def declare(self, name: str, value: str) -> None:
        """Have a variable; the later of two of a name counts.

        Raises:
            Unsupported: all together are more than a program can be given.
        """
        self._spend(name, value)
        self._declared[name] = value

    def _spend(self, *texts: str) -> None:
        self._left -= sum(map(len, texts))
        if self._left < 0:
            raise Unsupported(
                f"variables, command and arguments of a container have more than {LONGEST_ALL} characters, "
                "which no program can be given"
            )

    def lookup(self, name: str) -> str | None:
        """The value of a variable, None if there is none of this name."""
        return self._declared.get(name, self._links.values.get(name))

    def variables(self) -> tuple[EnvVar, ...]:
        """All of them, declared ones first."""
        declared = self._declared
        return (
            *(EnvVar(name, value) for name, value in declared.items()),
            *(link for link in self._links.variables if link.name not in declared),
        )

    def expanded(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Texts with the values put in that they refer to.

        Raises:
            Unsupported: they become more than a program can be given.
        """
        made = []
        for text in texts:
            made.append(expand(text, self.lookup))
            self._spend(made[-1])
        return tuple(made)

    def expanded_whole(self, text: str) -> str | None:
        """A text with its values put in, None if one of them is not known."""
        unknown: list[str] = []

        def known(name: str) -> str | None:
            value = self.lookup(name)
            if value is None:
                unknown.append(name)
            return value

        made = expand(text, known)
        return None if unknown else made


def environment(container: Container, scope: Scope) -> Environment:
    """A container's environment; what cannot be resolved is left out and noted in the scope.

    Raises:
        Unsupported: it is more than a program can be given.
    """
    made = Environment(scope)
    for source in container.env_from:
        try:
            for name, content in _all_keys(source, scope).items():
                made.declare(name, content)
        except Unresolved as error:
            scope.problems.append(Problem("environment", container.name, str(error)))
    for variable in container.env:
        try:
            value = _value(variable, container, made, scope)
        except Unresolved as error:
            scope.problems.append(Problem("environment", container.name, str(error)))
        else:
            if value is not None:
                made.declare(variable.name, value)
    return made


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """`$(VAR)` replaced by its value, `$$` by `$`; an unknown variable's reference stays as it is.

    Raises:
        Unsupported: it becomes longer than Linux lets an argument or a variable be.
    """
    if "$" not in text:
        return text

    size = len(text)

    def put_in(match: re.Match[str]) -> str:
        nonlocal size
        if match[1]:
            return "$"
        value = lookup(match[2])
        if value is None:
            return match[0]
        size += len(value) - len(match[0])
        if size > LONGEST:
            raise Unsupported(
                f"with $({match[2]}) a text has more than {LONGEST} characters, which no program can be given"
            )
        return value

    # Behind the last bracket no reference can end; each would be looked for to the end of the text.
    end = text.rfind(")") + 1
    return REFERENCE.sub(put_in, text[:end]) + text[end:].replace("$$", "$")


def _all_keys(source: EnvFromSource, scope: Scope) -> dict[str, str]:
    if source.config_map_ref:
        config_map = scope.config_map(source.config_map_ref.name, optional=source.config_map_ref.optional)
        data = config_map.data
    elif source.secret_ref:
        secret = scope.secret(source.secret_ref.name, optional=source.secret_ref.optional)
        data = {
            key: _text(value, f"key {key} of Secret {source.secret_ref.name}")
            for key, value in secret.data.items()
        }
    else:
        data = {}
    return {source.prefix + key: value for key, value in data.items()} if source.prefix else data


def _value(variable: DeclaredVar, container: Container, made: Environment, scope: Scope) -> str | None:
    """A variable's value; None where what it optionally refers to is not there."""
    if variable.value or variable.value_from is None:
        return expand(variable.value, made.lookup)
    return _sourced(variable.value_from, container, scope)


def _sourced(source: EnvVarSource, container: Container, scope: Scope) -> str | None:
    if source.field_ref:
        return field_text(source.field_ref.field_path, scope)
    if source.resource_field_ref:
        return resource_text(source.resource_field_ref, scope, own=container)
    if source.config_map_key_ref:
        selector = source.config_map_key_ref
        config_map = scope.config_map(selector.name, optional=selector.optional)
        return _key(config_map.data, selector, f"ConfigMap {scope.meta.namespace}/{selector.name}")
    if source.secret_key_ref:
        selector = source.secret_key_ref
        secret = scope.secret(selector.name, optional=selector.optional)
        where = f"Secret {scope.meta.namespace}/{selector.name}"
        value = _key(secret.data, selector, where)
        return None if value is None else _text(value, f"key {selector.key} of {where}")
    return ""


def _key(data: Mapping[str, T], selector: ConfigMapKeySelector, where: str) -> T | None:
    value = data.get(selector.key)
    if value is None and not selector.optional:
        raise Unresolved(f"couldn't find key {selector.key} in {where}")
    return value


def _text(value: bytes, where: str) -> str:
    """A secret's bytes as a variable's value; the message tells nothing of them."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Unresolved(f"{where} is not UTF-8 and cannot be an environment variable") from None
    if "\0" in text:
        raise Unresolved(f"{where} has a NUL byte and cannot be an environment variable")
    return text
