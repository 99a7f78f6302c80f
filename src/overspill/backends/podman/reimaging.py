"""Other images for the containers of a pod that is there: whose run is out of date.

In: a container, its run. Out: whether the run has another image than its container should have by now. Pure.
Invariant: what a run was made from is read from its label, so that an agent that was killed half-way goes on.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions, containerChanged).
"""

from collections.abc import Mapping

from msgspec import structs

from overspill.backends.podman.seen import Run
from overspill.model.work import Container, WorkSpec

__all__ = ["is_outdated", "with_images"]


def is_outdated(container: Container, run: Run) -> bool:
    """Whether a run was made from another image; of one that does not tell, it is taken that it was not."""
    return run.asked_image not in {"", container.image}


def with_images(work: WorkSpec, images: Mapping[str, str]) -> WorkSpec:
    """The work with other images of some containers."""

    def changed(containers: tuple[Container, ...]) -> tuple[Container, ...]:
        return tuple(structs.replace(each, image=images.get(each.name, each.image)) for each in containers)

    return structs.replace(
        work, containers=changed(work.containers), init_containers=changed(work.init_containers)
    )
