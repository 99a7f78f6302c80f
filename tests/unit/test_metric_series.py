"""The series of /metrics and their names."""

import pytest

from overspill import metrics
from overspill.errors import Retry


def lines_of(name):
    text = metrics.exposition().decode()
    return [line for line in text.splitlines() if line.startswith(name)]


def test_backend_calls_are_told_apart_by_outcome():
    with metrics.BackendCall("paper", "create"):
        pass
    with pytest.raises(Retry), metrics.BackendCall("paper", "create"):
        raise Retry("gone fishing")

    count = 'overspill_backend_request_seconds_count{backend="paper",code="%s",op="create"} 1.0'
    assert lines_of(count % "OK")
    assert lines_of(count % "Retry")


def test_pods_are_counted_when_asked():
    phases = {"Running": 3}
    stop = metrics.observe_pods(lambda: phases)
    try:
        phases["Pending"] = 1
        assert lines_of("overspill_pods{") == [
            'overspill_pods{phase="Running"} 3.0',
            'overspill_pods{phase="Pending"} 1.0',
        ]
    finally:
        stop()
    assert not lines_of("overspill_pods{")


@pytest.mark.parametrize(
    "name",
    [
        "overspill_pod_start_seconds",
        "overspill_backend_request_seconds",
        "overspill_watch_last_event_age_seconds",
        "overspill_watch_relists_total",
        "workqueue_depth",
        "workqueue_adds_total",
        "workqueue_retries_total",
        "rest_client_requests_total",
        "process_resident_memory_bytes",
    ],
)
def test_known_names_are_kept(name):
    assert lines_of(f"# TYPE {name} ")


def test_no_series_is_labelled_with_a_pod():
    labels = {
        label for series in metrics.REGISTRY.collect() for sample in series.samples for label in sample.labels
    }
    assert not labels & {"pod", "namespace", "uid"}
