"""The HTTP front: one path, every action.

In: signed requests, parameters in query, form or JSON body, for any action. Out: JSON with a RequestId,
or the service's error body. Invariant: an action runs only after its signature, its region and its rate
have passed; an error of ours never shows more than InternalError.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from overspill.emulator import group_actions, region_actions, runtime_actions
from overspill.emulator.auth import AccessKey, Nonces, SignedRequest, verify
from overspill.emulator.faults import Fault, Faults
from overspill.emulator.quotas import Throttle
from overspill.emulator.refusals import Refused
from overspill.emulator.service import Answer, Handler, Service
from overspill.emulator.wire import from_body, unflatten

__all__ = ["ACTIONS", "Front", "application"]

log = structlog.get_logger(__name__)

VERSION = "2018-08-08"
MOST_BYTES = 8 << 20
# The official SDKs put everything into the query: a group with config files has a line of 100 KB and more.
MOST_LINE = 1 << 20
ACTIONS: dict[str, Handler] = {
    **group_actions.ACTIONS,
    **runtime_actions.ACTIONS,
    **region_actions.ACTIONS,
}


class Call(Struct):
    """One request: what it asks for, and the id under which it is answered."""

    request_id: str
    host: str
    action: str
    parameters: dict[str, str]


class Front:
    """Takes requests for one region."""

    def __init__(
        self,
        service: Service,
        *,
        keys: Mapping[str, AccessKey],
        throttle: Throttle,
        faults: Faults,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._keys = keys
        self._throttle = throttle
        self._faults = faults
        self._clock = clock
        self._nonces = Nonces()
        self.calls: dict[str, int] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        call = Call(str(uuid.uuid4()).upper(), request.host, "", {})
        try:
            await self._admit(request, call)
            return await self._act(request, call)
        except Refused as refused:
            return _refusal(call, refused)
        except Exception:
            log.exception("action failed", action=call.action, request_id=call.request_id)
            return _refusal(call, Refused("InternalError", "The request processing has failed."))

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket of a command; its URL is its authorization."""
        return await self._service.execs.serve(request, self._service.engine.backend)

    async def _admit(self, request: web.Request, call: Call) -> None:
        """Read, verify, and check what every action has in common."""
        if request.method not in {"GET", "POST"}:
            raise Refused("UnsupportedHTTPMethod", f"The method {request.method} is not supported.")
        body = await request.read()
        query, form = dict(request.query), from_body(body, request.headers.get("Content-Type", ""))
        call.parameters = {**query, **form}
        headers = {name.lower(): value for name, value in request.headers.items()}
        call.action = headers.get("x-acs-action") or call.parameters.get("Action", "")
        signed = SignedRequest(
            method=request.method, path=request.path, query=query, headers=headers, body=body, form=form
        )
        verify(signed, keys=self._keys, nonces=self._nonces, now=self._clock() + self._faults.skew())
        self._check_action(call, headers.get("x-acs-version") or call.parameters.get("Version", ""))

    def _check_action(self, call: Call, version: str) -> None:
        if call.action not in ACTIONS:
            raise Refused("InvalidAction.NotFound", "Specified api is not found, check your url and method.")
        if version != region_actions.OF_THE_VPC.get(call.action, VERSION):
            raise Refused("InvalidVersion", "Specified parameter Version is not valid.")
        if call.parameters.get("Format", "JSON").upper() != "JSON":
            raise Refused("InvalidFormat", "Only the format JSON is served here.")
        region = call.parameters.get("RegionId", "")
        if not region and call.action != "DescribeRegions":
            raise Refused(
                "MissingParameter", "The input parameter RegionId that is mandatory is not supplied."
            )
        if region not in {"", self._service.cloud.region}:
            raise Refused("InvalidRegionId.NotFound", f"The specified RegionId {region} does not exist.")
        self.calls[call.action] = self.calls.get(call.action, 0) + 1
        self._throttle.check(call.action, now=self._clock())

    async def _act(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Meet the faults that are armed, then do what is asked."""
        if fault := self._faults.meet(call.action, "latency"):
            await asyncio.sleep(fault.seconds)
        if fault := self._faults.meet(call.action, "throttle", "error"):
            raise _ordered(fault)
        answer = await self._run(call)
        if self._faults.meet(call.action, "duplicate"):
            answer = await self._run(call)
        if self._faults.meet(call.action, "lost-reply") and request.transport:
            request.transport.abort()
        return _reply(200, {"RequestId": call.request_id, **answer})

    async def _run(self, call: Call) -> Answer:
        return await ACTIONS[call.action](self._service, unflatten(call.parameters))


def _ordered(fault: Fault) -> Refused:
    usual = ("Throttling", 400) if fault.kind == "throttle" else ("InternalError", 500)
    return Refused(
        fault.code or usual[0],
        "The emulator was told to refuse this request.",
        status=fault.status or (0 if fault.code else usual[1]),
        retry_after=round(fault.seconds * 1000),
    )


def _refusal(call: Call, refused: Refused) -> web.Response:
    body = {
        "RequestId": call.request_id,
        "HostId": call.host,
        "Code": refused.code,
        "Message": refused.message,
        "Recommend": "",
    }
    headers = {"x-acs-retry-after": str(refused.retry_after)} if refused.retry_after else {}
    log.info("refused", action=call.action, code=refused.code, request_id=call.request_id)
    return _reply(refused.status, body, headers=headers)


def _reply(status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def application(front: Front) -> web.Application:
    """The server of the API."""
    app = web.Application(client_max_size=MOST_BYTES)
    app.router.add_route("*", "/", front.handle)
    app.router.add_get("/exec/", front.exec)
    return app
