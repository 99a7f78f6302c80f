"""The `k8s.aliyun.com/…` annotations of a pod as parameters of CreateContainerGroup.

In: a pod's annotations. Out: parameters, and what was wrong with the rest. Pure.
Invariant: an annotation for ECI is honoured, known to be somebody else's, or
refused by name; none is passed over.
Source: Alibaba Cloud, "ECI pod annotations" (2026-03).
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from overspill import names
from overspill.model.quantity import parse_quantity

__all__ = ["PREFIX", "Parsed", "Refusal", "custom_tags", "fails_fast", "parse", "spot_fallback", "words"]

PREFIX = "k8s.aliyun.com/"
Parameters = dict[str, Any]
Parser = Callable[[str], Parameters]


class Refusal(Struct, frozen=True):
    """One field that ECI cannot honour, and why."""

    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


class Parsed(Struct, frozen=True):
    """What a pod's annotations ask for."""

    parameters: Parameters
    refusals: tuple[Refusal, ...] = ()


def words(text: str) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text.lower() == "true"


def _chosen(*allowed: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return text

    return choose


def _whole(*, at_least: int, at_most: int = 1 << 31) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdigit() or not at_least <= int(text) <= at_most:
            raise ValueError(f"it must be a whole number from {at_least} to {at_most}")
        return int(text)

    return read


def _price(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError("it must be a price per hour above 0")
    return text


def _gib(text: str) -> int:
    size = parse_quantity(text) / (1 << 30)
    if size != size.to_integral_value() or not 0 <= size <= 5000:
        raise ValueError("it must be whole GiB from 0 to 5000, such as 50Gi")
    return int(size)


def _at_most(count: int) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        if not 1 <= len(words(text)) <= count:
            raise ValueError(f"it must list 1 to {count} items")
        return words(text)

    return read


def _joined(count: int) -> Callable[[str], str]:
    return lambda text: ",".join(_at_most(count)(text))


def _as(name: str, convert: Callable[[str], Any] = str) -> Parser:
    return lambda text: {name: convert(text)}


def _read_elsewhere(convert: Callable[[str], Any]) -> Parser:
    """Checked here; what it means is not a parameter of its own."""

    def read(text: str) -> Parameters:
        convert(text)
        return {}

    return read


def _nothing_unless(*harmless: str) -> Parser:
    def read(text: str) -> Parameters:
        if text not in harmless:
            raise ValueError("ECI's API has no parameter for it; only Alibaba's own virtual node does this")
        return {}

    return read


def _ipv6(text: str) -> Parameters:
    return {"Ipv6AddressCount": 1} if _boolean(text) else {}


def _hosts(text: str) -> Parameters:
    entries = msgspec.json.decode(text, type=list[dict[str, str]])
    return {"HostAliase": [{"Ip": entry["ip"], "Hostname": [entry["host"]]} for entry in entries]}


class _DnsOption(Struct):
    name: str
    value: str = ""


class _CustomDns(Struct):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[_DnsOption] = []


def _dns(text: str) -> Parameters:
    wanted = msgspec.json.decode(text, type=_CustomDns)
    options = [{"Name": option.name, "Value": option.value or None} for option in wanted.options]
    config = {"NameServer": wanted.nameservers, "Search": wanted.searches, "Option": options}
    return {"DnsPolicy": "None", "DnsConfig": config}


def _registries(text: str) -> Parameters:
    pairs = [word.rpartition(":") for word in words(text)]
    return {
        "AcrRegistryInfo": [{"RegionId": region or None, "InstanceId": name} for region, _, name in pairs]
    }


def _arns(name: str) -> Parser:
    """One role per registry, in the order of `acr-instance-ids`."""
    return lambda text: {"AcrRegistryInfo": [{name: arn} for arn in words(text)]}


def _bandwidth(name: str) -> Parser:
    return lambda text: {name: int(parse_quantity(text))}


def custom_tags(text: str) -> dict[str, str]:
    """The tags of `eci-custom-tags`: `env:test,name:a`, at most three.

    Raises:
        ValueError: it is not such a list.
    """
    pairs = [word.split(":", 1) for word in words(text)]
    if len(pairs) > 3 or any(len(pair) != 2 or not 0 < len(pair[0]) <= 64 for pair in pairs):
        raise ValueError("it must be at most three tags such as env:test,name:a")
    # Tags below our own name say whose a group is: a user's could hide it from us, or give it to another node.
    if any(
        key.startswith(("acs:", "aliyun", f"{names.DOMAIN}/")) or len(value) > 128 for key, value in pairs
    ):
        raise ValueError(
            f"a tag must not begin with acs:, aliyun or {names.DOMAIN}/, nor its value exceed 128 characters"
        )
    return {key: value for key, value in pairs}  # noqa: C416 - the pairs are lists


STRATEGY = _chosen("VSwitchOrdered", "VSwitchRandom")
IMAGE_CACHE = _as("AutoMatchImageCache", _boolean)
SNAPSHOT = _as("ImageSnapshotId")
ONLY_DEFAULT = _nothing_unless("false")

PARSERS: dict[str, Parser] = {
    "eci-vswitch": _as("VSwitchId", _joined(10)),
    "eci-schedule-strategy": _as("ScheduleStrategy", STRATEGY),
    "eci-security-group": _as("SecurityGroupId", _joined(5)),
    "eci-use-specs": _as("InstanceType", _joined(10)),
    "eci-gpu-driver-version": _as("GpuDriverVersion"),
    "eci-compute-category": _as("ComputeCategory", _at_most(2)),
    "eci-spot-strategy": _as("SpotStrategy", _chosen("NoSpot", "SpotAsPriceGo", "SpotWithPriceLimit")),
    "eci-spot-price-limit": _as("SpotPriceLimit", _price),
    "eci-spot-duration": _as("SpotDuration", _whole(at_least=0)),
    "eci-spot-fallback": _read_elsewhere(_boolean),
    "eci-fail-strategy": _read_elsewhere(_chosen("fail-back", "fail-over", "fail-fast")),
    "eci-max-pending-minute": _as("MaxPendingMinute", _whole(at_least=10, at_most=1440)),
    "eci-custom-hosts": _hosts,
    "eci-custom-tags": _read_elsewhere(custom_tags),
    "eci-custom-dnsconfig": _dns,
    "eci-ram-role-name": _as("RamRoleName"),
    "eci-auto-imc": IMAGE_CACHE,
    "eci-image-cache": IMAGE_CACHE,
    "eci-imc-id": SNAPSHOT,
    "eci-image-snapshot-id": SNAPSHOT,
    "acr-instance-ids": _registries,
    "acr-instance-id": _registries,
    "acr-service-arns": _arns("ArnService"),
    "acr-user-arns": _arns("ArnUser"),
    "plain-http-registry": _as("PlainHttpRegistry"),
    "insecure-registry": _as("InsecureRegistry"),
    "eci-data-cache-bucket": _as("DataCacheBucket"),
    "eci-data-cache-pl": _as("DataCachePL"),
    "eci-data-cache-provisionedIops": _as("DataCacheProvisionedIops", _whole(at_least=0)),
    "eci-data-cache-burstingEnabled": _as("DataCacheBurstingEnabled", _boolean),
    "eci-eip-instanceid": _as("EipInstanceId"),
    "eci-with-eip": _as("AutoCreateEip", _boolean),
    "eip-bandwidth": _as("EipBandwidth", _whole(at_least=1)),
    "eip-common-bandwidth-package-id": _as("EipCommonBandwidthPackage"),
    "eip-isp": _as("EipISP"),
    "eci-enable-ipv6": _ipv6,
    "eci-ipv6-count": _as("Ipv6AddressCount", _whole(at_least=0, at_most=1)),
    "eci-ipv6-bandwidth-enable": _as("Ipv6GatewayBandwidthEnable", _boolean),
    "eci-ipv6-bandwidth": _as("Ipv6GatewayBandwidth"),
    "eci-private-ip-address": _as("PrivateIpAddress"),
    "eci-fixed-ip": _as("FixedIp", _chosen("true", "false")),
    "eci-fixed-ip-retain-hour": _as("FixedIpRetainHour", _whole(at_least=1)),
    "eci-extra-ephemeral-storage": _as("EphemeralStorage", _gib),
    "eci-ntp-server": _as("NtpServer", words),
    "eci-core-pattern": _as("CorePattern"),
    "eci-cpu-option-core": _as("CpuOptionsCore", _whole(at_least=1)),
    "eci-cpu-option-ht": _as("CpuOptionsThreadsPerCore", _whole(at_least=1, at_most=2)),
    # Without a parameter in the API: what changes nothing may stand, the rest is refused.
    "eci-instance-family": _nothing_unless(),
    "eci-instance-generation": _nothing_unless(),
    "eci-privatepool-matchcriteria": _nothing_unless("None"),
    "eci-privatepool-id": _nothing_unless(),
    "eci-spot-release-strategy": _nothing_unless(),
    "imc-perfect-match": ONLY_DEFAULT,
    "imc-match-count-request": _nothing_unless(),
    "eip-internet-charge-type": _nothing_unless(),
    "eip-public-ip-address-pool-id": _nothing_unless(),
    "eci-ephemeral-storage-options": _nothing_unless("{}"),
    "eci-eviction-enable": ONLY_DEFAULT,
    "eci-sls-enable": ONLY_DEFAULT,
    "eci-wait-clusterip-ready": _nothing_unless(),
    "eci-reschedule-enable": ONLY_DEFAULT,
    "pod-fail-on-create-err": ONLY_DEFAULT,
}
UNPREFIXED: dict[str, Parser] = {
    "kubernetes.io/ingress-bandwidth": _bandwidth("IngressBandwidth"),
    "kubernetes.io/egress-bandwidth": _bandwidth("EgressBandwidth"),
}
# Written on pods once they run, by Alibaba's virtual node or by us.
WRITTEN_BACK = frozenset(
    {
        "allocated-eipAddress",
        "allocated-eipInstanceId",
        "allocated-ipv6Address",
        "eci-created-by-template",
        "eci-instance-compute-category",
        "eci-instance-id",
        "eci-instance-spec",
        "eci-matched-image-cache",
        "eci-request-id",
        "eci-schedule-result",
        "eci-vpc",
        "eni-instance-id",
    }
)


def parse(annotations: Mapping[str, str]) -> Parsed:
    """What the annotations ask of ECI."""
    parameters: Parameters = {}
    refusals = []
    for key, value in annotations.items():
        parser = _parser(key)
        if parser is None:
            continue
        try:
            _merge(parameters, parser(value))
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            why = f"{value!r} cannot be honoured: {error}" if len(value) < 80 else str(error)
            refusals.append(Refusal(f"metadata.annotations[{key}]", why))
    return Parsed(parameters, tuple(refusals))


def spot_fallback(annotations: Mapping[str, str]) -> bool:
    """Whether a pod may become pay-as-you-go when no spot instance is to be had."""
    return annotations.get(PREFIX + "eci-spot-fallback", "").lower() == "true"


def fails_fast(annotations: Mapping[str, str]) -> bool:
    """Whether a pod fails at once when ECI has no room, instead of being tried again."""
    return annotations.get(PREFIX + "eci-fail-strategy") == "fail-fast"


def _parser(key: str) -> Parser | None:
    if key in UNPREFIXED:
        return UNPREFIXED[key]
    name = key.removeprefix(PREFIX)
    if name == key or name in WRITTEN_BACK:
        return None
    if name in PARSERS:
        return PARSERS[name]
    return _unknown if name.startswith(("eci-", "acr-", "eip-", "imc-")) else None


def _unknown(_: str) -> Parameters:
    raise ValueError("ECI has no such annotation")


def _merge(into: Parameters, more: Parameters) -> None:
    """Later wins, but registries come in three annotations whose items belong together."""
    for name, value in more.items():
        if name == "AcrRegistryInfo" and name in into:
            known = into[name]
            rows = [{**old, **new} for old, new in zip(known, value, strict=False)]
            into[name] = [*rows, *known[len(rows) :], *value[len(rows) :]]
        else:
            into[name] = value
