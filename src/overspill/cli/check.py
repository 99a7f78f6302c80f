"""`overspill check`: what of some manifests a backend would refuse, told before anything is deployed.

In: YAML or JSON files, such as what `helm template` prints. Out: one line per refusal. Exit code 0 when
nothing is refused, 1 when something is, 2 for wrong usage or a file that cannot be read. No cluster and no account is asked.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import yaml
from msgspec import Struct, structs

from overspill.agent.references import ConfigMap, Found, Secret, Token, references
from overspill.agent.scope import Missing, NodeFacts
from overspill.agent.spec import build
from overspill.backends.registry import backend_factory
from overspill.errors import Misconfigured, OverspillError, Unsupported
from overspill.model.claims import Bound, Claim, Claimed, ClaimMeta, ClaimSpec, ClaimStatus, PersistentVolume
from overspill.model.fields import unsupported_fields
from overspill.model.pods import Pod
from overspill.printable import printable

__all__ = ["check"]

TEMPLATES = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "Job", "ReplicationController"})
# Of all others nothing is looked at.
KINDS = TEMPLATES | {
    "Pod",
    "CronJob",
    "DaemonSet",
    "ConfigMap",
    "Secret",
    "PersistentVolume",
    "PersistentVolumeClaim",
}
T = TypeVar("T")
NODE = NodeFacts(cluster="", name="virtual-node", ip="192.0.2.1", allocatable={}, cluster_dns=("192.0.2.2",))


class Report(Struct, frozen=True):
    """One thing to tell about an object; `refused` is False for what could not be checked."""

    thing: str
    text: str
    refused: bool = True


class _Malformed(OverspillError):
    """An object is not what its kind says; no cluster would take it."""


class _Meta(Struct, frozen=True):
    """What an object is told apart by; null, as everywhere, is as if it were not there."""

    name: str | None = None
    namespace: str | None = None


class _Object(Struct, frozen=True):
    """What every object has."""

    kind: str
    metadata: _Meta = _Meta()


class _ClaimTemplate(Struct, frozen=True):
    metadata: ClaimMeta


class _StatefulSpec(Struct, frozen=True, rename="camel"):
    volume_claim_templates: list[_ClaimTemplate] | None = None


class _StatefulSet(Struct, frozen=True):
    """What of a StatefulSet makes volumes."""

    spec: _StatefulSpec = _StatefulSpec()


class _SecretManifest(Struct, rename="camel"):
    """A Secret as people write it."""

    data: dict[str, bytes] = {}
    string_data: dict[str, str] = {}


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests; - reads from stdin.")],
    backend: Annotated[str, typer.Option(help="Which backend is asked.")] = "eci",
) -> None:
    """Tell what of some manifests a backend would refuse; asks no cluster and no cloud.

    Exit code 0: nothing; 1: something; 2: wrong usage, or a file or an object in it cannot be read.
    """
    try:
        factory: Any = backend_factory(backend)
    except Misconfigured as error:
        raise typer.BadParameter(str(error), param_hint="--backend") from error
    try:
        objects = [each for file in files for each in _objects(file)]
        reports = list(_reports(objects, factory))
    except (OSError, _Malformed) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        raise typer.Exit(2) from error
    for report in reports:
        print(printable(f"{report.thing}: {report.text}"), file=sys.stdout if report.refused else sys.stderr)
    refused = {report.thing for report in reports if report.refused}
    count = sum(1 for each in objects if _template(each) is not None)
    print(f"{count} pod specs checked against {backend}; {len(refused)} would be refused", file=sys.stderr)
    raise typer.Exit(1 if refused else 0)


def _objects(file: str) -> Iterator[dict[str, Any]]:
    """Those of a file that are looked at."""
    for document in _documents(file):
        items = document.get("items") or [document]
        if not isinstance(items, list):
            raise _Malformed(f"{file}: items is no list")
        for each in items:
            kind = each.get("kind") if isinstance(each, dict) else None
            if not isinstance(kind, str | None) or kind in KINDS:
                yield _as_sent(each)


def _documents(file: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Malformed(f"{file}: {error}") from error


def _as_sent(each: dict[str, Any]) -> dict[str, Any]:
    """An object as kubectl sends it: in JSON every key is text."""
    try:
        sent = msgspec.json.decode(msgspec.json.encode(_with_text_for_bool(each)), type=dict[str, Any])
    except (TypeError, ValueError, RecursionError) as error:
        raise _Malformed(f"{_thing(each)} is not valid: {error}") from None
    _as(_Object, sent)
    return sent


def _with_text_for_bool(value: Any) -> Any:
    """Keys that YAML takes for truth values, such as `yes`, as sigs.k8s.io/yaml writes them; JSON's encoder has none."""
    if isinstance(value, list):
        return [_with_text_for_bool(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        str(key).lower() if isinstance(key, bool) else key: _with_text_for_bool(each)
        for key, each in value.items()
    }


def _part(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of an object; empty where there is none, or something else in its place."""
    part = of.get(name)
    return part if isinstance(part, dict) else {}


def _thing(each: Mapping[str, Any]) -> str:
    meta = _part(each, "metadata")
    return f"{each['kind']} {meta.get('namespace', 'default')}/{meta.get('name', '?')}"


def _template(each: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod of an object, or of its template; None if it has none."""
    kind, spec = each.get("kind"), _part(each, "spec")
    if kind == "Pod":
        return dict(each)
    if kind == "CronJob":
        spec = _part(_part(spec, "jobTemplate"), "spec")
    elif kind not in TEMPLATES | {"DaemonSet"}:
        return None
    template = _part(spec, "template")
    if kind != "StatefulSet":
        return template
    pod = _part(template, "spec")
    claimed = [
        _claimed(one.metadata.name) for one in _as(_StatefulSet, each).spec.volume_claim_templates or ()
    ]
    volumes = pod.get("volumes") or []
    if not claimed or not isinstance(volumes, list):
        return template  # what is no list is told of with the pod
    return template | {"spec": pod | {"volumes": [*volumes, *claimed]}}


def _claimed(name: str) -> dict[str, Any]:
    """The volume that a StatefulSet's pods have by a template of claims."""
    return {"name": name, "persistentVolumeClaim": {"claimName": name}}


def _reports(objects: Iterable[dict[str, Any]], factory: Any) -> Iterator[Report]:
    every = list(objects)
    found = _references(every)
    for each in every:
        template = _template(each)
        if template is None:
            continue
        thing = _thing(each)
        if each["kind"] == "DaemonSet":
            yield Report(thing, "pods of a DaemonSet do not run on virtual nodes")
            continue
        yield from _of_template(thing, template, factory, found)


def _of_template(thing: str, template: dict[str, Any], factory: Any, found: Found) -> Iterator[Report]:
    spec = _part(template, "spec")
    told = unsupported_fields(spec, factory.capabilities.pod_fields)
    for field in told:
        yield Report(thing, f"{field} is not something that this backend can do")
    offline = getattr(factory, "check", None)
    if offline is None:
        return
    meta = {"name": "pod", "namespace": "default", "uid": "uid"} | _part(template, "metadata")
    try:
        pod = msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)
        for warning in offline(build(pod, pod.decoded_spec(), _found_of(pod, found), NODE).work):
            yield Report(thing, warning, refused=False)
    except Missing as missing:
        yield Report(thing, f"not checked any further: {missing}", refused=False)
    except Unsupported as error:
        # A volume of a kind that nobody knows is told of above, by the same name or as a part of it.
        if not all(any(field.startswith(each) for field in told) for each in error.fields):
            yield Report(thing, str(error))
    except (msgspec.ValidationError, ValueError) as error:
        yield Report(thing, f"not a valid pod: {error}")


def _found_of(pod: Pod, found: Found) -> Found:
    """What the files have of a pod's references; a token of the usual length stands for one."""
    wanted = references(pod.decoded_spec())
    return Found(
        config_maps={name: found.config_maps.get(name) for name in wanted.config_maps},
        secrets={name: found.secrets.get(name) for name in wanted.secrets},
        tokens={wish: Token(b"x" * 1200, None) for wish in wanted.tokens},
        claims={name: found.claims.get(name) for name in wanted.claims},
    )


def _references(objects: Iterable[Mapping[str, Any]]) -> Found:
    """ConfigMaps and Secrets of the files, so that their sizes count; claims with the volumes that name them."""
    config_maps, secrets = {}, {}
    objects = list(objects)
    for each in objects:
        name = _part(each, "metadata").get("name", "")
        if each.get("kind") == "ConfigMap":
            config_maps[name] = _as(ConfigMap, each)
        elif each.get("kind") == "Secret":
            secret = _as(_SecretManifest, each)
            plain = {key: text.encode() for key, text in secret.string_data.items()}
            secrets[name] = Secret(secret.data | plain)
    return Found(config_maps=config_maps, secrets=secrets, claims=_claims(objects, secrets))


def _as(kind: type[T], each: Mapping[str, Any]) -> T:
    """An object of a file; what is null in it is as if it were not there, as for the apiserver."""
    try:
        return msgspec.convert({name: value for name, value in each.items() if value is not None}, kind)
    except msgspec.ValidationError as error:
        # The decoder names the place of what is wrong, and does not quote it.
        raise _Malformed(f"{_thing(each)} is not valid: {error}") from None


def _claims(objects: Iterable[Mapping[str, Any]], secrets: Mapping[str, Secret]) -> dict[str, Claimed]:
    """The claims of the files as if they were bound, where a volume of the files says to which or is named."""
    volumes = [_as(PersistentVolume, each) for each in _of_kind(objects, "PersistentVolume")]
    found = {}
    for each in _of_kind(objects, "PersistentVolumeClaim"):
        claim = _as(Claim, each)
        volume = next((one for one in volumes if _is_meant(one, claim)), None)
        found[claim.metadata.name] = _bound(claim, volume, secrets)
    return found


def _of_kind(objects: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [each for each in objects if each.get("kind") == kind]


def _is_meant(volume: PersistentVolume, claim: Claim) -> bool:
    return volume.metadata.name == claim.spec.volume_name or volume.spec.claim_ref.name == claim.metadata.name


def _bound(claim: Claim, volume: PersistentVolume | None, secrets: Mapping[str, Secret]) -> Claimed:
    if volume is None:
        return Claimed(claim)
    uid = claim.metadata.uid
    bound = structs.replace(volume, spec=structs.replace(volume.spec, claim_ref=Bound(uid)))
    named = structs.replace(claim, spec=ClaimSpec(volume.metadata.name), status=ClaimStatus("Bound"))
    wanted = bound.secret_name(claim)
    secret = secrets.get(wanted.name) if wanted else None
    return Claimed(named, bound, secret.data if secret else None)
