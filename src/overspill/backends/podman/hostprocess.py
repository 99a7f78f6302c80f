"""The one look at the host's processes: ending what Podman has lost sight of.

In: a pid file that conmon wrote, the container's id. Out: whether a process was
killed. Invariant: only a process in that container's own cgroup is killed,
whatever the pid means in the namespace of whoever asks.
"""

import os
import signal
from pathlib import Path

__all__ = ["kill_member"]


def kill_member(pid_file: str, container: str) -> bool:
    """Kill the process of a pid file, if it can be seen and belongs to the container."""
    try:
        pid = int(Path(pid_file).read_text())
        handle = os.pidfd_open(pid)
    except (OSError, ValueError):
        return False
    try:
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
