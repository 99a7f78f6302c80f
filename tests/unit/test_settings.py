"""Settings: file < environment < flags, and no key is ignored."""

import pytest
from typer.testing import CliRunner

from overspill.cli.main import app
from overspill.errors import Misconfigured
from overspill.settings import (
    AgentSettings,
    ControllerSettings,
    load_agent_settings,
    load_controller_settings,
    setting_infos,
)


@pytest.fixture
def settings_file(tmp_path):
    path = tmp_path / "agent.yaml"

    def write(text: str) -> str:
        path.write_text(text)
        return str(path)

    return write


def test_later_sources_win(settings_file):
    path = settings_file("pods: 10\ncpu: '4'\nmemory: 1Gi\n")
    got = load_agent_settings(
        path, flags={"pods": "30"}, environ={"OVERSPILL_PODS": "20", "OVERSPILL_CPU": "8"}
    )
    assert (got.pods, got.cpu, got.memory) == (30, "8", "1Gi")


def test_mappings_and_lists_from_every_source(settings_file):
    path = settings_file("labels: {a: b}\nbackendOptions: {retries: 3}\n")
    got = load_agent_settings(path, environ={"OVERSPILL_CLUSTER_DNS": "10.0.0.10,10.0.0.11"})
    assert got.labels == {"a": "b"}
    assert got.backend_options == {"retries": 3}
    assert got.cluster_dns == ["10.0.0.10", "10.0.0.11"]
    assert load_agent_settings(flags={"labels": ["c=d", "e=f=g"]}, environ={}).labels == {
        "c": "d",
        "e": "f=g",
    }


BAD = {
    "unknown key in the file": ("nodename: x", {}, {}, r"settings file .*unknown field `nodename`"),
    "wrong type in the file": ("pods: many", {}, {}, r"settings file .*pods"),
    "not a mapping": ("- a", {}, {}, r"must hold key: value"),
    "not YAML": ("a: [", {}, {}, r"cannot be read"),
    "unknown variable": ("", {"OVERSPILL_PODZ": "1"}, {}, r"environment: unknown setting OVERSPILL_PODZ"),
    "not a quantity": ("", {"OVERSPILL_MEMORY": "lots"}, {}, r"environment: 'lots' is not a quantity"),
    "no pods": ("", {}, {"pods": "0"}, r"flags: .*>= 1"),
    "not key=value": ("", {}, {"labels": ["a"]}, r"--label: 'a' is not key=value"),
    "no port": ("", {}, {"health_address": "localhost"}, r"host:port"),
    "unknown level": ("", {}, {"log_level": "loud"}, r"flags: Invalid enum value 'loud'"),
}


@pytest.mark.parametrize(("text", "environ", "flags", "message"), BAD.values(), ids=BAD.keys())
def test_bad_settings_name_key_and_source(settings_file, text, environ, flags, message):
    with pytest.raises(Misconfigured, match=message):
        load_agent_settings(settings_file(text), environ=environ, flags=flags)


def test_missing_file_is_named():
    with pytest.raises(Misconfigured, match=r"/nowhere/agent\.yaml"):
        load_agent_settings("/nowhere/agent.yaml", environ={})


@pytest.mark.parametrize("name", ["", "Virtual_Node", "-a", "a" * 254])
def test_node_name_is_checked(name):
    with pytest.raises(Misconfigured, match="node"):
        load_agent_settings(flags={"node_name": name}, environ={}).require_node_name()


def test_one_file_serves_both_programs(settings_file):
    path = settings_file("backend: eci\nbackendOptions: {region: r}\npods: 5\norphanPolicy: report\n")
    agent, controller = load_agent_settings(path, environ={}), load_controller_settings(path, environ={})
    assert (agent.backend, agent.pods) == (controller.backend, 5) == ("eci", 5)
    assert (controller.backend_options, controller.orphan_policy) == ({"region": "r"}, "report")


def test_one_environment_serves_all_programs():
    environ = {"OVERSPILL_NODE_NAME": "vn", "OVERSPILL_BACKEND": "eci", "OVERSPILL_ORPHAN_POLICY": "report"}
    environ["OVERSPILL_EMULATOR_ACCESS_KEY_SECRET"] = "x"
    agent, controller = load_agent_settings(environ=environ), load_controller_settings(environ=environ)
    assert (agent.node_name, agent.backend) == ("vn", controller.backend) == ("vn", "eci")
    assert controller.orphan_policy == "report"


def test_a_key_of_neither_program_is_an_error(settings_file):
    with pytest.raises(Misconfigured, match="unknown field `orphanPolice`"):
        load_controller_settings(settings_file("orphanPolice: report\n"), environ={})


@pytest.mark.parametrize("flags", [{"orphan_quiet_seconds": "-1"}, {"health_address": "here"}])
def test_the_controllers_values_are_checked(flags):
    with pytest.raises(Misconfigured, match="flags"):
        load_controller_settings(flags=flags, environ={})


@pytest.mark.parametrize("kind", [AgentSettings, ControllerSettings])
def test_every_setting_is_described(kind):
    for info in setting_infos(kind):
        assert info.text.endswith("."), info.name
        assert info.group, info.name


def test_help_groups_the_flags():
    shown = CliRunner().invoke(app, ["agent", "--help"]).output
    at = [shown.index(f"─ {group} ─") for group in dict.fromkeys(info.group for info in setting_infos())]
    assert at == sorted(at)
    assert shown.index("─ Backend ─") < shown.index("--backend-option") < shown.index("─ Serving ─")
