"""`overspill image`: the image of agents, controller and guard, for a cluster of one's own.

In: where to put it. Out: the archive that local clusters run, made of locked packages; its name on stdout.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Annotated

import typer

import overspill
from overspill.local.agentimage import agent_archive
from overspill.local.talk import say

__all__ = ["image"]


def image(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The archive, for podman load or docker load.")
    ] = Path("overspill-image.tar"),
) -> None:
    """Write the image that all programs of overspill run from, and print its name. Needs root and Debian."""
    name, archive = asyncio.run(agent_archive())
    shutil.copyfile(archive, output)
    say(f"{output} is for podman load or docker load; push it where your nodes pull from, for example:")
    say(f"  podman load -i {output}")
    say(f"  podman push {name} REGISTRY/overspill:{overspill.__version__}")
    print(name)
