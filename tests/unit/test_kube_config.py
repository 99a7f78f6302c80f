"""Every way to an apiserver, and a clear word about each that does not work."""

import asyncio
import base64

import pytest
import yaml

from overspill.errors import Misconfigured
from overspill.kube.config import load_config

SECRET = "s3cr3t-token"


def kubeconfig(**parts):
    cluster = {"server": "https://here:6443"} | parts.get("cluster", {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": parts.get("current", "main"),
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": parts.get("user", {"token": SECRET})}],
        "contexts": [
            {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "work"}},
            {"name": "bare", "context": {"cluster": "c"}},
            {"name": "broken", "context": {"cluster": "none", "user": "u"}},
        ],
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def credential(config):
    return asyncio.run(config.credentials.get())


def test_a_context_is_taken_whole(tmp_path):
    config = load_config(write(tmp_path / "config", kubeconfig()))
    assert (config.server, config.namespace) == ("https://here:6443", "work")
    assert credential(config).token == SECRET


def test_another_context_by_name(tmp_path):
    config = load_config(write(tmp_path / "config", kubeconfig()), "bare")
    assert config.namespace == "default"
    assert credential(config).token == ""


def test_data_inline_and_files_beside_the_kubeconfig_are_the_same(tmp_path):
    for name in ("ca", "crt", "key"):
        (tmp_path / name).write_bytes(name.encode())

    def inline(name):
        return base64.b64encode(name.encode()).decode()

    by_file = load_config(
        write(
            tmp_path / "files",
            kubeconfig(
                cluster={"certificate-authority": "ca"},
                user={"client-certificate": "crt", "client-key": str(tmp_path / "key")},
            ),
        )
    )
    by_data = load_config(
        write(
            tmp_path / "data",
            kubeconfig(
                cluster={"certificate-authority-data": inline("ca")},
                user={"client-certificate-data": inline("crt"), "client-key-data": inline("key")},
            ),
        )
    )
    assert by_file.ca == by_data.ca == b"ca"
    assert credential(by_file) == credential(by_data)
    assert credential(by_file).key == b"key"


def test_token_file_wins_over_token(tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    config = load_config(
        write(tmp_path / "config", kubeconfig(user={"token": "stale", "tokenFile": "token"}))
    )
    assert credential(config).token == "from-file"


def test_kubeconfig_list_is_merged_and_the_first_wins(tmp_path):
    first = write(
        tmp_path / "a" / "config",
        {"current-context": "mine", "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}]},
    )
    second = write(tmp_path / "b" / "config", kubeconfig())
    third = write(tmp_path / "c" / "config", kubeconfig(cluster={"server": "https://elsewhere:1"}))
    config = load_config(environ={"KUBECONFIG": f"{tmp_path}/missing:{first}:{second}:{third}"})
    assert config.server == "https://here:6443"
    assert config.namespace == "default"


def test_order_is_path_then_variable_then_account_then_home(tmp_path):
    def at(name):
        return write(tmp_path / name / "config", kubeconfig(cluster={"server": f"https://{name}:1"}))

    account = tmp_path / "account"
    account.mkdir()
    for name, content in (("token", SECRET), ("ca.crt", "CA"), ("namespace", "kube-system\n")):
        (account / name).write_text(content)
    write(tmp_path / "home" / ".kube" / "config", kubeconfig(cluster={"server": "https://home:1"}))
    environ = {
        "KUBECONFIG": at("variable"),
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "HOME": str(tmp_path / "home"),
    }

    def server(path=None, without=()):
        left = {name: value for name, value in environ.items() if name not in without}
        return load_config(path, environ=left, account=account).server

    assert server(at("path")) == "https://path:1"
    assert server() == "https://variable:1"
    assert server(without=["KUBECONFIG"]) == "https://10.96.0.1:443"
    assert server(without=["KUBECONFIG", "KUBERNETES_SERVICE_HOST"]) == "https://home:1"


def test_the_pods_own_account(tmp_path):
    for name, content in (("token", SECRET), ("ca.crt", "CA"), ("namespace", "kube-system\n")):
        (tmp_path / name).write_text(content)
    config = load_config(environ={"KUBERNETES_SERVICE_HOST": "fd00::1"}, account=tmp_path)
    assert config.server == "https://[fd00::1]:443"
    assert (config.ca, config.namespace) == (b"CA", "kube-system")
    assert credential(config).token == SECRET


def test_nothing_to_go_by_says_what_was_tried(tmp_path):
    with pytest.raises(Misconfigured, match=r"KUBECONFIG.*service account.*\.kube/config.*--kubeconfig"):
        load_config(environ={"HOME": str(tmp_path)}, account=tmp_path)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"cluster": {"insecure-skip-tls-verify": True}}, "insecure-skip-tls-verify.*always verified"),
        ({"cluster": {"proxy-url": "http://proxy"}}, "proxy-url"),
        ({"cluster": {"server": "here"}}, "not a URL"),
        ({"cluster": {"server": "http://here:80"}}, "must be https"),
        ({"cluster": {"certificate-authority": "none.crt"}}, r"none\.crt cannot be read: No such file"),
        ({"cluster": {"certificate-authority-data": "%%"}}, "certificate-authority-data is not base64"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider.*exec"),
        ({"user": {"username": "x", "password": "y"}}, "username"),
        ({"user": {"client-certificate-data": "eA=="}}, "needs its key"),
        (
            {"user": {"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}},
            "v1alpha1",
        ),
        ({"current": ""}, "no current-context"),
        ({"current": "other"}, "no context 'other'; there is: bare, broken, main"),
        ({"current": "broken"}, "no cluster 'none'; there is: c"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(tmp_path, parts, words):
    with pytest.raises(Misconfigured, match=words):
        load_config(write(tmp_path / "config", kubeconfig(**parts)))


@pytest.mark.parametrize("text", ["", "[]", f"token: {SECRET}: x", "\tx"])
def test_a_broken_file_is_named_and_not_quoted(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=str(path)) as caught:
        load_config(str(path))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_secret_is_shown(tmp_path):
    config = load_config(write(tmp_path / "config", kubeconfig()))
    found = credential(config)
    assert SECRET not in repr(config) + repr(found) + str(found) + str(found.__rich_repr__())
