"""The admin port: faults, spot notices, state. On loopback, for whoever may use this machine.

In: JSON over HTTP from the command line and from tests. Out: JSON. Invariant: a request that a browser
was made to send from another site is refused: it names another host, or an origin.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from overspill.emulator.api import Front
from overspill.emulator.bill import total
from overspill.emulator.cloud import Cloud
from overspill.emulator.faults import Fault, Faults
from overspill.emulator.refusals import Refused

__all__ = ["Admin"]

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


class Admin:
    """What the admin port does. `facts` is what `status` tells beside the counts; no secret is in it.

    `restart` does not return; without it nobody can order one.
    """

    def __init__(
        self,
        cloud: Cloud,
        front: Front,
        faults: Faults,
        facts: Mapping[str, Any],
        *,
        restart: Callable[[], None] | None = None,
    ) -> None:
        self._restart_process = restart
        self._cloud = cloud
        self._front = front
        self._faults = faults
        self._facts = facts

    def application(self) -> web.Application:
        """The server."""
        app = web.Application(middlewares=[_own_host])
        app.router.add_get("/status", self._status)
        app.router.add_get("/bill", self._bill)
        app.router.add_get("/faults", self._list_faults)
        app.router.add_post("/faults", self._add_fault)
        app.router.add_delete("/faults", self._clear_faults)
        app.router.add_post("/spot/{group}", self._interrupt)
        app.router.add_post("/restart", self._restart)
        return app

    async def _status(self, _: web.Request) -> web.Response:
        books, network = self._cloud.books, self._cloud.network
        return _json(
            {
                **self._facts,
                "groups": Counter(entry.group.status for entry in books.entries()),
                "vcpu": {"used": books.used_cpu, "quota": self._cloud.max_cpu},
                "vSwitches": [
                    {"id": v.id, "zone": v.zone, "cidr": v.cidr, "free": network.pools[v.id].free}
                    for v in network.vswitches.values()
                ],
                "securityGroups": [
                    {"id": g.id, "kind": g.kind, "members": network.members[g.id]}
                    for g in network.security_groups.values()
                ],
                "calls": self._front.calls,
            }
        )

    async def _bill(self, _: web.Request) -> web.Response:
        lines = self._cloud.store.bill()
        return _json({"total": total(lines, now=self._cloud.clock()), "lines": lines})

    async def _list_faults(self, _: web.Request) -> web.Response:
        armed = self._faults.listed()
        return _json([{"number": a.number, "met": a.met, "left": a.left, "fault": a.fault} for a in armed])

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f"This is no fault: {error}") from error
        return _json({"number": self._faults.add(fault)}, 201)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        number = request.query.get("number", "")
        if number and not number.isdigit():
            raise web.HTTPBadRequest(text="A fault is cleared by its number.")
        self._faults.clear(int(number) if number else None)
        return _json({})

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        if self._restart_process is None:
            raise web.HTTPConflict(text="This emulator is part of another program, and restarts with it.")
        answer = _json({})
        await answer.prepare(request)
        await answer.write_eof()
        self._restart_process()
        return answer

    async def _interrupt(self, request: web.Request) -> web.Response:
        try:
            self._cloud.interrupt(request.match_info["group"])
        except Refused as refused:
            return _json({"Code": refused.code, "Message": refused.message}, refused.status)
        return _json({})


@web.middleware
async def _own_host(request: web.Request, handler: Any) -> web.StreamResponse:
    host = request.host.rsplit(":", 1)[0]
    if host not in LOOPBACK or "Origin" in request.headers:
        raise web.HTTPForbidden(text="The admin port answers to this machine alone.")
    answer: web.StreamResponse = await handler(request)
    return answer


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
