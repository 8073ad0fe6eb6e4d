"""OpenAI's Chat Completions: one generation as chunks, or as a whole completion.

There is no resume in this protocol, and no word for an answer that begins anew: a stream of which a later attempt
makes void what was said already is cut. Reasoning goes as `reasoning_content`, as other servers of this protocol have
it. Progress, questions, sources and tools the pipeline runs itself have no words here: they are left out.
"""

from dataclasses import dataclass
from typing import Any

from api.dialects.encoder import Unsayable
from api.dialects.openai_words import CANCELLED, OpenCalls, arguments_json, failure_body, failure_of
from api.dialects.projection import Projection
from shared.events import Event, EventType, encode
from shared.transcript import Message, Tool, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Completion:
    """What every chunk of one answer bears."""

    id: str
    model: str
    created: int
    """Seconds since 1970."""

    def object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def completion_id(sid: str, generation: str) -> str:
    return f"chatcmpl-{sid}_{generation}"


class ChatChunks(Projection):
    """The stream. Its end is `[DONE]`, or an error where the generation failed or was cancelled."""

    dialect = "openai_chat"

    def __init__(self, generation: str, completion: Completion, *, include_usage: bool = False) -> None:
        super().__init__(generation)
        self._completion = completion
        self._include_usage = include_usage
        self._usage: Usage | None = None
        self._calls = OpenCalls()
        self._said = False
        """Something was said that a later attempt would make void."""

    def project(self, event: Event) -> bytes:
        match event.type:
            case EventType.STARTED:
                return self._start(event.value["attempt"])
            case EventType.TEXT:
                return self._say({"content": event.value["text"]})
            case EventType.REASONING:
                return self._say({"reasoning_content": event.value["text"]})
            case EventType.TOOL_CALL:
                self._calls.called(event)
            case EventType.TOOL_RESULT:
                self._calls.resulted(event)
            case EventType.USAGE:
                self._count(event)
            case EventType.COMPLETED:
                return self._complete(event.value.get("finish_reason") or "stop")
            case EventType.FAILED:
                return _block(failure_body(failure_of(event)))
            case EventType.CANCELLED:
                return _block(failure_body(CANCELLED))
        return b""

    def _start(self, attempt: int) -> bytes:
        if attempt == 1:
            return self._chunk({"role": "assistant", "content": ""})
        if self._said:
            raise Unsayable(f"attempt {attempt}")
        self._calls.forget()
        self._usage = None
        return b""

    def _say(self, delta: dict[str, Any]) -> bytes:
        self._said = True
        return self._chunk(delta)

    def _count(self, event: Event) -> None:
        usage = Usage.model_validate(event.value)
        self._usage = self._usage.plus(usage) if self._usage else usage

    def _complete(self, finish_reason: str) -> bytes:
        calls = enumerate(self._calls.of_client(finish_reason))
        pieces = [self._chunk({"tool_calls": [piece]}) for n, call in calls for piece in _pieces(n, call)]
        usage = {"usage": usage_of(self._usage)} if self._include_usage else None
        return b"".join(
            [
                *pieces,
                self._chunk({}, finish_reason),
                _block(self._completion.object("chat.completion.chunk", []) | usage) if usage else b"",
                DONE,
            ]
        )

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _block(self._completion.object("chat.completion.chunk", [choice]))


def completion(of: Completion, message: Message) -> dict[str, Any]:
    """The whole answer of a generation that was completed."""
    finish_reason = message.finish_reason or "stop"
    said: dict[str, Any] = {"role": "assistant", "content": message.content or None, "refusal": None}
    if message.reasoning:
        said["reasoning_content"] = message.reasoning
    calls = [tool for tool in message.tools if tool.output is None and tool.error is None]
    if finish_reason == "tool_calls" and calls:
        said["tool_calls"] = [_call(call) for call in calls]
    elif said["content"] is None:
        said["content"] = ""
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}
    return of.object("chat.completion", [choice]) | {"usage": usage_of(message.usage)}


def usage_of(usage: Usage | None) -> dict[str, Any]:
    """Zeroes where the provider counted nothing."""
    usage = usage or Usage()
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _call(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "arguments": arguments_json(tool.arguments)}
    return {"id": tool.id, "type": "function", "function": function}


def _pieces(index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """The call is opened by its name; its arguments follow."""
    opening = {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": ""}}
    arguments = {"function": {"arguments": arguments_json(call.get("arguments"))}}
    return [{"index": index, **opening}, {"index": index, **arguments}]


def _block(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode(data)
