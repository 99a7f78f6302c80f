"""The manifests in deploy/, compared with the code they are for."""

import ast
import pathlib

import msgspec
import pytest
import yaml

import overspill
from overspill import names
from overspill.agent.permissions import PERMISSIONS
from overspill.kube import resources
from overspill.local.virtualnodes import Overlay, write_overlay
from overspill.settings import AgentSettings, load_agent_settings

ROOT = pathlib.Path(__file__).parents[2]
BASE = ROOT / "deploy" / "base"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(path, kind):
    return next(document for document in documents(path) if document["kind"] == kind)


def pod_spec():
    return of_kind(BASE / "statefulset.yaml", "StatefulSet")["spec"]["template"]["spec"]


def rules(kind):
    """(group, resource, names) -> verbs, of a role in rbac.yaml."""
    return {
        (group, resource, tuple(rule.get("resourceNames", ()))): set(rule["verbs"])
        for rule in of_kind(BASE / "rbac.yaml", kind)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def table(namespace):
    return {
        (
            permission.resource.group,
            "/".join(filter(None, (permission.resource.plural, permission.subresource))),
            permission.names,
        ): set(permission.verbs)
        for permission in PERMISSIONS
        if permission.namespace == namespace
    }


def test_roles_grant_what_the_code_declares_and_no_more():
    assert rules("ClusterRole") == table("")
    assert rules("Role") == table(of_kind(BASE / "rbac.yaml", "Role")["metadata"]["namespace"])


VERBS = {name: (name,) for name in ("create", "delete", "get", "list", "patch", "update")}
VERBS["Watch"] = ("list", "watch")


def called(module):
    """(resource, subresource, verb) of every call of the client in a module, read from its syntax tree."""
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = name.removeprefix("_")  # a module's own _get passes the resource on to the client's
        constants = [arg.id for arg in node.args if isinstance(arg, ast.Name) and hasattr(resources, arg.id)]
        if name in VERBS and constants and constants[0].isupper():
            subresource = next(
                (keyword.value.value for keyword in node.keywords if keyword.arg == "subresource"), ""
            )
            for verb in VERBS[name]:
                yield getattr(resources, constants[0]).plural, subresource, verb


def test_table_is_what_the_source_calls():
    modules = [*(ROOT / "src/overspill/agent").glob("*.py"), *(ROOT / "src/overspill/kube").glob("*.py")]
    found = {call for module in modules for call in called(module)}
    declared = {
        (permission.resource.plural, permission.subresource, verb)
        for permission in PERMISSIONS
        for verb in permission.verbs
    }
    assert found == declared


@pytest.mark.parametrize("folder", ["base", "podman"])
def test_settings_file_is_understood(folder):
    settings = load_agent_settings(str(ROOT / "deploy" / folder / "agent.yaml"), environ={})
    assert settings.backend == {"base": "simulated", "podman": "podman"}[folder]


def test_environment_names_settings():
    variables = {entry["name"]: "x" for entry in pod_spec()["containers"][0]["env"]}
    settings = load_agent_settings(None, environ=variables)
    assert (settings.node_name, settings.node_ip) == ("x", "x")


def test_health_port_is_the_one_the_agents_listen_on():
    settings = msgspec.convert(yaml.safe_load((BASE / "agent.yaml").read_text()), AgentSettings, strict=False)
    port = int(settings.health_address.rpartition(":")[2])
    container = pod_spec()["containers"][0]
    assert container["ports"] == [{"name": "health", "containerPort": port}]
    assert of_kind(BASE / "statefulset.yaml", "Service")["spec"]["ports"][0]["port"] == port


def test_image_is_of_this_version():
    assert pod_spec()["containers"][0]["image"] == f"overspill:{overspill.__version__}"


def test_agents_stay_off_virtual_nodes():
    spec = pod_spec()
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {"key": names.NODE_TYPE_LABEL, "operator": "NotIn", "values": [names.NODE_TYPE]} in term[
        "matchExpressions"
    ]
    assert "tolerations" not in spec


def test_policy_uses_the_names_of_the_code():
    policy = of_kind(ROOT / "deploy/injection/policy.yaml", "MutatingAdmissionPolicy")["spec"]
    assert policy["matchConstraints"]["namespaceSelector"]["matchLabels"] == {
        names.INJECTION_LABEL: names.INJECTION_ENABLED
    }
    variables = {variable["name"]: variable["expression"] for variable in policy["variables"]}
    assert f"'{names.PROVIDER_TAINT}'" in variables["toleration"]
    assert f"dyn('{names.NODE_TYPE_LABEL}')" in variables["requirement"]
    assert f"'{names.NODE_TYPE}'" in variables["requirement"]


@pytest.fixture
def overlay(tmp_path):
    """An overlay with everything set, as parsed files by name."""
    write_overlay(
        Overlay(
            image="localhost/overspill:abc",
            replicas=3,
            backend="podman",
            options={"socket": "/s/podman/podman.sock", "data_dir": "/s/pods"},
            settings={"logLevel": "debug"},
            host_folders=(pathlib.Path("/s/podman"), pathlib.Path("/s/pods")),
        ),
        folder=tmp_path,
        deploy=ROOT / "deploy",
    )
    return tmp_path


def test_overlay_writes_settings_the_agent_understands(overlay):
    settings = load_agent_settings(str(overlay / "agent.yaml"), environ={})
    assert settings.backend_options["data_dir"] == "/s/pods"
    assert (settings.backend, settings.log_level) == ("podman", "debug")


def test_overlay_points_to_the_base_and_to_the_image(overlay):
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    assert (overlay / kustomization["resources"][0]).resolve() == BASE
    assert kustomization["images"] == [
        {"name": "overspill", "newName": "localhost/overspill", "newTag": "abc"}
    ]
    assert kustomization["replicas"] == [{"name": "virtual-node-eci", "count": 3}]


def test_overlay_mounts_host_folders_under_their_own_path(overlay):
    patch = yaml.safe_load((overlay / "statefulset.yaml").read_text())["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in patch["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in patch["volumes"]}
    assert mounts == volumes
    assert set(mounts.values()) == {"/s/podman", "/s/pods"}


def test_overlay_gives_no_rights_without_host_folders(tmp_path):
    write_overlay(
        Overlay(image="overspill:1", replicas=1, backend="simulated"), folder=tmp_path, deploy=ROOT / "deploy"
    )
    assert yaml.safe_load((tmp_path / "statefulset.yaml").read_text())["spec"]["template"]["spec"] == {}
