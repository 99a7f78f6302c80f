"""What users get wrong: told at the start of the agent, or at the pod by condition and Event, with cause and remedy."""

import asyncio
import logging
import re

import msgspec
import pytest
from emulators import KEY, emulator

from overspill.agent.admission import Admission
from overspill.agent.podevents import Told, changes
from overspill.agent.references import ConfigMap, Found
from overspill.agent.scope import NodeFacts
from overspill.agent.spec import build
from overspill.backends.eci.backend import EciBackend
from overspill.emulator.network import VSwitch
from overspill.errors import Misconfigured, Unsupported
from overspill.model.observation import Observation
from overspill.model.pods import Pod
from overspill.model.podstatus import PodStatus, to_pod_status

REQUEST_ID = r"RequestId [0-9A-F-]{36}"
ROOM = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "100"}
NODE = NodeFacts(
    cluster="cluster",
    name="vn-0",
    ip="10.0.0.9",
    allocatable=ROOM,
    cluster_dns=("10.96.0.10",),
    cluster_domain="c",
)
# Of eight addresses each, the first and the last three are nobody's.
TINY = (
    VSwitch("vsw-a", "cn-hangzhou-h", "10.230.0.0/29"),
    VSwitch("vsw-b", "cn-hangzhou-i", "10.230.1.0/29"),
)
OF_BOTH = 8


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", KEY.secret)


def backend(rig, **more) -> EciBackend:
    options = {
        "region": rig.endpoint.region,
        "endpoint": rig.endpoint.endpoint,
        "vSwitchIds": ",".join(rig.endpoint.v_switch_ids),
        "pollSeconds": 0.05,
        **more,
    }
    return EciBackend(cluster="cluster", node="vn-0", options=options)


def pod(number: int = 1, **spec) -> Pod:
    meta = {"name": f"web-{number}", "namespace": "shop", "uid": f"{number:036d}"}
    spec = {"containers": [{"name": "main", "image": "example.org/app:1"}], **spec}
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=Pod)


def work_of(made: Pod, found: Found | None = None):
    return build(made, made.decoded_spec(), found or Found(), NODE).work


async def seen_until(batches, uid: str, condition) -> list[Observation]:
    """What was seen of a pod, up to what meets the condition."""
    history: list[Observation] = []
    async with asyncio.timeout(20):
        while not (history and condition(history[-1])):
            batch = await anext(batches)
            history += [s for s in batch if isinstance(s, Observation) and s.identity.uid == uid]
    return history


def told(history: list[Observation]) -> list[Told]:
    """The Events that the agent makes of them."""
    pairs = zip([None, *history], history, strict=False)
    return [event for before, after in pairs for event in changes(before, after)]


def condition_of(status: PodStatus):
    return next(c for c in status.conditions if c.type == "InstanceProvisioned")


# --- the account and its networks ---


async def test_a_wrong_key(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "wrong-secret-value")
    async with emulator(tmp_path) as rig:
        with pytest.raises(
            Misconfigured, match=rf"SignatureDoesNotMatch.*{REQUEST_ID}.*secret does not"
        ) as error:
            await backend(rig).__aenter__()
    assert "wrong-secret-value" not in str(error.value) + caplog.text


async def test_an_unknown_key(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "nobody")
    async with emulator(tmp_path) as rig:
        with pytest.raises(
            Misconfigured, match=rf"InvalidAccessKeyId.*{REQUEST_ID}.*ALIBABA_CLOUD_ACCESS_KEY_ID"
        ):
            await backend(rig).__aenter__()


async def test_an_unknown_region(tmp_path):
    async with emulator(tmp_path) as rig:
        with pytest.raises(Misconfigured, match=rf"InvalidRegionId.*{REQUEST_ID}.*setting region"):
            await backend(rig, region="mars-1").__aenter__()


async def test_no_vswitch_at_all(tmp_path):
    async with emulator(tmp_path) as rig:
        with pytest.raises(Misconfigured, match="vSwitchIds must not be empty"):
            backend(rig, vSwitchIds="")


async def test_an_unknown_vswitch(tmp_path):
    async with emulator(tmp_path) as rig, backend(rig, vSwitchIds="vsw-none") as eci:
        batches = eci.watch()
        work = work_of(pod())
        await eci.create(work)
        history = await seen_until(batches, work.identity.uid, lambda seen: seen.provisioned is False)
        condition = condition_of(to_pod_status(history[-1], host_ip=NODE.ip))
        assert (condition.status, condition.reason) == ("False", "Refused")
        expected = (
            rf"vsw-none.*InvalidVSwitchId\.NotFound, HTTP 404, {REQUEST_ID}.*check the setting vSwitchIds"
        )
        assert re.search(expected, condition.message)
        [event] = told(history)
        assert (event.warning, event.reason, event.message) == (True, "Refused", condition.message)


async def test_exhausted_addresses(tmp_path):
    """All of the first vSwitch, then all of the second, then a pod that waits and says why."""
    async with emulator(tmp_path, vswitches=TINY) as rig, backend(rig) as eci:
        batches = eci.watch()
        for number in range(OF_BOTH):
            await eci.create(work_of(pod(number)))
            await seen_until(batches, f"{number:036d}", lambda seen: bool(seen.ips))
        addresses = [seen.ips[0] for seen in await eci.list()]
        assert len({address.rpartition(".")[0] for address in addresses}) == 2
        late = work_of(pod(OF_BOTH))
        await eci.create(late)
        history = await seen_until(batches, late.identity.uid, lambda seen: seen.provisioned is False)
        condition = condition_of(to_pod_status(history[-1], host_ip=NODE.ip))
        assert (condition.status, condition.reason) == ("False", "NoAddress")
        expected = rf"InvalidVSwitchId\.IpNotEnough, HTTP 403, {REQUEST_ID}.*add a vSwitch"
        assert re.search(expected, condition.message)
        [event] = told(history)
        assert (event.warning, event.reason, event.message) == (True, "NoAddress", condition.message)


# --- pods that ECI cannot run: refused here, with nothing asked of ECI ---


BAD_FIELDS = {
    "hostPath": (pod(volumes=[{"name": "host", "hostPath": {"path": "/"}}]), "spec.volumes[0].hostPath"),
    "privileged": (
        pod(containers=[{"name": "main", "image": "x", "securityContext": {"privileged": True}}]),
        "spec.containers[0].securityContext.privileged",
    ),
    "an inline CSI volume": (
        pod(volumes=[{"name": "data", "csi": {"driver": "any"}}]),
        "spec.volumes[0].csi",
    ),
    "a startup probe": (
        pod(containers=[{"name": "main", "image": "x", "startupProbe": {"tcpSocket": {"port": 80}}}]),
        "spec.containers[0].startupProbe",
    ),
    "a container's own restart policy": (
        pod(containers=[{"name": "main", "image": "x", "restartPolicy": "Never"}]),
        "spec.containers[0].restartPolicy",
    ),
}


@pytest.mark.parametrize(("made", "field"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_fields_that_eci_does_not_have(made, field):
    admission = Admission(node_name="vn-0", labels={}, allocatable=ROOM, capabilities=EciBackend.capabilities)
    refusal = admission.admit(made)
    assert refusal is not None
    assert (refusal.reason, refusal.terminal) == ("UnsupportedPod", False)
    remedy = "do without, or run the pod on another node"
    assert refusal.message == f"not honoured on this node: {field}; {remedy}"


BIG = ConfigMap({"a": "x" * 30_000})
CONFIGURED = pod(volumes=[{"name": "cm", "configMap": {"name": "big"}}])
BAD_VALUES = {
    "21 containers": (
        pod(containers=[{"name": f"c{number}", "image": "x"} for number in range(21)]),
        Found(),
        "spec.containers: ECI runs at most 20 containers in a pod, not 21",
    ),
    "an init container after a sidecar": (
        pod(
            initContainers=[
                {"name": "proxy", "image": "x", "restartPolicy": "Always"},
                {"name": "setup", "image": "x"},
            ]
        ),
        Found(),
        (
            "spec.initContainers[0].restartPolicy: on ECI init containers run before sidecars, setup too: "
            "put sidecars after all of them"
        ),
    ),
    "a large ConfigMap": (
        CONFIGURED,
        Found({"big": BIG}),
        "spec.volumes[cm][a]: 30000 bytes are more than the 32 KiB in base64 of ECI",
    ),
}


@pytest.mark.parametrize(("made", "found", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
async def test_values_that_eci_does_not_take(tmp_path, made, found, message):
    async with emulator(tmp_path) as rig, backend(rig) as eci:
        with pytest.raises(Unsupported) as refused:
            await eci.create(work_of(made, found))
        assert str(refused.value) == f"ECI cannot run this pod: {message}"
        assert await eci.list() == []
        assert "CreateContainerGroup" not in (await rig.admin("GET", "/status"))["calls"]
