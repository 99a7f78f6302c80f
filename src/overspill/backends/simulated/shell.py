"""A few commands of a shell, played on a simulated container.

In: a command line, a `Box` (the container's variables and files). Out: what it writes and its exit
code. Invariant: it sees what a process in the pod would see of the `WorkSpec`, so that what reached
the backend can be looked at: variables, mounted files, the host name. It is not a shell: there are
`;`, `&&`, `>`, `$NAME` and the commands of `COMMANDS`, no more.
"""

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from overspill.backends.simulated.life import ContainerLife, PodLife
from overspill.model.work import POD_IP, POD_IPS, EmptyDir, Files, Mount

__all__ = ["Box", "Command", "Result", "builtin", "commands_of"]

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class Result(Struct, frozen=True):
    """What a command wrote and its exit code."""

    code: int = 0
    out: bytes = b""
    err: bytes = b""


class Command(Struct, frozen=True):
    """One command of a script; `target` is where its output goes, if not to stdout (1) or stderr (2).

    Attributes:
        only_after_success: it stands behind `&&`.
    """

    words: tuple[str, ...]
    target: str = ""
    only_after_success: bool = False


class Box:
    """A container as a process in it sees it."""

    def __init__(self, pod: PodLife, container: ContainerLife) -> None:
        self._pod = pod
        self._container = container

    @property
    def hostname(self) -> str:
        """The pod's host name."""
        return self._pod.hostname

    def env(self) -> Mapping[str, str]:
        """The container's variables, with the pod's address put in."""
        address = self._pod.address
        given = {
            var.name: var.value.replace(POD_IP, address).replace(POD_IPS, address)
            for var in self._container.spec.env
        }
        return {"HOSTNAME": self.hostname, "PATH": "/bin", **given}

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is none."""
        return self._files().get(self._absolute(path))

    def names(self, path: str) -> list[str] | None:
        """What is in a directory; None if there is nothing of this name."""
        top = self._absolute(path).rstrip("/") + "/"
        below = {known.removeprefix(top).split("/")[0] for known in self._files() if known.startswith(top)}
        return sorted(below) if below or self._mount_of(top.rstrip("/")) or top == "/" else None

    def write(self, path: str, data: bytes) -> str:
        """Write a file; returns why not, or ""."""
        path = self._absolute(path)
        mount = self._mount_of(path)
        volume = self._pod.volumes.get(mount.volume) if mount else None
        if mount and (mount.read_only or not isinstance(volume, EmptyDir)):
            return "Read-only file system"
        if mount is None and self._container.spec.security.read_only_root_filesystem:
            return "Read-only file system"
        if self._pod.scratch is None:
            self._pod.scratch = {}
        self._pod.scratch[self._place(path, mount)] = data
        return ""

    def _files(self) -> dict[str, bytes]:
        """All files that can be seen, by their absolute paths."""
        scratch = self._pod.scratch or {}
        seen = {path: data for (place, path), data in scratch.items() if place == self._own_layer}
        for mount in self._container.spec.mounts:
            seen |= {self._seen_at(mount, path): data for path, data in self._volume_files(mount)}
        return seen

    def _volume_files(self, mount: Mount) -> Iterator[tuple[str, bytes]]:
        volume = self._pod.volumes.get(mount.volume)
        if isinstance(volume, Files):
            yield from ((file.path, file.data) for file in volume.files)
        for (place, path), data in (self._pod.scratch or {}).items():
            if place == mount.volume:
                yield path, data

    def _seen_at(self, mount: Mount, path: str) -> str:
        inner = posixpath.relpath(path, mount.sub_path) if mount.sub_path else path
        return posixpath.normpath(posixpath.join(mount.path, inner))

    def _mount_of(self, path: str) -> Mount | None:
        mounts = (m for m in self._container.spec.mounts if f"{path}/".startswith(m.path.rstrip("/") + "/"))
        return max(mounts, key=lambda mount: len(mount.path), default=None)

    def _place(self, path: str, mount: Mount | None) -> tuple[str, str]:
        if mount is None:
            return self._own_layer, path
        return mount.volume, posixpath.join(mount.sub_path, posixpath.relpath(path, mount.path))

    @property
    def _own_layer(self) -> str:
        """Where files outside of volumes are; a restart begins with none, as containers do."""
        return f"/{self._container.spec.name}/{self._container.restarts}"

    def _absolute(self, path: str) -> str:
        return posixpath.normpath(posixpath.join("/", self._container.spec.working_dir, path))


def commands_of(script: str, env: Mapping[str, str]) -> list[Command]:
    """The commands of a script.

    Raises:
        ValueError: a quotation mark is left open.
    """
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    commands: list[Command] = []
    words: list[str] = []
    before = ""
    for part in [*lexer, ";"]:
        if part == "&&" or (part and not part.strip(";\n")):
            if words:
                commands.append(_command(words, only_after_success=before == "&&"))
            words, before = [], part
        else:
            words.append(VARIABLE.sub(lambda found: env.get(found[1] or found[2], ""), part))
    return commands


def _command(words: Sequence[str], *, only_after_success: bool) -> Command:
    for index, word in enumerate(words):
        if word in {">", ">&"}:
            return Command(tuple(words[:index]), "".join(words[index + 1 : index + 2]), only_after_success)
    return Command(tuple(words), "", only_after_success)


def builtin(box: Box, words: Sequence[str]) -> Result:
    """Run one command that needs no stdin."""
    name = posixpath.basename(words[0])
    run = COMMANDS.get(name)
    if run is None:
        return Result(127, err=f"sh: {words[0]}: not found\n".encode())
    return run(box, words[1:])


def _echo(_box: Box, words: Sequence[str]) -> Result:
    if words[:1] == ["-n"] or words[:1] == ("-n",):
        return Result(out=" ".join(words[1:]).encode())
    return Result(out=(" ".join(words) + "\n").encode())


def _cat(box: Box, words: Sequence[str]) -> Result:
    contents = {path: box.read(path) for path in words}
    missing = [path for path, data in contents.items() if data is None]
    return Result(
        code=1 if missing else 0,
        out=b"".join(data for data in contents.values() if data is not None),
        err="".join(f"cat: can't open '{path}': No such file or directory\n" for path in missing).encode(),
    )


def _ls(box: Box, words: Sequence[str]) -> Result:
    path = words[0] if words else "."
    names = box.names(path)
    if names is None:
        return Result(1, err=f"ls: {path}: No such file or directory\n".encode())
    return Result(out="".join(f"{name}\n" for name in names).encode())


def _env(box: Box, _words: Sequence[str]) -> Result:
    return Result(out="".join(f"{name}={value}\n" for name, value in box.env().items()).encode())


def _printenv(box: Box, words: Sequence[str]) -> Result:
    if not words:
        return _env(box, words)
    value = box.env().get(words[0])
    return Result(1) if value is None else Result(out=f"{value}\n".encode())


def _hostname(box: Box, _words: Sequence[str]) -> Result:
    return Result(out=f"{box.hostname}\n".encode())


def _exit(_box: Box, words: Sequence[str]) -> Result:
    try:
        return Result(int(words[0]) & 0xFF if words else 0)
    except ValueError:
        return Result(2, err=f"sh: exit: Illegal number: {words[0]}\n".encode())


COMMANDS: dict[str, Callable[[Box, Sequence[str]], Result]] = {
    "cat": _cat,
    "echo": _echo,
    "env": _env,
    "exit": _exit,
    "false": lambda _box, _words: Result(1),
    "hostname": _hostname,
    "ls": _ls,
    "printenv": _printenv,
    "true": lambda _box, _words: Result(0),
}
