"""The bytes providers say: one class per wire format, with the same verbs, so that one table tests all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from worker.providers.base import FinishReason, Reasoning, Text, ToolCall, Usage

Item = Text | Reasoning | ToolCall


@dataclass(frozen=True)
class Refusal:
    """The model declines, in these words."""

    text: str


class Wire(Protocol):
    """Frames of one wire format. A frame is one SSE block."""

    path: str

    def answer(
        self, items: Sequence[Item | Refusal], finish: FinishReason = "stop", usage: Usage | None = None
    ) -> list[bytes]:
        """A whole answer, from the first frame to the end marker."""
        ...

    def head(self, *texts: str) -> list[bytes]:
        """The beginning of an answer: these texts, and nothing after them."""
        ...

    def error(self, kind: str, message: str) -> bytes:
        """An error in the middle of a stream."""
        ...


def block(data: Mapping[str, Any] | str, event: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def halves(call: ToolCall) -> tuple[str, str]:
    """The arguments in two fragments, neither of them JSON by itself."""
    text = json.dumps(call.arguments)
    return text[: len(text) // 2], text[len(text) // 2 :]


class ChatWire:
    path = "/chat/completions"
    done = b"data: [DONE]\n\n"

    def answer(
        self, items: Sequence[Item | Refusal], finish: FinishReason = "stop", usage: Usage | None = None
    ) -> list[bytes]:
        calls = [item for item in items if isinstance(item, ToolCall)]
        deltas = [delta for item in items for delta in self._deltas(item, calls)]
        frames = [self.chunk({"role": "assistant", "content": ""}), *map(self.chunk, deltas)]
        frames.append(self.chunk({}, finish))
        if usage is not None:
            frames.append(self.chunk(None, usage=usage))
        return [*frames, self.done]

    def head(self, *texts: str) -> list[bytes]:
        return [self.chunk({"content": text}) for text in texts]

    def error(self, kind: str, message: str) -> bytes:
        return block({"error": {"message": message, "type": kind, "code": kind, "param": None}})

    def chunk(self, delta: Mapping[str, Any] | None, finish: str | None = None, usage: Usage | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk["choices"] = [] if delta is None else [choice]
        if usage is not None:
            chunk["usage"] = {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            }
        return block(chunk)

    def _deltas(self, item: Item | Refusal, calls: list[ToolCall]) -> list[dict[str, Any]]:
        match item:
            case Text(text):
                return [{"content": text}]
            case Reasoning(text):
                return [{"reasoning_content": text}]
            case Refusal(text):
                return [{"refusal": text}]
            case ToolCall(id=call_id, name=name):
                index = calls.index(item)
                function = {"name": name, "arguments": ""}
                opening: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
                rest = [{"function": {"arguments": half}} for half in halves(item)]
                return [{"tool_calls": [{"index": index, **piece}]} for piece in [opening, *rest]]


class ResponsesWire:
    path = "/responses"

    def answer(
        self, items: Sequence[Item | Refusal], finish: FinishReason = "stop", usage: Usage | None = None
    ) -> list[bytes]:
        events = [self._created()]
        for n, item in enumerate(items):
            events += self._events(n, item)
        return self.frames(*events, self._end(finish, usage))

    def head(self, *texts: str) -> list[bytes]:
        deltas = [event for text in texts for event in self._events(0, Text(text))]
        return self.frames(self._created(), *deltas)

    def error(self, kind: str, message: str) -> bytes:
        return block({"type": "error", "code": kind, "message": message, "param": None, "sequence_number": 99}, "error")

    def frames(self, *events: Mapping[str, Any]) -> list[bytes]:
        return [block({**event, "sequence_number": n}, event["type"]) for n, event in enumerate(events)]

    def response(self, status: str, **fields: object) -> dict[str, Any]:
        return {
            "id": "r1", "object": "response", "created_at": 1, "model": "m", "status": status, "output": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **fields,
        }  # fmt: skip

    def _created(self) -> dict[str, Any]:
        return {"type": "response.created", "response": self.response("in_progress")}

    def _end(self, finish: FinishReason, usage: Usage | None) -> dict[str, Any]:
        counts = usage and {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        if finish in ("length", "content_filter"):
            reason = {"reason": "max_output_tokens" if finish == "length" else "content_filter"}
            response = self.response("incomplete", usage=counts, incomplete_details=reason)
            return {"type": "response.incomplete", "response": response}
        return {"type": "response.completed", "response": self.response("completed", usage=counts)}

    def _events(self, n: int, item: Item | Refusal) -> list[dict[str, Any]]:
        place = {"item_id": f"i{n}", "output_index": n}
        match item:
            case Text(text):
                kind = "response.output_text.delta"
                return [{"type": kind, **place, "content_index": 0, "logprobs": [], "delta": text}]
            case Refusal(text):
                return [{"type": "response.refusal.delta", **place, "content_index": 0, "delta": text}]
            case Reasoning(text):
                kind = "response.reasoning_summary_text.delta"
                return [{"type": kind, **place, "summary_index": 0, "delta": text}]
            case ToolCall():
                return self._call(n, item)

    def _call(self, n: int, call: ToolCall) -> list[dict[str, Any]]:
        item = {"type": "function_call", "id": f"i{n}", "call_id": call.id, "name": call.name}
        kind = "response.function_call_arguments"
        place = {"item_id": f"i{n}", "output_index": n}
        whole = json.dumps(call.arguments)
        return [
            {"type": "response.output_item.added", "output_index": n, "item": {**item, "arguments": ""}},
            *({"type": f"{kind}.delta", **place, "delta": half} for half in halves(call)),
            {"type": f"{kind}.done", **place, "name": call.name, "arguments": whole},
            {"type": "response.output_item.done", "output_index": n, "item": {**item, "arguments": whole}},
        ]


_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
}  # fmt: skip


class MessagesWire:
    path = "/v1/messages"

    def answer(
        self, items: Sequence[Item | Refusal], finish: FinishReason = "stop", usage: Usage | None = None
    ) -> list[bytes]:
        usage = usage or Usage(0, 0)
        frames = [self.start(usage), self.frame("ping")]
        for n, item in enumerate(items):
            frames += self._block(n, item)
        reason = "refusal" if any(isinstance(item, Refusal) for item in items) else _STOP_REASONS[finish]
        return [*frames, self.delta(reason, usage), self.frame("message_stop")]

    def head(self, *texts: str) -> list[bytes]:
        blocks = [frame for n, text in enumerate(texts) for frame in self._block(n, Text(text))]
        return [self.start(Usage(0, 0)), *blocks]

    def error(self, kind: str, message: str) -> bytes:
        return self.frame("error", error={"type": kind, "message": message}, request_id="req_1")

    def frame(self, kind: str, **data: object) -> bytes:
        return block({"type": kind, **data}, kind)

    def start(self, usage: Usage) -> bytes:
        read = usage.cached_tokens
        counts = {
            "input_tokens": usage.input_tokens - read,
            "cache_read_input_tokens": read,
            "output_tokens": 1,
        }
        message: dict[str, Any] = {
            "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": counts,
        }  # fmt: skip
        return self.frame("message_start", message=message)

    def delta(self, reason: str, usage: Usage) -> bytes:
        details = {"thinking_tokens": usage.reasoning_tokens}
        counts = {"output_tokens": usage.output_tokens, "output_tokens_details": details}
        return self.frame("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=counts)

    def _block(self, n: int, item: Item | Refusal) -> list[bytes]:
        start, *deltas = _anthropic_block(item)
        return [
            self.frame("content_block_start", index=n, content_block=start),
            *(self.frame("content_block_delta", index=n, delta=delta) for delta in deltas),
            self.frame("content_block_stop", index=n),
        ]


def _anthropic_block(item: Item | Refusal) -> list[dict[str, Any]]:
    """The block as it starts, then its deltas."""
    match item:
        case Text(text) | Refusal(text):
            return [{"type": "text", "text": ""}, {"type": "text_delta", "text": text}]
        case Reasoning(text):
            start = {"type": "thinking", "thinking": "", "signature": ""}
            end = {"type": "signature_delta", "signature": "s"}
            return [start, {"type": "thinking_delta", "thinking": text}, end]
        case ToolCall(id=call_id, name=name):
            call: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            return [call, *({"type": "input_json_delta", "partial_json": half} for half in halves(item))]
