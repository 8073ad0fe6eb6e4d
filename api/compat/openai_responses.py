"""`/v1/responses`: a response is one generation of a session, and the next response of it the next turn.

None of them needs its client, `background` or not: each goes on when its client goes, can be followed again by the
number of the last event, and can be cancelled.
"""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api import replies, schemas
from api.commands import Commands
from api.compat import answers
from api.compat.openai_create import CreateResponse
from api.compat.openai_request import STREAM_OR_JSON, Key, Unsupported, answer, failed, lost, refusal
from api.compat.routes import refusing
from api.dialects.openai_responses import Answer, ResponseEvents, parse_response_id
from api.dialects.openai_words import CANCELLED
from api.errors import documented, documented_as_json
from api.node import Caller, Node, Principal, TheNode
from shared.errors import HoldfastError, InvalidRequest, NotTheGeneration, SessionExpired, SessionNotFound
from shared.events import Event, EventType, State
from shared.ids import START, EventId, generation_number
from shared.log import Opened
from shared.transcript import Failure, fold
from shared.views import SessionView

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=refusing(refusal))


class ResponseNotFound(SessionNotFound):
    code = "response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__("")
        self.message = f"no response {response_id[:100]!r}"


class PreviousNotFound(InvalidRequest):
    code = "previous_response_not_found"
    param = "previous_response_id"


@router.post(
    "",
    response_class=Response,
    responses={**STREAM_OR_JSON, **documented_as_json(400, 404, 410, 413, 422, 500, 502, 503, 504)},
)
async def create_response(node: TheNode, caller: Caller, body: CreateResponse, key: Key = None) -> Response:
    """OpenAI's Responses, of any model: streamed, whole, or in the background."""
    body.check()
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    commands = Commands(node, caller)
    if body.previous_response_id is None:
        sid, turn = await commands.create(body.session(), key)
        cursor = START
    else:
        sid, turn, cursor = await _continued(node, commands, body, key)
    of = await _answer(node, sid, turn.generation, await commands.view(sid))
    if body.stream:
        return answers.streamed(node, caller, sid, ResponseEvents(of), refusal=refusal, cursor=cursor)
    if body.background:
        return answer(sid, of.object() if turn.fresh else await _shown(node, of))
    return await _whole(node, caller, of, cursor, repeatable=key is not None)


@router.get(
    "/{response_id}", response_class=Response, responses={**STREAM_OR_JSON, **documented_as_json(400, 404, 422, 503)}
)
async def retrieve_response(
    node: TheNode,
    caller: Caller,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[
        int | None, Query(ge=0, description="With `stream`: the `sequence_number` of the last event that was received")
    ] = None,
) -> Response:
    """The response as it stands, or its events: all of them, or those after a number."""
    of = await _found(node, Commands(node, caller), response_id)
    if not stream:
        return answer(of.sid, await _shown(node, of))
    events = ResponseEvents(of, -1 if starting_after is None else starting_after)
    return answers.streamed(node, caller, of.sid, events, refusal=refusal)


@router.post("/{response_id}/cancel", responses=documented(400, 404, 413, 422, 503))
async def cancel_response(node: TheNode, caller: Caller, response_id: str) -> Response:
    """Cancel, wait a while for the end, and give the response as it is then. One that is over stays as it was."""
    commands = Commands(node, caller)
    of = await _found(node, commands, response_id)
    with contextlib.suppress(NotTheGeneration):  # a later turn has begun: this one is over
        await replies.stopped(node, commands, of.sid, schemas.StopRequest(generation=of.generation))
    return answer(of.sid, await _shown(node, of))


# -- inside


async def _continued(
    node: Node, commands: Commands, body: CreateResponse, key: str | None
) -> tuple[str, Opened, EventId]:
    """The next turn after the response that is named; with the cursor before it. Raises PreviousNotFound."""
    named = parse_response_id(body.previous_response_id or "")
    if named is None:
        raise PreviousNotFound("previous_response_id names no response")
    sid, previous = named
    expected = f"g{generation_number(previous) + 1}"
    try:
        view = await commands.view(sid)
    except SessionNotFound as error:
        raise PreviousNotFound("previous_response_id names no response") from error
    if view.generation != previous and not (key and view.generation == expected):
        raise _not_the_newest()
    known = fold(await node.log.events(sid, joined=True)) if body.instructions else None
    turn_body = body.turn(known)
    turn = await commands.message(sid, turn_body, key)
    if turn.generation != expected:  # another turn came first
        if turn.fresh:
            await commands.stop(sid, turn.generation)
        raise _not_the_newest()
    return sid, turn, await commands.before(sid, turn, len(turn_body.said))


def _not_the_newest() -> Unsupported:
    return Unsupported("previous_response_id", "is not the newest response of its session: only that can be continued")


async def _found(node: Node, commands: Commands, response_id: str) -> Answer:
    """Raises ResponseNotFound, SessionExpired."""
    named = parse_response_id(response_id)
    unknown = ResponseNotFound(response_id)
    if named is None:
        raise unknown
    try:
        view = await commands.view(named[0])
    except SessionNotFound as error:
        raise unknown from error
    if generation_number(named[1]) > generation_number(view.generation):
        raise unknown
    if view.log_gone:
        raise SessionExpired(named[0])
    return await _answer(node, *named, view)


async def _answer(node: Node, sid: str, generation: str, view: SessionView) -> Answer:
    """A later turn may have another model: then the log knows which was this one's."""
    model = view.model
    if generation != view.generation:
        events = await node.log.events(sid, joined=True)
        model = next((event.value["model"] for event in events if _starts(event, generation)), model)
    return Answer(sid, generation, model, view.created // 1000)


def _starts(event: Event, generation: str) -> bool:
    return event.type == EventType.STARTED and event.value["generation"] == generation


async def _shown(node: Node, of: Answer) -> dict[str, object]:
    """The response object, of what the log says now. Raises SessionExpired."""
    projection = ResponseEvents.silent(of)
    for event in await node.log.events(of.sid, joined=True):
        projection.take(event)
    if not projection.begun:
        raise SessionExpired(of.sid)
    return projection.response()


async def _whole(node: Node, caller: Principal, of: Answer, cursor: EventId, *, repeatable: bool) -> Response:
    try:
        message = await answers.whole(node, caller, of.sid, of.generation, cursor=cursor)
    except HoldfastError as error:
        return lost(of.sid, error, repeatable=repeatable)
    if message.state == State.COMPLETED:
        return answer(of.sid, await _shown(node, of))
    failure = CANCELLED if message.state == State.CANCELLED else message.error or Failure(code="unknown")
    return failed(of.sid, failure)
