"""The files of a volume, replaced all at once.

In: files as the agent resolved them. Out: a directory as the kubelet lays it out. Invariant: a reader in a
container sees all files old or all new, never mixed (the link `..data` is swapped by a rename), and a writer
that was killed half-way leaves what the next one clears away.
Source: k8s.io/kubernetes pkg/volume/util/atomic_writer.go, pkg/volume/volume_linux.go (SetVolumeOwnership).
"""

import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from overspill.backends.podman.trees import remove_tree
from overspill.model.work import File

__all__ = ["is_written", "write_files"]

DATA_LINK = "..data"
# What a volume's group may do with the files of a read-only volume, and with its directories.
GROUP_READS = 0o440
GROUP_ENTERS = stat.S_ISGID | 0o110


def is_written(directory: Path) -> bool:
    """Whether the directory was ever written to the end."""
    return (directory / DATA_LINK).exists()


def write_files(directory: Path, files: Collection[File], *, group: int | None = None) -> bool:
    """Put files in place of what the directory holds, in one instant; False if it held the same already."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    link = directory / DATA_LINK
    changed = not (link.exists() and _holds(link, files))
    if changed:
        fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
        fresh.chmod(0o755)
        for file in files:
            _write_file(fresh, file, group)
        draft = directory / f"{DATA_LINK}_tmp"
        draft.unlink(missing_ok=True)
        draft.symlink_to(fresh.name)
        _give(directory, group)
        draft.rename(link)
    _link_names(directory, {PurePosixPath(file.path).parts[0] for file in files})
    _clear(directory, link.readlink().name)
    return changed


def _holds(data: Path, files: Collection[File]) -> bool:
    wanted = {file.path: file.data for file in files}
    there = {str(path.relative_to(data)): path for path in _files_below(data)}
    return there.keys() == wanted.keys() and all(
        path.read_bytes() == wanted[name] for name, path in there.items()
    )


def _files_below(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in names:
            yield Path(root, name)


def _write_file(directory: Path, file: File, group: int | None) -> None:
    target = directory / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.data)
    if file.owner is not None:
        os.chown(target, file.owner, -1)
    if group is None:
        target.chmod(file.mode)
        return
    os.chown(target, -1, group)
    target.chmod(file.mode | GROUP_READS)
    for folder in target.relative_to(directory).parents:
        _give(directory / folder, group)


def _give(folder: Path, group: int | None) -> None:
    if group is not None:
        os.chown(folder, -1, group)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | GROUP_READS | GROUP_ENTERS)


def _link_names(directory: Path, wanted: set[str]) -> None:
    """Let the visible names lead into the data directory, and no others be there."""
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"{DATA_LINK}/{name}")


def _clear(directory: Path, current: str) -> None:
    """Remove the data of earlier writers, those that were killed among them."""
    for entry in directory.iterdir():
        if entry.name.startswith("..") and entry.name not in {DATA_LINK, current}:
            remove_tree(entry)
