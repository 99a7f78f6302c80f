"""Policies and workloads, as the tests of placement apply them."""

TOLERATION = {"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoSchedule"}


def pool(name, most=None, *, nodes=None, **more):
    """A pool of the nodes labelled pool=`nodes`; by default of those with the pool's own name."""
    limit = {} if most is None else {"maxReplicas": most}
    return {
        "name": name,
        "nodeSelector": {"pool": nodes or name},
        "tolerations": [TOLERATION],
        **limit,
        **more,
    }


def policy(*pools, name="web", **spec):
    target = (
        {}
        if "selector" in spec
        else {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}
    )
    return {
        "apiVersion": "placement.overspill.dev/v1alpha1",
        "kind": "PlacementPolicy",
        "metadata": {"name": name},
        "spec": {**target, "pools": list(pools) or [pool("base", 5), pool("elastic")], **spec},
    }


def template(app="web", *, annotations=None, **spec):
    metadata = {"labels": {"app": app}, **({"annotations": annotations} if annotations else {})}
    return {
        "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "x"}],
            **spec,
        },
    }


def deployment(replicas, *, name="web", surge="25%", unavailable="25%", strategy=None, **fields):
    """A Deployment; further fields are its template's."""
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": strategy or rolling,
            "template": template(name, **fields),
        },
    }
