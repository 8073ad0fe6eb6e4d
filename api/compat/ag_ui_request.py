"""What a client of AG-UI sends, and what it means here."""

from typing import Annotated, Any, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from api import schemas
from api.compat.langgraph_requests import content_of
from api.compat.threads import Id, Sayable, checked, model_of
from api.dialects.conversation import json_text
from shared.errors import InvalidRequest

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system", "tool": "tool"}
_ANSWERS = ("assistant", "reasoning", "activity")
"""Roles of what is said to the user: whatever comes behind the last of these is new."""


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=to_camel, serialization_alias=to_camel))


class Resume(_Body):
    """The answer to a question."""

    interrupt_id: Id
    status: Literal["resolved", "cancelled"]
    payload: Sayable = None

    @property
    def text(self) -> str:
        return self.payload if isinstance(self.payload, str) else json_text(self.payload)


class Tool(_Body):
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


class RunAgentInput(_Body):
    """`forwardedProps` may name `model` (`provider/name`), `pipeline` and `options`. Fields of a later version of the
    protocol are passed over, as it wants it."""

    thread_id: Id
    run_id: Id
    messages: Annotated[list[dict[str, Sayable]], Field(max_length=1000)]
    tools: Annotated[list[Tool], Field(max_length=schemas.MAX_TOOLS)] | None = None
    context: Annotated[
        list[Any], Field(max_length=0, description="Must be empty: say it in a message of role `system`")
    ] | None = None  # fmt: skip
    forwarded_props: Any = None
    resume: Annotated[list[Resume], Field(max_length=1)] | None = None
    state: Any = None
    protocol_version: str | None = None
    parent_run_id: str | None = None


def first_turn(sid: str, request: RunAgentInput) -> schemas.CreateSession:
    """Raises InvalidRequest."""
    pipeline = _props(request).get("pipeline")
    named = {"pipeline": pipeline} if pipeline is not None else {}
    messages = _messages(request.messages)
    return checked(schemas.CreateSession, id=sid, messages=messages, **named, **_common(request))


def next_turn(request: RunAgentInput) -> schemas.NextMessage:
    """What comes behind the last answer. Raises InvalidRequest."""
    fresh = list(request.messages)
    for n, message in enumerate(request.messages):
        if message.get("role") in _ANSWERS:
            fresh = request.messages[n + 1 :]
    return checked(schemas.NextMessage, messages=_messages(fresh), **_common(request))


def _common(request: RunAgentInput) -> dict[str, Any]:
    props = _props(request)
    found: dict[str, Any] = {}
    if isinstance(model := props.get("model"), str):
        found["model"] = model_of(model)
    if "options" in props:
        found["options"] = props["options"]
    found["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    return found


def _props(request: RunAgentInput) -> dict[str, Any]:
    return request.forwarded_props if isinstance(request.forwarded_props, dict) else {}


def _messages(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages = [_message(message, f"messages.{n}") for n, message in enumerate(given)]
    found = [message for message in messages if message is not None]
    if not found:
        raise InvalidRequest("messages: there is no new message")
    return found


def _message(given: dict[str, Any], place: str) -> dict[str, Any] | None:
    """None for what a model is not told."""
    if given.get("role") in ("reasoning", "activity"):
        return None
    role = _ROLES.get(str(given.get("role")))
    if role is None:
        raise InvalidRequest(f"{place}.role: not known")
    calls = given.get("toolCalls") if role == "assistant" else None
    content = given.get("content")
    message: dict[str, Any] = {"role": role, "content": content_of("" if content is None else content, place)}
    if role == "tool":
        message["tool_call_id"] = given.get("toolCallId")
    if calls:
        message["tool_calls"] = _calls(calls, place)
    return None if role == "assistant" and not calls and not message["content"] else message


def _calls(given: Any, place: str) -> list[dict[str, Any]]:
    try:
        return [
            {
                "id": call["id"],
                "name": call["function"]["name"],
                "arguments": from_json(call["function"]["arguments"] or "{}"),
            }
            for call in given
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{place}.toolCalls: no list of calls with arguments in JSON") from error
