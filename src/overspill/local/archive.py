"""Image archives made without a container engine: layers and a config in one tar.

In: files of layers, and what to run. Out: an archive that containerd and Podman import. Invariant: the same
input gives the same bytes, so that an image's digest says what is in it.
"""

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

__all__ = ["File", "Image", "layer_of", "write_archive"]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = "1970-01-01T00:00:00Z"


class File(Struct, frozen=True):
    """A file of a layer: its content, or where a symbolic link points."""

    content: bytes = b""
    mode: int = 0o644
    link: str = ""


class Image(Struct, frozen=True, kw_only=True):
    """A name, layers from the lowest up, and what to run."""

    name: str
    layers: Sequence[Path]
    command: Sequence[str]
    entrypoint: Sequence[str] = ()
    env: Mapping[str, str] = {}


def layer_of(files: Mapping[str, File]) -> bytes:
    """An uncompressed layer of these files (paths without a leading slash) and their folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder in _folders(files):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for path, file in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = file.mode, len(file.content)
            if file.link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _folders(files: Mapping[str, File]) -> list[str]:
    parents = {str(parent) for path in files for parent in Path(path).parents}
    return sorted((parents | {"tmp"}) - {"."})


def write_archive(target: Path, images: Sequence[Image]) -> None:
    """Write one archive of several images; a layer that they share stands in it once."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")  # another `up` may write the same
    manifest = []
    written: set[str] = set()
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
        for image in images:
            digests = [_digest(layer) for layer in image.layers]
            for layer, digest in zip(image.layers, digests, strict=True):
                if digest not in written:
                    _add_file(tar, f"{digest}.tar", layer)
                    written.add(digest)
            config = json.dumps(_config(image, digests), sort_keys=True).encode()
            config_name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(tar, config_name, config)
            names = [f"{digest}.tar" for digest in digests]
            manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": names})
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    part.replace(target)


def _config(image: Image, digests: list[str]) -> dict[str, object]:
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **image.env}
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Env": [f"{key}={value}" for key, value in env.items()],
            "Entrypoint": list(image.entrypoint) or None,
            "Cmd": list(image.command) or None,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": EPOCH, "created_by": "overspill"} for _ in digests],
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = path.stat().st_size
    with path.open("rb") as file:
        tar.addfile(entry, file)
