"""Other images for a running pod, as `kubectl set image pod/…` asks for, brought to the backend.

In: a pod whose spec has changed, the observation of it. Out: one call of `Backend.change_images`, or the reason why
the pod goes on as it is. Invariant: what a backend tells of the images that run is believed, not remembered.
Source: https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement
"""

from overspill.agent.plan import Memory
from overspill.backends.base import Backend
from overspill.errors import NotFound, Unsupported
from overspill.metrics import BackendCall
from overspill.model.observation import Observation
from overspill.model.pods import Pod

__all__ = ["change_images"]


async def change_images(backend: Backend, pod: Pod, seen: Observation, memory: Memory) -> str:
    """Have the pod's containers run from what it asks for by now; returns what is to be told of those that do not.

    Raises:
        Retry: the backend cannot tell now.
    """
    generation = pod.metadata.generation
    if generation and memory.images == generation:  # there is none of apiservers before 1.33
        return ""
    refused = await _ask(backend, pod, seen)
    news = "" if refused == memory.images_kept else refused
    memory.images, memory.images_kept = generation, refused
    return news


async def _ask(backend: Backend, pod: Pod, seen: Observation) -> str:
    spec = pod.decoded_spec()
    wanted = {each.name: each.image for each in (*spec.init_containers, *spec.containers)}
    has = {each.name: each.image for each in (*seen.init_containers, *seen.containers)}
    changed = {name: image for name, image in wanted.items() if has.get(name, image) != image}
    if not changed:
        return ""
    try:
        with BackendCall(backend.name, "change_images"):
            await backend.change_images(seen.identity, changed)
    except NotFound:
        pass  # `Gone` follows
    except Unsupported as error:
        return f"{error}; the pod runs on as it is until it is replaced"
    return ""
