"""The admin port: faults, spot notices, state. On loopback, for whoever may use this machine.

In: JSON over HTTP from the command line and from tests. Out: JSON. Invariant: a request that a browser
was made to send from another site is refused: it names another host, or an origin.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from overspill.emulator.api import Front
from overspill.emulator.bill import total
from overspill.emulator.cloud import Cloud
from overspill.emulator.faults import Fault, Faults
from overspill.emulator.refusals import Refused

__all__ = ["admin_application"]

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


def admin_application(
    cloud: Cloud, front: Front, faults: Faults, facts: Mapping[str, Any]
) -> web.Application:
    """The server of the admin port. `facts` is what `status` tells beside the counts; no secret is in it."""
    app = web.Application(middlewares=[_own_host])
    app.router.add_get("/status", lambda _: _status(cloud, front, facts))
    app.router.add_get("/bill", lambda _: _bill(cloud))
    app.router.add_get("/faults", lambda _: _faults(faults))
    app.router.add_post("/faults", lambda request: _add_fault(request, faults))
    app.router.add_delete("/faults", lambda request: _clear(request, faults))
    app.router.add_post("/spot/{group}", lambda request: _interrupt(request, cloud))
    return app


@web.middleware
async def _own_host(request: web.Request, handler: Any) -> web.StreamResponse:
    host = request.host.rsplit(":", 1)[0]
    if host not in LOOPBACK or "Origin" in request.headers:
        raise web.HTTPForbidden(text="The admin port answers to this machine alone.")
    answer: web.StreamResponse = await handler(request)
    return answer


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def _status(cloud: Cloud, front: Front, facts: Mapping[str, Any]) -> web.Response:
    books = cloud.books
    network = cloud.network
    return _json(
        {
            **facts,
            "groups": Counter(entry.group.status for entry in books.entries() if not entry.group.hidden),
            "vcpu": {"used": books.used_cpu, "quota": cloud.max_cpu},
            "vSwitches": [
                {"id": v.id, "zone": v.zone, "cidr": v.cidr, "free": network.pools[v.id].free}
                for v in network.vswitches.values()
            ],
            "securityGroups": [
                {"id": g.id, "kind": g.kind, "members": network.members[g.id]}
                for g in network.security_groups.values()
            ],
            "calls": front.calls,
        }
    )


async def _bill(cloud: Cloud) -> web.Response:
    lines = cloud.store.bill()
    return _json({"total": total(lines, now=cloud.clock()), "lines": lines})


async def _faults(faults: Faults) -> web.Response:
    listed = [{"number": a.number, "met": a.met, "left": a.left, "fault": a.fault} for a in faults.listed()]
    return _json(listed)


async def _add_fault(request: web.Request, faults: Faults) -> web.Response:
    try:
        fault = msgspec.json.decode(await request.read(), type=Fault)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=f"This is no fault: {error}") from error
    return _json({"number": faults.add(fault)}, 201)


async def _clear(request: web.Request, faults: Faults) -> web.Response:
    number = request.query.get("number", "")
    if number and not number.isdigit():
        raise web.HTTPBadRequest(text="A fault is cleared by its number.")
    faults.clear(int(number) if number else None)
    return _json({})


async def _interrupt(request: web.Request, cloud: Cloud) -> web.Response:
    try:
        cloud.interrupt(request.match_info["group"])
    except Refused as refused:
        return _json({"Code": refused.code, "Message": refused.message}, refused.status)
    return _json({})
