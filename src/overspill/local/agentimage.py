"""The agent's image for the local cluster: a small Debian with Python, and this package.

In: Debian's packages by mmdebstrap, the installed packages of the running Python, this source. Out: an
archive in the cache, named by its content. Only what the agent needs at run time is in it.
"""

import hashlib
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

__all__ = ["AGENT_IMAGE", "agent_archive", "runtime_distributions"]

AGENT_IMAGE = f"{PREFIX}/agent:{overspill.__version__}"
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


async def agent_archive() -> Path:
    """Have the archive of the agent's image.

    Raises:
        Misconfigured: this is no Debian whose Python has the version of the running one, or a tool is missing.
        Retry: Debian's packages could not be had.
    """
    base = await _debian_root()
    packages = list(runtime_distributions("overspill"))
    target = cache_root() / "images" / f"agent-{_key(base, packages)}.tar"
    if not target.exists():
        async with step("building the agent's image", expected="15 s"):
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                layer = await _package_layer(Path(folder), packages)
                image = Image(
                    name=AGENT_IMAGE,
                    layers=[base, layer],
                    entrypoint=("overspill",),
                    command=("agent",),
                    env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                )
                write_archive(target, [image])
        _forget_older(target)
    return target


def _forget_older(target: Path) -> None:
    """An image of 100 MB per change of the source would fill the cache."""
    archives = sorted(target.parent.glob("agent-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in archives[:-2]:
        path.unlink(missing_ok=True)


async def _debian_root() -> Path:
    suite = _suite()
    key = hashlib.sha256(repr((suite, DEBIAN_PACKAGES, LEFT_OUT)).encode()).hexdigest()[:16]
    target = cache_root() / "images" / f"debian-{key}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        async with step("fetching a small Debian with Python", expected="10 s"):
            part = target.with_name(f".{target.name}.part.tar")
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


def _key(base: Path, packages: list[Distribution]) -> str:
    digest = hashlib.sha256(base.name.encode())
    for name in sorted(f"{package.name} {package.version}" for package in packages):
        digest.update(name.encode())
    source = Path(overspill.__file__).parent
    files = [*source.rglob("*.py"), *source.rglob("*.j2"), repository() / "pyproject.toml"]
    for file in sorted(files):
        digest.update(str(file).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


async def _package_layer(folder: Path, packages: list[Distribution]) -> Path:
    root = folder / "root"
    site = root / SITE_PACKAGES
    for package in packages:
        _copy_package(package, site)
    source = Path(overspill.__file__).parent
    shutil.copytree(source, site / "overspill", ignore=shutil.ignore_patterns("__pycache__"))
    # The layer's files get a fixed time, by which Python would take bytecode for stale.
    compiling = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", root, site)
    await run([sys.executable, *compiling], timeout=300)
    program = root / "usr/local/bin/overspill"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/python3\nfrom overspill.cli.main import main\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    layer = folder / "packages.tar"
    options = ("--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner")
    await run(["tar", "-C", root, *options, "-cf", layer, "."])
    return layer


def _copy_package(package: Distribution, site: Path) -> None:
    """Copy the importable files of a package; an editable one has only its metadata here."""
    for file in package.files or ():
        if file.parts[0] == ".." or "__pycache__" in file.parts or file.suffix == ".pth":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(package.locate_file(file)), target)
