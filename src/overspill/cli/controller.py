"""`overspill controller`: one replica of the controller, which places pods and collects orphans.

In: flags, environment, a settings file. Out: exit code 0 after a signal, 1 with one clear line otherwise.
"""

from collections.abc import Mapping
from typing import Any

from overspill.backends.registry import backend_factory
from overspill.cli.flags import command
from overspill.controller.run import run_controller
from overspill.logs import configure
from overspill.process import run_until_signalled
from overspill.settings import ControllerSettings, load_controller_settings

__all__ = ["controller"]


def _run(config: str | None, flags: Mapping[str, Any]) -> None:
    settings = load_controller_settings(config, flags=flags)
    configure(settings.log_level, settings.log_format)
    factory = backend_factory(settings.backend) if settings.backend else None
    run_until_signalled(run_controller(settings, factory))


controller = command(
    ControllerSettings,
    _run,
    name="controller",
    text=(
        "Place pods by PlacementPolicies, and see to container groups that have lost their pod, until SIGTERM; "
        "of several replicas one works."
    ),
)
