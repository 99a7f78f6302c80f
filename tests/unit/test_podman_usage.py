"""Podman's figures and the cgroups' as a kubelet counts them."""

from pathlib import Path

import pytest

from overspill.backends.podman.api import Stats
from overspill.backends.podman.seen import Run
from overspill.backends.podman.usage import pod_usage
from overspill.model.work import Identity

WHO = Identity("cluster", "node", "shop", "web", "uid")
V1 = "cache 900\nrss 100\ninactive_file 1\nactive_file 2\ntotal_cache 900\ntotal_inactive_file 600\ntotal_active_file 9\n"
V2 = "anon 100\nfile 900\ninactive_anon 5\nactive_anon 6\ninactive_file 600\nactive_file 300\n"
STATS = {"abc": Stats("abc", cpu_nanoseconds=1_500_000_000, memory_bytes=1000)}


def used(cgroups: Path, stats=STATS, **run):
    run = Run("abc", "app", 0, "running", started_at=50.0, **run)
    return pod_usage(WHO, [run], stats, sampled_at=60.0, cgroups=cgroups)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("memory/libpod_parent/libpod-abc", V1),
        ("memory/machine.slice/libpod-abc.scope", V1),
        ("libpod_parent/libpod-abc", V2),
        ("machine.slice/libpod-abc.scope", V2),
    ],
)
def test_memory_is_the_working_set(tmp_path: Path, place: str, text: str):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "memory.stat").write_text(text)
    (container,) = used(tmp_path).containers
    assert (container.cpu_seconds, container.memory_bytes, container.started_at) == (1.5, 400, 50.0)


def test_without_cgroups_in_sight_memory_is_what_podman_says(tmp_path: Path):
    assert used(tmp_path).containers[0].memory_bytes == 1000


def test_cache_that_grew_after_the_sample_makes_nothing_negative(tmp_path: Path):
    folder = tmp_path / "libpod_parent/libpod-abc"
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text("file 1\ninactive_file 5000\n")
    assert used(tmp_path).containers[0].memory_bytes == 0


def test_what_podman_does_not_tell_of_has_ended(tmp_path: Path):
    assert used(tmp_path, stats={}).containers == ()
