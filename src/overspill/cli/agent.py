"""`overspill agent`: one process, one virtual node.

In: flags, environment, a settings file. Out: the process of `overspill.agent`, with the same id, or one clear
line about what is wrong with the settings. The flags are made from `AgentSettings`: there is one list.
"""

import inspect
import os
import sys
from typing import Annotated, Any, get_origin

import msgspec
import typer

from overspill.backends.registry import backend_target
from overspill.settings import AgentSettings, SettingInfo, load_agent_settings, setting_infos

__all__ = ["agent"]


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


def _become(settings: AgentSettings) -> None:
    """Go on as the agent; its settings stand in memory, since the list of processes is everybody's to read."""
    file = os.memfd_create("overspill-agent-settings", 0)  # 0: outlives exec
    os.write(file, msgspec.json.encode(settings))
    os.lseek(file, 0, os.SEEK_SET)
    target = backend_target(settings.backend)
    command = [sys.executable, "-m", "overspill.agent", str(file), target, settings.node_name]
    os.execv(sys.executable, command)  # noqa: S606 - ourselves


def _command() -> Any:
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None, typer.Option("--config", help="YAML file of settings.", rich_help_panel="File")
        ],
    )
    parameters = [config, *(_flag(info) for info in setting_infos())]

    def agent(**values: Any) -> None:
        """Be one virtual node: register it, run its pods at a backend, until SIGTERM.

        Settings come from the file, then OVERSPILL_* variables, then flags; the later wins.
        """
        settings = load_agent_settings(values.pop("config"), flags=values)
        settings.require_node_name()
        _become(settings)

    agent.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    agent.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return agent


agent = _command()
