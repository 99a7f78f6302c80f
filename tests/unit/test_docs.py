"""The documentation, compared with the code it is about."""

import pathlib
import re

import msgspec
import pytest

import overspill.backends.podman.options
import overspill.backends.simulated.options
from overspill.backends.eci.backend import EciBackend
from overspill.backends.podman.backend import PodmanBackend
from overspill.backends.registry import backend_names
from overspill.backends.simulated.backend import SimulatedBackend
from overspill.cli.main import COMMANDS
from overspill.cli.settings import reference
from overspill.local.walkthrough import STEPS

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def relative(path):
    return str(path.relative_to(ROOT))


def test_settings_reference_is_current():
    assert (ROOT / "docs/settings.md").read_text() == reference(), (
        "run `overspill settings > docs/settings.md`"
    )


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_exist(page):
    used = set(re.findall(r"(?:^|[`$] ?)overspill ([a-z][a-z-]+)", page.read_text(), re.MULTILINE))
    assert used <= set(COMMANDS)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for line in re.findall(
            r"^(?:[A-Z]+=1 )?make ([a-z -]+?)(?:\s+#.*)?$", page.read_text(), re.MULTILINE
        ):
            for target in line.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{relative(page)}: make {target}"


@pytest.mark.parametrize(
    ("heading", "options"),
    [
        ("podman", overspill.backends.podman.options.Options),
        ("simulated", overspill.backends.simulated.options.Options),
    ],
)
def test_backend_options_are_those_of_the_code(heading, options):
    text = (ROOT / "docs/backends.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert documented == [field.name for field in msgspec.structs.fields(options)]


BACKENDS = {"podman": PodmanBackend, "eci": EciBackend, "simulated": SimulatedBackend}
# What in the table of docs/kubelet-api.md needs which verb of a backend.
VERBS_OF_COMMANDS = {
    "kubectl logs": "logs",
    "kubectl exec": "exec",
    "kubectl attach": "attach",
    "kubectl port-forward": "port-forward",
    "kubectl top": "metrics",
    "kubectl debug POD": "debug",
}


def test_what_kubectl_can_do_is_what_the_backends_can():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs/kubelet-api.md").read_text().partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    names = [cell.strip("`") for cell in rows[0][1:]]
    documented = {
        (re.match(r"`(.+?)`", row[0])[1], name): cell.startswith("yes")
        for row in rows[2:]
        for name, cell in zip(names, row[1:], strict=True)
    }
    assert documented == {
        (command, name): verb in backend.capabilities.verbs
        for command, verb in VERBS_OF_COMMANDS.items()
        for name, backend in BACKENDS.items()
    }
    assert sorted(names) == backend_names()


def test_decisions_are_short_and_listed():
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    listed = re.findall(r"\]\((0\d{3}-.+?\.md)\)", (ROOT / "docs/decisions/README.md").read_text())
    assert listed == [page.name for page in pages]
    assert [page.name for page in pages if len(page.read_text().splitlines()) > 60] == []


def test_recording_has_every_step():
    recorded = (ROOT / "docs/demo.txt").read_text().splitlines()
    titles = [f"{number}. {title}" for number, (title, _) in enumerate(STEPS, start=1)]
    assert [line for line in recorded if line in titles] == titles
    assert "✓ every step held" in recorded
