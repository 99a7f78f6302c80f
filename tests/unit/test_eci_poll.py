"""What a node's listing is taken for."""

from overspill.backends.eci.answers import GroupEntry, GroupsPage, StatusEntry, StatusPage, Tag
from overspill.backends.eci.groups import Groups
from overspill.backends.eci.poll import Poller
from overspill.backends.eci.tags import node_tags, tags
from overspill.backends.feed import Feed
from overspill.model.work import Identity


def entry(group_id, *, cluster="cluster", node="vn-0"):
    marks = tags(Identity(cluster, node, "shop", "web", f"uid-of-{group_id}"), more={})
    return GroupEntry(group_id, tags=tuple(Tag(each["Key"], each["Value"]) for each in marks))


class Careless:
    """Stands for an ECI that heeds no tags."""

    def __init__(self, *entries):
        self.entries = entries

    async def pages(self, action, _parameters, _kind):
        if action == "DescribeContainerGroups":
            yield GroupsPage(container_groups=self.entries)
        else:
            yield StatusPage(
                data=tuple(StatusEntry(each.container_group_id, "Running") for each in self.entries)
            )


async def test_groups_of_others_are_not_taken_for_ours_whatever_is_listed():
    """An agent that has no pod for a group of its own removes it."""
    region = Careless(entry("ours"), entry("theirs", cluster="other"), entry("next-door", node="vn-1"))
    groups = Groups(
        Feed(),
        remove=lambda _: None,
        quote=lambda _: {},
        complete=lambda _, seen: seen,
        holds=lambda _: False,
    )
    poller = Poller(region, groups, node_tags=node_tags("cluster", "vn-0"), busy_seconds=1.0)
    await poller.sweep()
    assert [each.group.id for each in groups] == ["ours"]
