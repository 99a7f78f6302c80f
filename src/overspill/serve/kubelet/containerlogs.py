"""`/containerLogs`: options read, refusals worded as the kubelet does.

In: query parameters; how a container stands. Out: `LogOptions`, or a refusal. Pure.
Source: k8s.io/api/core/v1 PodLogOptions; validation and texts of pkg/kubelet (server.go, kubelet_pods.go).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from overspill.backends.base import LogOptions
from overspill.model.observation import Terminated, Waiting
from overspill.serve.http import Refused
from overspill.serve.kubelet.node import ServedPod

__all__ = ["log_options", "refuse_unlogged"]

IMAGE_TROUBLE = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
STREAMS: Mapping[str, Literal["", "Stdout", "Stderr"]] = {
    "": "",
    "All": "",
    "Stdout": "Stdout",
    "Stderr": "Stderr",
}


def log_options(query: Mapping[str, Sequence[str]], *, now: float) -> LogOptions:
    """What is asked for; of a parameter given several times the first counts, as in Go.

    Raises:
        Refused: 400 for what cannot be read, 422 for what makes no sense.
    """
    first = {name: values[0] for name, values in query.items() if values}
    if (tail := first.pop("tail", "")) and tail != "all":  # of clients older than this API
        first["tailLines"] = tail
    since_seconds = _integer(first, "sinceSeconds")
    since_time = _time(first.get("sinceTime", ""))
    options = LogOptions(
        follow=_flag(first, "follow"),
        previous=_flag(first, "previous"),
        timestamps=_flag(first, "timestamps"),
        since_time=now - since_seconds if since_seconds is not None else since_time,
        tail_lines=_integer(first, "tailLines"),
        limit_bytes=_integer(first, "limitBytes"),
        stream=STREAMS.get(first.get("stream", ""), ""),
    )
    makes_sense = (
        (options.tail_lines is None or options.tail_lines >= 0)
        and (options.limit_bytes is None or options.limit_bytes >= 1)
        and (since_seconds is None or (since_seconds >= 1 and since_time is None))
        and first.get("stream", "") in STREAMS
        and not (options.stream and options.tail_lines is not None)
    )
    if not makes_sense:
        raise Refused(422, '{"message": "Invalid request."}')
    return options


def refuse_unlogged(served: ServedPod, container: str, *, previous: bool) -> None:
    """Return when the container has, or may have, a log to show.

    Raises:
        Refused: 400, with what the container waits for.
    """
    seen, where = served.container(container), f'container "{container}" in pod "{served.identity.name}"'
    if seen is None:
        raise Refused(400, f"{where} is waiting to start: ContainerCreating")
    if previous:
        if seen.restarts == 0 and not isinstance(seen.last_state, Terminated):
            raise Refused(400, f"previous terminated {where} not found")
        return
    if isinstance(seen.state, Waiting) and not isinstance(seen.last_state, Terminated):
        reason = seen.state.reason
        raise Refused(400, f"{where} is waiting to start: {IMAGE_TROUBLE.get(reason, reason)}")


def _flag(query: Mapping[str, str], name: str) -> bool:
    """As apimachinery converts it: a parameter without a value is true."""
    return name in query and query[name].lower() not in {"false", "0"}


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    try:
        return int(text) if text else None
    except ValueError as error:
        raise Refused(400, '{"message": "Unable to decode query."}') from error


def _time(text: str) -> float | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, '{"message": "Unable to decode query."}') from error
    if moment.tzinfo is None:
        raise Refused(400, '{"message": "Unable to decode query."}')
    return moment.timestamp()
