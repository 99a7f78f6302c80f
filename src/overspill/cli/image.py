"""`overspill image`: the image of agents, controller and guard, for a cluster of one's own.

In: where to put it. Out: the archive that local clusters run, made of locked packages; its name on stdout.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Annotated

import typer

import overspill
from overspill.errors import Misconfigured
from overspill.local.agentimage import agent_archive
from overspill.local.talk import say

__all__ = ["image"]

DEFAULT = Path("overspill-image.tar")


def image(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The archive, for podman load or docker load.")
    ] = DEFAULT,
) -> None:
    """Write the image that all programs of overspill run from, and print its name.

    Needs root, and a Debian whose Python has the version of the running one.
    """
    _check(output)
    name, archive = asyncio.run(agent_archive())
    try:
        shutil.copyfile(archive, output)
    except OSError as error:
        raise Misconfigured(f"{output} cannot be written: {error.strerror}") from error
    say(f"{output} is for podman load or docker load; push it where your nodes pull from, for example:")
    say(f"  podman load -i {output}")
    say(f"  podman push {name} REGISTRY/overspill:{overspill.__version__}")
    print(name)


def _check(output: Path) -> None:
    """Refuse what can be no archive before minutes are spent on building it."""
    if output.is_dir():
        raise Misconfigured(f"{output} is a folder: name a file in it, such as {output / DEFAULT}")
    if not output.parent.is_dir():
        raise Misconfigured(f"{output} cannot be written: there is no folder {output.parent}")
