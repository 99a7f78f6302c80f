"""What a cluster knows that nobody may read in its logs: keys, tokens, the emulator's secret, every Secret's content."""

import base64
import json

import yaml

from overspill.errors import NotFound
from overspill.local.paths import cluster_paths
from secret_scan import SECRETS, readable_files, words_of

# Of a Secret, what is no secret.
PUBLIC = {"ca.crt", "namespace", "tls.crt", "ALIBABA_CLOUD_ACCESS_KEY_ID"}


def leaked(cluster):
    """Lines of the cluster's logs, and of its files that others may read, which hold one of its secrets."""
    paths = cluster_paths(cluster.name)
    SECRETS.add(*_of_files(paths), *_of_objects(cluster))
    agents = (paths.machine / "log" / "pods").glob("kube-system_*/**/*.log")
    folders = (paths.processes, paths.config, paths.pki)
    shown = [file for folder in folders for file in readable_files(folder)]
    return SECRETS.leaks_in([*paths.logs.glob("*.log"), *(each for each in agents if each.is_file()), *shown])


def _of_files(paths):
    """Private keys, tokens of kubeconfigs, the emulator's access key."""
    found = {file.read_text().strip() for file in paths.emulator.glob("access-key-secret")}
    # Of a key in PEM the second line is secret in any case; the last one holds what its certificate tells as well.
    found |= {file.read_text().splitlines()[1] for file in paths.pki.glob("*.key")}
    for file in (paths.kubeconfig, *paths.pki.glob("*.kubeconfig")):
        users = yaml.safe_load(file.read_text())["users"] if file.exists() else ()
        found |= {user["user"].get(key, "") for user in users for key in ("token", "client-key-data")}
    return found


def _of_objects(cluster):
    """Contents of Secrets, as long as there is an apiserver to ask."""
    try:
        told = cluster.kubectl("get", "secrets", "-A", "-o", "json", check=False)
    except NotFound:
        return set()
    found = set()
    for secret in json.loads(told)["items"] if told else ():
        for key, value in (secret.get("data") or {}).items():
            if key not in PUBLIC:
                found |= words_of(base64.b64decode(value).decode(errors="replace"))
    return found
