"""`overspill emulator`: ECI's API on this machine, its bill, its faults.

In: flags. Out: a server until a signal; tables of what a running or stopped one has kept.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from overspill import logs
from overspill.cli.access import DEFAULT_NAME
from overspill.cli.tables import plain, print_table
from overspill.emulator.api import ACTIONS
from overspill.emulator.auth import AccessKey
from overspill.emulator.bill import total
from overspill.emulator.cloud import Timings
from overspill.emulator.faults import KINDS, Fault
from overspill.emulator.groups import Retention
from overspill.emulator.network import parse_security_group, parse_vswitch
from overspill.emulator.quotas import RATES, parse_rates
from overspill.emulator.run import DATABASE, ENDPOINT, Endpoint, Settings, read_endpoint
from overspill.emulator.run import serve as run_emulator
from overspill.emulator.stock import parse_limits
from overspill.emulator.store import read_bill
from overspill.errors import Misconfigured, Retry
from overspill.local.emulator import emulator_of
from overspill.local.machine import join_network
from overspill.process import run_until_signalled
from overspill.settings import EMULATOR_SECRET_VARIABLE

__all__ = ["app"]

app = typer.Typer(
    help="ECI's API on this machine, over any backend.", no_args_is_help=True, add_completion=False
)
faults = typer.Typer(help="Have a running emulator do things wrong.", no_args_is_help=True)
app.add_typer(faults, name="faults")

State = Annotated[Path, typer.Option("--state", help="The emulator's state folder.")]
# The commands that ask one find it by either of these.
OwnState = Annotated[
    Path | None, typer.Option("--state", help="State folder of an emulator of your own.", show_default=False)
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--name", help=f"Local cluster that it is part of. Default {DEFAULT_NAME}.", show_default=False
    ),
]
RESTART_SECONDS = 60.0


@app.command()
def serve(
    *,
    state: State,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of the API; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    admin_port: Annotated[int, typer.Option(help="Of the admin port, on loopback; 0 takes a free one.")] = 0,
    engine: Annotated[str, typer.Option(help="Backend that runs the containers.")] = "simulated",
    engine_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the engine; repeatable.")
    ] = None,
    networks: Annotated[
        str,
        typer.Option(help="none; podman: one Podman network per vSwitch.", show_default="podman for podman"),
    ] = "",
    region: Annotated[str, typer.Option()] = "cn-hangzhou",
    vswitch: Annotated[list[str] | None, typer.Option(help="ID=ZONE:CIDR; repeatable.")] = None,
    security_group: Annotated[
        list[str] | None, typer.Option(help="ID[=basic|enterprise]; repeatable.")
    ] = None,
    access_key_id: Annotated[str, typer.Option()] = "emulator",
    access_key_secret_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the secret; else ${EMULATOR_SECRET_VARIABLE}, else generated into the state folder."
        ),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; with it the API is HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    max_cpu: Annotated[float, typer.Option(help="vCPU quota of the region.")] = 100_000.0,
    stock: Annotated[
        list[str] | None, typer.Option(help="ZONE/SPEC=COUNT with * for any; repeatable.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="ACTION=PER_SECOND:BURST, instead of the service's; repeatable."),
    ] = None,
    unlimited_rate: Annotated[
        bool, typer.Option("--unlimited-rate", help="No throttling but by --rate.")
    ] = False,
    scheduling_seconds: Annotated[float, typer.Option(help="From create to Pending.")] = 0.5,
    spot_notice_seconds: Annotated[float, typer.Option(help="From a spot notice to the end.")] = 180.0,
    retention_seconds: Annotated[float, typer.Option(help="How long all ended groups stay.")] = 3600.0,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option()] = "info",
    log_format: Annotated[Literal["text", "json"], typer.Option()] = "text",
) -> None:
    """Serve ECI's API until SIGTERM; prints where it is once it answers."""
    logs.configure(log_level, log_format)
    settings = Settings(
        state=state,
        listen=listen,
        admin_port=admin_port,
        engine=engine,
        engine_options=_options(engine_option or []),
        networks=networks or ("podman" if engine == "podman" else "none"),
        region=region,
        vswitches=tuple(map(parse_vswitch, vswitch or [])),
        security_groups=tuple(map(parse_security_group, security_group or ["sg-emulator=enterprise"])),
        access_key=AccessKey(access_key_id, _secret(access_key_secret_file)),
        tls=_tls(tls_certificate, tls_key),
        max_cpu=max_cpu,
        stock=parse_limits(stock or []),
        rates=({} if unlimited_rate else RATES) | parse_rates(rate or [], actions=ACTIONS),
        timings=Timings(
            scheduling=scheduling_seconds,
            spot_notice=spot_notice_seconds,
            retention=Retention(seconds=retention_seconds),
        ),
    )
    run_until_signalled(run_emulator(settings, ready=_announce, restart=_begin_anew))


def _begin_anew() -> None:
    """As after a crash: nobody is told, and the same command goes on under the same pid with what is on the disk."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _options(texts: list[str]) -> dict[str, Any]:
    """Values are read as JSON where they are, such as numbers, and are text otherwise."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise Misconfigured(f"engine option {text!r} is not of the form KEY=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate and key:
        return certificate, key
    if certificate or key:
        raise Misconfigured("--tls-certificate and --tls-key go together")
    return None


def _secret(path: Path | None) -> str:
    if path is None:
        return os.environ.get(EMULATOR_SECRET_VARIABLE, "")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Misconfigured(f"the access key's secret cannot be read: {error}") from error


def _announce(endpoint: Endpoint) -> None:
    print(endpoint.endpoint, flush=True)


@app.command()
def bill(
    state: OwnState = None,
    name: Cluster = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table",
    running: Annotated[bool, typer.Option("--running", help="Only groups that cost money now.")] = False,
) -> None:
    """What every container group has cost, also those nobody remembers; works while the emulator is down."""
    place = _place(state, name)
    if not (place / DATABASE).exists():
        raise Misconfigured(f"no emulator was started with the state folder {place}")
    now = time.time()
    lines = [line for line in read_bill(place / DATABASE) if not running or line.ended is None]
    everything = total(lines, now=now)
    if output == "json":
        print(msgspec.json.encode({"total": everything, "lines": lines}).decode())
        return
    table = Table("GROUP", "NAME", "SPEC", "SECONDS", "COST", "STATE", box=None)
    for line in lines:
        table.add_row(
            *plain(line.group, line.name),
            f"{line.cpu:g}-{line.memory:g}Gi",
            f"{line.seconds(now):.0f}",
            f"{line.cost(now):.6f}",
            "ended" if line.ended else "running",
        )
    print_table(table)
    print(
        f"{everything.groups} groups, {everything.vcpu_hours:.4f} vCPU-h, {everything.gib_hours:.4f} GiB-h, "
        f"{everything.cost:.6f} CNY; {everything.running} running at {everything.per_hour:.6f} CNY/h"
    )


@app.command()
def status(state: OwnState = None, name: Cluster = None) -> None:
    """What a running emulator has: groups by status, addresses, quota, calls."""
    place = _reached(state, name)
    print(json.dumps({**_ask(place, "GET", "/status"), **_shown(read_endpoint(place))}, indent=2))


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    return msgspec.to_builtins(endpoint)  # type: ignore[no-any-return]  # a Struct becomes a dict


@app.command()
def interrupt(
    group: Annotated[str, typer.Argument(help="Id of a spot group.")],
    state: OwnState = None,
    name: Cluster = None,
) -> None:
    """Give a spot group the notice that it is taken back."""
    _ask(_reached(state, name), "POST", f"/spot/{group}")


@app.command()
def restart(state: OwnState = None, name: Cluster = None) -> None:
    """Have it crash and begin again; returns once it answers."""
    place = _reached(state, name)
    began = _written(place)
    _ask(place, "POST", "/restart")
    deadline = time.monotonic() + RESTART_SECONDS
    while _written(place) == began:
        if time.monotonic() > deadline:
            raise Retry(f"the emulator of {place} does not answer after its restart; see its log")
        time.sleep(0.05)


def _written(place: Path) -> int:
    """When the emulator told last where it is, which it does at each start."""
    return (place / ENDPOINT).stat().st_mtime_ns


@faults.command("add")
def add_fault(
    *,
    state: OwnState = None,
    name: Cluster = None,
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    action: Annotated[
        list[str] | None, typer.Option(help="API action that meets it; repeatable; all.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many requests meet it; default all.")] = None,
    probability: Annotated[float, typer.Option()] = 1.0,
    seconds: Annotated[
        float, typer.Option(help="Of latency, clock-skew, or how long a throttle asks to wait.")
    ] = 0.0,
    code: Annotated[str, typer.Option(help="Of error, throttle or schedule-failure.")] = "",
    http_status: Annotated[int, typer.Option(help="Of error or throttle.")] = 0,
    zone: Annotated[str, typer.Option(help="Of no-stock.")] = "",
    vswitch: Annotated[str, typer.Option(help="Of no-addresses.")] = "",
) -> None:
    """Arm a fault; prints its number."""
    given = {
        "kind": kind,
        "actions": action or [],
        "count": count,
        "probability": probability,
        "seconds": seconds,
        "code": code,
        "status": http_status,
        "zone": zone,
        "vswitch": vswitch,
    }
    try:
        fault = msgspec.convert(given, Fault)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"this is no fault: {error}; kinds are {', '.join(KINDS)}") from error
    print(_ask(_reached(state, name), "POST", "/faults", msgspec.json.encode(fault))["number"])


@faults.command("list")
def list_faults(state: OwnState = None, name: Cluster = None) -> None:
    """What is armed, and how often it was met."""
    table = Table("NUMBER", "KIND", "MET", "LEFT", "ACTIONS", box=None)
    for armed in _ask(_reached(state, name), "GET", "/faults"):
        fault = armed["fault"]
        left = "all" if armed["left"] is None else str(armed["left"])
        actions = ", ".join(fault["actions"]) or "all"
        table.add_row(str(armed["number"]), fault["kind"], str(armed["met"]), left, actions)
    print_table(table)


@faults.command("clear")
def clear_faults(
    number: Annotated[int | None, typer.Argument(help="One fault; default all.")] = None,
    state: OwnState = None,
    name: Cluster = None,
) -> None:
    """Have it do things right again."""
    _ask(_reached(state, name), "DELETE", "/faults" if number is None else f"/faults?number={number}")


def _place(state: Path | None, name: str | None) -> Path:
    """The state folder of the emulator that is meant."""
    if state is not None and name is not None:
        raise Misconfigured("give --state for an emulator of your own, or --name for that of a local cluster")
    return state or emulator_of(name or DEFAULT_NAME).emulator


def _reached(state: Path | None, name: str | None) -> Path:
    """As `_place`, and its admin port can be reached, which is on the loopback of a local cluster's own network."""
    if state is None:
        join_network(emulator_of(name or DEFAULT_NAME))
    return _place(state, name)


def _ask(state: Path, method: str, path: str, body: bytes | None = None) -> Any:
    endpoint = read_endpoint(state)
    request = urllib.request.Request(endpoint.admin + path, data=body, method=method)  # noqa: S310 - our own http
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Misconfigured(f"the emulator refuses: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise Misconfigured(
            f"no emulator answers at {endpoint.admin}: is the one of {state} running?"
        ) from error
