"""Names that other programs see: labels, annotations, taints, conditions, reasons.

The field's own words are kept (virtual-kubelet's and Alibaba's); ours are under `overspill.dev/`.
"""

# Node, as virtual-kubelet and its users know it.
NODE_TYPE_LABEL = "type"
NODE_TYPE = "virtual-kubelet"
NODE_ROLE_LABEL = "kubernetes.io/role"
NODE_ROLE = "agent"
PROVIDER_TAINT = "virtual-kubelet.io/provider"
HOSTNAME_LABEL = "kubernetes.io/hostname"
OS_LABEL = "kubernetes.io/os"
ARCH_LABEL = "kubernetes.io/arch"
REGION_LABEL = "topology.kubernetes.io/region"
# Of a node on backend `podman`: which Podman its pods run on.
PODMAN_LABEL = "overspill.dev/podman"
EXCLUDE_BALANCERS_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"

# Namespaces.
INJECTION_LABEL = "virtual-node-affinity-injection"
INJECTION_ENABLED = "enabled"

# Ours.
DOMAIN = "overspill.dev"
HOLDER_ANNOTATION = f"{DOMAIN}/agent-holder"
# On the Leases of agents that share an account's quotas: which, and how much each asks of them.
QUOTA_LABEL = f"{DOMAIN}/quota"
DEMAND_ANNOTATION = f"{DOMAIN}/quota-demand"
# What of a pod the backend does not honour, without refusing it: written on the pod; reason of the Event about it.
NOT_HONOURED_ANNOTATION = f"{DOMAIN}/not-honoured"
NOT_HONOURED = "NotHonoured"
COMPONENT = "overspill-agent"

# Scale-in. On a Node: the StatefulSet (namespace/name) and the ordinal that its agent has there; that it is to go
# for good once its agent is told to end (a label, so that it can be selected); that we cordoned it, nobody else.
STATEFUL_SET_ANNOTATION = f"{DOMAIN}/statefulset"
ORDINAL_ANNOTATION = f"{DOMAIN}/ordinal"
DECOMMISSION_LABEL = f"{DOMAIN}/decommission"
CORDONED_ANNOTATION = f"{DOMAIN}/cordoned-by"
CORDONED_BY = "scale-in"
# Conditions of a Node: it is being emptied for good; it has container groups, which somebody pays for.
DECOMMISSIONING = "Decommissioning"
CONTAINER_GROUPS = "ContainerGroups"

# Tags and labels by which a backend's groups are found again.
CLUSTER_TAG = f"{DOMAIN}/cluster"
NODE_TAG = f"{DOMAIN}/node"
NAMESPACE_TAG = f"{DOMAIN}/namespace"
POD_TAG = f"{DOMAIN}/pod"
UID_TAG = f"{DOMAIN}/uid"
ATTEMPT_TAG = f"{DOMAIN}/attempt"
# Written on a pod: the group that it runs as, as Alibaba's own virtual node writes it.
INSTANCE_ANNOTATION = "k8s.aliyun.com/eci-instance-id"

# Placement of a workload's pods over pools.
PLACEMENT = f"placement.{DOMAIN}"
GATE = f"{DOMAIN}/assign"
POOL_LABEL = f"{PLACEMENT}/pool"
POLICY_LABEL = f"{PLACEMENT}/policy"
RANK_ANNOTATION = f"{PLACEMENT}/rank"
RELEASE_FINALIZER = f"{PLACEMENT}/release"
BASE_ANNOTATION = f"{DOMAIN}/base-replicas"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
TEMPLATE_HASH = "pod-template-hash"
ROLLOUT_HASH = "rollouts-pod-template-hash"
