"""A pod's volumes, each as scratch space or as files with their content.

In: a pod's volumes and what was found for them. Out: `model.work.Volume`s by name. Pure. Invariant: no
file's path leads out of its volume, and none stands where another needs a folder.
Sources: https://kubernetes.io/docs/concepts/storage/volumes/ and …/projected-volumes/.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise

from msgspec import structs

from overspill.agent.claims import claimed_volume
from overspill.agent.downward import field_text, resource_text
from overspill.agent.references import TokenWish
from overspill.agent.scope import Problem, Scope, Unresolved
from overspill.errors import Unsupported
from overspill.model import podvolumes
from overspill.model.podvolumes import ObjectFieldSelector, ResourceFieldSelector
from overspill.model.quantity import whole
from overspill.model.work import EmptyDir, File, Files, FlexVolume, Nfs, Volume

__all__ = ["volumes"]

TOKEN_MODE = 0o600


def volumes(scope: Scope, declared: Iterable[podvolumes.Volume]) -> dict[str, Volume]:
    """These volumes of the pod; what cannot be resolved is left out and noted in the scope.

    Raises:
        Unsupported: a volume is of a kind or medium that is not honoured.
    """
    made: dict[str, Volume] = {}
    for index, volume in enumerate(declared):
        try:
            made[volume.name] = _volume(volume, f"spec.volumes[{index}]", scope)
        except Unresolved as error:
            scope.problems.append(Problem("volume", volume.name, str(error)))
    return made


def _volume(volume: podvolumes.Volume, where: str, scope: Scope) -> Volume:
    if volume.empty_dir is not None:
        return _empty_dir(volume.empty_dir, f"{where}.emptyDir.medium")
    if volume.projected is not None:
        return _projected(volume.projected, scope)
    if volume.config_map is not None:
        return Files(_checked(_of_config_map(volume.config_map, volume.config_map.default_mode, scope)))
    if volume.secret is not None:
        return Files(_checked(_of_secret(volume.secret, volume.secret.default_mode, scope)))
    if volume.downward_api is not None:
        return Files(_checked(_of_pod(volume.downward_api, volume.downward_api.default_mode, scope)))
    if volume.persistent_volume_claim is not None:
        return _claimed(volume.name, volume.persistent_volume_claim, where, scope)
    return _remote(volume, where)


def _claimed(name: str, source: podvolumes.ClaimVolumeSource, where: str, scope: Scope) -> Volume:
    found = scope.found.claims[source.claim_name]
    if found is None:
        raise Unresolved(
            f"failed to fetch PVC from API server: persistentvolumeclaims {source.claim_name!r} not found"
        )
    volume, read_only = claimed_volume(found, f"{where}.persistentVolumeClaim")
    if read_only or source.read_only:
        scope.read_only.add(name)
    return volume


def _remote(volume: podvolumes.Volume, where: str) -> Volume:
    if volume.nfs is not None:
        return Nfs(volume.nfs.server, volume.nfs.path, volume.nfs.read_only)
    if volume.flex_volume is not None:
        flex = volume.flex_volume
        return FlexVolume(flex.driver, flex.fs_type, flex.read_only, flex.options)
    raise Unsupported(f"{where}: volumes of this kind are not honoured", fields=(where,))


def _empty_dir(source: podvolumes.EmptyDirSource, where: str) -> EmptyDir:
    if source.medium not in {"", "Memory"}:
        raise Unsupported(f"{where}: there is no medium {source.medium!r}", fields=(where,))
    limit = None if source.size_limit is None else whole(source.size_limit)
    return EmptyDir("Memory" if source.medium else "", limit)


def _projected(source: podvolumes.ProjectedSource, scope: Scope) -> Files:
    files: list[File] = []
    ages: list[float] = []
    complaints: list[str] = []
    for one in source.sources:
        try:
            files += _of_projection(one, source.default_mode, scope, ages)
        except Unresolved as error:
            complaints.append(str(error))
    if complaints:
        raise Unresolved(complaints[0] if len(complaints) == 1 else f"[{', '.join(complaints)}]")
    return Files(_checked(files), min(ages, default=None))


def _of_projection(
    source: podvolumes.Projection, mode: int, scope: Scope, ages: list[float]
) -> Iterable[File]:
    """The files of one source; the age at which they are due for renewal goes into `ages`."""
    if source.service_account_token is not None:
        return _of_token(source.service_account_token, mode, scope, ages)
    if source.config_map is not None:
        return _of_config_map(source.config_map, mode, scope)
    if source.secret is not None:
        return _of_secret(source.secret, mode, scope)
    if source.downward_api is not None:
        return _of_pod(source.downward_api, mode, scope)
    return ()


def _of_token(
    source: podvolumes.TokenProjection, mode: int, scope: Scope, ages: list[float]
) -> Sequence[File]:
    if scope.found.tokens is None:
        return ()  # not asked for yet: something else is missing, and is told
    token = scope.found.tokens[TokenWish.of(scope.spec, source)]
    if token is None:
        name = scope.spec.service_account_name
        raise Unresolved(f'failed to fetch token: serviceaccounts "{name}" not found')
    if token.renew_after is not None:
        ages.append(token.renew_after)
    owner = _only_user(scope)
    if owner is not None or scope.spec.security_context.fs_group is not None:
        mode = TOKEN_MODE  # the group may read it all the same: a backend sees to that
    return (File(source.path, token.text, mode, owner),)


def _only_user(scope: Scope) -> int | None:
    """The user that all containers are told to run as, None if there is no such one.

    Source: FsUserFrom in k8s.io/kubernetes/pkg/volume/util.
    """
    spec = scope.spec
    of_pod = spec.security_context.run_as_user
    own = [one.security_context.run_as_user for one in (*spec.init_containers, *spec.containers)]
    users = {of_pod if user is None else user for user in own}
    return users.pop() if len(users) == 1 else None


def _of_config_map(source: podvolumes.ConfigMapSource, mode: int, scope: Scope) -> Sequence[File]:
    found = scope.config_map(source.name, optional=source.optional)
    data = {**{key: text.encode() for key, text in found.data.items()}, **found.binary_data}
    complaint = None if source.optional else "configmap references non-existent config key"
    return _chosen(data, source.items, mode, complaint)


def _of_secret(source: podvolumes.SecretSource, mode: int, scope: Scope) -> Sequence[File]:
    found = scope.secret(source.secret_name or source.name, optional=source.optional)
    complaint = None if source.optional else "references non-existent secret key"
    return _chosen(found.data, source.items, mode, complaint)


def _chosen(
    data: Mapping[str, bytes], items: Sequence[podvolumes.KeyToPath], mode: int, complaint: str | None
) -> Sequence[File]:
    """All keys, or those that `items` names; a key that is not there is left out if nobody complains."""
    if not items:
        return [File(key, content, mode) for key, content in data.items()]
    missing = [item.key for item in items if item.key not in data]
    if missing and complaint:
        raise Unresolved(f"{complaint}: {missing[0]}")
    return [
        File(item.path, data[item.key], mode if item.mode is None else item.mode)
        for item in items
        if item.key in data
    ]


def _of_pod(source: podvolumes.DownwardSource, mode: int, scope: Scope) -> Sequence[File]:
    # Each text is made once: annotations may have 256 KiB, and any number of files may tell of them.
    told = cache(lambda field, resource: _downward_text(field, resource, scope).encode())
    return [
        File(
            item.path, told(item.field_ref, item.resource_field_ref), mode if item.mode is None else item.mode
        )
        for item in source.items
    ]


def _downward_text(
    field: ObjectFieldSelector | None, resource: ResourceFieldSelector | None, scope: Scope
) -> str:
    if field is not None:
        return field_text(field.field_path, scope)
    if resource is not None:
        return resource_text(resource, scope)
    return ""


def _checked(files: Iterable[File]) -> tuple[File, ...]:
    """Files with clean paths, the later of two of the same path.

    Raises:
        Unresolved: a path leads out of the volume, or through another file.
    """
    by_path: dict[str, File] = {}
    for file in files:
        path = _inside(file.path)
        by_path[path] = file if path == file.path else structs.replace(file, path=path)
    # In the order of their parts, what is in a folder follows the file of its name.
    for path, following in pairwise(sorted(by_path, key=lambda each: each.split("/"))):
        if following.startswith(f"{path}/"):
            raise Unresolved(f"path {following!r} needs a folder where {path!r} is a file")
    return tuple(by_path.values())


def _inside(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith(("/", "..")) or ".." in parts:
        raise Unresolved(f"path {path!r} must be relative and must not hold or begin with '..'")
    return posixpath.normpath(path) if len(parts) > 1 else path
