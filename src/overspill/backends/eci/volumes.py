"""Volumes of a pod as `Volume.N` of CreateContainerGroup.

In: the volumes of a work spec. Out: trees of parameters. Pure. Invariant: files go
in base64, whole and with their modes; ECI keeps a copy, which only `UpdateContainerGroup` changes.
"""

from base64 import b64encode
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from overspill.backends.eci.claims import flex_volume
from overspill.backends.eci.wire import Params
from overspill.model.quantity import format_bytes
from overspill.model.work import CsiVolume, EmptyDir, File, Files, FlexVolume, Nfs, Volume

__all__ = ["encoded_size", "volume"]

DEFAULT_MODE = 0o644


def volume(name: str, wanted: Volume) -> Params:
    """One volume."""
    if isinstance(wanted, EmptyDir):
        return {"Name": name, "Type": "EmptyDirVolume", "EmptyDirVolume": _empty_dir(wanted)}
    if isinstance(wanted, Files):
        return {"Name": name, "Type": "ConfigFileVolume", "ConfigFileVolume": _files(wanted.files)}
    if isinstance(wanted, Nfs):
        nfs = {"Server": wanted.server, "Path": wanted.path, "ReadOnly": wanted.read_only}
        return {"Name": name, "Type": "NFSVolume", "NFSVolume": nfs}
    flex = flex_volume(wanted) if isinstance(wanted, CsiVolume) else wanted
    return {"Name": name, "Type": "FlexVolume", "FlexVolume": _flex(flex)}


def encoded_size(file: File) -> int:
    """Bytes of a file's content as it is sent."""
    return (len(file.data) + 2) // 3 * 4


def _empty_dir(wanted: EmptyDir) -> Params:
    limit = wanted.size_limit
    return {
        "Medium": wanted.medium or None,
        "SizeLimit": None if limit is None else format_bytes(Decimal(limit)),
    }


def _files(files: Iterable[File]) -> Params:
    return {
        "DefaultMode": DEFAULT_MODE,
        "ConfigFileToPath": [
            {
                "Path": file.path,
                "Content": b64encode(file.data).decode(),
                "Mode": None if (mode := _mode(file)) == DEFAULT_MODE else mode,
            }
            for file in files
        ],
    }


def _mode(file: File) -> int:
    """ECI's files are root's: what another owner may read, everybody in the pod may."""
    return file.mode | (file.mode >> 6 & 0o5) if file.owner else file.mode


def _flex(wanted: FlexVolume) -> Params:
    return {
        "Driver": wanted.driver,
        "FsType": wanted.fs_type or None,
        "Options": msgspec.json.encode(wanted.options).decode(),
    }
