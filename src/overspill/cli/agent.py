"""`overspill agent`: one process, one virtual node.

In: flags, environment, a settings file. Out: the process of `overspill.agent`, with the same id, or one clear
line about what is wrong with the settings. The flags are made from `AgentSettings`: there is one list.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from overspill.backends.registry import backend_target
from overspill.cli.flags import command
from overspill.settings import AgentSettings, load_agent_settings

__all__ = ["agent"]


def _run(config: str | None, flags: Mapping[str, Any]) -> None:
    settings = load_agent_settings(config, flags=flags)
    settings.require_node_name()
    _become(settings)


# For glibc, which else keeps what a burst of pods took: large buffers are given back one by one, the heap's end at once.
# 1 MB of 50 for the same CPU; whoever sets one of these otherwise is heard.
FRUGAL = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "16384",
}


def _become(settings: AgentSettings) -> None:
    """Go on as the agent; its settings stand in memory, since the list of processes is everybody's to read."""
    file = os.memfd_create("overspill-agent-settings", 0)  # 0: outlives exec
    os.write(file, msgspec.json.encode(settings))
    os.lseek(file, 0, os.SEEK_SET)
    target = backend_target(settings.backend)
    command = [sys.executable, "-m", "overspill.agent", str(file), target, settings.node_name]
    os.execve(sys.executable, command, {**FRUGAL, **os.environ})  # noqa: S606 - ourselves


agent = command(
    AgentSettings,
    _run,
    name="agent",
    text="Be one virtual node: register it, run its pods at a backend, until SIGTERM.",
)
