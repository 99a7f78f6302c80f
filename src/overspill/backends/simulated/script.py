"""What one pod does: the backend's options, overridden by the pod's annotations.

In: `Options`, a `WorkSpec`. Out: a `Script`. Invariant: an annotation of ours that is unknown, wrong
or names no container is an error; pods without any share one `Script`.

Annotations, all below `simulated.overspill.dev/`:

| annotation | value |
|---|---|
| `start-seconds` | from create to the first container's start |
| `no-stock-seconds` | how long there is no room for it |
| `lost-replies` | how many replies to its create are lost after it is done |
| `ip` | its address, which the caller manages; not taken from the pool |
| `stop-seconds` | from SIGTERM to a container's end |
| `run-seconds` | how long a container runs by itself; `forever` until it is stopped |
| `exit-code`, `exit-reason` | how it then ends; `137` and `OOMKilled`, for one |
| `pull-failures` | how many pulls of its image fail: a number or `always` |
| `output` | what it writes first |
| `log-seconds` | between two further lines; 0 for none |
| `cpu`, `memory` | what it uses, as quantities |

From `stop-seconds` on they are for every app container; with `.NAME` behind, for that container alone,
init containers too. Times are seconds or distributions, as in `options.parse_delay`. An init container
ends at once with code 0, unless told otherwise by name.
"""

import ipaddress
import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, structs

from overspill.backends.simulated.options import NOW, Delay, Options, chance, parse_delay
from overspill.errors import Rejected
from overspill.model.quantity import parse_quantity
from overspill.model.work import Container, WorkSpec

__all__ = ["PREFIX", "Behaviour", "Script", "Scripts"]

PREFIX = "simulated.overspill.dev/"
CRASH = {"run_seconds": Delay(first=1.0), "exit_code": 1}
NEVER_PULLED = {"pull_failures": math.inf}


class Behaviour(Struct, frozen=True):
    """What one container does; `run_seconds` None means until it is stopped."""

    run_seconds: Delay | None = None
    stop_seconds: Delay = NOW
    exit_code: int = 0
    exit_reason: str = ""
    pull_failures: float = 0
    output: str = ""
    log_seconds: float = 0.0
    cpu: float | None = None
    memory: float | None = None


class Script(Struct, frozen=True):
    """What one pod does; `named` holds the containers that differ from `app` or `init`."""

    app: Behaviour
    init: Behaviour
    named: dict[str, Behaviour] = {}
    start_seconds: Delay = NOW
    no_stock_seconds: float = 0.0
    lost_replies: int = 0
    ip: str = ""

    def of(self, container: Container, *, init: bool) -> Behaviour:
        """What one container does."""
        return self.named.get(container.name) or (self.init if init else self.app)


class Scripts:
    """Gives each pod its script."""

    def __init__(self, options: Options) -> None:
        self._options = options
        stop = parse_delay(str(options.stop_seconds))
        self._plain = Script(
            app=Behaviour(
                run_seconds=parse_delay(str(options.run_seconds)) if options.run_seconds != "" else None,
                stop_seconds=stop,
                exit_code=options.exit_code,
                log_seconds=options.log_seconds,
            ),
            init=Behaviour(run_seconds=NOW, stop_seconds=stop),
            start_seconds=parse_delay(str(options.start_seconds)),
        )
        self._by_luck = any((options.pull_failure_rate, options.crash_rate, options.lost_reply_rate))

    def script(self, work: WorkSpec) -> Script:
        """The script of one pod.

        Raises:
            Rejected: an annotation is wrong; names it.
        """
        script = self._unlucky(work) if self._by_luck else self._plain
        annotations = {
            key.removeprefix(PREFIX): value
            for key, value in work.annotations.items()
            if key.startswith(PREFIX)
        }
        return _annotated(script, work, annotations) if annotations else script

    def _unlucky(self, work: WorkSpec) -> Script:
        options, uid, attempt = self._options, work.identity.uid, work.identity.attempt

        def hit(rate: float, what: str) -> bool:
            return rate > 0 and chance(options.seed, uid, attempt, what) < rate

        changes: dict[str, Any] = {}
        if hit(options.crash_rate, "crash"):
            changes |= CRASH
        if hit(options.pull_failure_rate, "pull"):
            changes |= NEVER_PULLED
        return structs.replace(
            self._plain,
            app=structs.replace(self._plain.app, **changes),
            lost_replies=int(hit(options.lost_reply_rate, "reply")),
        )


def _annotated(script: Script, work: WorkSpec, annotations: Mapping[str, str]) -> Script:
    of_pod: dict[str, Any] = {}
    of_all: dict[str, Any] = {}
    of_one: dict[str, dict[str, Any]] = {}
    for key, text in annotations.items():
        word, _, name = key.partition(".")
        field, value = _parsed(key, word, text)
        if name:
            of_one.setdefault(name, {})[field] = value
        elif field in Behaviour.__struct_fields__:
            of_all[field] = value
        else:
            of_pod[field] = value
    app = structs.replace(script.app, **of_all)
    inits = {each.name for each in work.init_containers if each.restart_policy != "Always"}
    for name in of_one.keys() - {each.name for each in (*work.init_containers, *work.containers)}:
        raise Rejected(f"annotations {PREFIX}….{name}: the pod has no container {name!r}")
    named = {
        name: structs.replace(script.init if name in inits else app, **fields)
        for name, fields in of_one.items()
    }
    return structs.replace(script, app=app, named=named, **of_pod)


def _parsed(key: str, word: str, text: str) -> tuple[str, Any]:
    parse = (POD_WORDS if "." not in key else {}).get(word) or CONTAINER_WORDS.get(word)
    if parse is None:
        known = ", ".join([*POD_WORDS, *CONTAINER_WORDS])
        raise Rejected(f"annotation {PREFIX}{key} is unknown; there are {known}")
    try:
        return word.replace("-", "_"), parse(text)
    except ValueError as error:
        raise Rejected(f"annotation {PREFIX}{key}: {error}") from error


def _run(text: str) -> Delay | None:
    return None if text == "forever" else parse_delay(text)


def _failures(text: str) -> float:
    return math.inf if text == "always" else int(text)


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _quantity(text: str) -> float:
    return float(parse_quantity(text))


POD_WORDS: dict[str, Callable[[str], Any]] = {
    "start-seconds": parse_delay,
    "no-stock-seconds": float,
    "lost-replies": int,
    "ip": _address,
}
CONTAINER_WORDS: dict[str, Callable[[str], Any]] = {
    "stop-seconds": parse_delay,
    "run-seconds": _run,
    "exit-code": int,
    "exit-reason": str,
    "pull-failures": _failures,
    "output": str,
    "log-seconds": float,
    "cpu": _quantity,
    "memory": _quantity,
}
