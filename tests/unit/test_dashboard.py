"""The dashboard and the scrape example hold what there is, and nothing else."""

import json
import pathlib
import re

import pytest
import yaml
from promql import exposed, used

ROOT = pathlib.Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def series():
    return exposed()


def expressions():
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_series_of_the_dashboard_is_exposed(expression, series):
    assert used(expression)
    assert used(expression) <= series


def test_a_name_that_is_not_exposed_would_be_seen(series):
    assert used('sum by (code) (rate(overspill_typo_total{code="OK"}[5m]))') == {"overspill_typo_total"}
    assert "overspill_typo_total" not in series


def test_series_of_our_own_are_all_shown(series):
    shown = set().union(*map(used, expressions()))
    ours = {
        name for name in series if name.startswith("overspill_") and not name.endswith(("_sum", "_created"))
    }
    missing = {name for name in ours - shown if not name.endswith(("_bucket", "_count"))}
    assert not missing


def test_panels_do_not_overlap_and_explain_themselves():
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(panel["description"] for panel in PANELS)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_scrape_example_finds_the_agents_service():
    jobs = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yaml").read_text())["scrape_configs"]
    (service,) = [
        each
        for each in yaml.safe_load_all((ROOT / "deploy/base/statefulset.yaml").read_text())
        if each["kind"] == "Service"
    ]
    keep = jobs[0]["relabel_configs"][0]
    label = service["metadata"]["labels"]["app.kubernetes.io/name"]
    assert keep["source_labels"][0].endswith("service_label_app_kubernetes_io_name")
    assert any(re.fullmatch(keep["regex"], f"{label};{port['name']}") for port in service["spec"]["ports"])


def test_the_page_names_every_series_of_our_own(series):
    page = (ROOT / "docs/metrics.md").read_text()
    ours = {name.removesuffix("_bucket") for name in series if name.startswith(("overspill_", "workqueue_"))}
    ours = {name for name in ours if not name.endswith(("_sum", "_count", "_created"))}
    named = set(re.findall(r"`((?:overspill|workqueue)_\w+)`", page))
    assert named == ours


def test_the_scrape_example_finds_the_controllers_service():
    keep = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yaml").read_text())["scrape_configs"][0]
    (service,) = [
        each
        for each in yaml.safe_load_all((ROOT / "deploy/placement/deployment.yaml").read_text())
        if each["kind"] == "Service"
    ]
    label = service["metadata"]["labels"]["app.kubernetes.io/name"]
    (port,) = service["spec"]["ports"]
    assert re.fullmatch(keep["relabel_configs"][0]["regex"], f"{label};{port['name']}")
