"""The cache holds what the apiserver would list, whatever way the changes came."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from overspill.kube.cache import Cache, Key
from overspill.kube.watch import Batch, Change


@dataclass
class Meta:
    namespace: str
    name: str
    uid: str
    resource_version: str = ""


@dataclass
class Thing:
    metadata: Meta
    value: int = 0


def thing(name, uid, value=0):
    return Thing(Meta("ns", name, uid), value)


def batch(*changes, replace=False):
    return Batch(replace=replace, changes=[Change(kind, item) for kind, item in changes])


def test_deletion_lost_while_away_is_found_by_the_next_list():
    cache = Cache()
    cache.apply(batch(("ADDED", thing("a", "1")), ("ADDED", thing("b", "2")), replace=True))
    changed = cache.apply(batch(("ADDED", thing("b", "2")), replace=True))
    assert Key("ns", "a", "1") in changed
    assert cache.get(Key("ns", "a", "1")) is None
    assert len(cache) == 1


def test_pod_made_again_under_its_name_is_another_key():
    cache = Cache()
    cache.apply(batch(("ADDED", thing("a", "1"))))
    changed = cache.apply(batch(("ADDED", thing("a", "2"))))
    assert set(changed) == {Key("ns", "a", "1"), Key("ns", "a", "2")}
    assert cache.get(Key("ns", "a", "1")) is None
    assert cache.find("ns", "a").metadata.uid == "2"


def test_of_several_changes_of_one_object_it_is_told_how_many_there_were():
    cache = Cache()
    made = [thing("a", "1"), thing("a", "1", 1), thing("b", "2")]
    changed = cache.apply(batch(*(("MODIFIED", item) for item in made)))
    assert changed == {Key("ns", "a", "1"): 2, Key("ns", "b", "2"): 1}


def test_late_deletion_of_the_old_one_leaves_the_new_one():
    cache = Cache()
    cache.apply(batch(("ADDED", thing("a", "1")), ("ADDED", thing("a", "2")), ("DELETED", thing("a", "1"))))
    assert cache.find("ns", "a").metadata.uid == "2"


def test_synced_only_after_a_whole_list():
    cache = Cache()
    cache.apply(batch(("ADDED", thing("a", "1"))))
    assert not cache.synced.is_set()
    cache.apply(batch(replace=True))
    assert cache.synced.is_set()
    assert len(cache) == 0


steps = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "relist"]), st.sampled_from("abc"), st.integers(1, 3)),
    max_size=40,
)


@given(steps)
def test_cache_equals_the_server(steps):
    """A server with one object per name; the cache follows by events, sometimes missing some until a relist."""
    cache, server = Cache(), {}
    cache.apply(batch(replace=True))
    for action, name, uid in steps:
        if action == "put":
            item = server[name] = thing(name, f"{name}{uid}")
            cache.apply(batch(("MODIFIED", item)))
        elif action == "delete" and name in server:
            del server[name]  # its event is lost …
        else:  # … and found by the list
            cache.apply(batch(*(("ADDED", item) for item in server.values()), replace=True))
    cache.apply(batch(*(("ADDED", item) for item in server.values()), replace=True))
    assert {key.name: key.uid for key in cache} == {name: item.metadata.uid for name, item in server.items()}
