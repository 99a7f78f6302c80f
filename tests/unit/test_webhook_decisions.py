"""What the webhook adds to pods and Deployments, by the tables that the apiserver's expressions are held to as well."""

import json

import msgspec
import pytest

import injection_cases
import placement_cases
import placing
from json_patch import applied
from overspill.placement.match import Directory
from overspill.webhook.gates import gate, mark
from overspill.webhook.injection import inject
from placement_cases import WEB, of_deployment, pod

GATE = {"name": "overspill.dev/assign"}


def raw(manifest):
    return msgspec.Raw(json.dumps(manifest).encode())


def directory(*policies):
    made = Directory()
    for policy in policies:
        made.put(policy)
    return made


def gates(manifest, *policies, namespace="a"):
    patch = gate(directory(*policies), namespace, raw(manifest))
    return applied(manifest, patch)["spec"].get("schedulingGates", [])


@pytest.mark.parametrize(("spec", "manifest", "wanted"), placement_cases.CASES)
def test_pods_wait_whose_policy_says_so(spec, manifest, wanted):
    assert gates(manifest, placing.policy(**spec)) == ([GATE] if wanted else [])


@pytest.mark.parametrize(("manifest", "wanted"), placement_cases.MARKED)
def test_pods_of_annotated_deployments_wait_before_there_is_a_policy(manifest, wanted):
    assert gates(manifest) == ([GATE] if wanted else [])


def test_a_gate_is_added_behind_others_and_never_twice():
    other = {"name": "other/gate"}
    assert gates({**pod_with([other])}, placing.policy()) == [other, GATE]
    assert gates({**pod_with([GATE, other])}, placing.policy()) == [GATE, other]
    assert gates({**pod_with([])}, placing.policy()) == [GATE]


def pod_with(schedulingGates):  # noqa: N803 - the field's name
    manifest = of_deployment("web")
    manifest["spec"]["schedulingGates"] = schedulingGates
    return manifest


def test_a_bound_pod_another_namespace_and_policies_out_of_force_gate_nothing():
    bound = of_deployment("web")
    bound["spec"]["nodeName"] = "somewhere"
    assert gates(bound, placing.policy()) == []
    assert gates(of_deployment("web"), placing.policy(), namespace="b") == []
    assert gates(of_deployment("web"), placing.policy(suspend=True)) == []
    going = placing.policy(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert gates(of_deployment("web"), going) == []
    # As the index has it: one in force is enough, and the controller lets the pod go if the older decides so.
    assert gates(of_deployment("web"), placing.policy(suspend=True), placing.policy(name="b", **WEB)) == [
        GATE
    ]


MARKED = {"overspill.dev/base-replicas": "from the Deployment"}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ({}, {"annotations": MARKED}),
        ({"metadata": {}}, {"annotations": MARKED}),
        ({"metadata": {"creationTimestamp": None}}, {"annotations": MARKED}),  # not stored yet, before 1.34
        (
            {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}},
            {"annotations": MARKED | {"c": "d"}},
        ),
        ({"metadata": {"annotations": {"overspill.dev/base-replicas": "x"}}}, None),
    ],
)
def test_an_annotated_deployment_hands_the_annotation_on(template, wanted):
    deployment = {
        "metadata": {"creationTimestamp": None, "annotations": {"overspill.dev/base-replicas": "2"}},
        "spec": {"template": template},
    }
    after = applied(deployment, mark(raw(deployment)))["spec"]["template"]
    assert after == (template if wanted is None else {"metadata": template.get("metadata", {}) | wanted})


def test_other_deployments_are_left_alone():
    assert mark(raw({"metadata": {"annotations": {"a": "b"}}, "spec": {"template": {}}})) == []


@pytest.mark.parametrize(("manifest", "wanted"), injection_cases.CASES)
def test_injection(manifest, wanted):
    after = applied(manifest, inject(raw(manifest)))
    assert injection_cases.parts(after["spec"]) == wanted
    assert inject(raw(after)) == [], "a second run changes nothing"


@pytest.mark.parametrize("manifest", injection_cases.UNTOUCHED)
def test_injection_leaves_alone_what_is_bound_or_of_a_daemonset(manifest):
    assert inject(raw(manifest)) == []


def test_what_is_no_pod_is_an_error():
    for decide in (lambda content: gate(Directory(), "a", content), inject):
        with pytest.raises(msgspec.DecodeError):
            decide(raw({"metadata": [], "spec": {}}))


def test_a_pod_without_labels_or_owners_is_read():
    assert gates(pod(), placing.policy()) == []
