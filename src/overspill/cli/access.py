"""`overspill kubeconfig`, `kubectl`: the way into a local cluster.

In: a cluster's name. Out: its kubeconfig on stdout, or this process turned into its kubectl. Invariant: what
takes long to import is not imported; kubectl is run many times.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from overspill.errors import Misconfigured
from overspill.local.kubectl import kubectl_path

__all__ = ["DEFAULT_NAME", "Name", "kubeconfig", "kubectl"]

DEFAULT_NAME = "overspill"
Name = Annotated[str, typer.Option("--name", help="Name of the cluster.")]


def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the kubeconfig of a local cluster's administrator."""
    _, environment = kubectl_path(name)
    sys.stdout.write(Path(environment["KUBECONFIG"]).read_text(encoding="utf-8"))


def kubectl(
    arguments: Annotated[
        list[str], typer.Argument(help="What to hand to kubectl, after `--`.", metavar="ARGS")
    ],
    name: Name = DEFAULT_NAME,
) -> None:
    """Run the local cluster's own kubectl: `overspill kubectl -- get pods -A`."""
    program, environment = kubectl_path(name)
    try:
        os.execve(program, ["kubectl", *arguments], {**os.environ, **environment})  # noqa: S606 - becomes kubectl
    except OSError as error:
        again = f"`overspill up --name {name}` builds what is missing in the cache"
        raise Misconfigured(f"{program} cannot be run: {error.strerror}; {again}") from error
