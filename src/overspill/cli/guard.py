"""`overspill guard`: lets pods go that have waited too long for their pool while no controller leads.

In: flags, environment, a settings file. Out: exit code 0 after a signal, 1 with one clear line otherwise.
"""

from collections.abc import Mapping
from typing import Any

from overspill.cli.flags import command
from overspill.logs import configure
from overspill.placement.guard import run_guard
from overspill.process import run_until_signalled
from overspill.settings import GuardSettings, load_guard_settings

__all__ = ["guard"]


def _run(config: str | None, flags: Mapping[str, Any]) -> None:
    settings = load_guard_settings(config, flags=flags)
    configure(settings.log_level, settings.log_format)
    run_until_signalled(run_guard(settings))


guard = command(
    GuardSettings,
    _run,
    name="guard",
    text=(
        "Let pods go whose policy says `onTimeout: Release`, while no controller leads, until SIGTERM: to the last "
        "pool of their policy if it has no limit, else wherever the scheduler puts them."
    ),
)
