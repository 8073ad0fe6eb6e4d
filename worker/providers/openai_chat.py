"""OpenAI's Chat Completions, and the many servers that speak them."""

from collections.abc import AsyncGenerator
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
from worker.providers.openai_client import TOOL_CHOICES, openai_client
from worker.providers.options import as_text, checked_messages, renamed, tool_choice
from worker.providers.sdk import Chunk, Stream, parts
from worker.providers.source import Link, ModelSource
from worker.providers.text import Surrogates
from worker.providers.toolcalls import ToolCalls, arguments_json

_OPTIONS: Final = {
    name: name
    for name in (
        "temperature", "top_p", "stop", "seed", "reasoning_effort", "frequency_penalty", "presence_penalty",
        "parallel_tool_calls", "tool_choice", "response_format", "max_completion_tokens",
    )
}  # fmt: skip
_FINISH: Final[dict[str, FinishReason]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""Anything else is a stop: compatible servers have words of their own for it."""
_FAILED: Final = frozenset({"error", "abort"})
"""What some servers give as finish reason when they could not go on."""


class OpenAIChat:
    """`finish_reason` is the end marker: not every server sends `[DONE]`, and only the usage lies between."""

    def __init__(self, source: ModelSource, link: Link) -> None:
        self._client = openai_client(source, link)
        self._idle_timeout_s = link.idle_timeout_s

    def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        opening = partial(self._open, request)
        return parts(opening, ChatFold(), self._idle_timeout_s, self._client.secrets)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _open(self, request: ModelRequest) -> Stream:
        client = self._client.get()
        create: Any = client.chat.completions.with_raw_response.create  # its overloads cannot see through a dict
        response = await create(**request_body(request, client.base_url.host))
        stream: Stream = response.parse(to=AsyncStream[object])
        return stream


def request_body(request: ModelRequest, host: str) -> dict[str, Any]:
    """The arguments of `create`. Raises ProviderError `invalid_request`."""
    options = renamed(request.options, {**_OPTIONS, "max_tokens": _limit_name(host)}, "openai chat")
    if (choice := options.get("tool_choice")) is not None:
        options["tool_choice"] = tool_choice(choice, TOOL_CHOICES, _named_tool)
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message) for message in checked_messages(request)],
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    return {**body, "tools": [_tool(tool) for tool in request.tools]} if request.tools else body


def _named_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _limit_name(host: str) -> str:
    """OpenAI's reasoning models refuse `max_tokens`; many compatible servers know nothing else."""
    return "max_completion_tokens" if host == "openai.com" or host.endswith(".openai.com") else "max_tokens"


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        return {"role": role, "tool_call_id": message["tool_call_id"], "content": as_text(content)}
    if calls := message.get("tool_calls"):
        return {"role": role, "content": content or None, "tool_calls": [_call(call) for call in calls]}
    return {"role": role, "content": content}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": arguments_json(call)}
    return {"id": call["id"], "type": "function", "function": function}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


class ChatFold:
    """Folds chunks into parts. A refusal is Text, and makes the finish reason `content_filter`."""

    def __init__(self) -> None:
        self.whole = False
        self.ended = False
        self._reason: FinishReason = "stop"
        self._refused = False
        self._text, self._reasoning = Surrogates(), Surrogates()
        self._calls = ToolCalls()
        self._usage: Usage | None = None

    def feed(self, chunk: Chunk) -> list[Part]:
        if usage := chunk.get("usage"):  # some servers send it with every chunk, cumulative: the last one counts
            self._usage = _usage(usage)
        if not (choices := chunk.get("choices")) or choices[0].get("index"):
            return []
        choice = choices[0]
        said = self._delta(delta) if (delta := choice.get("delta")) else []
        return said + self._finish(reason) if (reason := choice.get("finish_reason")) else said

    def close(self) -> list[Part]:
        if not self.whole:
            raise ProviderError(Code.TRUNCATED, "the stream ended without a finish_reason")
        self.ended = True
        finish = Finish("content_filter" if self._refused else self._reason)
        return [finish] if self._usage is None else [self._usage, finish]

    def _delta(self, delta: dict[str, Any]) -> list[Part]:
        said: list[Part] = []
        # Not OpenAI's own: vLLM and others say it under one of two names, and some under both.
        if (thought := delta.get("reasoning_content") or delta.get("reasoning")) and isinstance(thought, str):
            said += _some(Reasoning, self._reasoning.feed(thought))
        if content := delta.get("content"):
            said += _some(Text, self._text.feed(content))
        if refusal := delta.get("refusal"):
            self._refused = True
            said += _some(Text, self._text.feed(refusal))
        for call in delta.get("tool_calls") or ():
            said += self._call(call)
        return said

    def _call(self, call: dict[str, Any]) -> list[Part]:
        said: list[Part] = []
        index, call_id = call.get("index") or 0, call.get("id")
        function = call.get("function") or {}
        if self._calls.starts(index, call_id):
            said += self._calls.end_all()
            self._calls.start(index, call_id, function.get("name"))
        if arguments := function.get("arguments"):
            self._calls.add(index, arguments)
        return said

    def _finish(self, reason: str) -> list[Part]:
        if reason in _FAILED:
            raise ProviderError(Code.PROVIDER_ERROR, f"the provider gave up: finish_reason {reason}")
        self._reason = _FINISH.get(reason, "tool_calls" if self._calls else "stop")
        cut = self._reason in ("length", "content_filter")
        said = _some(Reasoning, self._reasoning.flush()) + _some(Text, self._text.flush()) + self._calls.rest(cut)
        self.whole = True
        return said


def _some(kind: type[Text] | type[Reasoning], text: str) -> list[Part]:
    return [kind(text)] if text else []


def _usage(usage: dict[str, Any]) -> Usage:
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
        prompt.get("cached_tokens") or 0,
    )
