"""What adds to pods at their creation, in both forms: policies of the apiserver, or the controller's webhook."""

import contextlib
import pathlib

from placement_world import ROOT, Controller, free_port

from overspill.local.paths import cluster_paths
from overspill.local.placement import webhook_at

DEPLOY = ROOT / "deploy"


def define(cluster):
    """PlacementPolicies and what the controller may do."""
    cluster.kubectl("apply", "-k", str(DEPLOY / "placement/definitions"))
    for kind in ("policies", "indexes"):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/placement{kind}.placement.overspill.dev")
    cluster.kubectl("apply", "-f", str(DEPLOY / "placement/rbac.yaml"))
    cluster.kubectl("apply", "-f", str(DEPLOY / "webhook/rbac.yaml"))


@contextlib.contextmanager
def policies(cluster, file):
    """The policies of a manifest in force, and gone afterwards."""
    define(cluster)
    cluster.kubectl("apply", "-f", str(DEPLOY / file))
    try:
        yield
    finally:
        cluster.kubectl("delete", "-f", str(DEPLOY / file), "--ignore-not-found")


@contextlib.contextmanager
def webhook(cluster, until, folder):
    """A controller that answers the apiserver, as the account that its manifests make; gone afterwards."""
    define(cluster)
    address = f"127.0.0.1:{free_port()}"
    replica = start_replica(cluster, folder / "webhook.log", address)
    try:
        point_at(cluster, address)
        until(lambda: trusted(cluster), what="webhook that is trusted")
        yield replica
    finally:
        # First, or in labelled namespaces nothing could be created for a while.
        cluster.kubectl("delete", "mutatingwebhookconfiguration", "overspill", "--ignore-not-found")
        replica.stop()


def start_replica(cluster, log, address, *flags):
    """One replica of the controller, with a webhook at this address."""
    kubeconfig = cluster_paths(cluster.name).pki / "controller.kubeconfig"
    return Controller("--webhook-address", address, *flags, log=pathlib.Path(log), kubeconfig=kubeconfig)


def point_at(cluster, address):
    """Have the apiserver ask there, as if somebody had just applied the manifest."""
    cluster.kubectl("apply", "-f", "-", stdin=webhook_at(f"https://{address}"))


def configuration(cluster):
    return cluster.get("mutatingwebhookconfiguration", "overspill")["webhooks"]


def trusted(cluster):
    """Whether the controller has written what apiservers are to trust."""
    return all(each["clientConfig"].get("caBundle") for each in configuration(cluster))
