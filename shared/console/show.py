"""`holdfast show`: everything about one session."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from shared.console import render
from shared.console.desk import Desk, at_desk
from shared.console.inspecting import Inspected, inspect
from shared.console.options import Exit, Json, Redis, Sid
from shared.console.sessions import summary
from shared.console.signs import sign
from shared.transcript import Message

SHORT_CHARS = 400
"""Of one message, unless all of it is wanted."""
SHORT_MESSAGES = 6


def show(
    sid: Sid,
    redis: Redis = "",
    full: Annotated[bool, typer.Option("--full", help="The whole transcript.")] = False,
    as_json: Json = False,
) -> None:
    """One session: is it stuck, who holds the pen, how long did what take, how large is it, what was said?"""

    async def work(desk: Desk) -> int:
        seen = await inspect(desk, sid)
        if as_json:
            render.say_json(document(seen))
        else:
            _print(desk.out, seen, full)
        return Exit.OK

    at_desk(redis, work)


def document(seen: Inspected) -> dict[str, Any]:
    level, words = seen.verdict
    times = seen.timings
    return {
        **summary(seen.sid, seen.view, seen.now_ms),
        "at": seen.now_ms,
        "verdict": {"level": level, "text": words},
        "worker_at": seen.host or None,
        "lease_left_ms": seen.lease_ms,
        "timings": {
            "created": times.created,
            "queued": times.queued,
            "started": times.started,
            "first_token": times.first_token,
            "last_event": times.last_event,
            "ended": times.ended,
        },
        "sizes": {
            "events": seen.events,
            "entries": seen.entries,
            "bytes": seen.bytes,
            "log_expires_in_ms": seen.log_ttl_ms,
            "session_expires_in_ms": seen.session_ttl_ms,
        },
        "transcript": seen.transcript.model_dump(exclude_defaults=True)["messages"] if seen.transcript.messages else [],
        "usage": seen.transcript.usage.model_dump(),
    }


def _print(out: Console, seen: Inspected, full: bool) -> None:
    level, words = seen.verdict
    out.print(Text.assemble((render.harmless(seen.sid), "bold"), "  ", render.state(seen.view.state)))
    out.print(Text.assemble(sign(level), " ", words))
    out.print()
    out.print(render.pairs([*_facts(seen), *_times(seen), *_sizes(seen)]))
    if seen.transcript.messages:
        out.print()
        _transcript(out, seen.transcript.messages, full)


def _facts(seen: Inspected) -> list[tuple[str, Text]]:
    view = seen.view
    tries = f"attempt {view.attempt}" + (f", {render.count(view.crashes, 'crash', 'crashes')}" if view.crashes else "")
    pen = Text("nobody", style="dim")
    if view.worker:
        lease = f"lease {render.span(seen.lease_ms)} left" if seen.lease_ms is not None else "its lease has run out"
        where = f" at {seen.host}" if seen.host else ""
        pen = render.text(f"{view.worker}{where}; {lease}", "" if seen.lease_ms is not None else "red")
    facts = [
        ("generation", Text(f"{view.generation}, {tries}")),
        ("pen", pen),
        ("model", render.text(f"{view.model}, pipeline {view.pipeline}")),
        ("owner", render.text(view.principal)),
        ("last event", Text(str(view.last))),
    ]
    if view.question:
        facts.append(("question", render.text(view.question)))
    return facts


def _times(seen: Inspected) -> list[tuple[str, Text]]:
    times = seen.timings
    steps = [("created", times.created)]
    if times.queued is not None and times.queued - times.created > 1:
        steps.append(("asked", times.queued))
    items = [(name, _moment(at, seen.now_ms)) for name, at in steps]
    if times.queued is not None and times.started is not None:
        items.append(("in queue", Text(render.span(max(times.started - times.queued, 0)))))
    if times.started is not None:
        items.append(("started", _moment(times.started, seen.now_ms)))
        if times.first_token is not None:
            items.append(("first token", Text(f"{render.span(max(times.first_token - times.started, 0))} after that")))
    if times.ended is not None:
        took = f", took {render.span(max(times.ended - times.started, 0))}" if times.started is not None else ""
        items.append(("ended", _moment(times.ended, seen.now_ms).append(took)))
    elif times.last_event is not None:
        items.append(("last said", _moment(times.last_event, seen.now_ms)))
    return items


def _moment(at: int, now_ms: int) -> Text:
    when = datetime.fromtimestamp(at / 1000, UTC)
    return Text.assemble(f"{when:%Y-%m-%d %H:%M:%S}Z", (f"  {render.span(max(now_ms - at, 0))} ago", "dim"))


def _sizes(seen: Inspected) -> list[tuple[str, Text]]:
    log = render.count(seen.events, "event")
    if seen.entries != seen.events:
        log += f" in {render.count(seen.entries, 'entry', 'entries')}"
    if seen.bytes is not None:
        log += f", {render.size(seen.bytes)} of memory"
    if seen.view.log_gone:
        log = "expired"
    kept = "as long as it is live" if seen.view.live else "for ever, which is wrong: see `holdfast doctor`"
    if seen.log_ttl_ms is not None:
        kept = f"the log {render.span(seen.log_ttl_ms)} more"
        if seen.session_ttl_ms is not None:
            kept += f", the session {render.span(seen.session_ttl_ms)}"
    elif seen.session_ttl_ms is not None:
        kept = f"the session {render.span(seen.session_ttl_ms)} more"
    return [("log", Text(log)), ("kept", Text(kept))]


# -- what was said


def _transcript(out: Console, messages: list[Message], full: bool) -> None:
    left_out = 0 if full else max(len(messages) - SHORT_MESSAGES, 0)
    if left_out:
        out.print(Text(f"… {render.count(left_out, 'message')} before; --full shows all", style="dim"))
    for message in messages[left_out:]:
        out.print(_heading(message))
        for words, style in _lines(message, full):
            out.print(render.text(words, style), overflow="fold")


def _heading(message: Message) -> Text:
    ended = f", {message.state}" if message.state else ""
    return Text.assemble(
        (render.harmless(message.role), "bold blue" if message.role == "user" else "bold green"),
        (f"  {message.generation}{ended}", "dim"),
    )


def _lines(message: Message, full: bool) -> list[tuple[str, str]]:
    lines = [(f"· {status.text} ({status.state})", "yellow") for status in message.status]
    lines += [(f"· {tool.name} → {tool.error or _short(str(tool.output), full)}", "cyan") for tool in message.tools]
    if message.reasoning:
        lines.append((_short(message.reasoning, full), "dim italic"))
    if message.content:
        lines.append((_short(message.content, full), ""))
    lines += [(f"? {each.question} → {each.text or 'no answer'}", "cyan") for each in message.answers]
    if message.question is not None:
        lines.append((f"? {message.question.text}", "bold yellow"))
    if message.error is not None:
        lines.append((f"{message.error.code}: {message.error.message}", "red"))
    return lines


def _short(words: str, full: bool) -> str:
    """The beginning and the end: what the user saw last is at the end."""
    if full or len(words) <= SHORT_CHARS:
        return words
    half = SHORT_CHARS // 2
    return f"{words[:half]} … [{len(words) - 2 * half:,} characters] … {words[-half:]}"
