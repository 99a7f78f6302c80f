"""What the controller and its guard may do at the apiserver, verb by verb, and why.

In: nothing. Out: a table. Invariant: it is what the code calls, no more and no less; tests compare
it with the calls in the source and with the roles in `deploy/placement`.
"""

from overspill.kube import resources
from overspill.kube.permission import Permission

__all__ = ["GUARD_PERMISSIONS", "PERMISSIONS"]

PERMISSIONS = (
    Permission(
        resources.NAMESPACES,
        ("get",),
        "the cluster's identity, by which a backend tells its pods from those of another cluster",
        names=("kube-system",),
    ),
    Permission(
        resources.PODS,
        ("delete", "list", "patch", "watch"),
        "follow pods, place them; delete those that their pool cannot run; whose container groups are orphans",
    ),
    Permission(
        resources.PODS,
        ("create",),
        "move pods to an earlier pool, where asked; empty nodes that are to go and have no agent",
        subresource="eviction",
    ),
    Permission(
        resources.NODES,
        ("delete", "list", "patch", "watch"),
        "which pool a node belongs to, what room it has, and whether its agent is there; cordon and delete those"
        " that are to go and have no agent",
    ),
    Permission(resources.NODES, ("patch",), "tell how far such a node's end is", subresource="status"),
    Permission(
        resources.LEASES,
        ("delete", "get"),
        "whether a virtual node's agent lives; the Lease of one that is taken away",
        namespace="kube-node-lease",
    ),
    Permission(resources.REPLICASETS, ("list", "watch"), "which revision of a workload is the newest"),
    Permission(resources.DEPLOYMENTS, ("list", "watch"), "how many pods a workload wants; the annotation"),
    Permission(
        resources.STATEFULSETS, ("list", "watch"), "how many pods a workload wants, and its first ordinal"
    ),
    Permission(
        resources.PLACEMENT_POLICIES,
        ("create", "delete", "list", "patch", "watch"),
        "what is to be placed; those that an annotation stands for are made here",
    ),
    Permission(resources.PLACEMENT_POLICIES, ("patch",), "tell how placement is", subresource="status"),
    Permission(
        resources.PLACEMENT_INDEXES,
        ("create", "delete", "list", "patch"),
        "tell the apiserver whose pods are to wait, and take back what another leader left; "
        "to apply an object that is not there is to create it",
    ),
    Permission(resources.EVENTS, ("create", "patch"), "tell users what happened, and how often"),
    Permission(resources.LEASES, ("create",), "become the replica that works", namespace="kube-system"),
    Permission(
        resources.LEASES,
        ("get", "update"),
        "stay the replica that works",
        namespace="kube-system",
        names=("overspill-controller",),
    ),
    Permission(
        resources.CONFIGMAPS,
        ("create",),
        "keep which container groups were seen without their pod, for the replica that works next",
        namespace="kube-system",
    ),
    Permission(
        resources.CONFIGMAPS,
        ("get", "update"),
        "go on from there",
        namespace="kube-system",
        names=("overspill-controller-orphans",),
    ),
)

GUARD_PERMISSIONS = (
    Permission(resources.PODS, ("list", "patch", "watch"), "know who waits, and let them go"),
    Permission(resources.PLACEMENT_POLICIES, ("list", "watch"), "how long they may wait, and where they go"),
    Permission(resources.EVENTS, ("create",), "tell users what happened; it happens to a pod once"),
    Permission(
        resources.LEASES,
        ("get",),
        "whether somebody leads",
        namespace="kube-system",
        names=("overspill-controller",),
    ),
)
