"""A small local knowledge base: Markdown sections in an SQLite full-text index."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_HEADING = re.compile(r"^(#{1,4}) +(.+)$")
_FENCE = re.compile(r"^(```|~~~)")
_WORD = re.compile(r"\w+")
_DULL = frozenset(
    _WORD.findall(
        "a an and are as at be by can do does for from has have how i in is it its me my of on or tell that the their "
        "them there this to was what when where which who why will with you your about"
    )
)


def words_of(text: str) -> list[str]:
    """The words worth looking for."""
    return [word for word in _WORD.findall(text.lower()) if word not in _DULL]


@dataclass(frozen=True)
class Section:
    document: str
    heading: str
    text: str

    @property
    def title(self) -> str:
        heading = self.heading.replace("`", "")
        return f"{self.document} › {heading}" if heading else self.document


def project_documents() -> list[tuple[str, str]]:
    """(name, Markdown) of the project's own documents: of the checkout, or what an installed package says of itself."""
    if (ROOT / "pyproject.toml").exists():
        found = sorted([*ROOT.glob("*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("tests/*.md")])
        return [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in found]
    package: Any = metadata("holdfast")  # an email message, whose body is the README
    return [("README.md", str(package.get_payload()))]


def sections(document: str, markdown: str) -> Iterator[Section]:
    """One for each heading that has text of its own."""
    heading, lines, fenced = "", [], False
    for line in markdown.splitlines():
        fenced ^= _FENCE.match(line) is not None
        found = None if fenced else _HEADING.match(line)
        if found is None:
            lines.append(line)
            continue
        yield from _section(document, heading, lines)
        heading, lines = found[2].strip(), []
    yield from _section(document, heading, lines)


def _section(document: str, heading: str, lines: list[str]) -> Iterator[Section]:
    text = "\n".join(lines).strip()
    if text:
        yield Section(document, heading, text)


class Knowledge:
    """The index, in memory. Blocking, but fast: a search of a few hundred sections takes well under a millisecond."""

    def __init__(self, found: Iterable[Section]) -> None:
        self._sections = list(found)
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE sections USING fts5(heading, text, tokenize = 'porter unicode61')")
        rows = ((n, section.heading, section.text) for n, section in enumerate(self._sections))
        self._index.executemany("INSERT INTO sections(rowid, heading, text) VALUES (?, ?, ?)", rows)

    def search(self, question: str, limit: int = 5) -> list[Section]:
        """The best matches first; a word in a heading counts three times. Empty if no word of the question is known."""
        words = words_of(question)
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._index.execute(
            "SELECT rowid FROM sections WHERE sections MATCH ? ORDER BY bm25(sections, 3.0, 1.0) LIMIT ?",
            (query, limit),
        )
        return [self._sections[rowid] for (rowid,) in rows]


def project_knowledge() -> Knowledge:
    return Knowledge(s for document, markdown in project_documents() for s in sections(document, markdown))
