"""`POST /v1/messages`: each request is a session of its own, which the native API can follow and stop."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse
from starlette.responses import Response

from api.commands import Commands
from api.compat import answers
from api.compat.anthropic_request import MessageRequest
from api.compat.routes import refusing
from api.dialects.anthropic_messages import (
    CANCELLED,
    MessageEvents,
    error_body,
    error_type,
    failure_body,
    failure_status,
    message_of,
    request_id,
)
from api.errors import documented_as_json, error_response
from api.node import Caller, Node, Principal, TheNode
from shared.errors import HoldfastError, UnknownModel
from shared.events import State
from shared.ids import new_token
from shared.transcript import Failure

REQUEST_ID = "request-id"
RETRY = "x-should-retry"
"""The SDKs go by it rather than by the status."""


def refusal(error: HoldfastError) -> Response:
    """An error before there is a session, in Anthropic's shape."""
    ours = error_response(error)
    status = 404 if isinstance(error, UnknownModel) else 400 if ours.status_code in (410, 422) else ours.status_code
    request = request_id(new_token())
    kept = {name: value for name, value in ours.headers.items() if name in ("retry-after", "www-authenticate")}
    return JSONResponse(
        error_body(error_type(status), error.message, request), status, {**kept, REQUEST_ID: request}
    )  # fmt: skip


router = APIRouter(tags=["anthropic"], route_class=refusing(refusal))

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
            "required": ["type", "message"],
        },
        "request_id": {"type": "string"},
    },
    "required": ["type", "error", "request_id"],
}
_ERROR = {"description": "The error", "content": {"application/json": {"schema": ERROR_SCHEMA}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As Anthropic answers; with `stream` as server-sent events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    **dict.fromkeys((400, 401, 403, 404, 422, 429, 500, 503, 504, 529), _ERROR),
    **documented_as_json(413),
}


@router.post("/v1/messages", response_class=Response, responses=_ANSWERS)
async def create_message(
    node: TheNode,
    caller: Caller,
    body: MessageRequest,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats with it start nothing")] = None,
) -> Response:
    """Anthropic's Messages, of any model. The header `holdfast-session` names the session: what is cut off here can be
    picked up through the native API."""
    opening = body.session()
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    sid, turn = await Commands(node, caller).create(opening, key)
    if body.stream:
        events = MessageEvents(sid, turn.generation)
        headers = {REQUEST_ID: request_id(f"{sid}_{turn.generation}")}
        return answers.streamed(node, caller, sid, events, refusal=refusal, headers=headers)
    return await _whole(node, caller, sid, turn.generation, opening.model, repeatable=key is not None)


async def _whole(node: Node, caller: Principal, sid: str, generation: str, model: str, *, repeatable: bool) -> Response:
    """A generation that failed ran, and is not to be run again without need; one whose end this node cannot tell goes
    on, and a request that nobody can recognise must not be repeated: it would start another one."""
    named = {answers.SESSION_HEADER: sid, REQUEST_ID: request_id(f"{sid}_{generation}")}
    try:
        message = await answers.whole(node, caller, sid, generation)
    except HoldfastError as error:
        response = refusal(error)
        response.headers.update({answers.SESSION_HEADER: sid, **({} if repeatable else {RETRY: "false"})})
        return response
    if message.state == State.COMPLETED:
        return JSONResponse(message_of(sid, generation, model, message), headers=named)
    failure = CANCELLED if message.state == State.CANCELLED else message.error or Failure(code="unknown")
    retry = {RETRY: "true" if failure.retryable else "false"}
    body = failure_body(failure, named[REQUEST_ID])
    return JSONResponse(body, failure_status(failure), {**named, **retry})
