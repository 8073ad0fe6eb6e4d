"""Turns of a chat of the AI SDK's: opened once, however often they are sent, and found again."""

from dataclasses import dataclass

from api.commands import Commands
from api.compat.vercel_request import ChatRequest
from api.node import Node, Principal
from shared.errors import InvalidRequest, SessionExists, SessionNotFound
from shared.events import Event, EventType, State
from shared.ids import START, EventId, generation_before
from shared.log import Opened
from shared.views import SessionView


@dataclass(frozen=True)
class Turn:
    """A generation, and where to read it from: after its message, or before its newest attempt."""

    sid: str
    generation: str
    cursor: EventId


async def opened(node: Node, caller: Principal, request: ChatRequest, key: str | None) -> Turn:
    """The turn a request asks for; the same one for a repeat. Raises what `Commands` does."""
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    sid = request.sid
    view = await node.log.view(sid)
    if view is not None and view.principal != caller:
        raise SessionNotFound(sid)
    key = key or request.key(_over(view))
    commands = Commands(node, caller)
    turn = await _known(commands, sid, key, view) or await _open(commands, request, key, view)
    cursor = turn.last if turn.fresh else await _newest_attempt(node, sid, turn.generation)
    return Turn(sid, turn.generation, cursor)


async def running(node: Node, caller: Principal, sid: str, *, finished: bool = False) -> Turn | None:
    """The generation under way; with `finished` also one that is over. None: there is none, or no such session."""
    view = await node.log.view(sid)
    if view is None or view.principal != caller or view.log_gone or not (view.live or finished):
        return None
    return Turn(sid, view.generation, await _newest_attempt(node, sid, view.generation))


def _over(view: SessionView | None) -> str:
    """The newest generation that is over: while one runs, a request to regenerate can only be the one that began it."""
    if view is None:
        return ""
    return generation_before(view.generation) if view.live else view.generation


async def _known(commands: Commands, sid: str, key: str | None, view: SessionView | None) -> Opened | None:
    return None if view is None or key is None else await commands.opened_by(sid, key)


async def _open(commands: Commands, request: ChatRequest, key: str | None, view: SessionView | None) -> Opened:
    if view is None:
        try:
            return (await commands.create(request.first, key))[1]
        except SessionExists:  # somebody was faster: with another message, or another caller
            view = await commands.view(request.sid)
    if request.pipeline is not None and request.pipeline != view.pipeline:
        raise InvalidRequest(f"pipeline: the chat has {view.pipeline}, and keeps it")
    return await commands.message(request.sid, request.next, key)


# -- where it begins


async def _newest_attempt(node: Node, sid: str, generation: str) -> EventId:
    """What lies before is void, or is not this generation's."""
    view = await node.log.view(sid)
    if view is None or view.log_gone:
        return START
    if view.generation == generation:
        if view.state is State.QUEUED:
            return view.last
        _, page = await node.log.read(sid, EventId(view.epoch, 0), 1)
        if page and _begins(page[0], generation):
            return page[0].before
    return _found(await node.log.events(sid, joined=True), generation)


def _begins(event: Event, generation: str) -> bool:
    return event.type == EventType.STARTED and event.value["generation"] == generation


def _found(events: list[Event], generation: str) -> EventId:
    """START where the log no longer has it: a delivery tells of that."""
    found = START
    for event in events:
        if _begins(event, generation):
            found = event.before
        elif event.type == EventType.MESSAGE and event.value["generation"] == generation:
            found = event.id
    return found
