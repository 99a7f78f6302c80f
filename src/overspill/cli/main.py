"""The `overspill` command: global flags, exit codes, and where each command lives.

In: argv. Out: exit code 0 ok, 1 failure, 2 usage, 3 not found or not ready, 130 interrupted. Data goes to
stdout, talk and errors to stderr. Invariant: a command's module is imported when that command runs, so that
`overspill kubectl` does not pay for the agent.
"""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

import overspill
from overspill.process import ending_well

__all__ = ["COMMANDS", "main"]

# Command: where its function is, and its line in `overspill --help`. A new command is one more row.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("overspill.cli.cluster:up", "Start a local cluster, or repair it."),
    "down": ("overspill.cli.cluster:down", "Take a local cluster down; nothing is left."),
    "status": ("overspill.cli.cluster:status", "Show a local cluster: nodes, processes, endpoint."),
    "kubeconfig": ("overspill.cli.access:kubeconfig", "Print a local cluster's kubeconfig."),
    "kubectl": ("overspill.cli.access:kubectl", "Run kubectl against a local cluster."),
    "demo": ("overspill.cli.demo:demo", "Walk through everything on a fresh local cluster."),
    "load-image": (
        "overspill.cli.cluster:load_image",
        "Copy an image from your Podman into a local cluster.",
    ),
    "image": ("overspill.cli.image:image", "Write the image that runs in a cluster of your own."),
    "settings": ("overspill.cli.settings:settings", "Print all settings as Markdown."),
    "capabilities": (
        "overspill.cli.capabilities:capabilities",
        "Print what kubectl can do on which backend.",
    ),
    "agent": ("overspill.cli.agent:agent", "Be one virtual node."),
    "controller": (
        "overspill.cli.controller:controller",
        "Place pods by PlacementPolicies; collect orphans.",
    ),
    "guard": ("overspill.cli.guard:guard", "Let pods go that wait while no controller leads."),
    "placement": ("overspill.cli.placement:app", "Look at placement; let go of pods that wait for it."),
    "orphans": ("overspill.cli.orphans:app", "Find container groups that have lost their pod; delete them."),
    "check": ("overspill.cli.check:check", "Tell what of some manifests a backend would refuse."),
    "cost": ("overspill.cli.cost:cost", "Print what pods on virtual nodes have cost."),
    "approve": ("overspill.cli.approve:approve", "Approve the certificates that virtual nodes serve with."),
    "emulator": ("overspill.cli.emulator:app", "Serve ECI's API on this machine, over any backend."),
}
# kubectl's own flags are not ours to read.
PASSED_THROUGH = {
    "kubectl": {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
}


class LazyGroup(TyperGroup):
    """Finds a command's function when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or only its line of help while the whole list is shown."""
        if cmd_name not in COMMANDS:
            return None
        target, text = COMMANDS[cmd_name]
        return _command(cmd_name, _listed if "listing" in ctx.meta else _load(target), text)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help of the whole program, for which no command need be loaded."""
        ctx.meta["listing"] = True
        super().format_help(ctx, formatter)


def _listed() -> None:
    """Stands for a command whose module is not needed."""


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _command(name: str, function: Any, text: str) -> Any:
    """A command of a function, or a group of commands of a Typer."""
    if isinstance(function, typer.Typer):
        group = typer.main.get_command(function)
        group.name, group.short_help = name, text
        return group
    app = typer.Typer(add_completion=False)
    app.command(name, short_help=text, context_settings=PASSED_THROUGH.get(name))(function)
    return typer.main.get_command(app)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"overspill {overspill.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Keep N pods on your own Kubernetes nodes; run the rest on virtual nodes."""


def main() -> None:
    """Run a command and leave with its exit code."""
    ending_well(app)


if __name__ == "__main__":
    main()
