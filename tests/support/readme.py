"""README.md as its tests take it: code blocks, tables, and commands in the text. What is taken is noted, so that
tests/test_readme.py finds what no test took."""

import re
from dataclasses import dataclass

from tests.support.system import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^(\|[^\n]*\|)\n\|[-|]+\|\n((?:\|[^\n]*\|\n)+)", re.MULTILINE)
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:curl|make|pip|holdfast|redis-cli|\.) .+")
_taken: set[str] = set()


@dataclass(frozen=True)
class Row:
    """Of a table."""

    cells: tuple[str, ...]

    @property
    def code(self) -> list[str]:
        """What stands in backticks in the first cell."""
        return re.findall("`([^`]+)`", self.cells[0])


def block(language: str, having: str) -> str:
    """The one code block that has this."""
    (found,) = [code for kind, code in _FENCE.findall(README) if kind == language and having in code]
    return _take(found)


def table(*head: str) -> list[Row]:
    """The rows of the table whose columns begin like this."""
    ((top, body),) = [(top, body) for top, body in _TABLE.findall(README) if _cells(top)[: len(head)] == head]
    _take(top)
    return [Row(_cells(line)) for line in body.splitlines()]


def command(having: str) -> str:
    """The one command in the text that has this, outside of blocks and tables."""
    (found,) = [told for told in commands() if having == told or having in told.split()]
    return _take(found)


def commands() -> set[str]:
    """All of those."""
    text = _TABLE.sub("", _FENCE.sub("", README))
    return {told for told in re.findall("`([^`]+)`", text) if _COMMAND.fullmatch(told)}


def untaken() -> set[str]:
    """Blocks, heads of tables and commands that nobody has taken."""
    blocks = {code for _, code in _FENCE.findall(README)}
    return (blocks | {top for top, _ in _TABLE.findall(README)} | commands()) - _taken


def _take(found: str) -> str:
    _taken.add(found)
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
