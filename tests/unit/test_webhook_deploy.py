"""The manifests in deploy/webhook, compared with the code they are for and with the policies they stand in for."""

import pathlib

import pytest
import yaml
from test_deploy import called, documents, of_kind, rules, table

from overspill import names
from overspill.local.placement import webhook_at
from overspill.webhook.certificates import CONFIGURATION, SECRET
from overspill.webhook.permissions import PERMISSIONS
from overspill.webhook.run import PATHS, SERVICE

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "webhook"
WEBHOOKS = {
    each["name"]: each
    for each in of_kind(FOLDER / "webhook.yaml", "MutatingWebhookConfiguration")["webhooks"]
}
POLICIES = {
    each["metadata"]["name"]: each["spec"]
    for file in ("placement/gate.yaml", "injection/policy.yaml")
    for each in documents(DEPLOY / file)
    if each["kind"] == "MutatingAdmissionPolicy"
}
both = pytest.mark.parametrize("name", WEBHOOKS)


def test_roles_grant_what_the_code_declares_and_no_more():
    assert rules(FOLDER / "rbac.yaml", "ClusterRole") == table(PERMISSIONS, "")
    assert rules(FOLDER / "rbac.yaml", "Role", "kube-system") == table(PERMISSIONS, "kube-system")


def test_table_is_what_the_source_calls():
    found = {call for module in (ROOT / "src/overspill/webhook").glob("*.py") for call in called(module)}
    assert found == {
        (each.resource.plural, each.subresource, verb) for each in PERMISSIONS for verb in each.verbs
    }


def test_names_are_those_of_the_code():
    assert (
        of_kind(FOLDER / "webhook.yaml", "MutatingWebhookConfiguration")["metadata"]["name"] == CONFIGURATION
    )
    assert {each.names for each in PERMISSIONS if each.names} == {(CONFIGURATION,), (SECRET,)}
    service = of_kind(FOLDER / "service.yaml", "Service")
    assert service["metadata"]["name"] == SERVICE
    labels = of_kind(DEPLOY / "placement/deployment.yaml", "Deployment")["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == labels
    asked = [each["clientConfig"]["service"] for each in WEBHOOKS.values()]
    assert [each["path"] for each in asked] == list(PATHS)
    assert {(each["name"], each["namespace"]) for each in asked} == {
        (SERVICE, service["metadata"]["namespace"])
    }


def test_service_leads_to_the_port_that_the_controller_is_told():
    args, ports, lifecycle = yaml.safe_load((FOLDER / "controller.yaml").read_text())
    port = ports["value"]
    assert args["value"] == f"--webhook-address=0.0.0.0:{port['containerPort']}"
    (target,) = of_kind(FOLDER / "service.yaml", "Service")["spec"]["ports"]
    assert (target["targetPort"], target["port"]) == (port["name"], 443)
    assert lifecycle["path"].endswith("/lifecycle")


@both
def test_a_webhook_changes_nothing_else_and_is_never_waited_for_long(name):
    webhook = WEBHOOKS[name]
    assert webhook["sideEffects"] == "None"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["admissionReviewVersions"] == ["v1"]
    closed = name == "virtual-node-affinity-injection.overspill.dev"
    assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == (("Fail", 5) if closed else ("Ignore", 2))


@both
def test_a_webhook_is_asked_about_what_the_policy_of_its_name_is_for(name):
    webhook, policy = WEBHOOKS[name], POLICIES[name]
    assert webhook["failurePolicy"] == policy["failurePolicy"]
    assert webhook["namespaceSelector"] == policy["matchConstraints"]["namespaceSelector"]
    (rule,) = webhook["rules"]
    assert rule.pop("scope") == "Namespaced"
    assert [rule] == policy["matchConstraints"]["resourceRules"]
    asked = {each["name"] for each in webhook["matchConditions"]}
    # What depends on PlacementPolicies only the controller knows.
    assert asked == {each["name"] for each in policy["matchConditions"]} - {"placed"}


@both
def test_conditions_are_such_as_the_oldest_apiserver_understands(name):
    for each in WEBHOOKS[name]["matchConditions"]:
        assert "?" not in each["expression"], "optional fields came later"
        for word in ("transformList", "substring", "lastIndexOf", "params", "variables", "namespaceObject"):
            assert word not in each["expression"]


def test_the_injection_is_scoped_by_the_label():
    selector = WEBHOOKS["virtual-node-affinity-injection.overspill.dev"]["namespaceSelector"]
    assert selector["matchLabels"] == {names.INJECTION_LABEL: names.INJECTION_ENABLED}


def test_a_process_is_reached_at_a_url():
    webhooks = yaml.safe_load(webhook_at("https://127.0.0.1:1"))["webhooks"]
    assert [each["clientConfig"] for each in webhooks] == [
        {"url": f"https://127.0.0.1:1{path}"} for path in PATHS
    ]


def test_the_component_takes_every_policy_out():
    patches = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["patches"]
    removed = {each["target"]["kind"] for each in patches if "$patch: delete" in each.get("patch", "")}
    kinds = {
        each["kind"]
        for file in DEPLOY.rglob("*.yaml")
        if file.parent != FOLDER
        for each in documents(file)
        if "kind" in each
    }
    assert removed == {kind for kind in kinds if kind.startswith("MutatingAdmissionPolicy")}
