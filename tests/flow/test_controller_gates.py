"""Whether the controller says that an apiserver cannot make pods wait, against a small apiserver."""

import pytest
from aiohttp import web
from kube_server import serving

from overspill.controller.gates import Gates
from overspill.errors import Misconfigured
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials


async def asked(content):
    async def answer(request):
        assert request.path == "/apis/admissionregistration.k8s.io/v1"
        return web.json_response(content)

    async with (
        serving(answer) as url,
        Client(Config(server=url, credentials=FileCredentials()), connections=1) as client,
    ):
        gates = Gates(client)
        await gates.run()
        return gates.trouble


def resources(*names):
    return {"kind": "APIResourceList", "resources": [{"name": name, "namespaced": False} for name in names]}


async def test_an_apiserver_of_1_36_lacks_nothing():
    assert await asked(resources("mutatingadmissionpolicies", "mutatingwebhookconfigurations")) is None


async def test_an_older_one_needs_the_webhook():
    why = await asked(resources("mutatingwebhookconfigurations", "validatingadmissionpolicies"))
    assert "Kubernetes 1.36" in why
    assert "deploy/webhook" in why
    assert "--webhook-address" in why


async def test_what_is_no_apiserver_is_told():
    with pytest.raises(Misconfigured, match="something else"):
        await asked({"resources": "x"})
