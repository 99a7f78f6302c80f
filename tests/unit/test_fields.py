"""Fields that nobody would act on are found, and only these."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.model.fields import AGENT, BACKEND, DEFAULTS, SCHEDULING, unsupported_fields

NOTHING: frozenset[str] = frozenset()

# As the API server returns an ordinary Deployment's pod, every default filled in.
ORDINARY = {
    "volumes": [
        {
            "name": "kube-api-access-x",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {
                        "configMap": {
                            "name": "kube-root-ca.crt",
                            "items": [{"key": "ca.crt", "path": "ca.crt"}],
                        }
                    },
                    {
                        "downwardAPI": {
                            "items": [
                                {
                                    "path": "namespace",
                                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                                }
                            ]
                        }
                    },
                ],
                "defaultMode": 420,
            },
        },
        {"name": "scratch", "emptyDir": {}},
        {"name": "conf", "configMap": {"name": "c", "defaultMode": 420, "optional": True}},
        {"name": "keys", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 256}]}},
    ],
    "containers": [
        {
            "name": "web",
            "image": "nginx:1",
            "command": ["a"],
            "args": ["b"],
            "workingDir": "/srv",
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c", "optional": False}}],
            "env": [
                {"name": "A", "value": "b"},
                {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": False}}},
            ],
            "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp", "readOnly": True}],
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
        }
    ],
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "nodeSelector": {"type": "virtual-kubelet"},
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "automountServiceAccountToken": False,
    "nodeName": "vn-0",
    "securityContext": {},
    "hostNetwork": False,
    "shareProcessNamespace": False,
    "affinity": {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    },
    "schedulerName": "default-scheduler",
    "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}],
    "priority": 0,
    "priorityClassName": "low",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "imagePullSecrets": [{"name": "registry"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
}


def test_an_ordinary_pod_asks_for_nothing_more():
    assert unsupported_fields(ORDINARY, NOTHING) == []


def container(**fields):
    return {"containers": [{"name": "a"}, {"name": "b", **fields}]}


PROBE = {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10, "failureThreshold": 3}


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"hostNetwork": True}, ["spec.hostNetwork"]),
        ({"hostUsers": False}, ["spec.hostUsers"]),
        ({"runtimeClassName": "kata"}, ["spec.runtimeClassName"]),
        ({"readinessGates": [{"conditionType": "x"}]}, []),
        ({"resources": {"limits": {"cpu": "1"}}}, ["spec.resources"]),
        ({"someFieldOfTheFuture": {"deep": 1}}, ["spec.someFieldOfTheFuture"]),
        (
            {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/"}}]},
            ["spec.volumes[1].hostPath"],
        ),
        (
            {"volumes": [{"name": "a", "configMap": {"name": "c", "newThing": 1}}]},
            ["spec.volumes[0].configMap.newThing"],
        ),
        (
            {
                "volumes": [
                    {"name": "a", "projected": {"sources": [{"podCertificate": {"keyType": "ED25519"}}]}}
                ]
            },
            ["spec.volumes[0].projected.sources[0].podCertificate"],
        ),
        (
            {"initContainers": [{"name": "a", "restartPolicy": "Always"}]},
            ["spec.initContainers[0].restartPolicy"],
        ),
        ({"ephemeralContainers": [{"name": "debug"}]}, []),
        (
            container(startupProbe=PROBE, lifecycle={"stopSignal": "SIGUSR1"}),
            ["spec.containers[1].startupProbe", "spec.containers[1].lifecycle"],
        ),
        (
            container(restartPolicy="Never", restartPolicyRules=[{"action": "Restart"}]),
            ["spec.containers[1].restartPolicy", "spec.containers[1].restartPolicyRules"],
        ),
        ({"securityContext": {"fsGroup": 0}}, ["spec.securityContext.fsGroup"]),
        (container(livenessProbe=PROBE), ["spec.containers[1].livenessProbe"]),
        (container(lifecycle={"preStop": {"sleep": {"seconds": 1}}}), ["spec.containers[1].lifecycle"]),
        (container(securityContext={"privileged": True}), ["spec.containers[1].securityContext.privileged"]),
        (
            container(securityContext={"allowPrivilegeEscalation": False}),
            ["spec.containers[1].securityContext.allowPrivilegeEscalation"],
        ),
        (container(terminationMessagePath="/tmp/why"), ["spec.containers[1].terminationMessagePath"]),
        (
            container(env=[{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k"}}}]),
            ["spec.containers[1].env[0].valueFrom.fileKeyRef"],
        ),
        (
            container(resources={"requests": {"cpu": "1", "nvidia.com/gpu": "1", "hugepages-2Mi": "2Mi"}}),
            ["spec.containers[1].resources.requests.hugepages-2Mi"],
        ),
        (
            container(volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "x"}]),
            ["spec.containers[1].volumeMounts[0].subPath"],
        ),
    ],
)
def test_what_nobody_honours_is_named(spec, paths):
    assert unsupported_fields(spec, NOTHING) == paths


@pytest.mark.parametrize(
    ("spec", "listed", "rest"),
    [
        (
            container(resources={"limits": {"cpu": "1", "memory": "1Gi"}}),
            {"containers[].resources.limits.cpu"},
            ["spec.containers[1].resources.limits.memory"],
        ),
        (container(livenessProbe=PROBE), {"containers[].livenessProbe.*"}, []),
        (
            container(livenessProbe=PROBE | {"newThing": 5}),
            {"containers[].livenessProbe.*"},
            ["spec.containers[1].livenessProbe.newThing"],
        ),
        (
            container(resources={"limits": {"nvidia.com/gpu": "1", "amd.com/gpu": "1"}}),
            {"containers[].resources.limits[nvidia.com/gpu]"},
            ["spec.containers[1].resources.limits[amd.com/gpu]"],
        ),
        (
            {"initContainers": [{"name": "a", "tty": True}]},
            {"containers[].tty"},
            ["spec.initContainers[0].tty"],
        ),
        ({"activeDeadlineSeconds": 5}, {"activeDeadlineSeconds"}, []),
        # What the agent has no way to hand on helps nobody, whatever a backend says.
        ({"runtimeClassName": "kata"}, {"runtimeClassName"}, ["spec.runtimeClassName"]),
        ({"hostNetwork": True}, {"hostNetwork", "securityContext.*"}, ["spec.hostNetwork"]),
    ],
)
def test_a_backend_adds_what_it_lists(spec, listed, rest):
    assert unsupported_fields(spec, frozenset(listed)) == rest


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_empty_values_ask_for_nothing(empty):
    assert (
        unsupported_fields({"runtimeClassName": empty, "securityContext": {"seLinuxOptions": empty}}, NOTHING)
        == []
    )


def test_a_plain_field_that_holds_more_than_a_value_is_looked_into():
    assert unsupported_fields({"hostname": {"from": "x"}}, NOTHING) == ["spec.hostname.from"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "containers", "volumes", "env", "value", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict))
)
def test_any_spec_can_be_looked_at(spec):
    for path in unsupported_fields(spec, BACKEND):
        assert path.startswith("spec.")


def test_each_path_stands_in_one_group():
    groups = [set(SCHEDULING), set(AGENT), set(BACKEND)]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert not (groups[0] | groups[1]) & set(DEFAULTS)
