"""Keys and certificate requests, made in a process of their own.

In: a node's name and the names it is reached by; or a certificate. Out: JSON. Invariant: the agent
never imports what makes keys: it needs it once a year, and it is a third of an idle agent's memory.
"""

import asyncio
import sys
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from overspill.errors import Misconfigured, Retry

__all__ = ["GROUP", "SUBJECT_PREFIX", "NodeKey", "expires_at", "new_node_key"]

SUBJECT_PREFIX, GROUP = "system:node:", "system:nodes"


class NodeKey(Struct, frozen=True):
    """PEM: a private key, the request for its certificate, and one that it signed itself."""

    key: bytes
    request: bytes
    self_signed: bytes

    def __repr__(self) -> str:
        return "NodeKey(…)"


async def new_node_key(node: str, hosts: Sequence[str]) -> NodeKey:
    """A new key for a node that is reached by these DNS names and addresses.

    Raises:
        Retry: no process can be started now.
    """
    return msgspec.json.decode(await _run(["new", node, *hosts]), type=NodeKey)


async def expires_at(certificate: bytes) -> float:
    """When a PEM certificate ends, in seconds since 1970.

    Raises:
        Misconfigured: it is no certificate.
        Retry: no process can be started now.
    """
    return msgspec.json.decode(await _run(["expiry"], certificate), type=float)


async def _run(arguments: Sequence[str], data: bytes = b"") -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "overspill.serve.kubelet.keys", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:  # no memory, or no file to be opened, for a moment
        raise Retry(f"no process to make a key in: {error}") from error
    try:
        said, complaint = await process.communicate(data)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise Misconfigured(f"keys and certificates cannot be made or read: {last}")
    return said


def _main(command: str, *arguments: str) -> None:
    from overspill import pki  # noqa: PLC0415 - of the child alone

    if command == "expiry":
        answer = msgspec.json.encode(pki.expires_at(sys.stdin.buffer.read()))
    else:
        node, *hosts = arguments
        answer = msgspec.json.encode(
            pki.new_request(common_name=f"{SUBJECT_PREFIX}{node}", organizations=[GROUP], hosts=hosts)
        )
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
