"""The rest of a work spec: identity, containers, names, DNS, logins; and what is only warned about."""

import base64
import json

import pytest
from msgspec import structs
from podmaking import NODE, make_container, make_found, make_pod, resolved, work_of

from overspill.agent.references import TokenWish, references
from overspill.errors import Unsupported
from overspill.model.work import (
    Dns,
    ExecAction,
    HostAlias,
    HttpGetAction,
    Identity,
    Mount,
    Port,
    Probe,
    RegistryCredential,
    Resources,
    SecurityContext,
    TcpSocketAction,
)


def test_a_bare_pod_gets_the_defaults():
    work = work_of(make_pod(annotations={"k8s.aliyun.com/eci-use-specs": "2-4Gi"}))
    assert work.identity == Identity("cluster-uid", "vn-0", "shop", "web-0", "uid-1", 0)
    assert (work.restart_policy, work.termination_grace_period_seconds) == ("Always", 30)
    assert (work.hostname, work.domain, work.active_deadline_seconds) == ("web-0", "", None)
    assert work.annotations == {"k8s.aliyun.com/eci-use-specs": "2-4Gi"}
    assert work.containers[0].pull_policy == "IfNotPresent"


def test_a_container_is_handed_on_whole():
    declared = make_container(
        workingDir="/srv",
        ports=[
            {"containerPort": 80, "name": "http", "hostPort": 8080},
            {"containerPort": 53, "protocol": "UDP"},
        ],
        resources={
            "limits": {"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "2"},
            "requests": {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
        },
        volumeMounts=[
            {"name": "v", "mountPath": "/v", "readOnly": True},
            {"name": "v", "mountPath": "/w", "subPath": "w", "mountPropagation": "HostToContainer"},
            {"name": "v", "mountPath": "/x", "subPathExpr": "$(WHO)/x"},
        ],
        env=[{"name": "WHO", "value": "me"}],
        imagePullPolicy="Always",
        stdin=True,
        stdinOnce=True,
        tty=True,
        livenessProbe={
            "httpGet": {"port": "http", "httpHeaders": [{"name": "X", "value": "y"}]},
            "periodSeconds": 3,
        },
        readinessProbe={"tcpSocket": {"port": 80}, "initialDelaySeconds": 5, "timeoutSeconds": 2},
        lifecycle={
            "postStart": {"exec": {"command": ["hello"]}},
            "preStop": {"httpGet": {"port": "81", "path": "/bye"}},
        },
        terminationMessagePath="/tmp/why",
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext={"readOnlyRootFilesystem": True, "capabilities": {"add": ["NET_ADMIN"]}},
    )
    container = work_of(make_pod(declared, volumes=[{"name": "v", "emptyDir": {}}])).containers[0]
    assert container.working_dir == "/srv"
    assert container.ports == (Port(80, "TCP", "http", 8080), Port(53, "UDP"))
    assert container.resources == Resources(0.25, 512 << 20, 1.5, 1 << 30, 1 << 30, 2)
    assert container.mounts == (
        Mount("v", "/v", read_only=True),
        Mount("v", "/w", sub_path="w", propagation="HostToContainer"),
        Mount("v", "/x", sub_path="me/x"),
    )
    assert (container.pull_policy, container.stdin, container.stdin_once, container.tty) == (
        "Always",
        True,
        True,
        True,
    )
    assert container.liveness == Probe(HttpGetAction(80, headers=(("X", "y"),)), period_seconds=3)
    assert container.readiness == Probe(TcpSocketAction(80), initial_delay_seconds=5, timeout_seconds=2)
    assert (container.post_start, container.pre_stop) == (ExecAction(("hello",)), HttpGetAction(81, "/bye"))
    assert (container.termination_message_path, container.termination_message_policy) == (
        "/tmp/why",
        "FallbackToLogsOnError",
    )
    assert container.security == SecurityContext(
        read_only_root_filesystem=True, add_capabilities=("NET_ADMIN",)
    )


def test_every_container_is_there_in_its_order():
    pod = make_pod(
        {"name": "a"}, {"name": "b"}, initContainers=[make_container(name="i"), make_container(name="j")]
    )
    work = work_of(pod)
    assert [c.name for c in work.containers] == ["a", "b"]
    assert [c.name for c in work.init_containers] == ["i", "j"]


def test_the_pods_settings_are_handed_on():
    pod = make_pod(
        restartPolicy="OnFailure",
        terminationGracePeriodSeconds=0,
        activeDeadlineSeconds=60,
        shareProcessNamespace=True,
        securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]},
        hostAliases=[{"ip": "10.1.1.1", "hostnames": ["db", "db.local"]}],
    )
    work = work_of(pod)
    assert (work.restart_policy, work.termination_grace_period_seconds) == ("OnFailure", 0)
    assert (work.active_deadline_seconds, work.share_process_namespace) == (60, True)
    assert work.sysctls == (("net.core.somaxconn", "1024"),)
    assert work.host_aliases == (HostAlias("10.1.1.1", ("db", "db.local")),)


@pytest.mark.parametrize(
    ("of_pod", "own", "merged"),
    [
        ({}, {}, SecurityContext()),
        ({"runAsUser": 1, "runAsGroup": 2}, {}, SecurityContext(1, 2)),
        ({"runAsUser": 1, "runAsGroup": 2}, {"runAsUser": 0}, SecurityContext(0, 2)),
        ({}, {"runAsGroup": 3}, SecurityContext(None, 3)),
        ({"runAsNonRoot": True}, {}, SecurityContext(run_as_non_root=True)),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, SecurityContext()),
    ],
)
def test_a_containers_security_context_goes_before_the_pods(of_pod, own, merged):
    pod = make_pod({"securityContext": own}, securityContext=of_pod)
    assert work_of(pod).containers[0].security == merged


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ({"livenessProbe": {"newThing": {"port": 1}}}, "livenessProbe"),
        ({"readinessProbe": {"tcpSocket": {"port": "nowhere"}}}, "readinessProbe"),
        ({"lifecycle": {"preStop": {"newThing": {"seconds": 1}}}}, "lifecycle.preStop"),
        ({"restartPolicyRules": [{"action": "RestartAllContainers"}]}, "restartPolicyRules[0].action"),
        (
            {
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(IP)"}],
            },
            "volumeMounts.subPathExpr",
        ),
    ],
)
def test_values_that_cannot_be_honoured_are_refused(container, field):
    with pytest.raises(Unsupported) as raised:
        work_of(make_pod(container, volumes=[{"name": "v", "emptyDir": {}}]))
    assert raised.value.fields == (field,)


# --- names ---


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "web-0"),
        ({"hostname": "front"}, "front"),
        ({"name": "a" * 70}, "a" * 63),
        ({"name": "a" * 61 + "-.b" + "c" * 9}, "a" * 61),
        ({"name": "a" * 62 + ".b"}, "a" * 62),
        ({"name": "a" * 63}, "a" * 63),
    ],
)
def test_the_host_name(spec, expected):
    assert work_of(make_pod(**spec)).hostname == expected


def test_a_subdomain_gives_the_pod_a_domain():
    assert work_of(make_pod(hostname="web-0", subdomain="web")).domain == "web.shop.svc.cluster.local"


CLUSTER_SEARCH = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, Dns(("10.96.0.10",), CLUSTER_SEARCH, ("ndots:5",))),
        ({"dnsPolicy": "ClusterFirstWithHostNet"}, Dns(("10.96.0.10",), CLUSTER_SEARCH, ("ndots:5",))),
        ({"dnsPolicy": "Default"}, None),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["1.1.1.1"],
                    "searches": ["a.b"],
                    "options": [{"name": "edns0"}],
                },
            },
            Dns(("1.1.1.1",), ("a.b",), ("edns0",)),
        ),
        (
            {
                "dnsConfig": {
                    "nameservers": ["1.1.1.1", "10.96.0.10"],
                    "searches": ["a.b", "cluster.local"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                }
            },
            Dns(("10.96.0.10", "1.1.1.1"), (*CLUSTER_SEARCH, "a.b"), ("ndots:2", "edns0")),
        ),
    ],
)
def test_name_resolution(spec, expected):
    made = resolved(make_pod(**spec))
    assert made.work.dns == expected
    assert made.warnings == ()


def test_without_a_cluster_dns_the_backends_own_is_used():
    assert resolved(make_pod(), node=structs.replace(NODE, cluster_dns=())).work.dns is None


def test_there_is_no_resolv_conf_of_the_node_to_add_to():
    with pytest.raises(Unsupported, match="use dnsPolicy None"):
        resolved(make_pod(dnsPolicy="Default", dnsConfig={"searches": ["a.b"]}))


def test_what_goes_beyond_the_limits_of_resolvers_is_left_out_and_told():
    config = {
        "nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"],
        "searches": [f"d{i}.example" for i in range(40)],
    }
    made = resolved(make_pod(dnsConfig=config))
    assert made.work.dns.nameservers == ("10.96.0.10", "1.1.1.1", "1.1.1.2")
    assert len(made.work.dns.searches) == 32
    assert [warned.reason for warned in made.warnings] == ["DNSConfigForming"] * 2
    assert made.warnings[0].message.endswith("the applied nameserver line is: 10.96.0.10 1.1.1.1 1.1.1.2")


def test_the_search_list_has_a_length_as_well():
    searches = [f"{i}{'x' * 230}.example" for i in range(20)] + ["y" * 254]
    made = resolved(make_pod(dnsPolicy="None", dnsConfig={"nameservers": ["1.1.1.1"], "searches": searches}))
    assert list(made.work.dns.searches) == searches[:8]
    assert len(made.warnings) == 1


# --- logins ---


def docker_json(auths):
    return ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": json.dumps({"auths": auths})})


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def test_pull_secrets_of_every_shape():
    found = make_found(
        secrets={
            "json": docker_json(
                {"r1": {"auth": encoded("ann:pass:word")}, "r2": {"username": "bob", "password": "x"}}
            ),
            "unpadded": docker_json({"r3": {"auth": encoded("carl:y").rstrip("="), "email": "c@x"}}),
            "old": (
                "kubernetes.io/dockercfg",
                {".dockercfg": json.dumps({"r4": {"username": "dora", "password": "z"}})},
            ),
        }
    )
    pod = make_pod(imagePullSecrets=[{"name": "json"}, {"name": ""}, {"name": "unpadded"}, {"name": "old"}])
    made = resolved(pod, found)
    assert made.work.registry_credentials == (
        RegistryCredential("r1", "ann", "pass:word"),
        RegistryCredential("r2", "bob", "x"),
        RegistryCredential("r3", "carl", "y"),
        RegistryCredential("r4", "dora", "z"),
    )
    assert made.warnings == ()


@pytest.mark.parametrize(
    "secret",
    [
        None,
        {".dockerconfigjson": "{}"},
        ("kubernetes.io/dockerconfigjson", {"other": "{}"}),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "hunter2"}),
        docker_json({"r": {"auth": "hunter2!"}}),
        ("kubernetes.io/dockercfg", {".dockercfg": "[]"}),
    ],
)
def test_a_pull_secret_that_does_not_help_is_warned_about_and_no_more(secret):
    found = make_found(
        secrets={"bad": secret, "good": docker_json({"r": {"username": "u", "password": "p"}})}
    )
    made = resolved(make_pod(imagePullSecrets=[{"name": "bad"}, {"name": "good"}]), found)
    assert made.work.registry_credentials == (RegistryCredential("r", "u", "p"),)
    (warned,) = made.warnings
    assert warned.reason == "FailedToRetrieveImagePullSecret"
    assert warned.message == (
        "Unable to retrieve some image pull secrets (bad); attempting to pull the image may not succeed."
    )


# --- references ---


def test_everything_that_a_pod_refers_to_is_listed_once():
    pod = make_pod(
        {
            "envFrom": [{"configMapRef": {"name": "c1", "optional": True}}, {"secretRef": {"name": "s1"}}],
            "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k", "optional": True}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        },
        initContainers=[make_container(envFrom=[{"configMapRef": {"name": "c3"}}])],
        volumes=[
            {"name": "a", "configMap": {"name": "c1"}},
            {"name": "b", "secret": {"secretName": "s3", "optional": True}},
            {
                "name": "c",
                "projected": {"sources": [{"secret": {"name": "s4"}}, {"configMap": {"name": "c4"}}]},
            },
            {
                "name": "d",
                "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]},
            },
            {
                "name": "e",
                "projected": {"sources": [{"serviceAccountToken": {"path": "u", "audience": "vault"}}]},
            },
        ],
        imagePullSecrets=[{"name": "s5"}, {"name": ""}],
        enableServiceLinks=False,
    )
    wanted = references(pod.decoded_spec())
    assert wanted.config_maps == {"c1", "c2", "c3", "c4"}
    assert wanted.needed_config_maps == {"c1", "c2", "c3", "c4"}, "optional in one place, needed in another"
    assert wanted.secrets == {"s1", "s2", "s3", "s4", "s5"}
    assert wanted.needed_secrets == {"s1", "s4"}
    assert wanted.tokens == (TokenWish("clerk", "vault", 3600),)
    assert not wanted.service_links
