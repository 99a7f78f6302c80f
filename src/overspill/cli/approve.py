"""`overspill approve`: sign-off for the serving certificates of virtual nodes, as a local cluster runs it."""

from typing import Annotated

import typer

from overspill import logs
from overspill.local.approver import approve_requests
from overspill.process import run_until_signalled

__all__ = ["approve"]


def approve(
    kubeconfig: Annotated[str, typer.Option(help="Of an account that may approve; else as for agents.")] = "",
) -> None:
    """Approve the kubelet-serving certificate requests of virtual nodes, and no others, until SIGTERM."""
    logs.configure("info", "text")
    run_until_signalled(approve_requests(kubeconfig))
