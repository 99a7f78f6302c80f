"""`overspill controller`: one replica of the controller, which places pods by PlacementPolicies.

In: flags. Out: exit code 0 after a signal, 1 with one clear line otherwise.
"""

from typing import Annotated, Literal

import typer

from overspill.logs import configure
from overspill.placement.run import ControllerSettings, run_controller
from overspill.process import run_until_signalled

__all__ = ["controller"]

defaults = ControllerSettings()


def controller(
    kubeconfig: Annotated[
        str,
        typer.Option(help="Path of a kubeconfig; else $KUBECONFIG, the pod's own account, ~/.kube/config."),
    ] = "",
    context: Annotated[str, typer.Option(help="Context of the kubeconfig.")] = "",
    health_address: Annotated[
        str, typer.Option(help="host:port of /livez, /readyz and /metrics; port 0 takes a free one.")
    ] = defaults.health_address,
    lease_namespace: Annotated[
        str, typer.Option(help="Where the Lease is by which replicas choose the one that works.")
    ] = defaults.namespace,
    lease_name: Annotated[str, typer.Option(help="Its name.")] = defaults.lease,
    log_level: Annotated[
        str, typer.Option(help="Least level logged: debug, info, warning or error.")
    ] = "info",
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Place pods by PlacementPolicies, until SIGTERM; of several replicas one works."""
    formats: dict[str, Literal["json", "text"]] = {"json": "json", "text": "text"}
    if log_format not in formats or log_level not in {"debug", "info", "warning", "error"}:
        raise typer.BadParameter("see --help for what --log-level and --log-format may be")
    configure(log_level, formats[log_format])
    settings = ControllerSettings(
        kubeconfig=kubeconfig,
        context=context,
        health_address=health_address,
        namespace=lease_namespace,
        lease=lease_name,
    )
    run_until_signalled(run_controller(settings))
