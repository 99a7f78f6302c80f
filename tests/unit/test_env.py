"""A container's environment: order, references, expansion, what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from podmaking import make_found, make_pod, resolved, service, work_of

from overspill.agent.env import expand
from overspill.agent.spec import Missing
from overspill.errors import Unsupported
from overspill.model.work import POD_IP, POD_IPS


def env_of(pod, found=None, index=0) -> dict[str, str]:
    return {var.name: var.value for var in work_of(pod, found).containers[index].env}


def field(path):
    return {"fieldRef": {"fieldPath": path}}


def key_of(kind, name, key, **more):
    return {f"{kind}KeyRef": {"name": name, "key": key} | more}


# --- expansion ---

KNOWN = {"A": "1", "B": "two words", "EMPTY": "", "$odd": "x", "$(A": "y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("-$(A)-$(B)-", "-1-two words-"),
        ("$(EMPTY)", ""),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(A$$", "$(A$"),
        ("$()", "$()"),
        ("$($odd)", "x"),
        ("$($(A)", "y"),
        ("$(A))", "1)"),
        ("$(A)\n$(A)", "1\n1"),
    ],
)
def test_expansion(text, expected):
    assert expand(text, KNOWN.get) == expected


@given(st.text(alphabet="a()$ ", max_size=30))
def test_expansion_agrees_with_a_reading_from_left_to_right(text):
    """The rules of third_party/forked/golang/expansion, character by character."""
    known = {"a": "A", "": "nothing"}

    def by_hand(rest: str) -> str:
        out = ""
        while rest:
            if rest.startswith("$$"):
                out, rest = out + "$", rest[2:]
            elif rest.startswith("$(") and ")" in rest:
                name, _, rest = rest[2:].partition(")")
                out += known.get(name, f"$({name})")
            else:
                out, rest = out + rest[0], rest[1:]
        return out

    assert expand(text, known.get) == by_hand(text)


# --- order ---


def test_what_looks_like_many_references_is_read_once():
    assert expand("$(" * 500_000 + "$$", KNOWN.get) == "$(" * 500_000 + "$"


def test_a_text_that_becomes_too_long_is_refused_and_not_made():
    with pytest.raises(Unsupported, match="more than 131072 characters"):
        expand("$(A)" * 1_000_000, {"A": "a" * 1000}.get)
    doubled = [{"name": "A0", "value": "aaaaaaaaaa"}]
    doubled += [{"name": f"A{n + 1}", "value": f"$(A{n})" * 10} for n in range(12)]
    with pytest.raises(Unsupported, match="no program can be given"):
        env_of(make_pod({"env": doubled}))
    many = [{"name": "A", "value": "a" * 100_000}, *({"name": f"B{n}", "value": "$(A)"} for n in range(100))]
    with pytest.raises(Unsupported, match="more than 6291456 characters"):
        env_of(make_pod({"env": many}))


def test_env_goes_before_env_from_before_service_links():
    found = make_found(
        config_maps={"one": {"X": "one", "WEB_SERVICE_HOST": "one"}, "two": {"X": "two", "Y": "two"}},
        services=[service("web", "10.96.0.80")],
    )
    pod = make_pod(
        {
            "envFrom": [{"configMapRef": {"name": "one"}}, {"configMapRef": {"name": "two"}}],
            "env": [{"name": "Y", "value": "env"}, {"name": "WEB_SERVICE_PORT", "value": "none"}],
        }
    )
    env = env_of(pod, found)
    assert (env["X"], env["Y"]) == ("two", "env")
    assert (env["WEB_SERVICE_HOST"], env["WEB_SERVICE_PORT"]) == ("one", "none")
    assert env["WEB_PORT"] == "tcp://10.96.0.80:80"


def test_no_variable_is_there_twice():
    found = make_found(services=[service("web")])
    env = work_of(
        make_pod({"env": [{"name": "WEB_PORT", "value": "x"}, {"name": "WEB_PORT", "value": "y"}]}), found
    )
    names = [var.name for var in env.containers[0].env]
    assert len(names) == len(set(names))


def test_a_reference_sees_only_what_stands_before_it():
    pod = make_pod(
        {
            "env": [
                {"name": "EARLY", "value": "$(LATE)"},
                {"name": "LATE", "value": "late"},
                {"name": "AGAIN", "value": "$(LATE)/$(FROM)/$(WEB_SERVICE_HOST)"},
            ],
            "envFrom": [{"configMapRef": {"name": "c"}}],
        }
    )
    env = env_of(
        pod, make_found(config_maps={"c": {"FROM": "$(LATE)"}}, services=[service("web", "10.1.1.1")])
    )
    assert env["EARLY"] == "$(LATE)"
    assert env["AGAIN"] == "late/$(LATE)/10.1.1.1", "values of a ConfigMap are not expanded themselves"


def test_command_and_args_see_every_variable():
    pod = make_pod(
        {
            "command": ["run", "$(A)", "$$(A)"],
            "args": ["--ip=$(IP)", "$(NONE)"],
            "env": [{"name": "A", "value": "a"}, {"name": "IP", "valueFrom": field("status.podIP")}],
        }
    )
    container = work_of(pod).containers[0]
    assert container.command == ("run", "a", "$(A)")
    assert container.args == (f"--ip={POD_IP}", "$(NONE)")


def test_the_address_is_put_in_wherever_it_waits():
    pod = make_pod(
        {
            "env": [
                {"name": "IP", "valueFrom": field("status.podIP")},
                {"name": "IPS", "valueFrom": field("status.podIPs")},
                {"name": "URL", "value": "http://$(IP):80"},
            ],
            "args": ["$(URL)"],
        }
    )
    work = work_of(pod)
    assert {v.value for v in work.containers[0].env} == {POD_IP, POD_IPS, f"http://{POD_IP}:80"}
    container = work.with_address("10.9.9.9").containers[0]
    assert [v.value for v in container.env] == ["10.9.9.9", "10.9.9.9", "http://10.9.9.9:80"]
    assert container.args == ("http://10.9.9.9:80",)


# --- sources ---


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "uid-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['a.b/c']", "d"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "two\nlines"),
        ("spec.nodeName", "vn-0"),
        ("spec.serviceAccountName", "clerk"),
        ("status.hostIP", "10.0.0.9"),
        ("status.hostIPs", "10.0.0.9"),
    ],
)
def test_fields_of_the_pod(path, value):
    pod = make_pod(
        {"env": [{"name": "X", "valueFrom": field(path)}]},
        labels={"app": "web", "a.b/c": "d"},
        annotations={"note": "two\nlines"},
    )
    assert env_of(pod) == {"X": value}


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.cpu", "250m", "6"),
        ("requests.cpu", "0", "1"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "1Mi", "256"),
        ("limits.memory", "0", "268435456"),
        ("requests.memory", "1Gi", "1"),
        ("limits.ephemeral-storage", "1Gi", "1024"),
        ("requests.ephemeral-storage", "1", "0"),
    ],
)
def test_resources_round_up_and_fall_back_to_the_node(resource, divisor, value):
    source = {"resourceFieldRef": {"resource": resource, "divisor": divisor}}
    resources = {"limits": {"cpu": "1500m", "memory": "256Mi"}, "requests": {"cpu": "250m", "memory": "64Mi"}}
    assert env_of(make_pod({"resources": resources, "env": [{"name": "X", "valueFrom": source}]})) == {
        "X": value
    }


def test_without_limits_the_node_is_the_limit():
    variables = [
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {
            "name": "MEMORY",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}},
        },
    ]
    assert env_of(make_pod({"env": variables})) == {"CPU": "64", "MEMORY": "256"}


def test_another_containers_resources_can_be_asked_for():
    source = {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "side"}}
    pod = make_pod(
        {"env": [{"name": "X", "valueFrom": source}]}, {"name": "side", "resources": {"limits": {"cpu": "3"}}}
    )
    assert env_of(pod) == {"X": "3"}


def test_keys_of_config_maps_and_secrets():
    pod = make_pod(
        {
            "env": [
                {"name": "C", "valueFrom": key_of("configMap", "conf", "mode")},
                {"name": "S", "valueFrom": key_of("secret", "keys", "api")},
                {"name": "GONE", "valueFrom": key_of("configMap", "conf", "none", optional=True)},
                {"name": "LOST", "valueFrom": key_of("secret", "none", "x", optional=True)},
                {"name": "NONE", "value": ""},
            ],
            "envFrom": [
                {"prefix": "P_", "secretRef": {"name": "keys"}},
                {"configMapRef": {"name": "none", "optional": True}},
            ],
        }
    )
    found = make_found(
        config_maps={"conf": {"mode": "fast $(S)", "bin": b"\xff"}, "none": None},
        secrets={"keys": {"api": "grün"}, "none": None},
    )
    assert env_of(pod, found) == {"P_api": "grün", "C": "fast $(S)", "S": "grün", "NONE": ""}


def test_binary_data_is_no_environment():
    pod = make_pod({"envFrom": [{"configMapRef": {"name": "conf"}}]})
    assert env_of(pod, make_found(config_maps={"conf": {"a": "b", "bin": b"\xff"}})) == {"a": "b"}


# --- service links ---


def test_services_are_told_as_the_kubelet_tells_them():
    ports = [{"port": 443, "name": "https"}, {"port": 53, "name": "dns-udp", "protocol": "UDP"}]
    env = env_of(make_pod(), make_found(services=[service("my-db", "fd00::1", *ports)]))
    assert env == {
        "MY_DB_SERVICE_HOST": "fd00::1",
        "MY_DB_SERVICE_PORT": "443",
        "MY_DB_SERVICE_PORT_HTTPS": "443",
        "MY_DB_SERVICE_PORT_DNS_UDP": "53",
        "MY_DB_PORT": "tcp://[fd00::1]:443",
        "MY_DB_PORT_443_TCP": "tcp://[fd00::1]:443",
        "MY_DB_PORT_443_TCP_PROTO": "tcp",
        "MY_DB_PORT_443_TCP_PORT": "443",
        "MY_DB_PORT_443_TCP_ADDR": "fd00::1",
        "MY_DB_PORT_53_UDP": "udp://[fd00::1]:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "fd00::1",
    }


def test_services_without_an_address_are_not_told():
    headless, outside = service("headless", "None"), {"metadata": {"name": "outside"}, "spec": {}}
    assert env_of(make_pod(), make_found(services=[headless, outside])) == {}


# --- what is missing ---


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, 'configmap "none" not found'),
        ({"envFrom": [{"secretRef": {"name": "none"}}]}, 'secret "none" not found'),
        (
            {"env": [{"name": "X", "valueFrom": key_of("configMap", "none", "k")}]},
            'configmap "none" not found',
        ),
        ({"env": [{"name": "X", "valueFrom": key_of("secret", "none", "k")}]}, 'secret "none" not found'),
        (
            {"env": [{"name": "X", "valueFrom": key_of("configMap", "some", "k")}]},
            "couldn't find key k in ConfigMap shop/some",
        ),
        (
            {"env": [{"name": "X", "valueFrom": key_of("secret", "some", "k")}]},
            "couldn't find key k in Secret shop/some",
        ),
        (
            {"env": [{"name": "X", "valueFrom": field("spec.restartPolicy")}]},
            "unsupported fieldPath: spec.restartPolicy",
        ),
        (
            {"env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}}]},
            "unsupported container resource : limits.hugepages-2Mi",
        ),
    ],
)
def test_what_is_missing_is_told_in_the_kubelets_words(container, message):
    found = make_found(config_maps={"none": None, "some": {}}, secrets={"none": None, "some": {}})
    with pytest.raises(Missing) as raised:
        resolved(make_pod(container), found)
    assert str(raised.value) == message
    assert (raised.value.reason, raised.value.event) == ("CreateContainerConfigError", "Failed")
    assert [problem.subject for problem in raised.value.problems] == ["main"]


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\x00b"])
def test_a_secret_that_can_be_no_variable_is_named_but_not_shown(value):
    found = make_found(secrets={"keys": {"api": value}})
    for container in (
        {"env": [{"name": "X", "valueFrom": key_of("secret", "keys", "api")}]},
        {"envFrom": [{"secretRef": {"name": "keys"}}]},
    ):
        with pytest.raises(Missing, match=r"key api of Secret .*keys .* cannot be an environment variable"):
            resolved(make_pod(container), found)


def test_everything_missing_is_told_at_once():
    pod = make_pod(
        {"env": [{"name": "X", "valueFrom": key_of("secret", "s", "k")}]},
        {"name": "other", "envFrom": [{"configMapRef": {"name": "c"}}]},
        initContainers=[{"name": "init", "envFrom": [{"secretRef": {"name": "s"}}]}],
    )
    with pytest.raises(Missing) as raised:
        resolved(pod, make_found(config_maps={"c": None}, secrets={"s": None}))
    assert str(raised.value) == 'secret "s" not found; configmap "c" not found'
    assert [problem.subject for problem in raised.value.problems] == ["init", "main", "other"]
