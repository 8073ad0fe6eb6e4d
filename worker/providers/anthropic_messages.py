"""Anthropic's Messages."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final, cast

from anthropic import AsyncAnthropic, Timeout
from anthropic.types import (
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawMessageDeltaEvent,
    RawMessageStreamEvent,
)
from anthropic.types import Usage as MessageUsage

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
from worker.providers.sdk import Stream, parts
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
        return parts(opening, MessagesFold(), self._idle_timeout_s, self._client.secrets)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _open(self, request: ModelRequest) -> Stream[RawMessageStreamEvent]:
        create: Any = self._client.get().messages.create  # its overloads cannot see through a dict
        return cast(Stream[RawMessageStreamEvent], await create(**request_body(request)))


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

    def __init__(self) -> None:
        self.whole = False
        self.ended = False
        self._reason: FinishReason | None = None
        self._text, self._reasoning = Surrogates(), Surrogates()
        self._spoke = False
        self._calls = ToolCalls()
        self._counts = dict.fromkeys((*_COUNTS, "thinking_tokens"), 0)

    def feed(self, event: RawMessageStreamEvent) -> list[Part]:
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "content_block_start":
                return self._open(event)
            case "content_block_delta":
                return self._delta(event)
            case "content_block_stop":
                return list(self._calls.end(event.index))
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                return self._end()
        return []

    def close(self) -> list[Part]:
        raise ProviderError(Code.TRUNCATED, "the stream ended without message_stop")

    def _open(self, event: RawContentBlockStartEvent) -> list[Part]:
        block = event.content_block
        match block.type:
            case "text":
                return self._say(block.text)
            case "thinking":
                return self._think(block.thinking)
            case "tool_use":
                self._calls.start(event.index, block.id, block.name)
        return []

    def _delta(self, event: RawContentBlockDeltaEvent) -> list[Part]:
        delta = event.delta
        match delta.type:
            case "text_delta":
                return self._say(delta.text)
            case "thinking_delta":
                return self._think(delta.thinking)
            case "input_json_delta" if self._calls.has(event.index):
                self._calls.add(event.index, delta.partial_json)
        return []

    def _say(self, text: str) -> list[Part]:
        whole = self._text.feed(text)
        self._spoke = self._spoke or bool(whole)
        return [Text(whole)] if whole else []

    def _think(self, text: str) -> list[Part]:
        return [Reasoning(whole)] if (whole := self._reasoning.feed(text)) else []

    def _message_delta(self, event: RawMessageDeltaEvent) -> list[Part]:
        self._count(event.usage)
        reason, details = event.delta.stop_reason, event.delta.stop_details
        if reason:
            self._reason = _FINISH.get(reason, "stop")
        if details and details.explanation:
            return self._say(("\n\n" if self._spoke else "") + details.explanation)
        return []

    def _end(self) -> list[Part]:
        if self._reason is None:
            raise ProviderError(Code.TRUNCATED, "message_stop without a stop_reason")
        said: list[Part] = [Reasoning(left)] if (left := self._reasoning.flush()) else []
        said += [Text(left)] if (left := self._text.flush()) else []
        said += self._calls.rest(cut=self._reason in ("length", "content_filter"))
        self.whole = self.ended = True
        return [*said, self._usage(), Finish(self._reason)]

    def _count(self, usage: MessageUsage | MessageDeltaUsage | None) -> None:
        """Counts are cumulative: a later one overwrites, one that is not repeated stays."""
        for name in _COUNTS:
            if (count := getattr(usage, name, None)) is not None:
                self._counts[name] = count
        if usage is not None and usage.output_tokens_details is not None:
            self._counts["thinking_tokens"] = usage.output_tokens_details.thinking_tokens or 0

    def _usage(self) -> Usage:
        """Anthropic counts what came from a cache apart from the input; here it is part of it."""
        inputs, outputs, written, read = (self._counts[name] for name in _COUNTS)
        return Usage(inputs + written + read, outputs, self._counts["thinking_tokens"], read)
