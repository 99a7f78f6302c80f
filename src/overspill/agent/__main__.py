"""The process that an agent lives in, once its settings are known.

In: settings as JSON in an open file, whose number is the first argument; the second says where the
backend's factory is. Out: exit codes of `process`.
Invariant: nothing of the command line is in its memory. `overspill agent` becomes this process: what
reads flags and prints help weighs as much as 2,000 pods, and an agent runs for months.
"""

import asyncio
import os
import sys

from overspill.agent.imports import left_out

with left_out():  # 6 MB that nobody in here uses
    import msgspec
    import prometheus_client  # noqa: F401 - so that all of it comes in here
    import structlog  # noqa: F401 - as above

from overspill.agent.run import run_agent
from overspill.backends.registry import load_factory
from overspill.logs import configure
from overspill.process import ending_well, run_until_signalled
from overspill.settings import AgentSettings


def main() -> None:
    """Be the virtual node that the settings describe, until a signal; the first SIGTERM only asks it to end."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        settings = msgspec.json.decode(file.read(), type=AgentSettings)
    configure(settings.log_level, settings.log_format)
    asked = asyncio.Event()
    run_until_signalled(run_agent(settings, load_factory(sys.argv[2]), asked), asked=asked)


if __name__ == "__main__":
    ending_well(main)
