"""The actions on the region: zones, quotas, prices, stock, tags, image caches.

In: parameters. Out: answers in the service's shape.
"""

import secrets
from collections.abc import Mapping

from msgspec import Struct

from overspill.emulator.books import Entry
from overspill.emulator.images import ImageCache, created, matches
from overspill.emulator.prices import CURRENCY, price
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import Pair
from overspill.emulator.service import Answer, Handler, Service
from overspill.emulator.specs import DEFAULT, parse_spec, round_up, sells_regional, spec_name
from overspill.emulator.validate import check_tags
from overspill.emulator.views import moment
from overspill.emulator.wire import Tree, read

__all__ = ["ACTIONS", "OF_THE_VPC"]


async def describe_regions(service: Service, tree: Tree) -> Answer:
    """DescribeRegions."""
    del tree
    zones = service.zones
    region = {
        "RegionId": service.cloud.region,
        "RegionEndpoint": zones.endpoint,
        "Zones": list(zones.names),
        "RecommendZones": list(zones.names),
    }
    return {"Regions": [region]}


async def list_usage(service: Service, tree: Tree) -> Answer:
    """ListUsage; quotas are of vCPU, not of groups."""
    del tree
    cloud = service.cloud
    return {
        "Attributes": {
            "MaxCpu": cloud.max_cpu,
            "UsedCpu": cloud.books.used_cpu,
            "MaxImageCacheCount": 100,
            "UsedImageCacheCount": len(cloud.images),
            "MaxAutoImageCacheCount": 50,
            "UsedAutoImageCacheCount": 0,
            "MaxDataCacheCount": 0,
            "UsedDataCacheCount": 0,
        }
    }


class PriceRequest(Struct, frozen=True, rename="pascal"):
    """DescribeContainerGroupPrice."""

    cpu: float = 0.0
    memory: float = 0.0
    instance_type: str = ""
    zone_id: str = ""
    compute_category: str = ""
    spot_strategy: str = "NoSpot"
    ephemeral_storage: int = 0


async def describe_price(service: Service, tree: Tree) -> Answer:
    """DescribeContainerGroupPrice: per second, spot prices per hour."""
    asked = read(tree, PriceRequest)
    regional = sells_regional(service.cloud.region, spot_strategy=asked.spot_strategy)
    if asked.instance_type:
        cpu, memory = parse_spec(asked.instance_type.split(",")[0], regional=regional)
    elif asked.cpu or asked.memory:
        cpu, memory = round_up(asked.cpu, asked.memory, regional=regional)
    else:
        cpu, memory = DEFAULT
    quote = price(
        cpu=cpu,
        memory=memory,
        category=asked.compute_category,
        spot_strategy=asked.spot_strategy,
        storage=asked.ephemeral_storage,
    )
    details = [
        {"Resource": name, "OriginalPrice": part, "TradePrice": part, "DiscountPrice": 0.0}
        for name, part in (("cpu", quote.cpu), ("memory", quote.memory), ("disk", quote.storage))
        if part
    ]
    spots = [
        {
            "ZoneId": zone,
            "InstanceType": spec_name((cpu, memory)),
            "OriginPrice": round(quote.original * 3600, 9),
            "SpotPrice": round(quote.trade * 3600, 9),
        }
        for zone in service.zones.names
        if quote.spot and asked.zone_id in {"", zone}
    ]
    return {
        "PriceInfo": {
            "Price": {
                "Currency": CURRENCY,
                "OriginalPrice": quote.original,
                "DiscountPrice": round(quote.original - quote.trade, 12),
                "TradePrice": quote.trade,
                "DetailInfos": {"DetailInfo": details},
            },
            "Rules": {"Rule": []},
            "SpotPrices": {"SpotPrice": spots},
        }
    }


class Destination(Struct, frozen=True, rename="pascal"):
    """What kind of specification is asked about."""

    category: str
    value: str = ""
    cores: float = 0.0
    memory: float = 0.0


class StockRequest(Struct, frozen=True, rename="pascal"):
    """DescribeAvailableResource."""

    destination_resource: Destination
    zone_id: str = ""


async def describe_stock(service: Service, tree: Tree) -> Answer:
    """DescribeAvailableResource, for specifications; there are no ECS instance types here."""
    asked = read(tree, StockRequest)
    stock, wanted = service.cloud.stock, asked.destination_resource
    regional = sells_regional(service.cloud.region, spot_strategy="")
    specs = [spec_name(parse_spec(wanted.value, regional=regional))] if wanted.value else stock.specs()
    if wanted.cores or wanted.memory:
        specs = [spec_name(round_up(wanted.cores, wanted.memory, regional=regional))]
    zones = [
        {
            "RegionId": service.cloud.region,
            "ZoneId": zone,
            "AvailableResources": {
                "AvailableResource": [
                    {
                        "Type": wanted.category,
                        "SupportedResources": {
                            "SupportedResource": [
                                {"Value": spec, "StatusCategory": stock.category(zone, spec)}
                                for spec in specs
                            ]
                        },
                    }
                ]
            },
        }
        for zone in service.zones.names
        if asked.zone_id in {"", zone}
    ]
    return {"AvailableZones": {"AvailableZone": zones}}


# --- tags ---


class TagRequest(Struct, frozen=True, rename="pascal"):
    """TagResources, UntagResources, ListTagResources."""

    resource_type: str = "ContainerGroup"
    resource_id: tuple[str, ...] = ()
    tag: tuple[Pair, ...] = ()
    tag_key: tuple[str, ...] = ()
    all: bool = False


def _groups(service: Service, asked: TagRequest) -> list[Entry]:
    if asked.resource_type.lower() != "containergroup":
        raise Refused("InvalidParameter", f"The resource type {asked.resource_type} has no tags here.")
    return [service.cloud.books.find(name) for name in asked.resource_id]


async def tag_resources(service: Service, tree: Tree) -> Answer:
    """TagResources."""
    asked = read(tree, TagRequest)
    check_tags(asked.tag)
    given = {tag.key: tag.value for tag in asked.tag}
    for entry in _groups(service, asked):
        tags = entry.group.tags | given
        check_tags([Pair(key, value) for key, value in tags.items()])
        service.cloud.tag(entry.group.id, tags)
    return {}


async def untag_resources(service: Service, tree: Tree) -> Answer:
    """UntagResources."""
    asked = read(tree, TagRequest)
    for entry in _groups(service, asked):
        gone = set(entry.group.tags) if asked.all else set(asked.tag_key)
        kept = {key: value for key, value in entry.group.tags.items() if key not in gone}
        service.cloud.tag(entry.group.id, kept)
    return {}


async def list_tag_resources(service: Service, tree: Tree) -> Answer:
    """ListTagResources, by ids or by tags."""
    asked = read(tree, TagRequest)
    entries = _groups(service, asked) or service.cloud.books.entries()
    wanted = {tag.key: tag.value for tag in asked.tag}
    found = [
        {"ResourceId": e.group.id, "ResourceType": "CONTAINERGROUP", "TagKey": key, "TagValue": value}
        for e in entries
        if _has(e.group.tags, wanted)
        for key, value in e.group.tags.items()
    ]
    return {"TagResources": found}


def _has(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(key in tags and value in {"", tags[key]} for key, value in wanted.items())


# --- image caches ---


class CreateImageCache(Struct, frozen=True, rename="pascal"):
    """CreateImageCache."""

    image_cache_name: str
    image: tuple[str, ...]
    image_cache_size: int = 20
    retention_days: int = 0
    elimination_strategy: str = ""
    resource_group_id: str = ""
    tag: tuple[Pair, ...] = ()


class ImageCacheFilter(Struct, frozen=True, rename="pascal"):
    """DescribeImageCaches and DeleteImageCache."""

    image_cache_id: str = ""
    image_cache_name: str = ""
    snapshot_id: str = ""
    image: str = ""
    match_image: tuple[str, ...] = ()
    image_full_match: bool = False
    image_match_count_request: int = 1


async def create_image_cache(service: Service, tree: Tree) -> Answer:
    """CreateImageCache: ready after a while; its temporary container group is never run."""
    asked = read(tree, CreateImageCache)
    check_tags(asked.tag)
    cloud = service.cloud
    cache = ImageCache(
        id=f"imc-{secrets.token_hex(10)}",
        name=asked.image_cache_name,
        images=asked.image,
        created_at=cloud.clock(),
        snapshot=f"s-{secrets.token_hex(10)}",
        group=f"eci-{secrets.token_hex(10)}",
        size=asked.image_cache_size,
        tags={tag.key: tag.value for tag in asked.tag},
        resource_group=asked.resource_group_id,
        retention_days=asked.retention_days,
        elimination_strategy=asked.elimination_strategy,
    )
    cloud.keep_image(cache)
    return {"ImageCacheId": cache.id, "ContainerGroupId": cache.group}


async def describe_image_caches(service: Service, tree: Tree) -> Answer:
    """DescribeImageCaches; those that match most images first."""
    asked = read(tree, ImageCacheFilter)
    found = [cache for cache in service.cloud.images.values() if _passes(cache, asked)]
    if asked.match_image:
        found.sort(key=lambda cache: -matches(cache, asked.match_image))
    return {"ImageCaches": [_image_cache(service, cache) for cache in found], "TotalCount": len(found)}


def _passes(cache: ImageCache, asked: ImageCacheFilter) -> bool:
    equal = (
        (asked.image_cache_id, cache.id),
        (asked.image_cache_name, cache.name),
        (asked.snapshot_id, cache.snapshot),
    )
    if any(wanted and wanted != value for wanted, value in equal):
        return False
    if asked.image and not matches(cache, [asked.image]):
        return False
    if not asked.match_image:
        return True
    needed = len(asked.match_image) if asked.image_full_match else asked.image_match_count_request
    return matches(cache, asked.match_image) >= needed


def _image_cache(service: Service, cache: ImageCache) -> Answer:
    progress = created(cache, now=service.cloud.clock(), seconds=service.cloud.timings.image_cache)
    return {
        "ImageCacheId": cache.id,
        "ImageCacheName": cache.name,
        "ImageCacheSize": cache.size,
        "Images": list(cache.images),
        "Status": progress.status,
        "Progress": progress.progress,
        "SnapshotId": cache.snapshot,
        "ContainerGroupId": cache.group,
        "RegionId": service.cloud.region,
        "ResourceGroupId": cache.resource_group,
        "EliminationStrategy": cache.elimination_strategy,
        "CreationTime": moment(cache.created_at),
        "Events": [],
        "Tags": [{"Key": key, "Value": value} for key, value in cache.tags.items()],
    }


async def delete_image_cache(service: Service, tree: Tree) -> Answer:
    """DeleteImageCache."""
    service.cloud.drop_image(read(tree, ImageCacheFilter).image_cache_id)
    return {}


class VSwitchById(Struct, frozen=True, rename="pascal"):
    """DescribeVSwitchAttributes."""

    v_switch_id: str


async def describe_vswitch(service: Service, tree: Tree) -> Answer:
    """DescribeVSwitchAttributes, of the VPC's API: as much as a client of ECI wants to know."""
    network = service.cloud.network
    (vswitch,) = network.candidates(read(tree, VSwitchById).v_switch_id)
    return {
        "VSwitchId": vswitch.id,
        "VpcId": network.vpc,
        "ZoneId": vswitch.zone,
        "CidrBlock": vswitch.cidr,
        "Status": "Available",
    }


# Actions of the VPC's API, with its version.
OF_THE_VPC = {"DescribeVSwitchAttributes": "2016-04-28"}
ACTIONS: dict[str, Handler] = {
    "DescribeVSwitchAttributes": describe_vswitch,
    "DescribeRegions": describe_regions,
    "ListUsage": list_usage,
    "DescribeContainerGroupPrice": describe_price,
    "DescribeAvailableResource": describe_stock,
    "TagResources": tag_resources,
    "UntagResources": untag_resources,
    "ListTagResources": list_tag_resources,
    "CreateImageCache": create_image_cache,
    "DescribeImageCaches": describe_image_caches,
    "DeleteImageCache": delete_image_cache,
}
