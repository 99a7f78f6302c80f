"""`overspill agent`: one process, one virtual node.

In: flags, environment, a settings file. Out: exit code 0 after a signal, 1 with one clear line otherwise.
The flags are made from `AgentSettings`, so that there is one list of settings.
"""

import inspect
from typing import Annotated, Any, get_origin

import typer

from overspill.agent.run import run_agent
from overspill.cli.signals import run_until_signalled
from overspill.errors import OverspillError
from overspill.logs import configure
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


def _run(config: str | None = None, **flags: Any) -> None:
    settings = load_agent_settings(config, flags=flags)
    configure(settings.log_level, settings.log_format)
    run_until_signalled(_agent(settings))


async def _agent(settings: AgentSettings) -> None:
    try:
        await run_agent(settings)
    except ExceptionGroup as group:
        # Of what ended the agent's tasks, the first that is ours tells a person what to do.
        ours = group.subgroup(OverspillError)
        if ours is None:
            raise
        raise _first(ours) from None


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


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
        _run(**values)

    agent.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    agent.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return agent


agent = _command()
