"""`/api/chat/stream`: session and stream in one call, for `curl` and a bare `EventSource`.

Ids are `<session>/<event id>`: an EventSource that is cut asks the same URL again with the last of them, and gets the
rest of that session instead of another one.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Query, Request

from api import schemas
from api.auth import Principal, authenticate
from api.commands import Commands
from api.delivery import Delivery
from api.dialects.native import NativeEncoder
from api.errors import documented_as_json
from api.node import Node, TheNode
from api.stream import STREAM, EventStream
from shared.errors import InvalidEventId, InvalidRequest
from shared.ids import START, EventId, is_session_id

PATH = "/api/chat/stream"

router = APIRouter(tags=["chat"])


async def _cursor(
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="`<session>/<event id>`: resume there, start nothing")
    ] = None,
    after: Annotated[str | None, Query(description="The same, where a header cannot be set")] = None,
) -> tuple[str, EventId] | None:
    """Session and cursor; None: there is none. Raises InvalidEventId: a bad cursor must not start a generation."""
    text = after if last_event_id is None else last_event_id
    if text is None:
        return None
    sid, _, event_id = text.rpartition("/")
    if not is_session_id(sid):
        raise InvalidEventId(text)
    return sid, EventId.parse(event_id)


async def _key(
    key: Annotated[
        str | None,
        Query(min_length=1, max_length=255, description="Repeats with it start nothing: for a cut before the first id"),
    ] = None,
    header: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> str | None:
    return key or header


async def _by_url(
    message: Annotated[str | None, Query(description="What to ask", min_length=1)] = None,
    session: Annotated[schemas.SessionId | None, Query(description="Ask there; none: in a new session")] = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    pipeline: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = None,
    interrupt: bool = False,
) -> schemas.ChatRequest | None:
    """The question, where the URL has one."""
    if message is None:
        return None
    return schemas.ChatRequest(message=message, session=session, model=model, pipeline=pipeline, interrupt=interrupt)


ByUrl = Annotated[schemas.ChatRequest | None, Depends(_by_url)]
Cursor = Annotated[tuple[str, EventId] | None, Depends(_cursor)]
Key = Annotated[str | None, Depends(_key)]


@router.post(PATH, response_class=EventStream, status_code=200, responses={**STREAM, **documented_as_json(413, 503)})
async def ask(
    node: TheNode,
    request: Request,
    by_url: ByUrl,
    cursor: Cursor,
    key: Key,
    body: Annotated[schemas.ChatRequest | None, Body()] = None,
) -> EventStream:
    """Ask, and stream the answer. With a cursor: the rest of what was asked before."""
    if cursor is not None:
        return await _resumed(node, request, *cursor)
    if body is not None and by_url is not None:
        raise InvalidRequest("ask either in the body or by ?message=")
    return await _asked(node, request, body or by_url, key)


@router.get(PATH, response_class=EventStream, status_code=200, responses={**STREAM, **documented_as_json(503)})
async def ask_by_url(
    node: TheNode,
    request: Request,
    question: ByUrl,
    cursor: Cursor,
    key: Key,
) -> EventStream:
    """The same by URL alone, for a bare EventSource: cut, it resumes; after the end it is told to stop (204)."""
    if cursor is not None:
        return await _resumed(node, request, *cursor)
    return await _asked(node, request, question, key)


async def _asked(node: Node, request: Request, question: schemas.ChatRequest | None, key: str | None) -> EventStream:
    if question is None:
        raise InvalidRequest("nothing was asked: give ?message=")
    if request.headers.get("sec-purpose", "").startswith("prefetch"):
        raise InvalidRequest("nobody has asked yet: a prefetch starts nothing")
    caller = await authenticate(request, question.session)
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    commands = Commands(node, caller)
    if question.session is not None:
        turn = await commands.message(question.session, question.next, key)
        return _stream(node, caller, question.session, await commands.before(question.session, turn))
    sid, _ = await commands.create(question.first, key)
    return _stream(node, caller, sid, START)


async def _resumed(node: Node, request: Request, sid: str, cursor: EventId) -> EventStream:
    return _stream(node, await authenticate(request, sid), sid, cursor)


def _stream(node: Node, caller: Principal, sid: str, cursor: EventId) -> EventStream:
    delivery = Delivery(node.hub, sid, caller, cursor, follow=False, merge=True)
    encode = NativeEncoder(node.settings.retry_ms, f"{sid}/".encode())
    return EventStream(delivery, encode, headers={"holdfast-session": sid})
