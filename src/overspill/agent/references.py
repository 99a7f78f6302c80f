"""What a pod refers to outside itself: which objects it names, and what was found of them.

In: a PodSpec. Out: `References`, which `Sources` turns into `Found`. Pure values and functions.
Invariant: whatever `env.py`, `volumes.py` and `credentials.py` look up in `Found` was listed here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct, field

from overspill.model.claims import Claimed
from overspill.model.pods import Container, PodSpec
from overspill.model.podvolumes import Projection, TokenProjection, Volume
from overspill.model.work import EnvVar

__all__ = [
    "ConfigMap",
    "Found",
    "ObjectMeta",
    "ObjectName",
    "References",
    "Secret",
    "Service",
    "ServiceLinks",
    "Token",
    "TokenWish",
    "file_references",
    "references",
    "service_links",
    "volume_objects",
]


class ObjectName(NamedTuple):
    """One ConfigMap or Secret."""

    kind: Literal["ConfigMap", "Secret"]
    namespace: str
    name: str


class ObjectMeta(Struct, frozen=True, rename="camel"):
    """What is read of a ConfigMap's or Secret's metadata."""

    resource_version: str = ""


class ConfigMap(Struct, frozen=True, rename="camel"):
    """A ConfigMap's content."""

    data: dict[str, str] = {}
    binary_data: dict[str, bytes] = {}
    immutable: bool = False
    metadata: ObjectMeta = ObjectMeta()


class Secret(Struct, frozen=True):
    """A Secret's content, which repr leaves out."""

    data: dict[str, bytes] = {}
    type: str = ""
    immutable: bool = False
    metadata: ObjectMeta = ObjectMeta()

    def __repr__(self) -> str:
        return f"Secret({self.type!r})"


class ServicePort(Struct, frozen=True):
    """One port of a Service."""

    port: int
    name: str = ""
    protocol: str = "TCP"


class ServiceMeta(Struct, frozen=True):
    """What is read of a Service's metadata."""

    name: str


class ServiceSpec(Struct, frozen=True):
    """What is read of a Service's spec."""

    cluster_ip: str = field(name="clusterIP", default="")
    ports: tuple[ServicePort, ...] = ()


class Service(Struct, frozen=True):
    """A Service, as far as containers are told of it."""

    metadata: ServiceMeta
    spec: ServiceSpec = ServiceSpec()


class ServiceLinks(Struct, frozen=True):
    """The variables by which containers find Services: by name, and ready to be handed on."""

    values: dict[str, str] = {}
    variables: tuple[EnvVar, ...] = ()


class TokenWish(Struct, frozen=True):
    """A token that a projected volume asks for; an empty audience is the apiserver's own."""

    service_account: str
    audience: str
    expiration_seconds: int

    @classmethod
    def of(cls, spec: PodSpec, source: TokenProjection) -> "TokenWish":
        """What one source of a pod's projected volume asks for."""
        return cls(spec.service_account_name or "default", source.audience, source.expiration_seconds)


class Token(Struct, frozen=True):
    """A token, which repr leaves out; `renew_after` in seconds, None for never."""

    text: bytes
    renew_after: float | None

    def __repr__(self) -> str:
        return f"Token(renew_after={self.renew_after!r})"


class References(Struct, frozen=True):
    """Names of what a pod refers to, without duplicates; of these the ones that it cannot start without."""

    config_maps: frozenset[str]
    secrets: frozenset[str]
    needed_config_maps: frozenset[str]
    needed_secrets: frozenset[str]
    service_links: bool
    tokens: tuple[TokenWish, ...]
    claims: frozenset[str] = frozenset()


class Found(Struct, frozen=True):
    """What was found of a pod's references; None stands for what does not exist.

    Attributes:
        tokens: None altogether while something that the pod cannot start without is missing.
    """

    config_maps: Mapping[str, ConfigMap | None] = {}
    secrets: Mapping[str, Secret | None] = {}
    links: ServiceLinks = ServiceLinks()
    tokens: Mapping[TokenWish, Token | None] | None = None
    claims: Mapping[str, Claimed | None] = {}

    def version(self, wanted: ObjectName) -> str:
        """The resourceVersion of an object that was looked for; "" if it was not there."""
        kinds: Mapping[str, Mapping[str, ConfigMap | Secret | None]]
        kinds = {"ConfigMap": self.config_maps, "Secret": self.secrets}
        found = kinds[wanted.kind][wanted.name]
        return found.metadata.resource_version if found is not None else ""


def references(spec: PodSpec) -> References:
    """Everything that a pod refers to."""
    named = _Named()
    for container in (*spec.init_containers, *spec.containers):
        named.add_environment(container)
    for volume in spec.volumes:
        named.add_volume(volume)
    for secret in spec.image_pull_secrets:
        if secret.name:
            named.secrets.setdefault(secret.name, False)
    return References(
        config_maps=frozenset(named.config_maps),
        secrets=frozenset(named.secrets),
        needed_config_maps=frozenset(name for name, needed in named.config_maps.items() if needed),
        needed_secrets=frozenset(name for name, needed in named.secrets.items() if needed),
        service_links=spec.enable_service_links,
        tokens=tuple(dict.fromkeys(_token_wishes(spec, spec.volumes))),
        claims=frozenset(
            each.persistent_volume_claim.claim_name for each in spec.volumes if each.persistent_volume_claim
        ),
    )


def file_references(spec: PodSpec, volumes: Iterable[Volume]) -> References:
    """What these volumes of a pod refer to; their files alone are looked for, so nothing is mandatory."""
    named = _Named()
    for volume in volumes:
        named.add_volume(volume)
    return References(
        config_maps=frozenset(named.config_maps),
        secrets=frozenset(named.secrets),
        needed_config_maps=frozenset(),
        needed_secrets=frozenset(),
        service_links=False,
        tokens=tuple(dict.fromkeys(_token_wishes(spec, volumes))),
    )


def volume_objects(volume: Volume, namespace: str) -> Iterator[ObjectName]:
    """The objects that a volume's files come from."""
    for source in _sources(volume):
        if source.config_map is not None:
            yield ObjectName("ConfigMap", namespace, source.config_map.name)
        if source.secret is not None:
            yield ObjectName("Secret", namespace, source.secret.secret_name or source.secret.name)


def _sources(volume: Volume) -> Iterable[Volume | Projection]:
    return volume.projected.sources if volume.projected is not None else (volume,)


class _Named:
    """Names met so far, each with whether some reference to it is mandatory."""

    def __init__(self) -> None:
        self.config_maps: dict[str, bool] = {}
        self.secrets: dict[str, bool] = {}

    def add_environment(self, container: Container) -> None:
        for source in container.env_from:
            if source.config_map_ref:
                _note(self.config_maps, source.config_map_ref.name, source.config_map_ref.optional)
            if source.secret_ref:
                _note(self.secrets, source.secret_ref.name, source.secret_ref.optional)
        for variable in container.env:
            if (value_from := variable.value_from) is None:
                continue
            if value_from.config_map_key_ref:
                key = value_from.config_map_key_ref
                _note(self.config_maps, key.name, key.optional)
            if value_from.secret_key_ref:
                key = value_from.secret_key_ref
                _note(self.secrets, key.name, key.optional)

    def add_volume(self, volume: Volume) -> None:
        for source in _sources(volume):
            if source.config_map is not None:
                _note(self.config_maps, source.config_map.name, source.config_map.optional)
            if source.secret is not None:
                secret = source.secret
                _note(self.secrets, secret.secret_name or secret.name, secret.optional)


def _note(names: dict[str, bool], name: str, optional: bool) -> None:  # noqa: FBT001 - private, read at once
    names[name] = names.get(name, False) or not optional


def _token_wishes(spec: PodSpec, volumes: Iterable[Volume]) -> Iterator[TokenWish]:
    """The tokens that projected volumes of the pod ask for."""
    for volume in volumes:
        for source in volume.projected.sources if volume.projected is not None else ():
            if source.service_account_token is not None:
                yield TokenWish.of(spec, source.service_account_token)


def service_links(services: Iterable[Service]) -> ServiceLinks:
    """What containers are told of Services that have an address; of two of one name the later wins.

    Source: https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    """
    values: dict[str, str] = {}
    for service in services:
        if service.spec.cluster_ip not in {"", "None"} and service.spec.ports:
            values.update(_link(service))
    return ServiceLinks(values, tuple(EnvVar(name, value) for name, value in values.items()))


def _link(service: Service) -> Iterator[tuple[str, str]]:
    prefix, address = _variable(service.metadata.name), service.spec.cluster_ip
    host = f"[{address}]" if ":" in address else address
    ports = service.spec.ports
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(ports[0].port)
    yield f"{prefix}_PORT", f"{ports[0].protocol.lower()}://{host}:{ports[0].port}"
    for port in ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_variable(port.name)}", str(port.port)
        link, protocol = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}", port.protocol.lower()
        yield link, f"{protocol}://{host}:{port.port}"
        yield f"{link}_PROTO", protocol
        yield f"{link}_PORT", str(port.port)
        yield f"{link}_ADDR", address


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()
