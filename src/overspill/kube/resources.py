"""API resources and their paths."""

from urllib.parse import quote

from msgspec import Struct

__all__ = [
    "CERTIFICATESIGNINGREQUESTS",
    "CONFIGMAPS",
    "DEPLOYMENTS",
    "EVENTS",
    "LEASES",
    "MUTATING_WEBHOOKS",
    "NAMESPACES",
    "NODES",
    "PERSISTENTVOLUMECLAIMS",
    "PERSISTENTVOLUMES",
    "PLACEMENT_INDEXES",
    "PLACEMENT_POLICIES",
    "PODS",
    "REPLICASETS",
    "SECRETS",
    "SERVICEACCOUNTS",
    "SERVICES",
    "STATEFULSETS",
    "SUBJECTACCESSREVIEWS",
    "TOKENREVIEWS",
    "Resource",
]


class Resource(Struct, frozen=True):
    """One kind of object as the API serves it; `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection (of all namespaces without one), an object, or its subresource."""
        path = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace and self.namespaced:
            path = f"{path}/namespaces/{quote(namespace, safe='')}"
        path = f"{path}/{self.plural}"
        if name:
            path = f"{path}/{quote(name, safe='')}"
        return f"{path}/{subresource}" if subresource else path


PODS = Resource("", "v1", "pods")
NODES = Resource("", "v1", "nodes", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
CONFIGMAPS = Resource("", "v1", "configmaps")
SECRETS = Resource("", "v1", "secrets")
PERSISTENTVOLUMECLAIMS = Resource("", "v1", "persistentvolumeclaims")
PERSISTENTVOLUMES = Resource("", "v1", "persistentvolumes", namespaced=False)
SERVICES = Resource("", "v1", "services")
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts")
STATEFULSETS = Resource("apps", "v1", "statefulsets")
REPLICASETS = Resource("apps", "v1", "replicasets")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
LEASES = Resource("coordination.k8s.io", "v1", "leases")
EVENTS = Resource("events.k8s.io", "v1", "events")
TOKENREVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", namespaced=False)
SUBJECTACCESSREVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", namespaced=False)
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", namespaced=False
)
CERTIFICATESIGNINGREQUESTS = Resource(
    "certificates.k8s.io", "v1", "certificatesigningrequests", namespaced=False
)
PLACEMENT_POLICIES = Resource("placement.overspill.dev", "v1alpha1", "placementpolicies")
PLACEMENT_INDEXES = Resource("placement.overspill.dev", "v1alpha1", "placementindexes")
