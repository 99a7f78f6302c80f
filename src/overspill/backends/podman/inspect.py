"""From Podman's answers to the values of `seen.py`.

In: inspected containers. Out: `Run`, `Sandbox`. Pure. Invariant: a container
that is none of ours, or of no state that counts, gives None.
"""

import hashlib
import re
from datetime import UTC, datetime
from typing import Literal

from overspill import names
from overspill.backends.podman import tags
from overspill.backends.podman.api import ContainerInspect, Info, InspectState
from overspill.backends.podman.seen import Run, Sandbox

__all__ = ["instant", "place_labels", "run_of", "sandbox_of"]

RUNNING = {"running", "paused", "stopping"}
EXITED = {"exited", "stopped", "removing"}


def run_of(found: ContainerInspect) -> Run | None:
    """One run of a container."""
    marks = found.config.labels or {}
    name, number = marks.get(tags.CONTAINER_LABEL), marks.get(tags.RUN_LABEL, "")
    if not name or not number.isdigit():
        return None
    state = found.state
    began, ended = instant(state.started_at), instant(state.finished_at)
    return Run(
        id=found.id,
        container=name,
        number=int(number),
        state=_state(state),
        backoff=float(marks.get(tags.BACKOFF_LABEL, "0")),
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        created_at=instant(found.created),
        started_at=began,
        # Podman notes a beginning when the runtime has returned; what was short has ended by then.
        finished_at=max(ended, began) if ended else 0.0,
        stop_signal=found.config.stop_signal,
        image=found.image_name,
        asked_image=marks.get(tags.ASKED_IMAGE_LABEL, ""),
        image_id=marks.get(tags.IMAGE_LABEL, found.image),
        address=marks.get(tags.ADDRESS_LABEL, ""),
        resources=tags.resources_of(marks),
    )


def sandbox_of(pod: str, infra: ContainerInspect) -> Sandbox:
    """The pod whose infra container this is."""
    running = infra.state.status == "running"
    networks = (infra.network_settings.networks or {}).values()
    addresses = [*(net.address for net in networks), *(net.address6 for net in networks)]
    return Sandbox(
        id=pod,
        infra=infra.id,
        running=running,
        ips=tuple(address for address in addresses if address) if running else (),
        namespace=infra.network_settings.sandbox_key,
    )


def instant(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with any number of decimals; 0 for Go's zero time."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if match is None or text.startswith("0001-"):
        return 0.0
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    return moment.timestamp() + float(fraction or 0)


def _state(state: InspectState) -> Literal["created", "running", "exited"]:
    if state.status in RUNNING:
        return "running"
    return "exited" if state.status in EXITED else "created"


def place_labels(info: Info) -> dict[str, str]:
    """The labels of nodes by which one Podman is told from those of other machines.

    A container has no /etc/machine-id of its host; its name and the place of Podman's store outlast every restart.
    """
    place = f"{info.host.hostname}:{info.store.graph_root}"
    return {names.PODMAN_LABEL: hashlib.sha256(place.encode()).hexdigest()[:16]}
