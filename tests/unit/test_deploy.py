"""The manifests in deploy/, compared with the code they are for."""

import ast
import pathlib

import msgspec
import pytest
import yaml

import overspill
from overspill import names
from overspill.agent.permissions import CLAIM_PERMISSIONS, PERMISSIONS
from overspill.backends.podman.usage import CGROUPS
from overspill.kube import resources
from overspill.settings import AgentSettings, load_agent_settings, load_controller_settings

ROOT = pathlib.Path(__file__).parents[2]
BASE = ROOT / "deploy" / "base"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(path, kind):
    return next(document for document in documents(path) if document["kind"] == kind)


def pod_spec():
    return of_kind(BASE / "statefulset.yaml", "StatefulSet")["spec"]["template"]["spec"]


def rules(path, kind):
    """(group, resource, names) -> verbs, of a role."""
    return {
        (group, resource, tuple(rule.get("resourceNames", ()))): set(rule["verbs"])
        for rule in of_kind(path, kind)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def table(permissions, namespace):
    return {
        (
            permission.resource.group,
            "/".join(filter(None, (permission.resource.plural, permission.subresource))),
            permission.names,
        ): set(permission.verbs)
        for permission in permissions
        if permission.namespace == namespace
    }


def test_roles_grant_what_the_code_declares_and_no_more():
    assert rules(BASE / "rbac.yaml", "ClusterRole") == table(PERMISSIONS, "")
    assert rules(BASE / "rbac.yaml", "Role") == table(
        PERMISSIONS, of_kind(BASE / "rbac.yaml", "Role")["metadata"]["namespace"]
    )


def test_the_one_configmap_of_kube_system_is_read_by_the_clusters_own_role():
    (needed,) = [permission for permission in PERMISSIONS if permission.namespace == "kube-system"]
    assert needed.names == ("extension-apiserver-authentication",)
    (binding,) = [
        document
        for document in documents(BASE / "rbac.yaml")
        if document["kind"] == "RoleBinding" and document["metadata"]["namespace"] == "kube-system"
    ]
    assert binding["roleRef"]["name"] == "extension-apiserver-authentication-reader"
    assert [subject["name"] for subject in binding["subjects"]] == ["virtual-node-eci"]


VERBS = {name: (name,) for name in ("create", "delete", "get", "list", "patch", "update")}
VERBS["Watch"] = ("list", "watch")


def called(module):
    """(resource, subresource, verb) of every call of the client in a module, read from its syntax tree."""
    for function in ast.walk(ast.parse(module.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            requests = [call.args[0] for call in calls if name_of(call) == "request"]
            methods = [each.value.lower() for each in requests if isinstance(each, ast.Constant)]
            for call in calls:
                # `PODS.path(…)` belongs to the `request("PATCH", …)` of the same function.
                verbs = methods if name_of(call) == "path" else VERBS.get(name_of(call), ())
                for resource in resource_of(call):
                    yield from ((resource.plural, keyword(call, "subresource"), verb) for verb in verbs)


def name_of(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name.removeprefix("_")  # a module's own _get passes the resource on to the client's


def resource_of(call):
    receiver = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    known = [getattr(resources, getattr(node, "id", ""), None) for node in (*receiver, *call.args)]
    return [each for each in known if isinstance(each, resources.Resource)]


def keyword(call, name):
    return next((each.value.value for each in call.keywords if each.arg == name), "")


def test_table_is_what_the_source_calls():
    folders = [ROOT / "src/overspill" / name for name in ("agent", "kube", "serve/kubelet")]
    modules = [module for folder in folders for module in folder.glob("*.py")]
    found = {call for module in modules for call in called(module)}
    declared = {
        (permission.resource.plural, permission.subresource, verb)
        for permission in (*PERMISSIONS, *CLAIM_PERMISSIONS)
        for verb in permission.verbs
    }
    assert found == declared


def test_only_agents_that_mount_claims_may_read_them():
    assert rules(ROOT / "deploy/eci/rbac.yaml", "ClusterRole") == table(CLAIM_PERMISSIONS, "")
    binding = of_kind(ROOT / "deploy/eci/rbac.yaml", "ClusterRoleBinding")
    assert binding["subjects"] == of_kind(BASE / "rbac.yaml", "ClusterRoleBinding")["subjects"]


@pytest.mark.parametrize(("folder", "backend"), [("base", "simulated"), ("podman", "podman"), ("eci", "eci")])
def test_settings_file_is_understood(folder, backend):
    file = str(ROOT / "deploy" / folder / "agent.yaml")
    assert load_agent_settings(file, environ={}).backend == backend
    assert load_controller_settings(file, environ={}).backend == backend


@pytest.mark.parametrize("folder", ["podman", "eci"])
def test_the_controller_of_an_overlay_has_the_agents_backend_and_credentials(folder):
    agent, controller = (
        of_kind(ROOT / "deploy" / folder / f"{kind.lower()}.yaml", kind)["spec"]["template"]["spec"]
        for kind in ("StatefulSet", "Deployment")
    )
    assert agent["containers"][0].get("envFrom") == controller["containers"][0].get("envFrom")
    volumes = {volume["name"]: volume for volume in agent.get("volumes", ())}
    assert all(volumes[each["name"]] == each for each in controller.get("volumes", ()))
    made = yaml.safe_load((ROOT / "deploy" / folder / "kustomization.yaml").read_text())
    files = {each["name"]: each["files"] for each in made["configMapGenerator"]}
    assert files == {
        "virtual-node-eci": ["agent.yaml"],
        "overspill-controller-settings": ["controller.yaml=agent.yaml"],
    }


def test_no_role_names_what_kustomize_gives_another_name():
    """It writes the new name of a generated ConfigMap wherever the old one stands among resourceNames."""
    generated = {
        each["name"]
        for folder in ("base", "placement")
        for each in yaml.safe_load((ROOT / "deploy" / folder / "kustomization.yaml").read_text())[
            "configMapGenerator"
        ]
    }
    named = {
        name
        for folder in ("base", "placement")
        for document in documents(ROOT / "deploy" / folder / "rbac.yaml")
        for rule in document.get("rules", ())
        for name in rule.get("resourceNames", ())
    }
    assert generated
    assert not generated & named


def test_environment_names_settings():
    variables = {entry["name"]: "x" for entry in pod_spec()["containers"][0]["env"]}
    settings = load_agent_settings(None, environ=variables)
    assert (settings.node_name, settings.node_ip, settings.pod_uid) == ("x", "x", "x")


def test_ports_are_those_the_agents_listen_on():
    settings = msgspec.convert(yaml.safe_load((BASE / "agent.yaml").read_text()), AgentSettings, strict=False)
    port, kubelet = (
        int(address.rpartition(":")[2]) for address in (settings.health_address, settings.kubelet_address)
    )
    container = pod_spec()["containers"][0]
    assert container["ports"] == [
        {"name": "health", "containerPort": port},
        {"name": "kubelet", "containerPort": kubelet},
    ]
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


def test_podman_overlay_mounts_what_its_settings_name():
    options = load_agent_settings(str(ROOT / "deploy/podman/agent.yaml"), environ={}).backend_options
    spec = of_kind(ROOT / "deploy/podman/statefulset.yaml", "StatefulSet")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    assert mounts == volumes
    seen = {str(pathlib.Path(options["socket"]).parent), options["data_dir"], str(CGROUPS)}
    assert set(mounts.values()) == seen
