"""The controller of a local cluster without a worker, as a plain process: base and overflow placement, orphans.

In: a plan, `deploy/placement` of the checkout. Out: definitions and gates, and a process. On a worker it is part of
what `virtualnodes` applies.
"""

import sys

from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths, repository
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.virtualnodes import CONTROLLER_NAME, environment, option_flags

__all__ = ["start_controller"]


async def start_controller(paths: Paths, plan: Plan) -> None:
    """Have the controller running as a process of this machine."""
    deploy = repository() / "deploy" / "placement"
    await kubectl(paths, "apply", "-k", str(deploy / "definitions"))
    await kubectl(paths, "apply", "-f", str(deploy / "gate.yaml"), "-f", str(deploy / "rbac.yaml"))
    flags = {
        "kubeconfig": paths.pki / "controller.kubeconfig",
        "backend": plan.backend,
        "health-address": "127.0.0.1:0",
    }
    argv = (
        *(sys.executable, "-m", "overspill.cli.main", "controller"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *option_flags(paths, plan),
    )
    Processes(paths).ensure(Program(name=CONTROLLER_NAME, argv=argv, env=environment(paths, plan)))
