"""Image caches: made in a while, matched by the images they hold.

In: requests and the clock. Out: their state, which follows from the time alone. Pure.
Source: API pages of CreateImageCache and DescribeImageCaches.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

__all__ = ["Creation", "ImageCache", "best_match", "created", "matches", "normal_name"]


class ImageCache(Struct, frozen=True, kw_only=True):
    """One image cache; its temporary container group is a name only, it is never run."""

    id: str
    name: str
    images: tuple[str, ...]
    created_at: float
    snapshot: str
    group: str
    size: int = 20
    tags: dict[str, str] = {}
    resource_group: str = ""
    retention_days: int = 0
    elimination_strategy: str = ""


class Creation(Struct, frozen=True):
    """How far the making of a cache has come."""

    status: str
    progress: str


def created(cache: ImageCache, *, now: float, seconds: float) -> Creation:
    """Preparing, Creating, Ready: the first tenth, the rest, afterwards."""
    passed = (now - cache.created_at) / seconds if seconds > 0 else 1.0
    if passed >= 1:
        return Creation("Ready", "100%")
    return Creation("Preparing" if passed < 0.1 else "Creating", f"{int(passed * 100)}%")


def normal_name(image: str) -> str:
    """With the tag that is meant when none is written."""
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def matches(cache: ImageCache, images: Iterable[str]) -> int:
    """How many of the images it holds."""
    held = {normal_name(image) for image in cache.images}
    return sum(normal_name(image) in held for image in images)


def best_match(caches: Sequence[ImageCache], images: Sequence[str]) -> ImageCache | None:
    """The cache that holds most of the images; the newest of several; None when none holds any."""
    found = [cache for cache in caches if matches(cache, images)]
    return max(found, key=lambda cache: (matches(cache, images), cache.created_at), default=None)
