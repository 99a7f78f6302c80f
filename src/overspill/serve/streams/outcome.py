"""How a remote command ended, as its client reads it.

In: an exit code or a reason. Out: the bytes for the error stream. Invariant: an empty error stream
means success to every client, so that a failure is never empty.
Source: k8s.io/cri-streaming/pkg/streaming/remotecommand (exec.go, status.go)
"""

import msgspec
from msgspec import Struct

__all__ = ["Outcome", "as_status", "as_text"]


class Outcome(Struct, frozen=True):
    """An exit code, or why there is none.

    Attributes:
        code: of the process, 0 to 255.
        error: why the command could not be run to its end; "" if it was.
    """

    code: int = 0
    error: str = ""


def as_status(outcome: Outcome) -> bytes:
    """A metav1.Status, which protocol version 4 and later expect."""
    if outcome.error:
        status = {"reason": "InternalError", "message": as_text(outcome).decode(), "code": 500}
    elif outcome.code:
        causes = [{"reason": "ExitCode", "message": str(outcome.code)}]
        text = as_text(outcome).decode()
        status = {"reason": "NonZeroExitCode", "message": text, "details": {"causes": causes}}
    else:
        return b'{"metadata":{},"status":"Success"}'
    return msgspec.json.encode({"metadata": {}, "status": "Failure", **status})


def as_text(outcome: Outcome) -> bytes:
    """Plain text, which versions 1 to 3 expect; b"" for success."""
    if outcome.error:
        return f"Internal error occurred: {outcome.error}".encode()
    if outcome.code:
        return f"command terminated with non-zero exit code: exit status {outcome.code}".encode()
    return b""
