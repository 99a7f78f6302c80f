"""What is wrong with the annotation of a Deployment is told on that Deployment."""

import asyncio

import msgspec
import pytest
from aiohttp import web
from emulators import until
from kube_server import reasons, refusal, serving

import placing
from overspill import names
from overspill.kube.client import Client
from overspill.kube.config import Config
from overspill.kube.credentials import FileCredentials
from overspill.kube.events import Events
from overspill.kube.frames import Batch, Change
from overspill.placement.assigner import Assigner
from overspill.placement.workloads import Workload


async def answer(request):
    refused = request.method == "POST" and request.path.endswith("/placementpolicies")
    return refusal(422) if refused else web.json_response({"metadata": {}})


def change(found):
    return Batch(replace=False, changes=[Change("MODIFIED", found)])


@pytest.mark.parametrize(
    ("text", "policies", "reason"),
    [
        ("many", [], "BaseReplicasInvalid"),
        ("5", [placing.policy()], "BaseReplicasIgnored"),
        ("5", [], "PolicyRefused"),
    ],
)
async def test_what_is_wrong_with_an_annotation_is_told(text, policies, reason):
    meta = {"name": "web", "namespace": "a", "uid": "d", "annotations": {names.BASE_ANNOTATION: text}}
    async with (
        serving(answer) as url,
        Client(Config(server=url, credentials=FileCredentials())) as client,
        asyncio.TaskGroup() as tasks,
    ):
        events = Events(client, instance="test")
        assigner = Assigner(client, events, sure=lambda: True)
        for policy in policies:
            assigner.policies_changed(change(policy))
        deployment = msgspec.convert({"metadata": meta}, Workload)
        assigner.workloads_changed(assigner.deployments, change(deployment))
        running = tasks.create_task(assigner.run())

        async def told():
            return reason in reasons(events)

        await until(told, reason)
        running.cancel()
