"""The process that an agent lives in, once its settings are known.

In: settings as JSON in an open file, whose number is the first argument; the second says where the
backend's factory is. Out: exit codes of `process`.
Invariant: nothing of the command line is in its memory. `overspill agent` becomes this process: what
reads flags and prints help weighs as much as 2,000 pods, and an agent runs for months.
"""

import os
import sys

# structlog imports rich wherever it finds it: 3 MB for tracebacks in colours that nobody reads in a log.
sys.modules["rich"] = None  # type: ignore[assignment]  # how Python spells "not to be imported"

import msgspec  # noqa: E402 - after the line above

from overspill.agent.run import run_agent  # noqa: E402
from overspill.backends.registry import load_factory  # noqa: E402
from overspill.logs import configure  # noqa: E402
from overspill.process import ending_well, run_until_signalled  # noqa: E402
from overspill.settings import AgentSettings  # noqa: E402


def main() -> None:
    """Be the virtual node that the settings describe, until a signal."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        settings = msgspec.json.decode(file.read(), type=AgentSettings)
    configure(settings.log_level, settings.log_format)
    run_until_signalled(run_agent(settings, load_factory(sys.argv[2])))


if __name__ == "__main__":
    ending_well(main)
