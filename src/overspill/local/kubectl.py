"""The kubectl of a cluster: the one that was built with its control plane.

In: a cluster. Out: its path and environment, or what it answers.
"""

from pathlib import Path

from overspill.errors import NotFound
from overspill.local.commands import run
from overspill.local.paths import Paths, cluster_paths
from overspill.local.plan import load_plan
from overspill.local.processes import Processes

__all__ = ["kubectl", "kubectl_path"]


def kubectl_path(name: str) -> tuple[str, dict[str, str]]:
    """The kubectl of the cluster `name`, and the environment to run it in.

    Raises:
        NotFound: there is no such cluster, or it never came as far as having an apiserver.
    """
    load_plan(name)
    paths = cluster_paths(name)
    apiserver = Processes(paths).find("kube-apiserver")
    if apiserver is None or not paths.kubeconfig.exists():
        raise NotFound(f"cluster {name!r} has no apiserver yet; `overspill up --name {name}` goes on with it")
    environment = {
        "KUBECONFIG": str(paths.kubeconfig),
        # By default in the user's home, by host and port, where the next cluster of that port would find it.
        "KUBECACHEDIR": str(paths.root / "kubectl-cache"),
    }
    return str(Path(apiserver.argv[0]).with_name("kubectl")), environment


async def kubectl(paths: Paths, *arguments: str, stdin: bytes = b"", timeout: float = 120.0) -> bytes:
    """Run kubectl as the administrator and return what it prints.

    Raises:
        Retry: it ended with another code than 0, or not within `timeout` seconds.
    """
    program, environment = kubectl_path(paths.root.name)
    return await run([program, *arguments], env=environment, stdin=stdin, timeout=timeout)
