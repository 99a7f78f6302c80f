"""The ECI emulator of a local cluster: the cloud's API in front of its Podman.

In: a plan. Out: an HTTPS endpoint inside the machine, signed by the cluster's CA, and what an ECI client
has to know of it. The virtual nodes then run the code that runs against the cloud, and every vSwitch is a
Podman network of its own.
"""

import sys

from msgspec import Struct

from overspill.backends.eci.tags import identity_of
from overspill.emulator.run import DATABASE, read_endpoint
from overspill.emulator.store import read_bill
from overspill.errors import Misconfigured, NotFound
from overspill.local.cloud import cloud_facts
from overspill.local.commands import until
from overspill.local.machine import enter
from overspill.local.paths import Paths, cluster_paths
from overspill.local.plan import Plan, load_plan
from overspill.local.processes import Processes, Program
from overspill.model.work import Identity

__all__ = ["EmulatorFacts", "billed_groups", "emulator_facts", "emulator_of", "start_emulator"]

NAME = "eci-emulator"
REGION = "cn-hangzhou"
SECURITY_GROUP = "sg-local"
READY_TIMEOUT = 60.0


class EmulatorFacts(Struct, frozen=True, rename="camel"):
    """All that an ECI client needs, the throw-away secret included."""

    endpoint: str
    region: str
    access_key_id: str
    access_key_secret: str
    v_switch_ids: tuple[str, ...]
    security_group_id: str
    certificate_authority: str


async def start_emulator(paths: Paths, plan: Plan) -> None:
    """Have the emulator answering.

    Raises:
        Retry: it did not come up.
    """
    processes = Processes(paths)
    processes.ensure(Program(name=NAME, argv=enter(paths, _argv(paths, plan))))

    async def answers() -> bool:
        processes.require(NAME)
        try:
            found = processes.find(NAME)
            return found is not None and read_endpoint(paths.emulator).pid == found.pid
        except Misconfigured:
            return False

    await until(answers, what="the ECI emulator to answer", timeout=READY_TIMEOUT)


def _argv(paths: Paths, plan: Plan) -> tuple[str, ...]:
    cloud = cloud_facts(paths)
    flags = {
        "state": paths.emulator,
        "listen": f"{plan.node_address}:{plan.ports['emulator']}",
        "region": REGION,
        "engine": "podman",
        "security-group": f"{SECURITY_GROUP}=enterprise",
        "tls-certificate": paths.pki / "emulator.crt",
        "tls-key": paths.pki / "emulator.key",
    }
    options = {"socket": cloud.socket, "network": cloud.network, "data_dir": cloud.data_dir}
    zones = zip("ab", plan.vswitch_ranges, strict=True)
    return (
        *(sys.executable, "-m", "overspill.cli.main", "emulator", "serve"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *(f"--engine-option={key}={value}" for key, value in options.items()),
        *(f"--vswitch=vsw-{zone}={REGION}-{zone}:{addresses}" for zone, addresses in zones),
    )


def emulator_facts(paths: Paths, plan: Plan) -> EmulatorFacts | None:
    """Where the emulator is; None before it was first started."""
    try:
        found = read_endpoint(paths.emulator)
        secret = (paths.emulator / found.secret_file).read_text(encoding="ascii").strip()
    except (Misconfigured, FileNotFoundError):
        return None
    return EmulatorFacts(
        endpoint=f"https://{plan.node_address}:{plan.ports['emulator']}",
        region=found.region,
        access_key_id=found.access_key_id,
        access_key_secret=secret,
        v_switch_ids=found.v_switch_ids,
        security_group_id=found.security_group_id,
        certificate_authority=str(paths.pki / "ca.crt"),
    )


def emulator_of(name: str) -> Paths:
    """The places of a cluster that has an emulator.

    Raises:
        NotFound: there is no such cluster, or its virtual nodes do without.
    """
    plan = load_plan(name)
    if plan.backend != "eci":
        raise NotFound(f"cluster {name!r} runs its pods by {plan.backend}, without an emulator")
    return cluster_paths(name)


def billed_groups(paths: Paths) -> dict[str, Identity | None]:
    """The container groups that cost money now, by id, and whose pods they are: what a cloud would bill."""
    return {
        line.group: identity_of(line.tags) for line in read_bill(paths.emulator / DATABASE) if not line.ended
    }
