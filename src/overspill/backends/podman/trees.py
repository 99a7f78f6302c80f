"""Directories that containers have written to: measuring and removing them, however deep they are.

In: a directory. Out: bytes; nothing left of it. Invariant: whatever the tree, it takes no more than a few open files,
short paths and a fixed part of the stack to remove; no link in it is followed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

__all__ = ["disk_usage", "remove_tree"]


def disk_usage(directory: Path) -> int:
    """Bytes allocated below a directory; what vanishes meanwhile, or has too long a path, counts as nothing."""
    total = 0
    pending = [str(directory)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def remove_tree(top: Path) -> None:
    """Remove a directory with all that is in it; what cannot be removed stays.

    A directory in it is moved to the top before its turn comes, and is never looked for at the end of a long path.
    """
    pending = [top]
    while pending:
        here = pending.pop()
        pending += _emptied(here, top)
        if here != top:
            with suppress(OSError):
                here.rmdir()
    with suppress(OSError):
        top.rmdir()


def _emptied(here: Path, top: Path) -> Iterator[Path]:
    """Remove what is in a directory but directories; these are moved to the top."""
    with suppress(OSError), _opened(here) as directory, os.scandir(directory) as entries:
        for entry in list(entries):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    target = top / uuid4().hex
                    os.rename(entry.name, target, src_dir_fd=directory)
                    yield target
                else:
                    os.unlink(entry.name, dir_fd=directory)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """What a link has taken the place of is not opened."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield opened
    finally:
        os.close(opened)
