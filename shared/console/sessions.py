"""`holdfast sessions`: which there are, and how they are."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from shared.console import render
from shared.console.desk import Desk, at_desk, why
from shared.console.options import Exit, Json, Redis, duration_ms
from shared.console.render import Column
from shared.console.search import Found, Wanted, find
from shared.events import LIVE, State
from shared.redis import RedisError
from shared.views import SessionView

COLUMNS = (
    Column("SESSION"),
    Column("STATE"),
    Column("FOR", 1, right=True),
    Column("TURN", 4),
    Column("TRY", 5, right=True),
    Column("OWNER", 3),
    Column("MODEL", 2),
    Column("AGE", 6, right=True),
    Column("WORKER", 7),
)
WIDEST = 1000
"""Of a line that goes into a pipe."""
ROWS_BESIDES = 5
"""Lines of a picture that are no sessions: the heading, the total, notes."""

Ages = Annotated[str | None, typer.Option(metavar="AGE", help="Made longer ago than this: 30s, 5m, 2h, 1d.")]
Younger = Annotated[str | None, typer.Option(metavar="AGE", help="Made later than this ago.")]
States = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STATE",
        help=f"Only these: {', '.join(State)}, or `live` for the first three. May be given several times.",
    ),
]


def sessions(
    redis: Redis = "",
    state: States = None,
    owner: Annotated[str, typer.Option(metavar="NAME", help="Only those of one principal.")] = "",
    older_than: Ages = None,
    younger_than: Younger = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Most sessions to show.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, with --watch.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Sessions: live ones first, then those that changed last."""
    wanted = Wanted(
        _states(state or []),
        owner,
        None if older_than is None else duration_ms(older_than),
        None if younger_than is None else duration_ms(younger_than),
        limit,
    )

    async def work(desk: Desk) -> int:
        if watch:
            await _watch(desk, wanted, every, as_json)
        found = await find(desk, wanted)
        if as_json:
            render.say_json(document(found))
        else:
            _print(desk.out, found, wanted.limit)
        return Exit.OK

    at_desk(redis, work)


def _states(given: list[str]) -> frozenset[State]:
    wanted: set[State] = set()
    for name in given:
        if name == "live":
            wanted |= LIVE
        elif name in set(State):
            wanted.add(State(name))
        else:
            raise typer.BadParameter(f"{name!r} is no state; they are {', '.join(State)}, and `live`")
    return frozenset(wanted)


async def _watch(desk: Desk, wanted: Wanted, every_s: float, as_json: bool) -> None:
    """Until cancelled. Redis may go away and come back meanwhile; but not before the first look.

    On a screen of its own, which is written over and not erased: nothing flickers, and the terminal is left as it was,
    with the last of the pictures. What is no screen is given one picture after another.
    """
    found = await find(desk, wanted)
    if as_json:
        while True:
            render.say_json(document(found))
            await asyncio.sleep(every_s)
            found = await find(desk, wanted)
    shown, note = found, None
    screen = desk.out.is_terminal and not desk.out.is_dumb_terminal
    live = Live(console=desk.out, auto_refresh=False, screen=True, vertical_overflow="crop") if screen else None
    try:
        with live or contextlib.nullcontext():
            while True:
                shown = found
                if live is not None:
                    room = max(desk.out.height - ROWS_BESIDES, 1)
                    live.update(_picture(found, desk.out.width, room, note, every_s), refresh=True)
                else:
                    _print(desk.out, found, wanted.limit, note)
                await asyncio.sleep(every_s)
                try:
                    found, note = await find(desk, wanted), None
                except RedisError as error:
                    note = render.text(render.one_line(why(error, desk.url)), "red")
    finally:
        if live is not None:
            _print(desk.out, shown, max(desk.out.height - ROWS_BESIDES, 1))


def _print(out: Console, found: Found, room: int, note: Text | None = None) -> None:
    if not render.lines_are_cut(out):
        out.width = WIDEST
    out.print(_picture(found, out.width, room, note))


def document(found: Found) -> dict[str, Any]:
    return {
        "at": found.now_ms,
        "fitting": found.fitting,
        "sessions": [summary(sid, view, found.now_ms) for sid, view in found.sessions],
        **({"note": found.note} if found.note else {}),
        **({"unreadable": found.unreadable} if found.unreadable else {}),
    }


def summary(sid: str, view: SessionView, now_ms: int) -> dict[str, Any]:
    return {
        "id": sid,
        "state": view.state,
        "since": view.since,
        "generation": view.generation,
        "attempt": view.attempt,
        "crashes": view.crashes,
        "worker": view.worker or None,
        "stop": view.stop == view.generation,
        "question": view.question or None,
        "owner": view.principal,
        "model": view.model,
        "pipeline": view.pipeline,
        "created": view.created,
        "age_ms": now_ms - view.created,
        "last_event_id": str(view.last),
        "expired": view.log_gone,
    }


def _picture(
    found: Found, width: int, room: int, note: Text | None = None, every_s: float | None = None
) -> RenderableType:
    """`every_s`: it is going to be looked at again and again, so it says when that was."""
    rows: Sequence[list[Text]] = [_row(sid, view, found.now_ms) for sid, view in found.sessions[:room]]
    if every_s is not None:  # `room` is lines, of which an id may need two
        rows = render.within(COLUMNS, rows, width, room)
    parts: list[RenderableType] = [render.table(COLUMNS, rows, width)] if rows else []
    parts.append(Text(_total(found, len(rows)), style="dim"))
    if every_s is not None:
        when = datetime.fromtimestamp(found.now_ms / 1000, UTC)
        parts.append(Text(f"{when:%H:%M:%S}Z, every {every_s:g} s; Ctrl-C ends", style="dim"))
    for words in (found.note, _unreadable(found.unreadable)):
        if words:
            parts.append(Text(f"! {words}", style="yellow"))
    if note is not None:
        parts.append(note)
    return Group(*parts)


def _unreadable(names: list[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > 1 else ""
    verb = "is named like a session, and is none" if len(names) == 1 else "are named like sessions, and are none"
    return f"{render.count(len(names), 'key')} {verb} that can be read: {names[0]}{more}"


def _row(sid: str, view: SessionView, now_ms: int) -> list[Text]:
    said = render.state(view.state)
    if view.live and view.stop == view.generation:
        said.append(" (stopping)", style="magenta")
    elif view.log_gone:
        said.append(" (expired)", style="dim")
    return [
        render.text(sid),
        said,
        Text(render.span(max(now_ms - view.since, 0))),
        Text(view.generation, style="dim"),
        Text(str(view.attempt), style="red" if view.crashes else "dim"),
        render.text(view.principal),
        render.text(view.model),
        Text(render.span(max(now_ms - view.created, 0)), style="dim"),
        render.text(view.worker, "dim"),
    ]


def _total(found: Found, shown: int) -> str:
    if not found.fitting:
        return "No session fits."
    states = Counter(view.state for _, view in found.sessions)
    what = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
    if shown < found.fitting:
        return f"{shown:,} of {render.count(found.fitting, 'session')} shown"
    return f"{render.count(found.fitting, 'session')}: {what}"
