"""Parameters on the wire: any tree survives flattening, and what cannot be read is named."""

import contextlib
import inspect
import re

import pytest
from alibabacloud_eci20180808 import models
from alibabacloud_tea_openapi.utils import Utils
from hypothesis import given
from hypothesis import strategies as st

from overspill.emulator import requests
from overspill.emulator.refusals import Refused
from overspill.emulator.requests import NOT_EMULATED, WITHOUT_EFFECT, CreateContainerGroup, Hook
from overspill.emulator.wire import flatten, from_body, read, strings, unflatten

keys = st.from_regex(r"[A-Z][A-Za-z0-9]{0,6}", fullmatch=True)
values = st.text(max_size=10)


def branches(inner):
    return st.one_of(
        st.dictionaries(keys, inner, min_size=1, max_size=4), st.lists(inner, min_size=1, max_size=4)
    )


trees = st.dictionaries(keys, st.recursive(values, branches, max_leaves=12), max_size=4)


@given(trees)
def test_there_and_back(tree):
    assert unflatten(dict(flatten(tree))) == tree


@given(trees)
def test_as_the_sdk_flattens(tree):
    assert dict(flatten(tree)) == Utils.query(tree)


@given(st.dictionaries(st.text(st.characters(codec="ascii"), max_size=12), st.text(max_size=4), max_size=8))
def test_nothing_but_refusals(parameters):
    with contextlib.suppress(Refused):
        assert set(unflatten(parameters)) == {name.partition(".")[0] for name in parameters}


@given(st.binary(max_size=40), st.sampled_from(["application/json", "application/x-www-form-urlencoded", ""]))
def test_any_body_is_read_or_refused(body, kind):
    with contextlib.suppress(Refused):
        assert all(isinstance(name, str) for name in from_body(body, kind))


def test_lists_are_put_in_the_order_of_their_numbers():
    assert unflatten({"Arg.10": "c", "Arg.2": "b", "Arg.1": "a"}) == {"Arg": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"A": "1", "A.B": "2"},
        {"A.B": "2", "A": "1"},
        {"A.0": "x"},
        {"A.99999999": "x"},
        {"A.1": "x", "A.01": "y"},
        {".".join("A" * 40): "x"},
    ],
)
def test_what_is_no_tree(parameters):
    with pytest.raises(Refused):
        unflatten(parameters)


def create(**changes):
    tree = {"ContainerGroupName": "demo", "Container": [{"Name": "c", "Image": "i"}]}
    return read(tree | changes, CreateContainerGroup)


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_booleans_as_clients_write_them(text):
    assert create(DryRun=text).dry_run is True
    assert create(DryRun="False").dry_run is False


def test_numbers_as_clients_write_them():
    request = create(Cpu="2.0", Memory="4", ActiveDeadlineSeconds="30")
    assert (request.cpu, request.memory, request.active_deadline_seconds) == (2.0, 4.0, 30)


@pytest.mark.parametrize(
    ("changes", "code", "name"),
    [
        ({"Container": [{"Name": "c"}]}, "MissingParameter", "Container.1.Image"),
        ({"Container": [{"Name": "c", "Image": "i", "Cpu": "much"}]}, "InvalidParameter", "Container.1.Cpu"),
        ({"RestartPolicy": "Sometimes"}, "InvalidParameter", "RestartPolicy"),
        ({"Container": "c"}, "InvalidParameter", "Container"),
        (
            {"Container": [{"Name": "c", "Image": "i", "Port": [{"Port": "1"}, {"Port": "x"}]}]},
            "InvalidParameter",
            "Container.1.Port.2.Port",
        ),
    ],
)
def test_refusals_name_the_parameter_as_it_was_written(changes, code, name):
    with pytest.raises(Refused, match=name.replace(".", r"\.")) as refused:
        create(**changes)
    assert refused.value.code == code


def test_json_arrays():
    assert strings('["a", "b"]', "Command") == ("a", "b")
    for text in ("a", "{}", "[1]", "\ud800"):
        with pytest.raises(Refused, match="Command"):
            strings(text, "Command")


# Parameters of the SDK's request that the emulator reads nowhere by name.
UNREAD = {"RegionId", "OwnerAccount", "OwnerId", "ResourceOwnerAccount", "ResourceOwnerId"}


def wire_names(kind):
    return set(re.findall(r"result\['([\w.]+)'\]", inspect.getsource(kind.to_map)))


def test_every_parameter_of_the_sdk_is_known():
    """Nothing is left out in silence: read, refused by name, or listed as without effect."""
    sent = wire_names(models.CreateContainerGroupRequest)
    read_here = set(CreateContainerGroup.__struct_encode_fields__)
    assert sent - read_here - NOT_EMULATED - WITHOUT_EFFECT - UNREAD == set()


@pytest.mark.parametrize("kind", ["Container", "InitContainer", "Volume", "ContainerVolumeMount"])
def test_every_parameter_of_a_part_is_known(kind):
    here = {"InitContainer": "Container", "ContainerVolumeMount": "VolumeMount"}.get(kind, kind)
    sent = wire_names(getattr(models, f"CreateContainerGroupRequest{kind}"))
    known = set(getattr(requests, here).__struct_encode_fields__)
    assert sent - known == set()


def test_lifecycle_handlers_are_put_together():
    tree = {"Name": "c", "Image": "i", "LifecyclePreStopHandlerExec": ["sleep", "1"]}
    container = create(Container=[tree]).container[0]
    assert container.hook("pre_stop") == Hook(exec=("sleep", "1"))
    assert container.hook("post_start") == Hook()


def test_an_update_spells_headers_otherwise():
    sent = wire_names(models.UpdateContainerGroupRequestContainer)
    here = requests.as_in_create({"Container": [dict.fromkeys(sent, "")]})["Container"][0]
    assert set(here) - set(requests.Container.__struct_encode_fields__) == set()
