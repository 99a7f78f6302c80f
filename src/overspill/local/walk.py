"""A walk through a cluster, shown like a session at a terminal, with its checks.

In: commands and expectations. Out: text on stdout: `$ kubectl …`, what kubectl printed, and a tick for
each thing that held. Invariant: a command shown was run as shown; an expectation that does not come true
in time ends the walk as `Unmet`.
"""

import asyncio
import json
import os
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console

from overspill import names
from overspill.errors import OverspillError
from overspill.local.cloud import cloud_facts
from overspill.local.commands import run
from overspill.local.emulator import billed_groups
from overspill.local.kubectl import kubectl_path
from overspill.local.paths import cluster_paths
from overspill.local.plan import load_plan
from overspill.model.work import Identity

__all__ = ["Unmet", "Walk", "terminal"]

LOOK_EVERY = 0.5
COMMAND_TIMEOUT = 300.0


class Unmet(OverspillError):
    """Something that the walkthrough promises did not come true."""


class Walk:
    """One cluster, and the terminal on which it is shown."""

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.console = console
        self.paths = cluster_paths(name)
        self.plan = load_plan(name)
        program, self._environment = kubectl_path(name)
        self._kubectl = program

    def title(self, number: int, text: str) -> None:
        """Begin a step."""
        self.console.print(f"\n{number}. {text}", style="bold cyan", highlight=False)

    def say(self, text: str) -> None:
        """A line of explanation."""
        self.console.print(text, style="dim", highlight=False, soft_wrap=True)

    async def show(self, *args: str) -> str:
        """Run kubectl for all to see, a line that is repeated only once; returns what it printed."""
        self._prompt("kubectl", args)
        output = await self.kubectl(*args)
        self._print(output)
        return output

    async def show_containers(self) -> None:
        """Ask Podman for all to see."""
        command = self.podman("ps", "--all", "--format", "table {{.ID}} {{.Names}} {{.Status}}")
        self._prompt(command[0], command[1:])
        self._print((await run(command)).decode())

    async def kubectl(self, *args: str) -> str:
        """Run kubectl quietly.

        Raises:
            Retry: it ended with an error, which the message holds.
        """
        output = await run([self._kubectl, *args], env=self._environment, timeout=COMMAND_TIMEOUT)
        return output.decode()

    async def objects(self, *args: str) -> list[Any]:
        """The items of `kubectl get ARGS`."""
        items: list[Any] = json.loads(await self.kubectl("get", *args, "-o", "json"))["items"]
        return items

    async def containers(self, *, infra: bool = False) -> list[Any]:
        """Every container in the cloud, running or not; pods' infra containers only if asked for.

        Behind ECI a container has its group's id where it has a pod's uid otherwise. It is told here with the
        pod of its group, and a group that is billed without a container as if it were one.
        """
        answer = await run(self.podman("ps", "--all", "--format", "json"))
        found = [each for each in json.loads(answer) if infra or not each.get("IsInfra")]
        return _of_groups(found, billed_groups(self.paths)) if self.plan.backend == "eci" else found

    def podman(self, *args: str) -> list[str]:
        """The command that asks the cloud's Podman, which is not the user's."""
        return ["podman", "--remote", "--url", f"unix://{cloud_facts(self.paths).socket}", *args]

    def cross(self, text: str) -> None:
        """Tell what did not hold."""
        self.console.print(f"✗ {text}", style="bold red", highlight=False, markup=False, soft_wrap=True)

    async def until(self, what: str, reason: Callable[[], Awaitable[str]], *, seconds: float = 120) -> None:
        """Wait until `reason` gives "", and tick it off.

        Raises:
            Unmet: it did not; the message holds the last reason.
        """
        deadline = time.monotonic() + seconds
        with self.console.status(f"{what} …"):
            while why := await reason():
                if time.monotonic() > deadline:
                    raise Unmet(f"{what}: {why} after {seconds:.0f} s")
                await asyncio.sleep(LOOK_EVERY)
        self.tick(what)

    def row(self, cells: Sequence[str], headings: Sequence[str]) -> None:
        """One row of a table that grows: each cell as wide as its heading."""
        line = "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, headings, strict=True))
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tick(self, text: str) -> None:
        """Tell what held."""
        self.console.print(f"✓ {text}", style="green", highlight=False, markup=False, soft_wrap=True)

    def _print(self, output: str) -> None:
        lines = "\n".join(line for line, _ in groupby(output.splitlines()))
        self.console.print(lines, highlight=False, markup=False, soft_wrap=True)

    def _prompt(self, program: str, args: Sequence[str]) -> None:
        line = f"$ {program} {' '.join(shlex.quote(arg) for arg in args)}"
        self.console.print(line, style="bold", highlight=False, markup=False, soft_wrap=True)


def _of_groups(found: list[Any], groups: Mapping[str, Identity | None]) -> list[Any]:
    ids = [(each.get("Labels") or {}).get(names.UID_TAG, "") for each in found]
    unseen = [{"Labels": {names.UID_TAG: group}, "State": "billed"} for group in groups if group not in ids]
    for each in [*found, *unseen]:
        labels = each.get("Labels") or {}
        owner = groups.get(labels.get(names.UID_TAG, ""))
        if owner is not None:
            each["Labels"] = labels | {names.UID_TAG: owner.uid, names.NODE_TAG: owner.node}
    return [*found, *unseen]


def terminal() -> Console:
    """The terminal, or plain text of any width where there is none."""
    console = Console(highlight=False)
    width = console.width if console.is_terminal else 200
    return Console(highlight=False, width=width, no_color=bool(os.environ.get("NO_COLOR")))
