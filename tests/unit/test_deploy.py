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
from overspill.process import PATIENCE
from overspill.settings import AgentSettings, load_agent_settings, load_controller_settings

ROOT = pathlib.Path(__file__).parents[2]
BASE = ROOT / "deploy" / "base"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(path, kind):
    return next(document for document in documents(path) if document["kind"] == kind)


def pod_spec():
    return of_kind(BASE / "statefulset.yaml", "StatefulSet")["spec"]["template"]["spec"]


def rules(path, kind, namespace=None):
    """(group, resource, names) -> verbs, of the roles of a namespace."""
    roles = [each for each in documents(path) if each["kind"] == kind]
    return {
        (group, resource, tuple(rule.get("resourceNames", ()))): set(rule["verbs"])
        for role in roles
        if role["metadata"].get("namespace") == namespace
        for rule in role["rules"]
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
    assert rules(BASE / "rbac.yaml", "Role", "kube-node-lease") == table(PERMISSIONS, "kube-node-lease")
    by_the_clusters_own_role = {("", "configmaps", ("extension-apiserver-authentication",))}
    needed = table(PERMISSIONS, "kube-system")
    assert rules(BASE / "rbac.yaml", "Role", "kube-system") == {
        what: verbs for what, verbs in needed.items() if what not in by_the_clusters_own_role
    }


def test_the_one_configmap_of_kube_system_is_read_by_the_clusters_own_role():
    bound = {
        document["roleRef"]["name"]: [subject["name"] for subject in document["subjects"]]
        for document in documents(BASE / "rbac.yaml")
        if document["kind"] == "RoleBinding" and document["metadata"]["namespace"] == "kube-system"
    }
    assert bound == {
        "extension-apiserver-authentication-reader": ["virtual-node-eci"],
        "overspill-agent": ["virtual-node-eci"],
    }


def test_the_statefulset_that_an_agent_may_read_is_its_own():
    (permission,) = [each for each in PERMISSIONS if each.resource is resources.STATEFULSETS]
    owner = of_kind(BASE / "statefulset.yaml", "StatefulSet")["metadata"]
    assert (permission.namespace, permission.names) == (owner["namespace"], (owner["name"],))


@pytest.mark.parametrize(
    "file", ["base/statefulset.yaml", "placement/deployment.yaml", "placement/guard.yaml"]
)
def test_a_start_is_not_broken_off_while_apiserver_or_backend_do_not_answer(file):
    """A last try after the patience, in which first the one side and then the other answers late."""
    kind = "StatefulSet" if file.startswith("base") else "Deployment"
    (container,) = of_kind(ROOT / "deploy" / file, kind)["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["httpGet"] == container["livenessProbe"]["httpGet"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 3 * PATIENCE


VERBS = {name: (name,) for name in ("create", "delete", "get", "list", "patch", "update")}
VERBS["Watch"] = ("list", "watch")


def called(module):
    """(resource, subresource, verb) of every call of the client in a module, read from its syntax tree."""
    for function in ast.walk(ast.parse(module.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            requests = [call.args[0] for call in calls if name_of(call) == "request"]
            constants = [each.value for each in requests if isinstance(each, ast.Constant)]
            methods = [{"POST": "create"}.get(each, each.lower()) for each in constants]
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


APPROVER = ROOT / "src/overspill/serve/kubelet/approver.py"


def test_the_approvers_role_is_what_it_calls_and_the_signer():
    granted = {
        (*f"{resource}/".split("/")[:2], verb)
        for (_, resource, _), verbs in rules(ROOT / "deploy/approver/rbac.yaml", "ClusterRole").items()
        for verb in verbs
    }
    assert granted == {*called(APPROVER), ("signers", "", "approve")}


def test_table_is_what_the_source_calls():
    folders = [ROOT / "src/overspill" / name for name in ("agent", "kube", "serve/kubelet")]
    modules = {module for folder in folders for module in folder.glob("*.py")} - {APPROVER}
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


@pytest.mark.parametrize(
    ("folder", "backend"),
    [
        ("deploy/base", "simulated"),
        ("deploy/podman", "podman"),
        ("deploy/eci", "eci"),
        ("examples/eci", "eci"),
    ],
)
def test_settings_file_is_understood(folder, backend):
    file = str(ROOT / folder / "agent.yaml")
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
        "virtual-node-eci-settings": ["agent.yaml"],
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


def guard(file, name):
    """A policy of deploy/protection, and what its binding does."""
    found = documents(ROOT / "deploy/protection" / file)
    (policy,) = [
        each["spec"]
        for each in found
        if each["kind"] == "ValidatingAdmissionPolicy" and each["metadata"]["name"] == name
    ]
    (actions,) = [
        each["spec"]["validationActions"]
        for each in found
        if each["kind"] == "ValidatingAdmissionPolicyBinding" and each["spec"]["policyName"] == name
    ]
    return policy, actions


ACCOUNTS = {
    path: f"system:serviceaccount:kube-system:{of_kind(path / 'rbac.yaml', 'ServiceAccount')['metadata']['name']}"
    for path in (BASE, ROOT / "deploy/placement")
}


def test_guard_of_nodes_warns_by_the_condition_that_the_agent_keeps():
    policy, actions = guard("deletion.yaml", "node-deletion.overspill.dev")
    assert actions == ["Warn"]
    assert f"c.type == '{names.CONTAINER_GROUPS}'" in policy["variables"][0]["expression"]
    (condition,) = policy["matchConditions"]
    assert all(f"'{account}'" in condition["expression"] for account in ACCOUNTS.values())


def test_guard_of_the_statefulset_is_for_those_with_its_labels():
    policy, actions = guard("deletion.yaml", "statefulset-deletion.overspill.dev")
    assert actions == ["Warn"]
    labels = of_kind(BASE / "statefulset.yaml", "StatefulSet")["metadata"]["labels"]
    for key in ("app.kubernetes.io/name", "app.kubernetes.io/component"):
        assert f"[?'{key}'] == optional.of('{labels[key]}')" in policy["matchConditions"][0]["expression"]


def test_guard_of_agents_is_for_their_account_and_covers_what_they_write():
    policy, actions = guard("agents.yaml", "agents.overspill.dev")
    assert actions == ["Deny"]
    assert f"'{ACCOUNTS[BASE]}'" in policy["matchConditions"][0]["expression"]
    guarded = {each for rule in policy["matchConstraints"]["resourceRules"] for each in rule["resources"]}
    writes = {
        "/".join(filter(None, (each.resource.plural, each.subresource)))
        for each in PERMISSIONS
        if set(each.verbs) - {"get", "list", "watch"}
    }
    # Reviews, requests and Events are about nobody's object; an eviction names no node.
    unbounded = {
        *("tokenreviews", "subjectaccessreviews", "certificatesigningrequests", "events"),
        *("serviceaccounts/token", "pods/eviction"),
    }
    assert guarded >= writes - unbounded


def test_guard_of_the_controller_is_for_its_account():
    policy, actions = guard("controller.yaml", "controller.overspill.dev")
    assert actions == ["Deny"]
    assert f"'{ACCOUNTS[ROOT / 'deploy/placement']}'" in policy["matchConditions"][0]["expression"]
    assert f"'{names.NODE_TYPE}'" in policy["validations"][0]["expression"]


def test_an_agent_that_goes_has_the_grace_that_its_page_says():
    assert pod_spec()["terminationGracePeriodSeconds"] == 3600
    assert "is an hour" in (ROOT / "docs/scale-in.md").read_text()


@pytest.mark.parametrize(
    ("component", "file", "kind"),
    [
        ("agent", "base/statefulset.yaml", "StatefulSet"),
        ("controller", "placement/deployment.yaml", "Deployment"),
    ],
)
def test_network_policies_select_what_is_deployed_and_its_ports(component, file, kind):
    (policy,) = [
        each
        for each in documents(ROOT / "examples" / "network-policies.yaml")
        if each["metadata"]["name"] == f"overspill-{component}"
    ]
    deployed = of_kind(ROOT / "deploy" / file, kind)["spec"]["template"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= deployed["metadata"]["labels"].items()
    (container,) = deployed["spec"]["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    if component == "controller":
        changes = yaml.safe_load((ROOT / "deploy" / "webhook" / "controller.yaml").read_text())
        ports |= {each["value"]["containerPort"] for each in changes if each["path"].endswith("/ports/-")}
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == ports


@pytest.mark.parametrize(
    "file",
    [
        *("base/statefulset.yaml", "placement/deployment.yaml"),
        *("placement/guard.yaml", "approver/deployment.yaml"),
    ],
)
def test_nothing_of_ours_runs_as_root_or_writes_into_its_image(file):
    (workload,) = [
        each for each in documents(ROOT / "deploy" / file) if each["kind"] in {"StatefulSet", "Deployment"}
    ]
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_nobody_lists_or_watches_secrets_and_config_maps_of_pods():
    for permission in PERMISSIONS:
        if permission.resource in {resources.SECRETS, resources.CONFIGMAPS} and not permission.names:
            assert permission.verbs == ("get",)
