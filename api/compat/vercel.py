"""The AI SDK's HTTP surface: what `useChat` asks for with its default transport.

A reconnect is answered with the whole message again, from its `start` on: the SDK knows no other resume. An attempt
that makes void what was said already cannot be told in the midst of a stream, so the stream is cut; the next one begins
with that attempt.
"""

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from api import replies, schemas
from api.auth import authenticate
from api.commands import Commands
from api.compat import vercel_turns
from api.compat.answers import streamed
from api.compat.routes import refusing
from api.compat.vercel_request import ChatId, ChatRequest, session_of
from api.compat.vercel_turns import Turn
from api.dialects import vercel
from api.errors import ErrorBody, error_response
from api.node import Caller, Node, Principal, TheNode
from api.stream import EventStream
from shared.errors import HoldfastError, NotTheGeneration

ERROR_HEADER = "holdfast-error"


def refusal(error: HoldfastError) -> Response:
    """The SDK takes the body for the message of its Error: so it is that. The code is in a header."""
    made = error_response(error)
    kept = {name: made.headers[name] for name in ("retry-after", "www-authenticate") if name in made.headers}
    return PlainTextResponse(error.message, made.status_code, {ERROR_HEADER: error.code, **kept})


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors are text; those from before the route is reached are JSON, as everywhere."""
    as_json = {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}
    content = {"text/plain": {"schema": {"type": "string"}}, "application/json": as_json}
    return {status: {"description": "The error", "content": content} for status in statuses}


STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The UI message stream, version 1.",
        "content": {
            "text/event-stream": {
                "itemSchema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]},
                "example": 'data: {"type":"start","messageId":"msg_c1_g1"}\n\n',
            }
        },
    },
    **_documented(400, 401, 403, 404, 410, 413, 422, 429, 503),
}

router = APIRouter(prefix="/api/chat", tags=["ai sdk"], route_class=refusing(refusal))

Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=255, description="None: the id of the user's message is one"),
]


class StopBody(BaseModel):
    """What the SDK's documentation has a page send; all of it may be left out."""

    model_config = ConfigDict(extra="ignore")

    assistantMessage: dict[str, Any] | None = None
    """As the page has it. With an id of here, nothing but that message's generation is stopped."""


class Stopped(BaseModel):
    success: bool


@router.post("", response_class=EventStream, status_code=200, responses=STREAM)
async def chat(node: TheNode, caller: Caller, body: ChatRequest, key: Key = None) -> EventStream:
    """Ask, and stream the answer. The first request of a chat opens its session; a repeat gets the same answer.

    Beside what the SDK sends: `model`, `pipeline` (of a new chat), `options`, and `interrupt`, without which a message
    is refused while an answer is being written.
    """
    return _stream(node, caller, await vercel_turns.opened(node, caller, body, key))


@router.get(
    "/{chat_id:path}/stream",
    response_class=EventStream,
    status_code=200,
    responses={**STREAM, 204: {"description": "Nothing is being written."}},
)
async def resume(
    node: TheNode,
    request: Request,
    chat_id: ChatId,
    finished: Annotated[bool, Query(description="The last answer also where it is complete by now")] = False,
) -> Response:
    """The answer that is being written, from its start. A chat that is not known yet has none."""
    sid = session_of(chat_id)
    caller = await authenticate(request, sid)
    turn = await vercel_turns.running(node, caller, sid, finished=finished)
    return Response(status_code=204) if turn is None else _stream(node, caller, turn)


@router.post("/{chat_id:path}/stop", responses=_documented(400, 401, 403, 404, 413, 422, 429, 503))
async def stop(
    node: TheNode, request: Request, chat_id: ChatId, body: Annotated[StopBody | None, Body()] = None
) -> Stopped:
    """Stop the answer that is being written; what was said stays. The SDK's own `stop()` only closes the connection,
    which stops nothing here."""
    sid = session_of(chat_id)
    commands = Commands(node, await authenticate(request, sid))
    with contextlib.suppress(NotTheGeneration):  # that one is over
        await replies.stopped(node, commands, sid, schemas.StopRequest(generation=_meant(body, sid)))
    return Stopped(success=True)


def _meant(body: StopBody | None, sid: str) -> str | None:
    named = (body.assistantMessage or {}).get("id") if body else None
    return vercel.generation_of(named, sid) if isinstance(named, str) else None


def _stream(node: Node, caller: Principal, turn: Turn) -> EventStream:
    return streamed(
        node,
        caller,
        turn.sid,
        vercel.UiStream(turn.sid, turn.generation),
        refusal=refusal,
        cursor=turn.cursor,
        headers=vercel.HEADERS,
        merge=True,
    )
