"""The gates, as a real apiserver adds them: by its policies' expressions and by the webhook, from one table."""

import itertools
import json

import msgspec
import pytest
from forms import policies, webhook
from placement_ledger import GATE
from placement_manifests import pool

from overspill.placement.index import INDEX, INDEXED_LABEL, index_of
from overspill.placement.policy import Policy
from placement_cases import CASES, MARKED, marked, of_deployment, pod, target

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

numbers = itertools.count()
POOLS = {"pools": [pool("base", 5), pool("elastic")]}


@pytest.fixture(scope="module", params=["index", "policy", "webhook"])
def gated(control_plane, until, request, tmp_path_factory):
    """A control plane with the gates in force in one form; tells the gates that a pod would get.

    Policies of the apiserver look in an index, or at PlacementPolicies that are in none; no controller is there then.
    """
    form = (
        webhook(control_plane, until, tmp_path_factory.mktemp("gates"))
        if request.param == "webhook"
        else policies(control_plane, "placement/gate.yaml")
    )

    def gates(namespace, manifest):
        answer = control_plane.kubectl(
            "create", "--dry-run=server", "-n", namespace, "-o", "json", "-f", "-", stdin=json.dumps(manifest)
        )
        return [gate["name"] for gate in json.loads(answer)["spec"].get("schedulingGates", [])]

    gates.cluster, gates.until, gates.by = control_plane, until, request.param
    with form:
        until(lambda: gates("default", marked(of_deployment("web"))) == [GATE], what="gates in force")
        yield gates


def only(*forms):
    """Run a test in some of the forms."""
    return pytest.mark.parametrize("gated", forms, indirect=True)


@pytest.fixture
def namespace(gated):
    name = f"gates-{next(numbers)}"
    gated.cluster.kubectl("create", "namespace", name)
    gated.until(lambda: gated.cluster.kubectl("get", "serviceaccount", "default", "-n", name), what="account")
    yield name
    # While the form's controller is there, which takes their finalizers off: without, the namespace never goes.
    gated.cluster.kubectl("delete", "placementpolicies", "--all", "-n", name)
    gated.cluster.kubectl("delete", "namespace", name, "--wait=false")


def policy(spec, **labels):
    return {
        "apiVersion": "placement.overspill.dev/v1alpha1",
        "kind": "PlacementPolicy",
        "metadata": {"name": "p", "labels": labels},
        "spec": {**spec, **POOLS},
    }


def create(gated, namespace, *manifests):
    gated.cluster.kubectl(
        "apply", "-n", namespace, "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests))
    )


def index(*policies):
    decoded = [msgspec.convert(each, Policy) for each in policies]
    return {
        "apiVersion": "placement.overspill.dev/v1alpha1",
        "kind": "PlacementIndex",
        "metadata": {"name": INDEX},
        "spec": index_of(decoded),
    }


# One that matches always, by which is told whether what was written has arrived.
MARK = {"targetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "mark"}}
OF_MARK = pod("StatefulSet", "mark")


@pytest.fixture(scope="module")
def cases(gated):
    """A namespace for each case, with its policy in it; all of them made at once."""
    namespaces = {case.id: f"case-{next(numbers)}" for case in CASES}
    mark = {**policy(MARK), "metadata": {"name": "mark"}}
    manifests = []
    for case in CASES:
        found = [policy(case.values[0]), mark]
        found = [index(*found)] if gated.by == "index" else found
        name = namespaces[case.id]
        manifests.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        manifests += [{**each, "metadata": {**each["metadata"], "namespace": name}} for each in found]
    gated.cluster.apply(*manifests)
    yield namespaces
    made = [json.dumps(each) for each in manifests if each["kind"] != "Namespace"]
    gated.cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin="\n---\n".join(made))
    gated.cluster.kubectl("delete", "namespace", *namespaces.values(), "--wait=false")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_gates_are_those_that_the_code_would_remove(gated, cases, case):
    (_, manifest, wanted), namespace = case.values, cases[case.id]
    gated.until(lambda: gated(namespace, OF_MARK) == [GATE], what="gates in force")
    assert gated(namespace, manifest) == ([GATE] if wanted else [])


@only("policy", "webhook")
@pytest.mark.parametrize(("manifest", "wanted"), MARKED)
def test_pods_of_annotated_deployments_wait_before_there_is_a_policy(gated, manifest, wanted):
    assert gated("default", manifest) == ([GATE] if wanted else [])


WEB = target("Deployment", "web")


def test_a_gate_is_added_behind_others_and_never_twice(gated, namespace):
    # Both policies of the apiserver would add one; the webhook's controller writes its index itself.
    create(gated, namespace, policy(WEB), *([] if gated.by == "webhook" else [index(policy(WEB))]))
    gated.until(lambda: gated(namespace, of_deployment("web")) == [GATE], what="gates in force")
    other = {"name": "other/gate"}
    for given, wanted in (([other], ["other/gate", GATE]), ([{"name": GATE}, other], [GATE, "other/gate"])):
        manifest = of_deployment("web")
        manifest["spec"]["schedulingGates"] = given
        assert gated(namespace, manifest) == wanted


def test_a_bound_pod_is_left_alone(gated, namespace):
    create(gated, namespace, policy(WEB))
    gated.until(lambda: gated(namespace, of_deployment("web")) == [GATE], what="gates in force")
    manifest = of_deployment("web")
    manifest["spec"]["nodeName"] = "somewhere"
    assert gated(namespace, manifest) == []


@only("policy")
def test_a_suspended_policy_and_an_indexed_one_gate_nothing_by_themselves(gated, namespace):
    create(gated, namespace, policy({**WEB, "suspend": True}), {**policy(MARK), "metadata": {"name": "mark"}})
    gated.until(lambda: gated(namespace, OF_MARK) == [GATE], what="gates in force")
    assert gated(namespace, of_deployment("web")) == []
    create(gated, namespace, policy({**WEB, "suspend": False}))
    gated.cluster.kubectl("label", "pp", "p", "mark", "-n", namespace, f"{INDEXED_LABEL}=true")
    gated.until(lambda: gated(namespace, OF_MARK) == [], what="label in force")
    assert gated(namespace, of_deployment("web")) == []


@only("policy")
def test_a_policy_that_is_edited_or_resumed_gates_by_itself_again(gated, namespace):
    """What the index names is of before."""

    def stays_indexed(spec):
        gated.cluster.kubectl("label", "pp", "p", "-n", namespace, f"{INDEXED_LABEL}=true", "--overwrite")
        change = json.dumps({"spec": spec})
        gated.cluster.kubectl("patch", "pp", "p", "-n", namespace, "--type=merge", "-p", change)
        return INDEXED_LABEL in gated.cluster.get("pp", "p", "-n", namespace)["metadata"].get("labels", {})

    create(gated, namespace, policy(WEB))
    gated.until(
        lambda: not stays_indexed({"targetRef": {"name": f"web-{next(numbers)}"}}), what="edits that are seen"
    )
    assert not stays_indexed({"suspend": True})
    assert not stays_indexed({"suspend": False})
    assert stays_indexed({"whenExhausted": "FirstPool"})


@only("policy", "webhook")
def test_an_annotated_deployment_marks_its_template_once(gated, namespace):
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "annotations": {"overspill.dev/base-replicas": "2"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            },
        },
    }

    def template_of(name):
        return gated.cluster.get("deployment", name, "-n", namespace)["spec"]["template"]

    create(gated, namespace, manifest)
    first = template_of("d")
    assert first["metadata"]["annotations"] == {"overspill.dev/base-replicas": "from the Deployment"}
    create(gated, namespace, manifest)  # as GitOps does again and again
    gated.cluster.kubectl("replace", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    assert template_of("d") == first, "what is applied again is no rollout"
    assert gated(namespace, marked(of_deployment("d"))) == [GATE]
    later = {**manifest, "metadata": {"name": "e"}}
    create(gated, namespace, later)
    before = template_of("e")
    gated.cluster.kubectl("annotate", "deployment", "e", "-n", namespace, "overspill.dev/base-replicas=2")
    assert template_of("e") == before, "annotating is no rollout"


GOOD = {"targetRef": {"name": "web"}, **POOLS}
BAD = [
    ({"targetRef": {"name": "w"}, "selector": {"matchLabels": {"a": "b"}}}, "either targetRef or selector"),
    ({"targetRef": None}, "either targetRef or selector"),
    ({"pools": [pool("base", 1), pool("base")]}, "same name"),
    ({"pools": [pool("base", 1), pool("elastic", "50%")]}, "all numbers or all percentages"),
    ({"pools": [pool("base", "60%"), pool("elastic", "50%")]}, "more than 100%"),
    ({"pools": [pool("base", "60%")], "rollout": {"maxSurge": 1}}, "percentages go with"),
    ({"pools": [pool("base", "60%")], "counting": {"scope": "Total"}}, "percentages go with"),
    ({"pools": [pool("base", "60%")], "targetRef": {"kind": "StatefulSet", "name": "x"}}, "by their number"),
    ({"pools": [pool("base", "5")]}, "maxReplicas"),
    ({"pools": [pool("base", -1)]}, "maxReplicas"),
    ({"pools": [pool("base", 1, minReplicas=2)]}, "more than maxReplicas"),
    ({"pools": [{"name": "base"}]}, "nodeSelector or a nodeAffinity"),
    ({"pools": []}, "at least 1"),
    ({"pools": [pool(f"p{n}", 1) for n in range(17)]}, "at most 16"),
    ({"pools": [pool("base", 1, patch={"spec": {"x": 1}})]}, "cannot be honoured"),
    ({"pools": [pool("base", 1, patch={"metadata": {"labels": {"pod-template-hash": "x"}}})]}, "must stay"),
    (
        {"pools": [pool("base", 1, patch={"metadata": {"labels": {"placement.overspill.dev/pool": "x"}}})]},
        "by overspill",
    ),
    (
        {
            "pools": [
                pool(
                    "base",
                    1,
                    patch={"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "1"}}},
                )
            ]
        },
        "written by overspill",
    ),
    ({"targetRef": {"kind": "DaemonSet", "name": "x"}}, "cannot be placed"),
    ({"gate": {"onTimeout": "Release"}}, "above 0"),
    ({"pools": [pool("base", 1, weight=3)]}, "unknown field"),
    ({"targetRef": None, "selector": {}}, "every pod"),
    ({"pools": [pool("base", "120%")]}, "should match"),
    (
        {
            "pools": [
                {"name": "base", "nodeAffinity": {"matchExpressions": [{"key": "type", "operator": "In"}]}}
            ]
        },
        "have values",
    ),
    (
        {"pools": [pool("base", 1, tolerations=[{"key": "a", "operator": "Exists", "value": "b"}])]},
        "has no value",
    ),
    ({"pools": [pool("base", 1, tolerations=[{}])]}, "every key has operator Exists"),
    (
        {
            "targetRef": None,
            "selector": {"matchLabels": {"app": "web"}},
            "pools": [pool("base", 1, patch={"metadata": {"labels": {"app": "other"}}})],
        },
        "spec.selector looks at",
    ),
    ({"whenExhausted": "LastPool"}, "Unsupported value"),
]


@only("policy")
def test_a_good_policy_gets_its_defaults(gated, namespace):
    create(gated, namespace, {**policy({}), "spec": GOOD})
    spec = gated.cluster.get("pp", "p", "-n", namespace)["spec"]
    decoded = msgspec.convert({"metadata": {"name": "p"}, "spec": spec}, Policy).spec
    assert decoded == msgspec.convert({"metadata": {"name": "p"}, "spec": GOOD}, Policy).spec


@only("policy")
@pytest.mark.parametrize(("wrong", "why"), BAD, ids=[why for _, why in BAD])
def test_a_bad_policy_is_refused_by_name(gated, namespace, wrong, why):
    spec = {key: value for key, value in {**GOOD, **wrong}.items() if value is not None}
    with pytest.raises(AssertionError, match=why):
        gated.cluster.kubectl(
            "create",
            "--dry-run=server",
            "-n",
            namespace,
            "-f",
            "-",
            stdin=json.dumps({**policy({}), "spec": spec}),
        )


@only("index")
def test_where_an_administrator_wants_it_no_pod_slips_through_while_there_are_no_gates(gated, namespace):
    """As in the first seconds of an apiserver, here without the gate's binding."""
    create(gated, namespace, index(policy(WEB)))
    gated.until(lambda: gated(namespace, of_deployment("web")) == [GATE], what="gates in force")
    binding = gated.cluster.get("mutatingadmissionpolicybinding", "gate.placement.overspill.dev")
    gated.cluster.kubectl("delete", "mutatingadmissionpolicybinding", "gate.placement.overspill.dev")
    try:
        gated.until(lambda: gated(namespace, of_deployment("web")) == [], what="no gates")
        gated.cluster.kubectl("label", "namespace", namespace, "placement.overspill.dev/exact=true")

        def refused():
            try:
                gated(namespace, of_deployment("web"))
            except AssertionError as error:
                return "nobody has made it wait for its pool" in str(error)
            return False

        gated.until(refused, what="the pod to be refused")
        assert gated(namespace, of_deployment("other")) == []
        assert gated("default", of_deployment("web")) == [], "another namespace"
    finally:
        gated.cluster.apply({**binding, "metadata": {"name": binding["metadata"]["name"]}})
    gated.until(lambda: _gated_again(gated, namespace), what="gates in force again")


def _gated_again(gated, namespace):
    try:
        return gated(namespace, of_deployment("web")) == [GATE]
    except AssertionError:
        return False
