"""`holdfast tail`: a session's events as they come."""

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.cells import set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.console import render
from shared.console.desk import Desk, at_desk, legible, why
from shared.console.following import Gap, Tail
from shared.console.options import Exit, Json, Redis, Sid
from shared.errors import SessionNotFound
from shared.events import Event, EventType
from shared.ids import START, EventId

TYPE_CELLS = 20
NARROW, MEDIUM = 76, 96
"""Below so many columns, ids and times are left out; below so many, times."""
WHAT = {
    EventType.TEXT: ("text",),
    EventType.REASONING: ("text",),
    EventType.MESSAGE: ("role", "content"),
    EventType.STATUS: ("state", "text"),
    EventType.QUESTION: ("text",),
    EventType.ANSWER: ("text",),
    EventType.STARTED: ("generation", "attempt", "model"),
    EventType.COMPLETED: ("generation", "finish_reason"),
    EventType.FAILED: ("generation", "code", "message"),
    EventType.CANCELLED: ("generation", "by"),
}
"""What a person wants to read of an event's data. Of all others, all of it."""
WHOLE = {EventType.QUESTION, EventType.FAILED}
"""Not cut at the end of a line, but folded: who looks, looks for these."""


def tail(
    sid: Sid,
    redis: Redis = "",
    after: Annotated[
        str, typer.Option(metavar="CURSOR", help="Begin after this event id; `now`: with what comes next.")
    ] = str(START),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay for the turns to come, until Ctrl-C.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All of each event, not what fits into one line.")] = False,
    as_json: Json = False,
) -> None:
    """A session's events, those that are there and those that come, each once; until the end of its newest generation.

    With --json, one event per line. A `gap` says what the log no longer has.
    """

    async def work(desk: Desk) -> int:
        cursor = await _newest(desk, sid) if after == "now" else EventId.parse(after)
        notes = render.console(errors=True)
        told: list[str] = []

        def away(error: Exception) -> None:
            if (words := f"holdfast: {why(error, desk.url)}; going on as soon as it does") not in told:
                told[:] = [words]
                notes.print(render.text(render.one_line(words), "yellow"), soft_wrap=True)

        async with aclosing(Tail(desk, sid, cursor, follow, away).read()) as items:  # type: ignore[type-var]
            async for item in items:
                told.clear()
                if as_json:
                    render.say_json(document(item))
                else:
                    _print(desk.out, item, full)
        return Exit.OK

    at_desk(redis, work)


async def _newest(desk: Desk, sid: str) -> EventId:
    with legible():
        view = await desk.log.view(sid)
    if view is None:
        raise SessionNotFound(sid)
    return view.last


def document(item: Event | Gap) -> dict[str, Any]:
    if isinstance(item, Gap):
        said = {"requested": str(item.requested), "resumed": str(item.resumed), "reason": item.reason}
        return {"id": None, "type": "gap", "data": said}
    return {"id": str(item.id), "type": item.type, "at": item.at, "data": item.value}


def _print(out: Console, item: Event | Gap, full: bool) -> None:
    if isinstance(item, Gap):
        words = f"gap ({item.reason}): the log no longer has what follows {item.requested}; on after {item.resumed}"
        out.print(Text(words, style="bold yellow"))
        return
    style = render.EVENT_STYLES.get(item.type, "")
    head, what = _head(item, style, out.width), render.text(_what(item), style)
    room = out.width - head.cell_len
    if not render.lines_are_cut(out) or what.cell_len <= room:
        out.print(head + what, no_wrap=True, overflow="ignore", crop=False)
    elif full or item.type in WHOLE:
        folded = Table.grid(pad_edge=False)
        folded.add_column(width=head.cell_len, no_wrap=True)
        folded.add_column(width=room, overflow="fold")
        folded.add_row(head, what)
        out.print(folded)
    else:
        what.truncate(room, overflow="ellipsis")
        out.print(head + what, no_wrap=True, overflow="crop")


def _head(event: Event, style: str, width: int) -> Text:
    head = Text()
    if width >= MEDIUM:
        when = datetime.fromtimestamp(event.at / 1000, UTC)
        head.append(f"{when:%H:%M:%S}.{event.at % 1000:03}  ", style="dim")
    if width >= NARROW:
        head.append(f"{event.id!s:<20}  ", style="dim")
    return head.append(f"{set_cell_size(render.harmless(event.type), TYPE_CELLS)}  ", style=style)


def _what(event: Event) -> str:
    """On one line; white space at the ends of a text is part of it, and shown."""
    names = WHAT.get(EventType(event.type)) if event.type in set(EventType) else None
    if names is None:
        return event.data.decode(errors="replace")
    if names == ("text",):
        return str(event.value.get("text", "")).replace("\n", "⏎").replace("\t", "⇥")
    said = {name: str(event.value[name]) for name in names if event.value.get(name) is not None}
    return " · ".join(
        render.one_line(f"attempt {words}" if name == "attempt" else words) for name, words in said.items()
    )
