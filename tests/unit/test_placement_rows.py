"""docs/placement-scenarios.md names tests that exist, for every scenario, and says rightly which run in `make test`."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
ROWS = 54


def rows():
    text = (ROOT / "docs/placement-scenarios.md").read_text()
    for line in text.splitlines():
        if found := re.match(r"\| (\d+) \|", line):
            yield int(found[1]), re.findall(r"(• )?`(test_\w+)`", line)


def known_tests():
    """Name -> whether it runs in `make test`, for a parametrized one in some form."""
    found = {}
    for path in (ROOT / "tests/e2e").glob("test_placement*.py"):
        module = ast.parse(path.read_text())
        of_module = [ast.unparse(node) for node in module.body if isinstance(node, ast.Assign)]
        whole = any("pytestmark" in text and "matrix" in text for text in of_module)
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = any(ast.unparse(each) == "pytest.mark.matrix" for each in node.decorator_list)
                found[node.name] = not (whole or own)
    return found


def test_every_scenario_has_its_tests():
    known = known_tests()
    assert [number for number, _ in rows()] == list(range(1, ROWS + 1))
    for number, named in rows():
        assert named, number
        assert {name for _, name in named} <= set(known), number
        assert all(f"_{number:02}_" in name for _, name in named), number
        assert {name: bool(mark) for mark, name in named} == {name: known[name] for _, name in named}


def test_every_numbered_test_stands_in_the_table():
    named = {name for _, names in rows() for _, name in names}
    assert {name for name in known_tests() if re.match(r"test_\d\d_", name)} == named
