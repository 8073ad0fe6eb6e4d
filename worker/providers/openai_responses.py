"""OpenAI's Responses."""

from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Any, Final

from openai import AsyncStream

from worker.providers.base import (
    Code,
    Finish,
    FinishReason,
    ModelRequest,
    Part,
    ProviderError,
    Reasoning,
    Text,
    ToolSpec,
    Usage,
)
from worker.providers.openai_background import Open, followed
from worker.providers.openai_client import TOOL_CHOICES, openai_client
from worker.providers.options import as_text, checked_messages, renamed, tool_choice
from worker.providers.sdk import Chunk, Fold, Stream, parts
from worker.providers.sdk_errors import redacted, word_code
from worker.providers.source import Link, ModelSource
from worker.providers.text import Surrogates
from worker.providers.toolcalls import ToolCalls, arguments_json

_OPTIONS: Final = {
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "effort",
    "reasoning_summary": "summary",
} | {name: name for name in ("background", "temperature", "top_p", "parallel_tool_calls", "tool_choice")}
_REASONING: Final = ("effort", "summary")
"""Options that go one level deeper."""
_INCOMPLETE: Final[dict[str, FinishReason]] = {
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}


class OpenAIResponses:
    """Stateless: nothing is stored at the provider, the whole conversation goes with every request. With the option
    `background` the run itself is stored there, and goes on while nobody follows it."""

    def __init__(self, source: ModelSource, link: Link) -> None:
        self._client = openai_client(source, link)
        self._idle_timeout_s = link.idle_timeout_s

    def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        if request.options.get("background"):
            body = partial(request_body, request)
            return followed(self._client, body, ResponsesFold(), request.remote, self._follow)
        return self._follow(partial(self._open, request), ResponsesFold())

    def _follow(self, open_: Open, fold: Fold) -> AsyncGenerator[Part, None]:
        return parts(open_, fold, self._idle_timeout_s, self._client.secrets)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _open(self, request: ModelRequest) -> Stream:
        create: Any = self._client.get().responses.with_raw_response.create  # its overloads cannot see through a dict
        response = await create(**request_body(request))
        stream: Stream = response.parse(to=AsyncStream[object])
        return stream


def request_body(request: ModelRequest) -> dict[str, Any]:
    """The arguments of `create`. Raises ProviderError `invalid_request`."""
    options = renamed(request.options, _OPTIONS, "openai responses")
    reasoning = {name: options.pop(name) for name in _REASONING if name in options}
    if (choice := options.get("tool_choice")) is not None:
        options["tool_choice"] = tool_choice(choice, TOOL_CHOICES, _named_tool)
    body: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in checked_messages(request) for item in _items(message)],
        "stream": True,
        "store": bool(options.get("background")),
        **options,
    }
    if reasoning:
        body["reasoning"] = reasoning
    return {**body, "tools": [_tool(tool) for tool in request.tools]} if request.tools else body


def _named_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def _items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        output = as_text(content)
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        return
    calls = message.get("tool_calls") or ()
    if content or not calls:
        yield {"role": role, "content": content}
    for call in calls:
        arguments = arguments_json(call)
        yield {"type": "function_call", "call_id": call["id"], "name": call["name"], "arguments": arguments}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    # Strict is the default here, and would refuse most schemas people write.
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
        "strict": False,
    }  # fmt: skip


class ResponsesFold:
    """Folds events into parts. A refusal is Text, and makes the finish reason `content_filter`."""

    def __init__(self) -> None:
        self.whole = False
        self.ended = False
        self._refused = False
        self._text, self._reasoning = Surrogates(), Surrogates()
        self._calls = ToolCalls()

    def feed(self, event: Chunk) -> list[Part]:
        match event["type"]:
            case "response.output_text.delta":
                return self._say(event["delta"])
            case "response.refusal.delta":
                self._refused = True
                return self._say(event["delta"])
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._think(event["delta"])
            case "response.reasoning_summary_part.added":
                return self._think("\n\n") if event.get("summary_index") else []
            case "response.function_call_arguments.delta":
                self._calls.add(event["output_index"], event["delta"])
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                self._calls.start(event["output_index"], event["item"]["call_id"], event["item"]["name"])
            case "response.output_item.done" if event["item"]["type"] == "function_call":
                return self._call(event["output_index"], event["item"])
            case "response.completed":
                return self._end(event["response"], "tool_calls" if self._calls else "stop")
            case "response.incomplete":
                return self._end(event["response"], _cut(event["response"]))
            case "response.failed":
                failure = event["response"].get("error") or {}
                raise _failed(failure.get("code"), failure.get("message") or "no reason given")
            case "error":
                raise _failed(event.get("code"), event.get("message") or "no reason given")
        return []

    def close(self) -> list[Part]:
        raise ProviderError(Code.TRUNCATED, "the stream ended without response.completed")

    def _say(self, text: str) -> list[Part]:
        return [Text(whole)] if (whole := self._text.feed(text)) else []

    def _think(self, text: str) -> list[Part]:
        return [Reasoning(whole)] if (whole := self._reasoning.feed(text)) else []

    def _call(self, index: int, item: dict[str, Any]) -> list[Part]:
        if self._calls.starts(index, item["call_id"]):
            self._calls.start(index, item["call_id"], item["name"])
        if arguments := item.get("arguments"):
            self._calls.replace(index, arguments)
        return list(self._calls.end(index))

    def _end(self, response: dict[str, Any], reason: FinishReason) -> list[Part]:
        said: list[Part] = [Reasoning(left)] if (left := self._reasoning.flush()) else []
        said += [Text(left)] if (left := self._text.flush()) else []
        said += self._calls.rest(cut=reason in ("length", "content_filter"))
        if usage := response.get("usage"):
            said.append(_usage(usage))
        self.whole = self.ended = True
        return [*said, Finish("content_filter" if self._refused else reason)]


def _cut(response: dict[str, Any]) -> FinishReason:
    """Why a response is incomplete. One that was cancelled at the provider is no answer."""
    reason = (response.get("incomplete_details") or {}).get("reason")
    if reason not in _INCOMPLETE:
        raise ProviderError(Code.PROVIDER_ERROR, f"the response is incomplete: {reason or response.get('status')}")
    return _INCOMPLETE[reason]


def _failed(code: str | None, message: str) -> ProviderError:
    return ProviderError(word_code(code) or Code.PROVIDER_ERROR, redacted(message))


def _usage(usage: dict[str, Any]) -> Usage:
    inputs, outputs = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    return Usage(
        usage.get("input_tokens") or 0,
        usage.get("output_tokens") or 0,
        outputs.get("reasoning_tokens") or 0,
        inputs.get("cached_tokens") or 0,
    )
