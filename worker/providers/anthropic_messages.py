"""Anthropic's Messages."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

from anthropic import AsyncAnthropic, AsyncStream, Timeout

from worker.providers.anthropic_request import request_body
from worker.providers.base import (
    Code,
    Finish,
    FinishReason,
    ModelRequest,
    Part,
    ProviderError,
    Reasoning,
    Text,
    Usage,
)
from worker.providers.sdk import Chunk, Stream, parts
from worker.providers.source import CONNECT_TIMEOUT_S, READ_MARGIN_S, Lazy, Link, ModelSource, no_key
from worker.providers.text import Surrogates
from worker.providers.toolcalls import ToolCalls

_FINISH: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_COUNTS: Final = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicMessages:
    def __init__(self, source: ModelSource, link: Link) -> None:
        self._client = Lazy(partial(_client, source, link))
        self._idle_timeout_s = link.idle_timeout_s

    def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        opening = partial(self._open, request)
        return parts(opening, MessagesFold(request.counted), self._idle_timeout_s, self._client.secrets)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _open(self, request: ModelRequest) -> Stream:
        create: Any = self._client.get().messages.with_raw_response.create  # its overloads cannot see through a dict
        response = await create(**request_body(request))
        stream: Stream = await response.parse(to=AsyncStream[object])
        return stream


def _client(source: ModelSource, link: Link) -> AsyncAnthropic:
    timeout = Timeout(link.idle_timeout_s + READ_MARGIN_S, connect=CONNECT_TIMEOUT_S)
    client = AsyncAnthropic(
        api_key=source.api_key(), base_url=source.base_url, timeout=timeout, max_retries=link.max_retries
    )  # fmt: skip
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise no_key("ANTHROPIC_API_KEY")
    return client


class MessagesFold:
    """Folds events into parts. The SDK drops pings. Blocks of kinds we did not ask for are passed over."""

    def __init__(self, counted: Callable[[Usage], object]) -> None:
        self._counted = counted
        self.whole = False
        self.ended = False
        self._reason: FinishReason | None = None
        self._text, self._reasoning = Surrogates(), Surrogates()
        self._spoke = False
        self._calls = ToolCalls()
        self._counts = dict.fromkeys((*_COUNTS, "thinking_tokens"), 0)

    def feed(self, event: Chunk) -> list[Part]:
        match event["type"]:
            case "content_block_delta":
                return self._delta(event)
            case "message_start":
                self._count(event["message"].get("usage"))
                self._counted(self._usage())
            case "content_block_start":
                return self._open(event)
            case "content_block_stop":
                return list(self._calls.end(event["index"]))
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                return self._end()
        return []

    def close(self) -> list[Part]:
        raise ProviderError(Code.TRUNCATED, "the stream ended without message_stop")

    def _open(self, event: Chunk) -> list[Part]:
        block = event["content_block"]
        match block["type"]:
            case "text":
                return self._say(block["text"])
            case "thinking":
                return self._think(block["thinking"])
            case "tool_use":
                self._calls.start(event["index"], block["id"], block["name"])
        return []

    def _delta(self, event: Chunk) -> list[Part]:
        delta = event["delta"]
        match delta["type"]:
            case "text_delta":
                return self._say(delta["text"])
            case "thinking_delta":
                return self._think(delta["thinking"])
            case "input_json_delta" if self._calls.has(event["index"]):
                self._calls.add(event["index"], delta["partial_json"])
        return []

    def _say(self, text: str) -> list[Part]:
        whole = self._text.feed(text)
        self._spoke = self._spoke or bool(whole)
        return [Text(whole)] if whole else []

    def _think(self, text: str) -> list[Part]:
        return [Reasoning(whole)] if (whole := self._reasoning.feed(text)) else []

    def _message_delta(self, event: Chunk) -> list[Part]:
        self._count(event.get("usage"))
        delta = event["delta"]
        if reason := delta.get("stop_reason"):
            self._reason = _FINISH.get(reason, "stop")
        if explanation := (delta.get("stop_details") or {}).get("explanation"):
            return self._say(("\n\n" if self._spoke else "") + explanation)
        return []

    def _end(self) -> list[Part]:
        if self._reason is None:
            raise ProviderError(Code.TRUNCATED, "message_stop without a stop_reason")
        said: list[Part] = [Reasoning(left)] if (left := self._reasoning.flush()) else []
        said += [Text(left)] if (left := self._text.flush()) else []
        said += self._calls.rest(cut=self._reason in ("length", "content_filter"))
        self.whole = self.ended = True
        return [*said, self._usage(), Finish(self._reason)]

    def _count(self, usage: dict[str, Any] | None) -> None:
        """Counts are cumulative: a later one overwrites, one that is not repeated stays."""
        usage = usage or {}
        for name in _COUNTS:
            if (count := usage.get(name)) is not None:
                self._counts[name] = count
        if (details := usage.get("output_tokens_details")) is not None:
            self._counts["thinking_tokens"] = details.get("thinking_tokens") or 0

    def _usage(self) -> Usage:
        """Anthropic counts what came from a cache apart from the input; here it is part of it."""
        inputs, outputs, written, read = (self._counts[name] for name in _COUNTS)
        return Usage(inputs + written + read, outputs, self._counts["thinking_tokens"], read)
