"""OpenAI's Chat Completions, and the many servers that speak them."""

from collections.abc import AsyncGenerator, Awaitable, Iterable
from typing import Any, Final, cast

from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta, ChoiceDeltaToolCall
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
    ToolCall,
    ToolSpec,
    Usage,
)
from worker.providers.openai_client import OpenAIClient
from worker.providers.options import as_text, checked_messages, renamed
from worker.providers.sdk import Stream, parts
from worker.providers.text import Surrogates
from worker.providers.toolcalls import ToolCalls, arguments_json

_OPTIONS: Final = (
    "temperature", "top_p", "stop", "seed", "reasoning_effort", "frequency_penalty", "presence_penalty",
    "parallel_tool_calls", "tool_choice", "response_format", "max_completion_tokens",
)  # fmt: skip

_FINISH: Final[dict[str, FinishReason]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""Anything else is a stop: compatible servers have words of their own for it."""
_FAILED: Final = frozenset({"error", "abort"})
"""What some servers say as a finish reason when they could not go on."""


class OpenAIChat:
    """`finish_reason` is the end marker: some servers never send `[DONE]`, and a proxy may lose the usage after it."""

    def __init__(self, client: OpenAIClient, idle_timeout_s: float) -> None:
        self._client = client
        self._idle_timeout_s = idle_timeout_s

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        client = self._client.get()
        body = chat_body(request, limit_name(client.base_url.host))
        create: Any = client.chat.completions.create  # its overloads cannot see through a dict
        opening = cast(Awaitable[Stream[ChatCompletionChunk]], create(**body))
        async with aclosing_parts(parts(opening, ChatFold(), self._idle_timeout_s, self._client.secrets)) as said:
            async for part in said:
                yield part
