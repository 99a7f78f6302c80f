"""Which region and zone a node's pods run in, as labels of the node.

In: the ids of vSwitches; what the VPC's API tells of each. Out: labels. Invariant: a node has the label of
a zone only if all its vSwitches are in that one; no answer is no reason not to start.
Source: https://kubernetes.io/docs/reference/labels-annotations-taints/; DescribeVSwitchAttributes of the
VPC's API, version 2016-04-28.
"""

import asyncio
from collections.abc import Iterable

import structlog

from overspill import names
from overspill.backends.eci.answers import VSwitchAttributes
from overspill.backends.eci.client import Client
from overspill.errors import OverspillError

__all__ = ["VPC_VERSION", "labels_of", "zones_of"]

log = structlog.get_logger(__name__)

# Seconds for all of them: an agent starts all the same.
PATIENCE = 10.0
VPC_VERSION = "2016-04-28"
# The second is what Alibaba's disk driver writes into the node affinity of its PersistentVolumes.
ZONE_LABELS = ("topology.kubernetes.io/zone", "topology.diskplugin.csi.alibabacloud.com/zone")


async def zones_of(vpc: Client, v_switches: Iterable[str]) -> set[str]:
    """The zones of some vSwitches; empty where not all of them could be found out."""
    found = set()
    try:
        async with asyncio.timeout(PATIENCE):
            for name in v_switches:
                asked = {"VSwitchId": name}
                answer = await vpc.call("DescribeVSwitchAttributes", asked, VSwitchAttributes, tries=2)
                found.add(answer.zone_id)
    except (OverspillError, TimeoutError) as error:
        why = str(error) or "no answer in time"
        log.warning("the zones of the vSwitches are not known: the node has no label of a zone", error=why)
        return set()
    return found - {""}


def labels_of(region: str, zones: set[str]) -> dict[str, str]:
    """The labels of a node whose pods run in these zones."""
    labels = {names.REGION_LABEL: region}
    if len(zones) == 1:
        labels |= dict.fromkeys(ZONE_LABELS, *zones)
    elif zones:
        log.info("vSwitches in several zones: the node has no label of a zone", zones=sorted(zones))
    return labels
