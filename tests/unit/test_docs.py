"""The documentation, compared with the code it is about."""

import pathlib
import re

import msgspec
import pytest

import overspill.backends.podman.options
import overspill.backends.simulated.options
from overspill.backends.registry import backend_factory, backend_names
from overspill.cli.capabilities import COMMANDS_OF_VERBS, table
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


def test_what_kubectl_can_do_is_what_the_backends_say():
    page = (ROOT / "docs/kubelet-api.md").read_text()
    made = table({name: backend_factory(name).capabilities for name in backend_names()})
    assert f"\n<!-- made by `overspill capabilities` -->\n{made}\n" in page, "run `overspill capabilities`"
    verbs = {verb for name in backend_names() for verb in backend_factory(name).capabilities.verbs}
    assert verbs == set(COMMANDS_OF_VERBS)


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
