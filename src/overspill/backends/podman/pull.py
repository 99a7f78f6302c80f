"""Having a container's image at hand, as its pull policy wants.

In: a `Container`, the pod's logins. Out: a `PulledImage`, or `PullFailure` with
the kubelet's reason. Invariant: one pull at a time for the same reference, so
that twenty pods of a new image pull it once.
Source: https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from overspill.backends.podman.api import Image, Podman
from overspill.backends.podman.client import PodmanError
from overspill.backends.podman.images import credentials_for, digest_for, is_valid, normalize
from overspill.backends.podman.seen import PulledImage
from overspill.errors import NotFound, Rejected
from overspill.model.work import Container, RegistryCredential

__all__ = ["PullFailure", "Puller"]

PARALLEL_PULLS = 4


class PullFailure(Rejected):
    """The image cannot be had. `reason` is the kubelet's; `final` when no further attempt can help."""

    def __init__(self, reason: str, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.final = final


class Puller:
    """Pulls images for the pods of one node."""

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._slots = asyncio.Semaphore(PARALLEL_PULLS)
        self._references: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def have(
        self,
        container: Container,
        number: int,
        credentials: Sequence[RegistryCredential],
        *,
        tell: Callable[[str, str], None],
    ) -> PulledImage:
        """The image for the run `number` of a container; `tell` takes the kubelet's reasons and messages.

        Raises:
            PullFailure: it cannot be had.
        """
        name = container.image
        if not is_valid(name):
            raise PullFailure(
                "InvalidImageName",
                f'couldn\'t parse image name "{name}": invalid reference format',
                final=True,
            )
        asked = time.monotonic()
        alone = self._references.setdefault(name, asyncio.Lock())  # kept for as long as somebody waits for it
        async with alone:
            if container.pull_policy != "Always" and (local := await self._local(name)):
                present = "already present on machine and can be accessed by the pod"
                tell("Pulled", f'Container image "{name}" {present}')
                return _pulled(local, number, name, name)
            if container.pull_policy == "Never":
                raise PullFailure(
                    "ErrImageNeverPull",
                    f'Container image "{name}" is not present with pull policy of Never',
                )
            tell("Pulling", f'Pulling image "{name}"')
            reference = normalize(name)
            began = time.monotonic()
            image = await self._pull(reference, credentials)
            now = time.monotonic()
            took = f"{now - began:.3f}s ({now - asked:.3f}s including waiting)"
            tell("Pulled", f'Successfully pulled image "{name}" in {took}. Image size: {image.size} bytes.')
            return _pulled(image, number, name, reference)

    async def _local(self, reference: str) -> Image | None:
        try:
            return await self._podman.image(reference)
        except NotFound:
            return None

    async def _pull(self, reference: str, credentials: Sequence[RegistryCredential]) -> Image:
        """With each login that fits until one is taken, as the kubelet does."""
        fitting = credentials_for(reference, credentials)
        *others, last = fitting or (None,)
        for login in others:
            with suppress(PullFailure):
                return await self._pull_as(login, reference)
        return await self._pull_as(last, reference)

    async def _pull_as(self, login: RegistryCredential | None, reference: str) -> Image:
        try:
            async with self._slots:
                await self._podman.pull(reference, login)
            return await self._podman.image(reference)
        except (PodmanError, NotFound) as error:
            raise PullFailure("ErrImagePull", str(error)) from error


def _pulled(image: Image, number: int, name: str, reference: str) -> PulledImage:
    image_id = digest_for(name, image.repo_digests or ()) or f"sha256:{image.id}"
    return PulledImage(number, name, reference, image_id, image.user)
