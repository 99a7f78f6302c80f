"""The test files' own names."""

import pathlib
from collections import Counter

TESTS = pathlib.Path(__file__).parents[1]


def test_no_two_files_of_tests_have_one_name():
    # pytest imports them by it: folders with two of one name cannot be run together, as `make test-placement` does.
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
