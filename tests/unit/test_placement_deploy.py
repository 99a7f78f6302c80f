"""The manifests in deploy/placement, compared with the code they are for."""

import pathlib
import re

import msgspec
import pytest
from test_deploy import called, documents, of_kind, rules, table

import overspill
from overspill import names
from overspill.controller.permissions import GUARD_PERMISSIONS, PERMISSIONS
from overspill.kube import resources
from overspill.placement import policy
from overspill.placement.index import INDEXED_LABEL
from overspill.settings import ControllerSettings, GuardSettings

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "placement"


def test_roles_grant_what_the_code_declares_and_no_more():
    assert rules(FOLDER / "rbac.yaml", "ClusterRole") == table(PERMISSIONS, "")
    for namespace in ("kube-system", "kube-node-lease"):
        assert rules(FOLDER / "rbac.yaml", "Role", namespace) == table(PERMISSIONS, namespace)


def test_the_guards_roles_grant_what_its_code_declares_and_no_more():
    assert rules(FOLDER / "guard.yaml", "ClusterRole") == table(GUARD_PERMISSIONS, "")
    assert rules(FOLDER / "guard.yaml", "Role", "kube-system") == table(GUARD_PERMISSIONS, "kube-system")
    more = {(each.resource, each.subresource, verb) for each in GUARD_PERMISSIONS for verb in each.verbs}
    assert more < {(each.resource, each.subresource, verb) for each in PERMISSIONS for verb in each.verbs}


def test_users_see_and_write_policies_by_the_clusters_own_roles_and_nothing_else():
    granted = {
        tuple(sorted(each["metadata"]["labels"])): (each["kind"], each["rules"])
        for each in documents(FOLDER / "users.yaml")
    }
    group, plural = resources.PLACEMENT_POLICIES.group, resources.PLACEMENT_POLICIES.plural
    read, write = ["get", "list", "watch"], ["create", "delete", "deletecollection", "patch", "update"]

    def to(*roles):
        return tuple(f"rbac.authorization.k8s.io/aggregate-to-{role}" for role in roles)

    def may(verbs):
        return "ClusterRole", [{"apiGroups": [group], "resources": [plural], "verbs": verbs}]

    assert granted == {to("view"): may(read), to("admin", "edit"): may(write)}


def test_what_is_applied_is_every_manifest_of_the_folder():
    applied = of_kind(FOLDER / "kustomization.yaml", "Kustomization")["resources"]
    settings = {"kustomization.yaml", "controller.yaml"}
    assert set(applied) == {"definitions", *(each.name for each in FOLDER.glob("*.yaml"))} - settings


def calls(*modules):
    return {call for module in modules for call in called(module)}


def declared_in(permissions):
    return {(each.resource.plural, each.subresource, verb) for each in permissions for verb in each.verbs}


def test_the_guards_table_is_what_its_source_calls():
    source = ROOT / "src/overspill"
    found = calls(source / "kube/events.py", source / "placement/guard.py")
    never_twice = {("events", "", "patch")}
    assert (found - never_twice) | {("leases", "", "get")} == declared_in(GUARD_PERMISSIONS)


def test_table_is_what_the_source_calls():
    kube = [
        ROOT / "src/overspill/kube" / name for name in ("drain.py", "events.py", "eviction.py", "leader.py")
    ]
    # survey.py is run by a user, with the user's own permissions.
    folders = [
        ROOT / "src/overspill" / name for name in ("controller", "decommission", "orphans", "placement")
    ]
    elsewhere = {"survey", "guard"}
    modules = [path for folder in folders for path in folder.glob("*.py") if path.stem not in elsewhere]
    found = calls(*kube, *modules)
    declared = declared_in(PERMISSIONS)
    by_apply = {("placementindexes", "", "create")}
    assert found | by_apply == declared


def test_controller_and_guard_speak_of_one_lease():
    settings, guard = ControllerSettings(), GuardSettings()
    assert (guard.lease_name, guard.lease_namespace) == (settings.lease_name, settings.lease_namespace)
    (permission,) = [each for each in GUARD_PERMISSIONS if each.names]
    assert permission.names == (settings.lease_name,)


def test_the_lease_is_the_one_that_the_role_is_for():
    (permission,) = [each for each in PERMISSIONS if each.names and each.resource == resources.LEASES]
    settings = ControllerSettings()
    assert permission.names == (settings.lease_name,)
    assert (
        permission.namespace
        == settings.lease_namespace
        == of_kind(FOLDER / "rbac.yaml", "Role")["metadata"]["namespace"]
    )
    (record,) = [each for each in PERMISSIONS if each.names and each.resource == resources.CONFIGMAPS]
    assert (record.names, record.namespace) == (
        (f"{settings.lease_name}-orphans",),
        settings.lease_namespace,
    )


def schema():
    version = of_kind(FOLDER / "definitions/crd.yaml", "CustomResourceDefinition")["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]


# What is known only to be refused.
REFUSED = {"spec"}


def compare(properties, kind, path):
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    assert set(properties) - (REFUSED if path.endswith("patch") else set()) == set(fields), path
    for name, field in fields.items():
        declared = properties[name]
        if "default" in declared and not isinstance(declared["default"], dict):
            assert field.default == declared["default"], f"{path}.{name}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            compare(declared["properties"], field.type, f"{path}.{name}")


def test_fields_and_defaults_of_the_crd_are_those_of_the_code():
    spec = schema()["spec"]["properties"]
    compare(spec["pools"]["items"]["properties"], policy.Pool, "pools[]")
    compare(
        {name: spec[name] for name in spec if name not in {"targetRef", "selector"}},
        spec_without_targets(),
        "spec",
    )
    compare(spec["targetRef"]["properties"], policy.TargetRef, "targetRef")
    compare(spec["selector"]["properties"], policy.Selector, "selector")


def spec_without_targets():
    fields = [
        (field.name, field.type, field.default)
        for field in msgspec.structs.fields(policy.PolicySpec)
        if field.name not in {"target_ref", "selector"}
    ]
    return msgspec.defstruct("Spec", fields, rename="camel", kw_only=True)


def test_every_list_map_and_text_of_a_spec_is_bounded():
    """Or the rules would cost more than the apiserver lets them."""

    def unbounded(node, path):
        if not isinstance(node, dict) or "x-kubernetes-preserve-unknown-fields" in node:
            return
        kind = node.get("type")
        if kind == "array" and "maxItems" not in node:
            yield path
        if kind == "object" and "additionalProperties" in node and "maxProperties" not in node:
            yield path
        if kind == "string" and not {"maxLength", "enum"} & set(node):
            yield path
        for name, child in node.get("properties", {}).items():
            yield from unbounded(child, f"{path}.{name}")
        for name in ("items", "additionalProperties"):
            yield from unbounded(node.get(name), f"{path}[]")

    assert list(unbounded(schema()["spec"], "spec")) == []


def test_the_gates_use_the_names_of_the_code():
    text = (FOLDER / "gate.yaml").read_text()
    assert set(re.findall(r"name: '([^']+/[^']+)'", text)) == {names.GATE}
    assert set(re.findall(r"'(overspill\.dev/base[^']*)'", text)) == {names.BASE_ANNOTATION}
    bindings = {
        each["metadata"]["name"]: each["spec"]
        for each in documents(FOLDER / "gate.yaml")
        if each["kind"].endswith("Binding")
    }
    assert bindings["gate.placement.overspill.dev"]["paramRef"]["selector"] == {}, "what is in memory"
    (requirement,) = bindings["gate-new.placement.overspill.dev"]["paramRef"]["selector"]["matchExpressions"]
    assert requirement == {"key": INDEXED_LABEL, "operator": "DoesNotExist"}
    taken_off = "/metadata/labels/" + INDEXED_LABEL.replace("/", "~1")
    assert re.findall(r"op: 'remove', path: '([^']+)'", text) == [taken_off]


def test_what_an_exact_namespace_refuses_is_what_the_gate_is_for():
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in documents(FOLDER / "gate.yaml")
        if "paramKind" in each["spec"]
    }
    gate, exact = policies["gate.placement.overspill.dev"], policies["exact.placement.overspill.dev"]
    conditions = {each["name"]: each["expression"] for each in gate["matchConditions"]}
    assert [exact["failurePolicy"], exact["paramKind"]] == ["Fail", gate["paramKind"]]
    assert exact["matchConstraints"]["namespaceSelector"] == {
        "matchLabels": {f"{names.PLACEMENT}/exact": "true"},
        **gate["matchConstraints"]["namespaceSelector"],
    }
    assert exact["matchConstraints"]["resourceRules"] == gate["matchConstraints"]["resourceRules"]
    wanted = {each["name"]: each["expression"] for each in exact["matchConditions"]}
    assert conditions.pop("no-gate-yet") == "!" + exact["validations"][0]["expression"]
    assert wanted == conditions


def test_gates_never_stand_in_the_way():
    for each in documents(FOLDER / "gate.yaml"):
        if each["kind"] == "MutatingAdmissionPolicy":
            spec = each["spec"]
            assert spec["failurePolicy"] == "Ignore"
            (out,) = spec["matchConstraints"]["namespaceSelector"]["matchExpressions"]
            assert out == {
                "key": "kubernetes.io/metadata.name",
                "operator": "NotIn",
                "values": ["kube-system"],
            }
        elif "paramRef" in each["spec"]:
            assert each["spec"]["paramRef"]["parameterNotFoundAction"] == "Allow"


@pytest.mark.parametrize(
    ("file", "settings"), [("deployment.yaml", ControllerSettings()), ("guard.yaml", GuardSettings())]
)
def test_image_and_port_are_of_this_version(file, settings):
    spec = of_kind(FOLDER / file, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == f"overspill:{overspill.__version__}"
    port = int(settings.health_address.rpartition(":")[2])
    assert container["ports"] == [{"name": "health", "containerPort": port}]
    assert f"0.0.0.0:{port}" in container["args"]
