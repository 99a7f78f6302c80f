"""Node selector, required node affinity and tolerations, as the scheduler and the kubelet read them."""

import pytest
from podmaking import make_pod

from overspill.model.affinity import Taint, matches_node, untolerated

LABELS = {"type": "virtual-kubelet", "zone": "b", "cores": "16", "odd": "many"}


def required(*terms):
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    }


def on_label(key, operator, *values):
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def on_name(operator, *values):
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": list(values)}]}


def matches(**spec) -> bool:
    return matches_node(make_pod(**spec).decoded_spec(), node_name="vn-0", labels=LABELS)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (on_label("zone", "In", "a", "b"), True),
        (on_label("zone", "In", "a"), False),
        (on_label("rack", "In", "a"), False),
        (on_label("zone", "NotIn", "a"), True),
        (on_label("zone", "NotIn", "b"), False),
        (on_label("rack", "NotIn", "a"), True),
        (on_label("zone", "Exists"), True),
        (on_label("rack", "Exists"), False),
        (on_label("zone", "DoesNotExist"), False),
        (on_label("rack", "DoesNotExist"), True),
        (on_label("cores", "Gt", "15"), True),
        (on_label("cores", "Gt", "16"), False),
        (on_label("cores", "Lt", "17"), True),
        (on_label("cores", "Lt", "16"), False),
        (on_label("rack", "Gt", "0"), False),
        (on_label("odd", "Gt", "0"), False),
        (on_label("cores", "Gt", "few"), False),
        (on_label("cores", "Gt", "1", "2"), False),
        (on_label("zone", "Near", "b"), False),
        (on_name("In", "vn-0"), True),
        (on_name("In", "vn-1"), False),
        (on_name("NotIn", "vn-1"), True),
        (on_name("In", "vn-0", "vn-1"), False),
        (on_name("Exists"), False),
        ({"matchFields": [{"key": "spec.other", "operator": "In", "values": ["vn-0"]}]}, False),
        ({}, False),
        (on_label("zone", "In", "b") | on_name("In", "vn-1"), False),
        (on_label("zone", "In", "b") | on_name("In", "vn-0"), True),
    ],
)
def test_a_term(term, expected):
    assert matches(affinity=required(term)) is expected


def test_one_term_of_several_is_enough():
    assert matches(affinity=required(on_label("zone", "In", "a"), on_label("type", "Exists")))


def test_no_term_at_all_matches_nothing():
    assert not matches(affinity=required())


def test_preferences_and_affinity_to_pods_do_not_keep_a_pod_away():
    preferred = {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": on_label("zone", "In", "a")}
        ]
    }
    assert matches(affinity={"nodeAffinity": preferred, "podAntiAffinity": {}})


@pytest.mark.parametrize(
    ("selector", "expected"),
    [({}, True), ({"zone": "b"}, True), ({"zone": "b", "rack": "1"}, False), ({"zone": ""}, False)],
)
def test_the_node_selector_wants_every_label(selector, expected):
    assert matches(nodeSelector=selector) is expected


def test_selector_and_affinity_must_both_hold():
    assert not matches(nodeSelector={"zone": "a"}, affinity=required(on_label("type", "Exists")))


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gone", "operator": "Exists"}, True),
        ({"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, True),
        ({"key": "gone", "operator": "Exists", "effect": "NoSchedule"}, False),
        ({"key": "gone", "operator": "Equal", "value": "yes"}, True),
        ({"key": "gone", "value": "yes"}, True),
        ({"key": "gone", "value": "no"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "gone", "operator": "Gt", "value": "1"}, False),
    ],
)
def test_a_toleration(toleration, tolerated):
    spec = make_pod(tolerations=[toleration]).decoded_spec()
    taint = Taint("gone", "NoExecute", "yes")
    assert untolerated(spec, [taint], effect="NoExecute") == (None if tolerated else taint)


def test_taints_of_another_effect_are_the_schedulers_business():
    spec = make_pod().decoded_spec()
    assert (
        untolerated(spec, [Taint("virtual-kubelet.io/provider", "NoSchedule", "eci")], effect="NoExecute")
        is None
    )
