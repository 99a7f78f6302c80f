"""The series of /metrics/probes and /metrics/cadvisor, read by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from overspill.backends.base import ContainerUsage, PodUsage, ProbeCount
from overspill.model.observation import ContainerObservation, Running
from overspill.model.work import Identity
from overspill.serve.kubelet.cadvisor import cadvisor_metrics
from overspill.serve.probemetrics import probe_metrics

WEB = Identity("cluster", "node", "shop", "web", "uid-1")
LABELS = {"container": "c", "namespace": "shop", "pod": "web", "probe_type": "Readiness"}


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_probes_are_counted_by_result():
    counts = [
        ProbeCount(WEB, "c", "Readiness", 3, 2, (0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1), 12.06),
        ProbeCount(WEB, "c", "Liveness", 0, 1, (0,) * 12, 0.0),
    ]
    found = families(probe_metrics(counts))
    assert found.keys() == {"prober_probe", "prober_probe_duration_seconds"}
    total = {
        (s.labels["probe_type"], s.labels["result"]): s.value
        for s in found["prober_probe"].samples
        if s.name == "prober_probe_total"
    }
    assert total == {("Readiness", "successful"): 3, ("Readiness", "failed"): 2, ("Liveness", "failed"): 1}
    assert all(s.labels["pod_uid"] == "uid-1" for s in found["prober_probe"].samples)


def test_successful_probes_are_timed():
    count = ProbeCount(WEB, "c", "Readiness", 3, 2, (0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1), 12.06)
    samples = families(probe_metrics([count]))["prober_probe_duration_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert [buckets[bound] for bound in ("0.005", "0.01", "0.05", "0.1", "10.0", "+Inf")] == [
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    assert {s.name[-6:]: s.value for s in samples if "le" not in s.labels} == {"ds_sum": 12.06, "_count": 3}
    assert all({k: v for k, v in s.labels.items() if k != "le"} == LABELS for s in samples)


def test_without_probes_there_is_no_series():
    assert probe_metrics([]) == b""


def test_cadvisors_series_tell_containers_from_cgroups():
    usage = PodUsage(WEB, 1700.5, (ContainerUsage("c", 1.5, 2048, 1600.0),))
    seen = ContainerObservation("c", Running(1600.0), "registry/web:1", container_id="podman://0123abc")
    found = families(cadvisor_metrics([usage], {("uid-1", "c"): seen}))
    labels = {
        "container": "c",
        "image": "registry/web:1",
        "name": "0123abc",
        "namespace": "shop",
        "pod": "web",
    }
    (cpu,) = found["container_cpu_usage_seconds"].samples
    assert (cpu.labels, cpu.value, cpu.timestamp) == ({**labels, "cpu": "total"}, 1.5, 1700.5)
    (memory,) = found["container_memory_working_set_bytes"].samples
    assert (memory.labels, memory.value) == (labels, 2048)
    (start,) = found["container_start_time_seconds"].samples
    assert (start.labels, start.value) == (labels, 1600.0)
