"""`overspill approve`: sign-off for the serving certificates of virtual nodes (deploy/approver; a local cluster runs it as well)."""

from typing import Annotated

import typer

from overspill import logs
from overspill.process import run_until_signalled
from overspill.serve.kubelet.approver import approve_requests

__all__ = ["approve"]


def approve(
    kubeconfig: Annotated[str, typer.Option(help="Of an account that may approve; else as for agents.")] = "",
) -> None:
    """Approve the kubelet-serving certificate requests of virtual nodes, and no others, until SIGTERM."""
    logs.configure("info", "text")
    run_until_signalled(approve_requests(kubeconfig))
