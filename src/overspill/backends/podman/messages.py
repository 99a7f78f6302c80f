"""A container's last words: what it wrote to its termination message file, or the end of its output.

In: one run of a container. Out: the file that Podman mounts, and a text of at
most 4 KiB once the run has ended. Invariant: each run has a file of its own
that anybody in the container may write.
Source: https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/;
k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go.
"""

import os
from pathlib import Path

from overspill.backends.podman.folder import Folder
from overspill.backends.podman.seen import Run
from overspill.model.work import Container

__all__ = ["forget_message", "last_words", "message_file", "prepare_message"]

LONGEST = 4096  # bytes of the file
LONGEST_OUTPUT, MOST_LINES = 2048, 80  # of the output that stands in for it
TAIL = 128 << 10  # bytes of the log file, in which so much output is always found


def message_file(folder: Folder, container: str, number: int) -> Path:
    """What one run of a container sees under its terminationMessagePath."""
    return folder.path / "messages" / f"{container}-{number}"


def prepare_message(folder: Folder, container: str, number: int) -> None:
    """Make the file; one that is there stays as it is."""
    path = message_file(folder, container, number)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.chmod(0o666)


def last_words(folder: Folder, container: Container, run: Run) -> str:
    """What an ended run has left to say."""
    words = _tail(message_file(folder, run.container, run.number), LONGEST)
    if not words and run.exit_code and container.termination_message_policy == "FallbackToLogsOnError":
        words = _output(_tail(folder.log(run.container, run.number), TAIL))
    return words.decode(errors="replace")


def forget_message(folder: Folder, run: Run) -> None:
    """The run is gone."""
    message_file(folder, run.container, run.number).unlink(missing_ok=True)


def _tail(path: Path, longest: int) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - longest))
            return file.read(longest)
    except OSError:
        return b""  # also of something that the container has put in the file's place


def _output(log: bytes) -> bytes:
    """The end of the output, out of the lines `time stream F|P text` of a log's end."""
    lines = [b""]
    for line in log.split(b"\n"):
        parts = line.split(b" ", 3)
        if len(parts) < 4:
            continue
        lines[-1] += parts[3]
        if parts[2].startswith(b"F"):
            lines.append(b"")
    return b"\n".join(lines[-MOST_LINES - 1 :])[-LONGEST_OUTPUT:]
