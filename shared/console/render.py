"""How things look: tables that fit, colours that mean something, numbers for people.

What sessions say is shown as text and nothing else: a terminal would obey the control characters in it.
"""

import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.events import EventType, State

PIPE_COLUMNS = 120
"""Of output that goes to no terminal, unless COLUMNS says otherwise."""
GAP = 2
"""Spaces between columns."""
LONG = 40
"""What is longer may be folded, also where a column could be left out instead."""

STATE_STYLES: Mapping[str, str] = {
    State.QUEUED: "yellow",
    State.RUNNING: "green",
    State.WAITING: "cyan",
    State.COMPLETED: "dim",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
}
EVENT_STYLES: Mapping[str, str] = {
    EventType.MESSAGE: "bold blue",
    EventType.STARTED: "green",
    EventType.STATUS: "yellow",
    EventType.TEXT: "",
    EventType.REASONING: "dim italic",
    EventType.TOOL_CALL: "cyan",
    EventType.TOOL_RESULT: "cyan",
    EventType.SOURCE: "cyan",
    EventType.DATA: "cyan",
    EventType.QUESTION: "bold yellow",
    EventType.ANSWER: "bold blue",
    EventType.USAGE: "dim",
    EventType.PROVIDER_RUN: "dim",
    EventType.COMPLETED: "bold green",
    EventType.FAILED: "bold red",
    EventType.CANCELLED: "bold magenta",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Not by an exit of its own, with a status that means something else here."""
        raise BrokenPipeError


def console(*, errors: bool = False) -> Console:
    stream = sys.stderr if errors else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that is not of UTF-8 shows `?`
    piped = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_COLUMNS
    return _Console(stderr=errors, highlight=False, markup=False, emoji=False, width=piped)


def lines_are_cut(out: Console) -> bool:
    """Whether a line that is too long must be cut or folded; whoever reads a pipe wants all of it, on one line."""
    return out.is_terminal or bool(os.environ.get("COLUMNS"))


def say_json(value: Any) -> None:
    """One document on one line, in ASCII; at once, since somebody may be reading along."""
    print(json.dumps(value), flush=True)


@dataclass(frozen=True)
class Column:
    name: str
    rank: int = 0
    """Where the terminal is too narrow, columns of the highest rank are left out first. 0: never left out."""
    right: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Table:
    """As many of the columns as fit into `width`."""
    shown = _fitting(columns, rows, width)
    first = _first(columns, rows, width)
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_edge=False)
    for n in shown:
        column = columns[n]
        justify: Any = "right" if column.right else "left"
        if n == 0:  # what is copied must be whole
            made.add_column(column.name, justify=justify, overflow="fold", width=first)
        else:
            made.add_column(column.name, justify=justify, overflow="ellipsis", no_wrap=True)
    for row in rows:
        made.add_row(*(row[n] for n in shown))
    return made


def within(columns: Sequence[Column], rows: Sequence[list[Text]], width: int, lines: int) -> Sequence[list[Text]]:
    """As many of the rows, from the first, as need no more than so many lines of their table."""
    first, used = _first(columns, rows, width), 0
    for n, row in enumerate(rows):
        used += max(-(-cell_len(row[0].plain) // first), 1)
        if used > lines:
            return rows[:n]
    return rows


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max(cell_len(c.name), *(cell_len(row[n].plain) for row in rows), 0) for n, c in enumerate(columns)]


def _first(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> int:
    """Cells of the first column: all it needs, or what the others leave."""
    widths, shown = _widths(columns, rows), _fitting(columns, rows, width)
    return max(min(widths[0], width - sum(widths[n] + GAP for n in shown if n)), 1)


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """The columns that are shown. What is very long in the first one stands on two lines there, rather than push the
    others out."""
    widths = _widths(columns, rows)
    lengths = [cell_len(columns[0].name), *(cell_len(row[0].plain) for row in rows)]
    widths[0] = max(length if length <= LONG else -(-length // 2) for length in lengths)
    shown = list(range(len(columns)))
    while sum(widths[n] + GAP for n in shown) - GAP > width:
        worst = max(shown, key=lambda n: columns[n].rank)
        if columns[worst].rank == 0:
            break
        shown.remove(worst)
    return shown


def pairs(items: Sequence[tuple[str, Text]]) -> Table:
    """Names and what they are, one line each or more."""
    made = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in items:
        made.add_row(name, value)
    return made


# -- words

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """Without what a terminal would obey: escape sequences, and what turns the direction of writing."""
    return _UNSAFE.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def text(words: str, style: str = "") -> Text:
    return Text(harmless(words), style=style)


def one_line(words: str) -> str:
    return " ".join(words.split())


def state(of: str) -> Text:
    return text(of, STATE_STYLES.get(of, ""))


def span(ms: float) -> str:
    """A length of time in two figures: `120 ms`, `4.2 s`, `3m05s`, `2h10m`, `3d04h`."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{int(seconds * 10) / 10} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if hours < 1:
        return f"{minutes}m{int(seconds % 60):02}s"
    if days < 1:
        return f"{hours}h{minutes % 60:02}m"
    return f"{days}d{hours % 24:02}h"


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def count(number: int, one: str, many: str = "") -> str:
    """`1 event`, `1,200 events`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
