"""The table of failures in README.md names all of them, and tests that are there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.cases import CASES

HERE = Path(__file__).parent
FAILURES = 50
ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+) \|")
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`(?: “([^”]+)”)?")


def _rows() -> list[tuple[int, str]]:
    """Number and last column of each row."""
    found = map(ROW.fullmatch, (HERE / "README.md").read_text().splitlines())
    return [(int(row[1]), row[3]) for row in found if row]


def _tests(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_the_table_has_all_failures_in_order() -> None:
    """One row each, and whatever it says about a failure ends in a test that would fail on it."""
    rows = _rows()
    assert [number for number, _ in rows] == list(range(1, FAILURES + 1))
    assert [number for number, tests in rows if not NAMED.search(tests)] == []


@pytest.mark.parametrize("number", range(1, FAILURES + 1))
def test_what_a_row_names_is_there(number: int) -> None:
    """Each file has the test; each case is in the list of resume cases, or word for word in its file."""
    (tests,) = [tests for row, tests in _rows() if row == number]
    named = NAMED.findall(tests)
    assert len(named) == tests.count("::"), "a name is written in another way"
    for file, name, case in named:
        path = HERE / file
        assert name in _tests(path), f"{file} has no {name}"
        cases = {case.name for case in CASES} if name == "test_resume" else path.read_text()
        assert case in cases or not case, f"{name} has no case {case}"
