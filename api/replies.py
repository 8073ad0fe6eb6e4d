"""What a command is answered with, over HTTP and over WebSocket alike."""

from api import schemas
from api.commands import Commands
from api.node import Node
from api.waiting import until_over
from shared.events import TERMINALS, Event, EventType, State
from shared.log import Opened
from shared.views import SessionView


def summary(sid: str, view: SessionView) -> schemas.SessionSummary:
    return schemas.SessionSummary(
        id=sid,
        state=view.state,
        generation=view.generation,
        model=view.model,
        created=view.created,
        last_event_id=str(view.last),
    )


async def opened(node: Node, sid: str, turn: Opened) -> schemas.SessionOpened:
    """A repeated request is answered with the id of then, and the state of now."""
    view = None if turn.fresh else await node.log.view(sid)
    return schemas.SessionOpened(
        id=sid,
        generation=turn.generation,
        state=view.state if view else State.QUEUED,
        last_event_id=str(turn.last),
        events_url=f"/v1/sessions/{sid}/events",
    )


async def stopped(node: Node, commands: Commands, sid: str, request: schemas.StopRequest) -> schemas.Stopped:
    """Stop, wait for the end as long as the request says, and tell how it ended."""
    outcome = await commands.stop(sid, request.generation or "")
    if outcome.outcome == "stopping" and request.wait_s > 0:
        await until_over(node, sid, outcome.generation, request.wait_s)
    view = await commands.view(sid)
    if view.live and view.generation == outcome.generation:
        return schemas.Stopped(id=sid, generation=outcome.generation, state="stopping", confirmed=None)
    end = await _end_of(node, sid, outcome.generation)
    state = TERMINALS[EventType(end.type)] if end else State.CANCELLED if view.live else view.state
    confirmed = end.value.get("confirmed") if end else None
    return schemas.Stopped(id=sid, generation=outcome.generation, state=state.value, confirmed=confirmed)


async def _end_of(node: Node, sid: str, generation: str) -> Event | None:
    """The terminal of a generation: mostly the newest event, unless the next turn has begun meanwhile."""
    _, newest, _ = await node.log.last_event(sid)
    if newest is None or _ends(newest, generation):
        return newest
    return next((event for event in reversed(await node.log.events(sid)) if _ends(event, generation)), None)


def _ends(event: Event, generation: str) -> bool:
    return event.terminal and event.value["generation"] == generation


async def answered(commands: Commands, sid: str, request: schemas.AnswerRequest, key: str | None) -> schemas.Accepted:
    await commands.answer(sid, request, key)
    return schemas.Accepted(id=sid, question=request.question)
