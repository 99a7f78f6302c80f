"""The alert rules name series that there are, and the runbook has a section for each."""

import pathlib
import re

import pytest
import yaml
from promql import exposed, used

ROOT = pathlib.Path(__file__).parents[2]
GROUPS = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
NAMES = [rule["alert"] for rule in RULES]


@pytest.fixture(scope="module")
def series():
    return exposed()


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_is_about_series_that_are_exposed(rule, series):
    assert used(rule["expr"])
    assert used(rule["expr"]) <= series


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_is_whole(rule):
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    text = rule["expr"]
    assert all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]", "{}"))


def test_labels_of_a_summary_are_those_of_its_expression():
    for rule in RULES:
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        asked = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert asked <= kept, rule["alert"]


@pytest.mark.parametrize(
    ("code", "alerts"),
    [
        ("OK", False),
        ("NotFound", False),
        ("ApiNotFound", False),
        ("Unsupported", False),
        ("NoRoom", True),
        ("ApiThrottled", True),
        ("ApiMisconfigured", True),
        ("Retry", True),
    ],
)
def test_a_backend_fails_by_some_codes(code, alerts):
    (rule,) = (rule for rule in RULES if rule["alert"] == "OverspillBackendFailing")
    (harmless,) = re.findall(r'code!~"([^"]*)"', rule["expr"])
    assert (re.fullmatch(harmless, code) is None) is alerts


def test_the_alert_of_a_dead_agent_is_about_what_the_scrape_example_finds():
    """The job's name, and the label that the agents' Service gives their targets."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "OverspillAgentDown")
    job = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yaml").read_text())["scrape_configs"][0]
    labels = {each.get("target_label"): each["source_labels"] for each in job["relabel_configs"]}
    assert labels["component"] == ["__meta_kubernetes_service_label_app_kubernetes_io_component"]
    (service,) = [
        each
        for each in yaml.safe_load_all((ROOT / "deploy/base/statefulset.yaml").read_text())
        if each["kind"] == "Service"
    ]
    component = service["metadata"]["labels"]["app.kubernetes.io/component"]
    assert f'up{{job="{job["job_name"]}",component="{component}"}}' in rule["expr"]
    # A Service leads to agents that are down as well.
    assert service["spec"]["publishNotReadyAddresses"]


def test_the_runbook_has_a_section_for_each_alert_and_no_other():
    assert re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE) == NAMES


def test_no_two_alerts_have_one_name():
    assert len(set(NAMES)) == len(NAMES)
