"""The writer of a namespace's index, against a small apiserver."""

import msgspec
import pytest
from aiohttp import web
from kube_server import serving

import placing
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.placement import index
from overspill.placement.index import IndexWriter
from overspill.placement.policy import TargetRef


class Apiserver:
    def __init__(self):
        self.asked = []

    async def handle(self, request):
        self.asked.append((request.method, await request.json() if request.can_read_body else None))
        return web.json_response({})


@pytest.fixture
async def writer():
    apiserver = Apiserver()
    async with (
        serving(apiserver.handle) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
    ):
        writer = IndexWriter(client)
        writer.asked = apiserver.asked
        yield writer


def policy(name):
    made = placing.policy(name=name, targetRef={"name": name})
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, uid=name))


def edit(policy, **spec):
    return msgspec.structs.replace(policy, spec=msgspec.structs.replace(policy.spec, **spec))


async def test_each_policy_is_named_since_its_own_time(writer):
    """Where one comes every second, the first is indexed all the same."""
    first, second = policy("a"), policy("b")
    await writer.write("a", [first])
    since = writer.named_since(first)
    await writer.write("a", [first, second])
    assert writer.named_since(first) == since < writer.named_since(second)
    assert [body["spec"]["workloads"] for _, body in writer.asked] == [
        " apps/Deployment/a ",
        " apps/Deployment/a apps/Deployment/b ",
    ]


async def test_what_is_written_is_not_written_again_and_nothing_is_no_object(writer):
    first = policy("a")
    await writer.write("a", [first])
    await writer.write("a", [first])
    await writer.write("a", [])
    assert [method for method, _ in writer.asked] == ["PATCH", "DELETE"]
    await writer.write("a", [first])
    assert writer.named_since(first) > 0


async def test_an_edited_policy_is_named_anew_and_a_suspended_one_is_not(writer):
    first = policy("a")
    await writer.write("a", [first])
    edited = edit(first, target_ref=TargetRef("b"))
    await writer.write("a", [edited])
    assert writer.named_since(edited) > 0
    with pytest.raises(KeyError):
        writer.named_since(first)
    suspended = edit(edited, suspend=True)
    await writer.write("a", [suspended])
    with pytest.raises(KeyError):
        writer.named_since(suspended)


async def test_an_index_is_written_again_after_a_while_since_it_may_be_gone(writer, monkeypatch):
    first = policy("a")
    await writer.write("a", [first])
    monkeypatch.setattr(index, "STANDS", 0.0)
    assert writer.due("a") == 0
    await writer.write("a", [first])
    await writer.write("a", [])
    assert writer.due("a") is None
    await writer.write("a", [])
    assert [method for method, _ in writer.asked] == ["PATCH", "PATCH", "DELETE"]
