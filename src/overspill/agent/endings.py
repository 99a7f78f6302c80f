"""How a lost pod's containers had ended, where this process has never seen them: what its status tells.

In: a pod's key. Out: exit codes. Invariant: one request, and only for a pod that has a startTime and is not at the
backend when an agent first sees to it; what is kept of every pod has no container statuses.
Source: k8s.io/api/core/v1/types.go (ContainerStatus).
"""

from msgspec import Struct

from overspill.kube.cache import Key
from overspill.kube.client import Client
from overspill.kube.resources import PODS

__all__ = ["exit_codes"]


class _Terminated(Struct, frozen=True, rename="camel"):
    exit_code: int = 0


class _State(Struct, frozen=True):
    terminated: _Terminated | None = None


class _ContainerStatus(Struct, frozen=True):
    name: str
    state: _State = _State()


class _Status(Struct, frozen=True, rename="camel"):
    container_statuses: tuple[_ContainerStatus, ...] = ()


class _Pod(Struct, frozen=True):
    status: _Status = _Status()


async def exit_codes(client: Client, key: Key) -> dict[str, int]:
    """With what those of a pod's containers ended that have; init containers left out.

    Raises:
        Retry, Misconfigured: the apiserver could not be asked.
    """
    # A list of one: an agent may list and watch pods, and needs no other right to read them.
    found = await client.list(
        PODS, namespace=key.namespace, field_selector=f"metadata.name={key.name}", kind=_Pod
    )
    statuses = [status for pod in found for status in pod.status.container_statuses]
    return {each.name: each.state.terminated.exit_code for each in statuses if each.state.terminated}
