"""What an agent may do at the apiserver, verb by verb, and why.

In: nothing. Out: a table. Invariant: it is what the code calls, no more and no less; tests compare
it with the calls in the source and with the roles in `deploy/base/rbac.yaml` and `deploy/eci/rbac.yaml`.
"""

from overspill.kube import resources
from overspill.kube.permission import Permission

__all__ = ["CLAIM_PERMISSIONS", "PERMISSIONS"]

PERMISSIONS = (
    Permission(
        resources.NAMESPACES,
        ("get",),
        "the cluster's identity, by which a backend tells its pods from those of another cluster",
        names=("kube-system",),
    ),
    Permission(
        resources.NODES,
        ("create", "delete", "get", "list", "patch", "watch"),
        "register the node, or adopt it; repair it when somebody changes it; delete it when it is to go",
    ),
    Permission(resources.NODES, ("patch",), "tell the node's conditions and capacity", subresource="status"),
    Permission(
        resources.LEASES,
        ("create", "delete", "get", "list", "patch", "update"),
        "the node's heartbeat, which goes with it, and the proof that no other agent is this node; what others ask of a shared quota",
        namespace="kube-node-lease",
    ),
    Permission(
        resources.PODS, ("delete", "list", "watch"), "follow the node's pods; end those that have ended"
    ),
    Permission(resources.PODS, ("patch",), "tell the pods' status", subresource="status"),
    Permission(
        resources.PODS, ("create",), "empty a node that is to go, as budgets allow", subresource="eviction"
    ),
    Permission(
        resources.STATEFULSETS,
        ("get",),
        "whether this node is still wanted when its agent is told to end",
        namespace="kube-system",
        names=("virtual-node-eci",),
    ),
    Permission(resources.CONFIGMAPS, ("get",), "environment and volumes of pods; only what a pod names"),
    Permission(resources.SECRETS, ("get",), "environment, volumes and pull secrets; only what a pod names"),
    Permission(
        resources.SERVICES, ("get", "list"), "service variables of pods; the address of the cluster's DNS"
    ),
    Permission(
        resources.SERVICEACCOUNTS,
        ("create",),
        "tokens bound to a pod, for its projected volume",
        subresource="token",
    ),
    Permission(
        resources.CONFIGMAPS,
        ("get", "list", "watch"),
        "whose client certificates count at the kubelet API; by the role extension-apiserver-authentication-reader",
        namespace="kube-system",
        names=("extension-apiserver-authentication",),
    ),
    Permission(resources.TOKENREVIEWS, ("create",), "who asks the kubelet API, by their token"),
    Permission(resources.SUBJECTACCESSREVIEWS, ("create",), "whether they may"),
    Permission(
        resources.CERTIFICATESIGNINGREQUESTS, ("create", "get"), "the kubelet API's serving certificate"
    ),
    Permission(resources.EVENTS, ("create", "patch"), "tell users what happened, and how often"),
)

# Of agents whose backend mounts what PersistentVolumeClaims stand for; so far that is `eci`.
CLAIM_PERMISSIONS = (
    Permission(resources.PERSISTENTVOLUMECLAIMS, ("get",), "volumes of pods; only what a pod names"),
    Permission(resources.PERSISTENTVOLUMES, ("get",), "what a claim is bound to"),
)
