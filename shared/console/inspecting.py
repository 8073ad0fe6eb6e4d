"""Everything about one session: what its keys say, and what that means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from redis.exceptions import NoPermissionError, ResponseError

from shared import keys
from shared.compaction import split
from shared.console.desk import Desk, legible
from shared.console.render import span
from shared.errors import SessionNotFound
from shared.events import DELTAS, Event, EventType, State
from shared.transcript import Transcript, fold
from shared.views import SessionView

QUEUED_MS = 4_000
"""A session that is queued for longer than this is queued again; no worker seems to be free."""
GONE_MS = 12_000
"""A takeover begins within about 10 s."""
QUIET_MS = 60_000


@dataclass(frozen=True)
class Timings:
    """ms since 1970, by Redis' clock; None: not yet, or no longer in the log."""

    created: int
    queued: int | None
    """When the newest turn's message was written."""
    started: int | None
    """When the newest attempt at it began."""
    first_token: int | None
    last_event: int | None
    ended: int | None


@dataclass(frozen=True)
class Inspected:
    sid: str
    view: SessionView
    now_ms: int
    timings: Timings
    events: int
    """Of the log as it was written; it may be stored in fewer entries."""
    entries: int
    bytes: int | None
    """Of memory; None where the user may not ask."""
    log_ttl_ms: int | None
    """None: it stays until the generation is over."""
    session_ttl_ms: int | None
    lease_ms: int | None
    """What is left of the pen-holder's lease; None: nobody holds the pen, or the lease has run out."""
    host: str
    """Of the pen-holder: its machine and process."""
    transcript: Transcript

    @property
    def verdict(self) -> tuple[str, str]:
        """`ok`, `warn` or `bad`, and the answer to "is it stuck?"."""
        return _verdict(self)


async def inspect(desk: Desk, sid: str) -> Inspected:
    """Raises SessionNotFound, Unreadable."""
    with legible():
        view = await desk.log.view(sid)
    if view is None:
        raise SessionNotFound(sid)
    now_ms = await desk.directory.now_ms()
    with legible():
        log = await desk.log.events(sid, joined=True) if view.log_exists else []
        events, transcript = split(log), fold(log)
        times = timings(view, events)
    ttl, session_ttl = [_ttl(await desk.redis.pttl(key)) for key in (keys.events(sid), keys.session(sid))]
    lease, about = await _lease(desk, view.worker)
    return Inspected(
        sid=sid,
        view=view,
        now_ms=now_ms,
        timings=times,
        events=len(events),
        entries=len(log),
        bytes=await _bytes(desk, sid),
        log_ttl_ms=ttl,
        session_ttl_ms=session_ttl,
        lease_ms=lease,
        host=about,
        transcript=transcript,
    )


def timings(view: SessionView, events: Sequence[Event]) -> Timings:
    queued = started = first = ended = None
    for event in events:
        if event.type == EventType.MESSAGE and event.value.get("generation") == view.generation:
            queued = queued or event.at
        elif event.type == EventType.STARTED and event.value["generation"] == view.generation:
            started, first = event.at, None
        elif event.type in DELTAS and started is not None:
            first = first or event.at
        elif event.terminal and event.value["generation"] == view.generation:
            ended = event.at
    last = events[-1].at if events else None
    return Timings(view.created, queued, started, first, last, ended)


async def _lease(desk: Desk, worker: str) -> tuple[int | None, str]:
    if not worker:
        return None, ""
    left, about = await desk.redis.pttl(keys.worker(worker)), await desk.redis.get(keys.worker(worker))
    return _ttl(left), where(about)


def where(about: bytes | None) -> str:
    """Machine and process of a worker, as its lease says it."""
    try:
        said: dict[str, Any] = from_json(about or b"{}")
    except ValueError:
        return ""
    return f"{said['host']}, process {said['pid']}" if {"host", "pid"} <= said.keys() else ""


async def _bytes(desk: Desk, sid: str) -> int | None:
    try:
        sizes = [await desk.redis.memory_usage(key, 0) for key in (keys.events(sid), keys.session(sid))]
    except (NoPermissionError, ResponseError):
        return None
    return sum(size or 0 for size in sizes)


def _ttl(ms: int) -> int | None:
    return ms if ms >= 0 else None


def _verdict(seen: Inspected) -> tuple[str, str]:
    view, waited = seen.view, seen.now_ms - seen.view.since
    if view.state is State.QUEUED:
        if waited <= QUEUED_MS:
            return "ok", "queued: a worker will take it in a moment"
        return "warn", f"queued for {span(waited)}: no worker takes it. Ask `holdfast doctor`"
    if view.live:
        return _held(seen)
    if view.log_gone:
        return "ok", "over, and its log has expired"
    if view.state is not State.FAILED:
        return "ok", f"over: {view.state}"
    error = seen.transcript.messages[-1].error if seen.transcript.messages else None
    return "bad", f"over: it failed ({error.code})" if error is not None else "over: it failed"


def _held(seen: Inspected) -> tuple[str, str]:
    view = seen.view
    if seen.lease_ms is None:
        held = seen.now_ms - view.since
        if held > GONE_MS:
            return "bad", "its worker is gone, and nobody has taken it over: is any worker alive? Ask `holdfast doctor`"
        return "warn", "its worker is gone: another one takes it over within about 10 s"
    if view.stop == view.generation:
        return "ok", "it was asked to stop, and its worker will end it"
    if view.state is State.WAITING:
        return "ok", f"it waits for its user to answer question {view.question}"
    quiet = seen.now_ms - (seen.timings.last_event or view.since)
    if quiet > QUIET_MS:
        return "warn", f"its worker is alive, but has said nothing for {span(quiet)}: the provider is slow, or hangs"
    return "ok", f"it runs: the last event is {span(max(quiet, 0))} old"
