"""The writer of a namespace's index, against a small apiserver."""

import msgspec
import pytest
from aiohttp import web
from kube_server import serving

import placing
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.placement.index import IndexWriter


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
