"""OpenAI's Chat Completions, and the many servers that speak them."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final, cast

from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall
from openai.types.completion_usage import CompletionUsage

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
from worker.providers.openai_client import openai_client
from worker.providers.options import as_text, checked_messages, renamed
from worker.providers.sdk import Stream, parts
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

    async def _open(self, request: ModelRequest) -> Stream[ChatCompletionChunk]:
        client = self._client.get()
        create: Any = client.chat.completions.create  # its overloads cannot see through a dict
        return cast(Stream[ChatCompletionChunk], await create(**request_body(request, client.base_url.host)))


def request_body(request: ModelRequest, host: str) -> dict[str, Any]:
    """The arguments of `create`. Raises ProviderError `invalid_request`."""
    options = renamed(request.options, {**_OPTIONS, "max_tokens": _limit_name(host)}, "openai chat")
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message) for message in checked_messages(request)],
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    return {**body, "tools": [_tool(tool) for tool in request.tools]} if request.tools else body


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

    def feed(self, chunk: ChatCompletionChunk) -> list[Part]:
        if chunk.usage is not None:  # some servers send it with every chunk, cumulative: the last one counts
            self._usage = _usage(chunk.usage)
        if not chunk.choices or chunk.choices[0].index:
            return []
        choice = chunk.choices[0]
        said = self._delta(choice.delta) if choice.delta is not None else []
        return said + self._finish(choice.finish_reason) if choice.finish_reason else said

    def close(self) -> list[Part]:
        if not self.whole:
            raise ProviderError(Code.TRUNCATED, "the stream ended without a finish_reason")
        self.ended = True
        finish = Finish("content_filter" if self._refused else self._reason)
        return [finish] if self._usage is None else [self._usage, finish]

    def _delta(self, delta: ChoiceDelta) -> list[Part]:
        said: list[Part] = []
        extra = delta.model_extra or {}
        # Not OpenAI's own: vLLM and others say it under one of two names, and some under both.
        if (thought := extra.get("reasoning_content") or extra.get("reasoning")) and isinstance(thought, str):
            said += _some(Reasoning, self._reasoning.feed(thought))
        if delta.content:
            said += _some(Text, self._text.feed(delta.content))
        if delta.refusal:
            self._refused = True
            said += _some(Text, self._text.feed(delta.refusal))
        for call in delta.tool_calls or ():
            said += self._call(call)
        return said

    def _call(self, call: ChoiceDeltaToolCall) -> list[Part]:
        said: list[Part] = []
        index = call.index or 0
        function = call.function
        if self._calls.starts(index, call.id):
            said += self._calls.end_all()
            self._calls.start(index, call.id, function.name if function else None)
        if function is not None and function.arguments:
            self._calls.add(index, function.arguments)
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


def _usage(usage: CompletionUsage) -> Usage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        usage.prompt_tokens or 0,
        usage.completion_tokens or 0,
        (completion.reasoning_tokens if completion else 0) or 0,
        (prompt.cached_tokens if prompt else 0) or 0,
    )
