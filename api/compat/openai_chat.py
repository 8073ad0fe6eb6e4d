"""`POST /v1/chat/completions`: each request is a session of its own, which the native API can follow and stop."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from api import schemas
from api.commands import Commands
from api.compat import answers
from api.compat.openai_request import (
    STREAM_OR_JSON,
    Key,
    Ours,
    Unsupported,
    answer,
    arguments_of,
    checked,
    failed,
    lost,
    model_of,
    refusal,
    text_of,
    tool_choice_of,
    tool_of,
)
from api.compat.routes import refusing
from api.dialects.openai_chat import ChatChunks, Completion, completion, completion_id
from api.dialects.openai_words import CANCELLED
from api.errors import documented_as_json
from api.node import Caller, Node, Principal, TheNode
from shared.errors import HoldfastError
from shared.events import State
from shared.transcript import Failure

router = APIRouter(tags=["openai"], route_class=refusing(refusal))

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "verbosity": ("medium",),
}
_OPTIONS = (
    "temperature", "top_p", "stop", "seed", "reasoning_effort", "frequency_penalty", "presence_penalty",
    "response_format", "parallel_tool_calls",
)  # fmt: skip
_TEXT = ("text", "refusal")


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatMessage(BaseModel):
    role: str
    content: str | list[Any] | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class ChatCompletions(Ours):
    """The parts of OpenAI's request that mean something here."""

    model: Annotated[str, Field(max_length=200)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Any], Field(max_length=schemas.MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] | None = None

    def session(self) -> schemas.CreateSession:
        """Raises InvalidRequest, which names the field."""
        self.check_extra(_NEUTRAL)
        body = {
            "model": model_of(self.model),
            "messages": [_message(message, n) for n, message in enumerate(self.messages)],
            "options": self._all_options(),
            "tools": [_tool(tool, n) for n, tool in enumerate(self.tools or [])],
            **self.common(),
        }
        session: schemas.CreateSession = checked(schemas.CreateSession, body)
        return session

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _all_options(self) -> dict[str, Any]:
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if given.get("response_format") == {"type": "text"}:
            del given["response_format"]
        if (limit := self.max_completion_tokens or self.max_tokens) is not None:
            given["max_tokens"] = limit
        if self.tool_choice is not None and self.tools:
            function = self.tool_choice.get("function") if isinstance(self.tool_choice, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            given["tool_choice"] = tool_choice_of(self.tool_choice, name)
        return {**given, **self.options}


def _message(message: ChatMessage, n: int) -> dict[str, Any]:
    param = f"messages[{n}]"
    said: dict[str, Any] = {"content": text_of(message.content, f"{param}.content", _TEXT)}
    said["role"] = "system" if message.role == "developer" else message.role
    if message.role not in ("system", "developer", "user", "assistant", "tool"):
        raise Unsupported(f"{param}.role", f"{message.role[:64]!r} is not supported here")
    if message.role == "tool":
        said["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        said["tool_calls"] = [_call(call, f"{param}.tool_calls[{m}]") for m, call in enumerate(message.tool_calls)]
    return said


def _call(call: object, param: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise Unsupported(param, "is no call of a function")
    return {"id": call.get("id"), "name": function.get("name"), "arguments": arguments_of(function, param)}


def _tool(tool: object, n: int) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise Unsupported(f"tools[{n}].type", "must be function")
    return tool_of(tool.get("function"), f"tools[{n}].function")


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses={**STREAM_OR_JSON, **documented_as_json(400, 404, 410, 413, 422, 500, 502, 503, 504)},
)
async def create_chat_completion(node: TheNode, caller: Caller, body: ChatCompletions, key: Key = None) -> Response:
    """OpenAI's Chat Completions, of any model. The header `holdfast-session` names the session: what is cut off here
    can be picked up through the native API."""
    opening = body.session()
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    commands = Commands(node, caller)
    sid, turn = await commands.create(opening, key)
    created = (await commands.view(sid)).created // 1000
    named = Completion(completion_id(sid, turn.generation), opening.model, created)
    if body.stream:
        chunks = ChatChunks(turn.generation, named, include_usage=body.include_usage)
        return answers.streamed(node, caller, sid, chunks, refusal=refusal)
    return await _whole(node, caller, sid, turn.generation, named, repeatable=key is not None)


async def _whole(
    node: Node, caller: Principal, sid: str, generation: str, named: Completion, *, repeatable: bool
) -> Response:
    try:
        message = await answers.whole(node, caller, sid, generation)
    except HoldfastError as error:
        return lost(sid, error, repeatable=repeatable)
    if message.state == State.COMPLETED:
        return answer(sid, completion(named, message))
    return failed(sid, CANCELLED if message.state == State.CANCELLED else message.error or Failure(code="unknown"))
