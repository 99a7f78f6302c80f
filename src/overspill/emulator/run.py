"""The composition root of an emulator: one TaskGroup, ended by cancellation.

In: settings. Out: a served API, an admin port, an engine in step; `endpoint.json` in the state folder says
where they are. Invariant: everything that a client was told of is in the state folder; started again on
it, the emulator goes on where it was killed.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct, field

from overspill.backends.base import Backend
from overspill.backends.registry import backend_factory
from overspill.emulator.admin import Admin
from overspill.emulator.api import MOST_LINE, Front, application
from overspill.emulator.auth import AccessKey
from overspill.emulator.books import Books
from overspill.emulator.cloud import Cloud, Timings
from overspill.emulator.engine import Engine
from overspill.emulator.faults import Faults
from overspill.emulator.network import Network, SecurityGroup, VSwitch
from overspill.emulator.networks import Networks, NoNetworks, PodmanNetworks
from overspill.emulator.quotas import RATES, Rate, Throttle
from overspill.emulator.service import Service, Zones
from overspill.emulator.stock import Stock
from overspill.emulator.store import Store
from overspill.emulator.streams import Execs
from overspill.emulator.usage import History
from overspill.errors import Misconfigured

__all__ = ["DATABASE", "ENDPOINT", "Endpoint", "Settings", "read_endpoint", "serve"]

log = structlog.get_logger(__name__)

DATABASE = "emulator.sqlite"
ENDPOINT = "endpoint.json"
SECRET = "access-key-secret"  # noqa: S105 - the name of a file
FORGET_SECONDS = 5.0
# How long the clock's task sleeps when nothing falls due.
IDLE_SECONDS = 60.0


class Settings(Struct, frozen=True, kw_only=True):
    """How an emulator is run.

    Attributes:
        listen: HOST:PORT of the API; port 0 takes a free one, the same again after a restart.
        admin_port: on loopback; 0 takes a free one.
        engine: name of a backend; `engine_options` are its own.
        networks: `podman` makes a Podman network per vSwitch, `none` leaves addresses to the engine.
        state: folder of the database, the generated secret and `endpoint.json`.
        rates: of the API's actions; empty lifts all limits.
        tls: certificate and key in PEM; without, the API is plain HTTP.
    """

    state: Path
    listen: str = "127.0.0.1:0"
    admin_port: int = 0
    engine: str = "simulated"
    engine_options: dict[str, Any] = {}
    networks: str = "none"
    region: str = "cn-hangzhou"
    vpc: str = "vpc-emulator"
    vswitches: tuple[VSwitch, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = (SecurityGroup("sg-emulator", "enterprise"),)
    access_key: AccessKey = AccessKey("emulator", "")
    more_keys: tuple[AccessKey, ...] = ()
    max_cpu: float = 100_000.0
    stock: dict[tuple[str, str], int] = {}
    timings: Timings = Timings()
    rates: dict[str, Rate] = field(default_factory=lambda: dict(RATES))
    seed: int = 0
    tls: tuple[Path, Path] | None = None


class Endpoint(Struct, frozen=True, rename="camel"):
    """Where an emulator is, for clients and for the command line; the secret is in the file named.

    `emulator` is its id, the label of the networks that it made (`networks.LABEL`).
    """

    emulator: str
    endpoint: str
    admin: str
    region: str
    access_key_id: str
    secret_file: str
    v_switch_ids: tuple[str, ...]
    security_group_id: str
    pid: int


def read_endpoint(state: Path) -> Endpoint:
    """Where the emulator of a state folder is, or was last.

    Raises:
        Misconfigured: none was ever started there, or its file cannot be understood.
    """
    try:
        return msgspec.json.decode((state / ENDPOINT).read_bytes(), type=Endpoint)
    except FileNotFoundError as error:
        raise Misconfigured(f"no emulator was started with the state folder {state}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # as a power cut leaves it
        raise Misconfigured(f"{state / ENDPOINT} says nothing any more; start the emulator again") from error


def default_vswitches(region: str) -> tuple[VSwitch, ...]:
    """Two zones of 4,092 addresses each."""
    return (
        VSwitch("vsw-a", f"{region}-a", "172.29.0.0/20"),
        VSwitch("vsw-b", f"{region}-b", "172.29.16.0/20"),
    )


async def serve(
    settings: Settings,
    *,
    ready: Callable[[Endpoint], None] = lambda _: None,
    restart: Callable[[], None] | None = None,
) -> None:
    """Serve until cancelled; `ready` is called once everything answers, `restart` when one is ordered.

    Raises:
        Misconfigured: a setting, the state folder, a port or the engine is not as it must be.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(contextlib.closing(_store(settings.state)))
        faults = Faults(seed=settings.seed)
        cloud = _cloud(settings, store, faults)
        networks = await _networks(settings, cloud.id).ensure(_vswitches(settings))
        backend = _backend(settings, cloud.id, networks)
        await stack.enter_async_context(backend)
        engine = Engine(backend, emulator=cloud.id, books=cloud.books, networks=networks)
        history = History(engine.usage)
        api = stack.enter_context(_listen(settings))
        admin = stack.enter_context(_listen_for_admin(settings))
        service = Service(
            cloud=cloud,
            engine=engine,
            history=history,
            execs=Execs(),
            zones=Zones(
                tuple(dict.fromkeys(v.zone for v in _vswitches(settings))), _url(api, "").removeprefix("://")
            ),
            websocket=_url(api, "wss" if settings.tls else "ws"),
        )
        front = Front(service, keys=_keys(settings), throttle=Throttle(settings.rates), faults=faults)
        url = _url(api, "https" if settings.tls else "http")
        facts = {"endpoint": url, "region": settings.region, "engine": backend.name}
        await _start(stack, application(front), api, tls=_tls(settings))
        await _start(stack, Admin(cloud, front, faults, facts, restart=restart).application(), admin)
        endpoint = _endpoint(settings, emulator=cloud.id, api=url, admin=_url(admin))
        _write_endpoint(settings.state, endpoint)
        ready(endpoint)
        await _run(engine, cloud, history)


def _store(state: Path) -> Store:
    try:
        return Store(state / DATABASE)
    except (OSError, sqlite3.Error) as error:
        raise Misconfigured(f"the state folder {state} cannot be used: {error}") from error


async def _run(engine: Engine, cloud: Cloud, history: History) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run(), name="engine")
        tasks.create_task(_keep_time(cloud), name="clock")
        tasks.create_task(_forget(cloud), name="retention")
        tasks.create_task(history.run(), name="metrics")


async def _keep_time(cloud: Cloud) -> None:
    """Do what falls due when it does."""
    earlier = asyncio.Event()
    cloud.books.on_due = earlier.set
    while True:
        earlier.clear()
        cloud.tick()
        due = cloud.books.next_due()
        wait = IDLE_SECONDS if due is None else max(0.0, due - cloud.clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await earlier.wait()


async def _forget(cloud: Cloud) -> None:
    while True:
        cloud.forget()
        await asyncio.sleep(FORGET_SECONDS)


def _vswitches(settings: Settings) -> tuple[VSwitch, ...]:
    return settings.vswitches or default_vswitches(settings.region)


def _cloud(settings: Settings, store: Store, faults: Faults) -> Cloud:
    network = Network(
        settings.vpc,
        vswitches=_vswitches(settings),
        security_groups=settings.security_groups,
        seed=settings.seed,
    )
    books = Books(store=store, network=network, stock=Stock(settings.stock), clock=time.time)
    return Cloud(
        region=settings.region, books=books, faults=faults, timings=settings.timings, max_cpu=settings.max_cpu
    )


def _backend(settings: Settings, emulator: str, networks: Mapping[str, str]) -> Backend:
    """The engine; one with networks has the first vSwitch's for what names none."""
    own: dict[str, Any] = {}
    if networks:
        own = {"network": next(iter(networks.values())), "place_by_annotation": True}
    factory = backend_factory(settings.engine)
    return factory(cluster=emulator, node=settings.region, options=own | settings.engine_options)


def _networks(settings: Settings, emulator: str) -> Networks:
    if settings.networks == "podman":
        socket = str(settings.engine_options.get("socket", "/run/podman/podman.sock"))
        return PodmanNetworks(socket, emulator=emulator)
    return NoNetworks()


def _keys(settings: Settings) -> dict[str, AccessKey]:
    key = settings.access_key
    if not key.secret:
        key = AccessKey(key.id, _generated_secret(settings.state), key.token)
    return {each.id: each for each in (key, *settings.more_keys)}


def _generated_secret(state: Path) -> str:
    """The secret of the state folder, made at the first start, readable by its owner alone."""
    path = state / SECRET
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Misconfigured(f"{path} can be read by others: run `chmod 600 {path}`")
        return path.read_text().strip()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    secret = secrets.token_hex(16)
    with os.fdopen(handle, "w") as file:
        file.write(secret)
    return secret


def _listen(settings: Settings) -> socket.socket:
    """The API's socket; a free port that was taken once is taken again, so that clients find it."""
    host, _, port = settings.listen.rpartition(":")
    if not host or not port.isdigit():
        raise Misconfigured(f"listen address {settings.listen!r} is not of the form HOST:PORT")
    if not int(port):
        with contextlib.suppress(Misconfigured, OSError):
            return socket.create_server((host, _port_before(settings.state)))
    try:
        return socket.create_server((host, int(port)))
    except OSError as error:
        raise Misconfigured(f"cannot listen on {settings.listen}: {error.strerror or error}") from error


def _port_before(state: Path) -> int:
    return int(read_endpoint(state).endpoint.rpartition(":")[2])


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*settings.tls)
    except OSError as error:
        raise Misconfigured(
            f"the certificate {settings.tls[0]} and its key cannot be used: {error}"
        ) from error
    return context


async def _start(
    stack: contextlib.AsyncExitStack,
    app: web.Application,
    listening: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    runner = web.AppRunner(
        app, max_line_size=MOST_LINE, max_field_size=MOST_LINE, access_log=None, shutdown_timeout=1
    )
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.SockSite(runner, listening, ssl_context=tls).start()


def _listen_for_admin(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", settings.admin_port))
    except OSError as error:
        raise Misconfigured(f"cannot listen on 127.0.0.1:{settings.admin_port}: {error}") from error


def _url(listening: socket.socket, scheme: str = "http") -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{host}:{port}"


def _endpoint(settings: Settings, *, emulator: str, api: str, admin: str) -> Endpoint:
    return Endpoint(
        emulator=emulator,
        endpoint=api,
        admin=admin,
        region=settings.region,
        access_key_id=settings.access_key.id,
        secret_file="" if settings.access_key.secret else str(settings.state / SECRET),
        v_switch_ids=tuple(vswitch.id for vswitch in _vswitches(settings)),
        security_group_id=settings.security_groups[0].id,
        pid=os.getpid(),
    )


def _write_endpoint(state: Path, endpoint: Endpoint) -> None:
    """Whole or not at all, since others read it while we start."""
    new = state / f"{ENDPOINT}.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(endpoint), indent=2) + b"\n")
    new.replace(state / ENDPOINT)
