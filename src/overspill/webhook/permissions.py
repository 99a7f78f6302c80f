"""What the webhook adds to what the controller may do at the apiserver, and why.

In: nothing. Out: a table. Invariant: it is what the code calls, no more and no less; tests compare it with the calls
in the source and with the roles in `deploy/webhook/rbac.yaml`.
"""

from overspill.kube import resources
from overspill.kube.permission import Permission
from overspill.webhook.certificates import CONFIGURATION, SECRET

__all__ = ["PERMISSIONS"]

PERMISSIONS = (
    Permission(resources.PLACEMENT_POLICIES, ("list", "watch"), "whose pods are to wait"),
    Permission(
        resources.MUTATING_WEBHOOKS,
        ("get", "patch"),
        "have apiservers trust the serving certificates",
        names=(CONFIGURATION,),
    ),
    Permission(resources.SECRETS, ("create",), "share an authority among replicas", namespace="kube-system"),
    Permission(
        resources.SECRETS,
        ("get", "update"),
        "read it, and renew it in time",
        namespace="kube-system",
        names=(SECRET,),
    ),
)
