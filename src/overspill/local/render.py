"""Configuration files and manifests from templates.

In: a template's name and values. Out: text. Invariant: a value that a template wants and is not given is
an error, not an empty string.
"""

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["render"]

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> Environment:
    # TOML, YAML and Corefile: HTML's escapes would break them.
    return Environment(  # noqa: S701 - none of these is HTML
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )


def render(template: str, **values: object) -> str:
    """The text of `templates/<template>.j2`."""
    return _environment().get_template(f"{template}.j2").render(values)
