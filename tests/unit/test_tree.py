"""Rules of the source tree that no linter checks."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 600, 80


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_says_what_it_is_and_stays_small(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not tree.body, "a module docstring says what flows in and out"
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, (
                f"{node.name} is too long to read at once"
            )


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_tasks_belong_to_a_group(path):
    """A bare create_task loses its errors; a TaskGroup does not."""
    bare = re.findall(r"(?:asyncio|loop)\.(?:create_task|ensure_future)\(", path.read_text())
    assert not bare
