"""What a close code means stands in three places, and they agree: README, the node, and the browser's client."""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from api import duplex
from api.errors import status_of
from shared.errors import HoldfastError, SessionDeleted, SessionExpired, SessionNotFound, TooMany, Unauthorized
from tests.support.readme import table
from tests.support.tools import node

ROOT = Path(__file__).parents[1]
CLOSE_CODES = table("close code", "meaning")
MODULE = ROOT / "api" / "web" / "close-codes.js"
SCRIPT = """
const { afterClose } = await import(process.argv[1]);
console.log(JSON.stringify(JSON.parse(process.argv[2]).map(afterClose)));
"""
README_WORDS = {
    "yes": "again",
    "yes, not at once": "again",
    "yes, without that frame": "again without",
    "no": "never",
}
BY_THE_CLIENT = {1001, 1005, 1006}
"""No node sends them: they are what a client sees of a socket that was lost."""


def _codes(text: str) -> list[int]:
    return [int(code) for code in text.split(", ")]


def _readme() -> dict[int, str]:
    """Close code → last column of its row."""
    return {code: row.cells[2] for row in CLOSE_CODES for code in _codes(row.cells[0])}


def _docstring() -> dict[int, str]:
    """Close code → what is said of it."""
    rows = re.findall(r"^ {4}(\d{4}(?:, \d{4})*) +(\S.*)$", duplex.__doc__ or "", re.MULTILINE)
    return {code: words for codes, words in rows for code in _codes(codes)}


def _client(codes: Iterable[int]) -> dict[int, str]:
    """Close code → what the browser's client does."""
    asked = list(codes)
    command = [node(), "--input-type=module", "-e", SCRIPT, str(MODULE), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(asked, json.loads(done.stdout), strict=True))


def test_the_client_comes_back_where_the_readme_says_so() -> None:
    """Every code of the table."""
    told = _readme()
    assert len(told) > len(BY_THE_CLIENT)
    assert _client(told) == {code: README_WORDS[words] for code, words in told.items()}


def test_the_node_names_the_codes_of_the_readme() -> None:
    """All but those that it cannot send; and it says `come back` where the client does."""
    told = _docstring()
    assert set(told) == set(_readme()) - BY_THE_CLIENT
    invited = {code for code, words in told.items() if "come back" in words}
    assert invited == {code for code, then in _client(told).items() if then == "again"}


def test_a_refusal_closes_for_good_unless_it_passes() -> None:
    """Each error that ends a socket: the client comes back after 429 and 5xx, and after nothing else."""
    kinds = _kinds(HoldfastError)
    closes = {kind: duplex.refused(kind.__new__(kind)).code for kind in kinds}
    then = _client(set(closes.values()))
    for kind, code in closes.items():
        status = status_of(kind.__new__(kind))
        assert then[code] == ("again" if status == 429 or status >= 500 else "never"), kind.__name__


@pytest.mark.parametrize("kind", [Unauthorized, SessionNotFound, SessionExpired, SessionDeleted, TooMany])
def test_how_a_session_is_refused_is_in_the_table(kind: type[HoldfastError]) -> None:
    """What a reader of the README meets."""
    assert duplex.refused(kind.__new__(kind)).code in _readme()


def _kinds(kind: type[HoldfastError]) -> set[type[HoldfastError]]:
    return {kind}.union(*(_kinds(below) for below in kind.__subclasses__()))
