"""The agent's image for the local cluster: a small Debian with Python, and this package.

In: Debian's packages by mmdebstrap, the installed packages of the running Python, this source. Out: an
archive in the cache, named by its content. Only what the agent needs at run time is in it.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import overspill
from overspill.errors import Misconfigured
from overspill.local.archive import Image, write_archive
from overspill.local.commands import run
from overspill.local.images import PREFIX
from overspill.local.paths import cache_root, repository
from overspill.local.talk import step

__all__ = ["agent_archive", "runtime_distributions"]

AGENT_REPOSITORY = f"{PREFIX}/agent"
DEBIAN_PACKAGES = "python3-minimal,libpython3-stdlib,ca-certificates"
# Debian's own place for packages that are not Debian's.
SITE_PACKAGES = f"usr/local/lib/python3.{sys.version_info.minor}/dist-packages"
LEFT_OUT = (
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
    "var/lib/apt/lists/*",
    "var/cache/apt/*",
)
EXTRAS = ("uvloop",)
# Archives kept in the cache; two checkouts may take turns.
KEPT = 2


async def agent_archive() -> tuple[str, Path]:
    """Have the agent's image; returns its name, whose tag changes with its content, and its archive.

    Raises:
        Misconfigured: this is no Debian whose Python has the version of the running one, not root, or a tool is missing.
        Retry: Debian's packages could not be had.
    """
    base = await _debian_root()
    packages = await _packages_layer(
        [each for each in runtime_distributions("overspill") if each.name != "overspill"]
    )
    key = hashlib.sha256(f"{base.name} {packages.name} {_source_key()}".encode()).hexdigest()[:12]
    name = f"{AGENT_REPOSITORY}:{overspill.__version__}-{key}"
    target = cache_root() / "images" / f"agent-{key}.tar"
    if not target.exists():
        async with step("building the agent's image", expected="3 s"):
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                image = Image(
                    name=name,
                    layers=[base, packages, await _source_layer(Path(folder))],
                    entrypoint=("overspill",),
                    command=("agent",),
                    env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                )
                write_archive(target, [image])
        _forget_older(target)
    return name, target


def _forget_older(target: Path) -> None:
    """An archive of 130 MB for each change of the source would fill the cache."""
    archives = sorted(target.parent.glob("agent-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in archives[:-KEPT]:
        path.unlink(missing_ok=True)


async def _debian_root() -> Path:
    suite = _suite()
    key = hashlib.sha256(repr((suite, DEBIAN_PACKAGES, LEFT_OUT)).encode()).hexdigest()[:16]
    target = cache_root() / "images" / f"debian-{key}.tar"
    if not target.exists():
        if os.geteuid() != 0:
            raise Misconfigured("the image is made of Debian's packages by root: run this as root")
        target.parent.mkdir(parents=True, exist_ok=True)
        async with step("fetching a small Debian with Python", expected="10 s"):
            part = target.with_name(f".{target.name}.{os.getpid()}.part.tar")
            excludes = [f"--dpkgopt=path-exclude=/{pattern}" for pattern in LEFT_OUT]
            options = (
                "--variant=extract",
                "--mode=root",
                f"--include={DEBIAN_PACKAGES}",
                "--quiet",
                *excludes,
            )
            await run(["mmdebstrap", *options, suite, part], timeout=600)
            part.replace(target)
    return target


def _suite() -> str:
    """The codename of this Debian.

    Raises:
        Misconfigured: it is none, or its Python is not of the running one's version: compiled packages
            of the one do not load in the other.
    """
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    match = re.search(r"^VERSION_CODENAME=\"?(\w+)", text, re.MULTILINE)
    minor = f"python3.{sys.version_info.minor}"
    if match is None or "ID=debian" not in text or not Path(f"/usr/bin/{minor}").exists():
        raise Misconfigured(
            f"the agent's image is made of this machine's Debian with {minor}, which is not here; "
            "without a worker no image is needed: `overspill up --workers 0`"
        )
    return match[1]


def runtime_distributions(name: str) -> Iterator[Distribution]:
    """A package and everything it needs to run, as installed here."""
    seen: set[str] = set()
    waiting = [name, *EXTRAS]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            # A marker (another platform, an older Python) leaves it out here.
            continue
        yield found
        needed = [line for line in found.requires or () if "extra ==" not in line]
        waiting.extend(re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0].lower() for line in needed)


def _source_key() -> str:
    digest = hashlib.sha256()
    source = Path(overspill.__file__).parent
    for file in [*sorted(source.rglob("*")), repository() / "pyproject.toml"]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(repository())).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


async def _packages_layer(packages: list[Distribution]) -> Path:
    """What others wrote: changes seldom, so it is a layer and a file of its own."""
    names = sorted(f"{package.name} {package.version}" for package in packages)
    key = hashlib.sha256(repr((sys.version_info[:2], names)).encode()).hexdigest()[:12]
    target = cache_root() / "images" / f"packages-{key}.tar"
    if not target.exists():
        async with step("packing the agent's libraries", expected="10 s"):
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                root = Path(folder) / "root"
                for package in packages:
                    _copy_package(package, root / SITE_PACKAGES)
                part = await _layer(root, Path(folder) / "layer.tar")
                part.replace(target)
    return target


async def _source_layer(folder: Path) -> Path:
    root = folder / "root"
    site = root / SITE_PACKAGES
    _copy_package(distribution("overspill"), site)
    source = Path(overspill.__file__).parent
    shutil.copytree(source, site / "overspill", ignore=shutil.ignore_patterns("__pycache__"))
    program = root / "usr/local/bin/overspill"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/python3\nfrom overspill.cli.main import main\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    return await _layer(root, folder / "source.tar")


async def _layer(root: Path, target: Path) -> Path:
    # The layer's files get a fixed time, by which Python would take bytecode for stale.
    compiling = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", root)
    await run([sys.executable, *compiling, root / SITE_PACKAGES], timeout=300)
    options = ("--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner")
    await run(["tar", "-C", root, *options, "-cf", target, "."])
    return target


def _copy_package(package: Distribution, site: Path) -> None:
    """Copy the importable files of a package; an editable one has only its metadata here."""
    for file in package.files or ():
        if file.parts[0] == ".." or "__pycache__" in file.parts or file.suffix == ".pth":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(package.locate_file(file)), target)
