"""The controller of a local cluster without a worker, and its guard: base and overflow placement, orphans.

In: a plan, `deploy/placement` and `deploy/webhook` of the checkout. Out: definitions and gates, and two plain
processes. On a worker they are part of what `virtualnodes` applies.
"""

import sys

import msgspec
import yaml
from msgspec import Struct

from overspill.local.commands import until
from overspill.local.controlplane import get
from overspill.local.kubectl import kubectl
from overspill.local.paths import Paths, repository
from overspill.local.plan import Plan
from overspill.local.processes import Processes, Program
from overspill.local.virtualnodes import CONTROLLER_NAME, backend_options, environment

__all__ = ["start_controller", "wait_trusted", "webhook_at"]

GUARD_NAME = "overspill-guard"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/overspill"
READY_TIMEOUT = 90.0


async def start_controller(paths: Paths, plan: Plan) -> None:
    """Have the controller and its guard running as processes of this machine."""
    deploy = repository() / "deploy"
    await kubectl(paths, "apply", "-k", str(deploy / "placement" / "definitions"))
    await kubectl(paths, "apply", "-f", str(deploy / "placement" / "rbac.yaml"))
    flags = {
        "kubeconfig": paths.pki / "controller.kubeconfig",
        "backend": plan.backend,
        "health-address": "127.0.0.1:0",
    }
    if plan.injection == "webhook":
        address = flags["webhook-address"] = f"{plan.host_address}:{plan.ports['webhook']}"
        await kubectl(paths, "apply", "-f", str(deploy / "webhook" / "rbac.yaml"))
        await kubectl(paths, "apply", "-f", "-", stdin=webhook_at(f"https://{address}").encode())
    else:
        await kubectl(paths, "apply", "-f", str(deploy / "placement" / "gate.yaml"))
    argv = (
        *(sys.executable, "-m", "overspill.cli.main", "controller"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *(f"--backend-option={each}" for each in backend_options(paths, plan)),
    )
    Processes(paths).ensure(Program(name=CONTROLLER_NAME, argv=argv, env=environment(paths, plan)))
    await _start_guard(paths)


async def _start_guard(paths: Paths) -> None:
    await kubectl(paths, "apply", "-f", "-", stdin=_guards_rights().encode())
    flags = {"kubeconfig": paths.pki / "guard.kubeconfig", "health-address": "127.0.0.1:0"}
    argv = (
        *(sys.executable, "-m", "overspill.cli.main", "guard"),
        *(f"--{key}={value}" for key, value in flags.items()),
    )
    Processes(paths).ensure(Program(name=GUARD_NAME, argv=argv))


def _guards_rights() -> str:
    """Its manifest without the Deployment."""
    file = repository() / "deploy" / "placement" / "guard.yaml"
    found = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return yaml.safe_dump_all(each for each in found if each["kind"] != "Deployment")


def webhook_at(url: str) -> str:
    """The webhooks' configuration for a controller that is reached at a URL, not through its Service."""
    content = yaml.safe_load(
        (repository() / "deploy" / "webhook" / "webhook.yaml").read_text(encoding="utf-8")
    )
    for webhook in content["webhooks"]:
        webhook["clientConfig"] = {"url": url + webhook["clientConfig"]["service"]["path"]}
    return yaml.safe_dump(content, sort_keys=False)


class _ClientConfig(Struct, frozen=True, rename="camel"):
    ca_bundle: str = ""


class _Webhook(Struct, frozen=True, rename="camel"):
    client_config: _ClientConfig


class _Configuration(Struct, frozen=True):
    webhooks: list[_Webhook] = []


async def wait_trusted(paths: Paths, plan: Plan) -> None:
    """Wait until the webhook answers: until then no pod can be created in a labelled namespace.

    Raises:
        Retry: it did not come to that in time.
    """

    async def trusted() -> bool:
        found = await get(paths, plan, CONFIGURATION)
        webhooks = msgspec.json.decode(found, type=_Configuration).webhooks if found else []
        return bool(webhooks) and all(each.client_config.ca_bundle for each in webhooks)

    await until(
        trusted,
        what="the webhook to be trusted",
        timeout=READY_TIMEOUT,
        why=lambda: f"; the log of {CONTROLLER_NAME} says more",
    )
    if plan.workers:  # a Service leads to pods that are ready
        wait = f"--timeout={READY_TIMEOUT:.0f}s"
        await kubectl(paths, "-n", "kube-system", "rollout", "status", f"deployment/{CONTROLLER_NAME}", wait)
