"""What is written on a pod of its price, and what is not known yet."""

import pytest

from overspill.backends.eci.answers import GroupEntry
from overspill.backends.eci.prices import (
    annotations_of_entry,
    annotations_of_work,
    kind_of_entry,
    kind_of_work,
)
from overspill.model.cost import PRICE_ANNOTATION, SPEC_ANNOTATION
from overspill.model.work import Container, Identity, Resources, WorkSpec

GIB = 1 << 30
SIZE = Resources(cpu_request=2.0, memory_request=4 * GIB)


def work(*, storage=0, **annotations) -> WorkSpec:
    resources = Resources(
        cpu_request=2.0, memory_request=4 * GIB, ephemeral_storage_request=storage * GIB or None
    )
    written = {f"k8s.aliyun.com/{name.replace('_', '-')}": value for name, value in annotations.items()}
    who = Identity("cluster", "vn-0", "shop", "web", "uid")
    return WorkSpec(
        identity=who,
        hostname="web",
        containers=(Container("c", "i", resources=resources),),
        annotations=written,
    )


def told(asked: WorkSpec) -> tuple[str | None, str | None, object]:
    written = annotations_of_work("eci-1", asked, region="cn-hangzhou")
    return (
        written.get(SPEC_ANNOTATION),
        written.get(PRICE_ANNOTATION),
        kind_of_work(asked, region="cn-hangzhou"),
    )


def test_the_list_price_of_a_size():
    spec, price, kind = told(work())
    assert (spec, price) == ("2.0-4.0Gi", "0.000122520")
    assert kind.parameters()["EphemeralStorage"] is None


def test_which_of_several_categories_it_is_is_known_once_it_is_made():
    assert told(work(eci_compute_category="economy,general")) == (None, None, None)
    made = GroupEntry("eci-1", cpu=2.0, memory=4.0, compute_category=("general",))
    assert annotations_of_entry(made)[PRICE_ANNOTATION] == "0.000122520"


@pytest.mark.parametrize("asked", [work(storage=50), work(eci_extra_ephemeral_storage="20Gi")])
def test_storage_is_in_the_quote_and_not_in_the_list(asked):
    spec, price, kind = told(asked)
    assert (spec, price) == ("2.0-4.0Gi", None)
    assert kind.parameters()["EphemeralStorage"] == 20
    made = GroupEntry("eci-1", cpu=2.0, memory=4.0, ephemeral_storage=20)
    assert PRICE_ANNOTATION not in annotations_of_entry(made)
    assert kind_of_entry(made) == kind
