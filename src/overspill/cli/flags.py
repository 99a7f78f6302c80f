"""Commands whose flags are made from a Struct of settings.

In: a Struct of `settings.py`, what to do with a loaded one. Out: a function that typer makes a command of.
Invariant: there is one list of settings, and it is not here.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_origin

import typer
from msgspec import Struct

from overspill.settings import SettingInfo, setting_infos

__all__ = ["command"]


def command(
    kind: type[Struct], run: Callable[[str | None, Mapping[str, Any]], None], *, name: str, text: str
) -> Any:
    """A command with a flag for each setting; `run` is given the path of the file and the flags by field name."""
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None, typer.Option("--config", help="YAML file of settings.", rich_help_panel="File")
        ],
    )
    parameters = [config, *(_flag(info) for info in setting_infos(kind))]

    def made(**values: Any) -> None:
        run(values.pop("config"), values)

    made.__name__ = name
    made.__doc__ = (
        f"{text}\n\nSettings come from the file, then OVERSPILL_* variables, then flags; the later wins."
    )
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return made


def _flag(info: SettingInfo) -> inspect.Parameter:
    repeated = get_origin(info.kind) in (list, dict)
    default = f"default {info.default}, " if info.default not in ("", [], {}) else ""
    option = typer.Option(
        info.flag,
        help=f"{info.text} ({default}env {info.env})",
        rich_help_panel=info.group,
        show_default=False,
        metavar=info.metavar,
    )
    kind: Any = list[str] | None if repeated else str | None
    return inspect.Parameter(
        info.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )
