"""The programs of a cluster as daemons: started detached, recorded, found again, ended.

In: `Program` values. Out: records in the state folder. Invariants: a process is pid plus start time, so
a recycled pid is never taken for ours; every process also carries the state folder in its environment,
so that one that was started but not recorded (a crash between the two) is found as well.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from overspill.errors import Misconfigured, Retry
from overspill.local.paths import Paths, write_file

__all__ = ["Process", "Processes", "Program", "end", "marked", "started_at", "with_descendants"]

MARKER = "LOCAL_CLUSTER_STATE"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOLD_LINES = 12


class Program(Struct, frozen=True, kw_only=True):
    """What to run, and how."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = {}


class Process(Struct, frozen=True):
    """A program that was started."""

    name: str
    pid: int
    started: int
    boot: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = {}

    @property
    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        return self.boot == _boot() and started_at(self.pid) == self.started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def started_at(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None if there is none or it is a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command, which may hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


class Processes:
    """The processes of one cluster."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def all(self) -> list[Process]:
        """Every recorded process, alive or not, by name."""
        found = map(_record, sorted(self._paths.processes.glob("*.json")))
        return [process for process in found if process is not None]

    def find(self, name: str) -> Process | None:
        """The record of one process."""
        return _record(self._file(name))

    def ensure(self, program: Program) -> bool:
        """Have it running as described; returns whether it had to be started."""
        if self.runs(program):
            return False
        self.stop(program.name)
        self._start(program)
        return True

    def runs(self, program: Program) -> bool:
        """Whether it runs as described."""
        process = self.find(program.name)
        return (
            process is not None
            and process.alive
            and (process.argv, process.env) == (program.argv, program.env)
        )

    def stop(self, name: str, *, grace: float = 0.0) -> bool:
        """End one process and forget it; returns whether it ended within its grace."""
        process = self.find(name)
        in_time = process is None or not process.alive or end([process.pid], grace=grace)
        self._file(name).unlink(missing_ok=True)
        return in_time

    def require(self, name: str) -> None:
        """See that a process lives.

        Raises:
            Retry: it ended; the message has the end of its log.
        """
        process = self.find(name)
        if process is None or not process.alive:
            raise Retry(f"{name} ended; the last lines of {self.log(name)}:\n{self.log_tail(name)}")

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self._paths.logs / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines of a process' log."""
        with contextlib.suppress(OSError):
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(lines[-TOLD_LINES:])
        return ""

    def _file(self, name: str) -> Path:
        return self._paths.processes / f"{name}.json"

    def _start(self, program: Program) -> None:
        self._paths.logs.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": PATH,
            "HOME": os.environ.get("HOME", "/"),
            MARKER: str(self._paths.root),
            **program.env,
        }
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log(program.name)), append, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # env -C: a daemon must not hold the folder that the user stands in.
        argv = ["env", "-C", "/", *program.argv]
        try:
            pid = os.posix_spawn("/usr/bin/env", argv, environment, file_actions=actions, setsid=True)
        except OSError as error:
            raise Misconfigured(f"{program.name} cannot be started: {error}") from error
        process = Process(program.name, pid, started_at(pid) or 0, _boot(), program.argv, program.env)
        write_file(self._file(program.name), msgspec.json.encode(process))


def _record(file: Path) -> Process | None:
    """The process of a record; None if there is none, or what a power cut left of it."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Process)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def end(pids: Iterable[int], *, grace: float = 0.0) -> bool:
    """End processes: SIGTERM and up to `grace` seconds, then SIGKILL.

    Returns, when they are gone, whether none of them was killed.
    """
    living = {pid: started for pid in pids if (started := started_at(pid)) is not None}
    if grace:
        _signal(living, signal.SIGTERM)
        _wait(living, grace)
    in_time = not living
    _signal(living, signal.SIGKILL)
    if not _wait(living, 10.0):
        raise Retry(f"processes {sorted(living)} do not end after SIGKILL")
    return in_time


def _signal(living: Mapping[int, int], number: int) -> None:
    for pid, started in living.items():
        if started_at(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _wait(living: dict[int, int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        for pid in list(living):
            _reap(pid)
            if started_at(pid) != living[pid]:
                del living[pid]
        if not living or time.monotonic() > deadline:
            return not living
        time.sleep(0.01)


def _reap(pid: int) -> None:
    """Take the exit code of a child of this very process, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def marked(root: Path) -> set[int]:
    """Living processes whose environment names this state folder."""
    wanted = f"{MARKER}={root}".encode()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return {pid for pid in found if started_at(pid) is not None} - {os.getpid()}


def with_descendants(roots: Iterable[int]) -> set[int]:
    """These processes and everything they started that is still their child."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found - {os.getpid()}
