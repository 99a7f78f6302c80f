"""The marks of a pod's runs on disk: what an agent that was killed has to know of their hooks and probes.

In: `Marks`. Out: the same, read back. Invariant: a hook is marked before it
begins, so that none runs twice; a run without hooks and probes that was never resized has no marks.
"""

from pathlib import Path

import msgspec
from msgspec import structs

from overspill.backends.podman.folder import Folder, read
from overspill.backends.podman.seen import Hook, Marks
from overspill.model.work import Container, HookAction, SleepAction

__all__ = ["forget_marks", "read_marks", "write_marks"]


def write_marks(folder: Folder, run: str, marks: Marks) -> None:
    """Remember the marks of a run, by its id."""
    path = _path(folder, run)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{run}")
    draft.write_bytes(msgspec.json.encode(marks))
    draft.rename(path)


def read_marks(folder: Folder, run: str, container: Container) -> Marks | None:
    """The marks that an earlier agent left; a hook that it had begun counts as done, and is not run again."""
    marks = read(_path(folder, run), Marks)
    return marks and structs.replace(
        marks,
        post_start=_recovered(marks.post_start, container.post_start),
        pre_stop=_recovered(marks.pre_stop, container.pre_stop),
    )


def forget_marks(folder: Folder, run: str) -> None:
    """The run is gone."""
    _path(folder, run).unlink(missing_ok=True)


def _recovered(hook: Hook | None, action: HookAction | None) -> Hook | None:
    if hook is None or hook.ended is not None:
        return hook
    lasts = action.seconds if isinstance(action, SleepAction) else 0
    return structs.replace(hook, ended=hook.at + lasts)


def _path(folder: Folder, run: str) -> Path:
    return folder.path / "marks" / run
