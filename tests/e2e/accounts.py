"""Kubeconfigs of the ServiceAccounts that overspill's programs have in a cluster."""

import json

import yaml


def kubeconfig_of(cluster, service_account, path):
    """One with a token of an account of kube-system."""
    config = yaml.safe_load(cluster.overspill("kubeconfig").stdout)
    token = cluster.kubectl("create", "token", service_account, "-n", "kube-system").strip()
    config["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(config))
    return path
