"""`overspill settings`: every setting of agent, controller and guard as Markdown, which is docs/settings.md.

In: their Structs. Out: text on stdout. Invariant: nothing here knows a setting by name.
"""

from itertools import groupby
from typing import Any

from msgspec import Struct

from overspill.settings import AgentSettings, ControllerSettings, GuardSettings, SettingInfo, setting_infos

__all__ = ["reference", "settings"]

HEAD = """\
# Settings

Made by `overspill settings > docs/settings.md`; edit `src/overspill/settings.py` instead.

A setting comes from the file given by `--config`, then from its environment variable, then from its flag; the later
wins. In the file, lists and mappings are YAML; in a variable they are `a,b` and `key=value,other=value`; a flag is
repeated for each entry. A key, variable or backend option that is not known is an error.
The options of each backend are in [backends.md](backends.md). One file may serve them all: each takes the
keys that it knows, and leaves those of the others; so it is with variables.
"""
PROGRAMS: dict[str, tuple[type[Struct], str]] = {
    "The agent": (AgentSettings, "`overspill agent`: one virtual node."),
    "The controller": (
        ControllerSettings,
        "`overspill controller`: [placement](placement.md) and [orphans](orphans.md).",
    ),
    "The guard": (
        GuardSettings,
        "`overspill guard`: lets pods go [while no controller leads](placement.md#when-no-controller-leads).",
    ),
}


def settings() -> None:
    """Print the reference of all settings, as Markdown."""
    print(reference(), end="")


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, (kind, text) in PROGRAMS.items():
        parts.append(f"## {title}\n\n{text}\n")
        for group, infos in groupby(setting_infos(kind), key=lambda info: info.group):
            parts += [f"### {group}", _table(list(infos))]
    return "\n".join(parts)


def _table(infos: list[SettingInfo]) -> str:
    rows = ["| In the file | Flag | Variable | Default | What it is |", "|---|---|---|---|---|"]
    rows += [_row(info) for info in infos]
    return "\n".join(rows) + "\n"


def _row(info: SettingInfo) -> str:
    flag = f"`{info.flag} {info.metavar}`".replace("|", "\\|")
    return f"| `{info.key}` | {flag} | `{info.env}` | {_default(info.default)} | {info.text} |"


def _default(value: Any) -> str:
    if value in ("", [], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
