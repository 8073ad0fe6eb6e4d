"""Anthropic's Messages: one generation as a stream of events, or as a whole message.

There is no resume in this protocol, and no word for an answer that begins anew: a stream of which a later attempt
makes void what was said already is cut. Progress, questions, sources and tools the pipeline runs itself have no words
here: they are left out. Thinking bears no signature.
"""

from typing import Any

from pydantic_core import to_json

from api.dialects.encoder import Unsayable
from api.dialects.projection import Projection
from shared.events import Event, EventType, encode
from shared.transcript import Failure, Message, Tool, Usage

CANCELLED = Failure(code="cancelled", message="the generation was cancelled")
"""To be cut off by somebody is no success: a client that did not do it itself must learn of it."""

_ERRORS: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "invalid_request_error"),
    "context_too_long": (400, "invalid_request_error"),
    "not_found": (404, "not_found_error"),
    "quota_exceeded": (429, "rate_limit_error"),
    "rate_limit": (429, "rate_limit_error"),
    "overloaded": (529, "overloaded_error"),
    "timeout": (504, "timeout_error"),
    "idle_timeout": (504, "timeout_error"),
}
"""What a generation failed with → status and type; for all others `api_error`: it is not the client's fault."""
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
          429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}  # fmt: skip
_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
"""Which of the client's stop sequences it was is not known here: that is an `end_turn` too."""


class MessageEvents(Projection):
    """The stream. Its end is `message_stop`, or `error` where the generation failed or was cancelled."""

    dialect = "anthropic"

    def __init__(self, sid: str, generation: str) -> None:
        super().__init__(generation)
        self._name = f"{sid}_{generation}"
        self._blocks = 0
        """Begun so far."""
        self._open = ""
        """Kind of the block that is open, or nothing."""
        self._calls: dict[str, dict[str, Any]] = {}
        """Without a result so far: at the end, the client's. A pipeline that runs its tools itself says results."""
        self._usage = Usage()

    def project(self, event: Event) -> bytes:
        value = event.value
        match event.type:
            case EventType.STARTED:
                return self._start(value["attempt"], value["model"])
            case EventType.TEXT:
                return self._say("text", "text_delta", value["text"])
            case EventType.REASONING:
                return self._say("thinking", "thinking_delta", value["text"])
            case EventType.TOOL_CALL:
                self._calls[value["id"]] = value
            case EventType.TOOL_RESULT:
                self._calls.pop(value["id"], None)
            case EventType.USAGE:
                self._usage = self._usage.plus(Usage.model_validate(value))
            case EventType.COMPLETED:
                return self._complete(value.get("finish_reason") or "stop")
            case EventType.FAILED:
                return self._fail(Failure(**{name: value[name] for name in Failure.model_fields if name in value}))
            case EventType.CANCELLED:
                return self._fail(CANCELLED)
        return b""

    def _start(self, attempt: int, model: str) -> bytes:
        if attempt == 1:
            return _block({"type": "message_start", "message": _message(self._name, model, [])})
        if self._blocks:
            raise Unsayable(f"attempt {attempt}")
        self._calls.clear()
        self._usage = Usage()
        return b""

    def _say(self, kind: str, delta: str, text: str) -> bytes:
        opening = b"" if self._open == kind else self._end_block() + self._begin_block(_empty(kind), kind)
        return opening + self._delta({"type": delta, kind: text})

    def _begin_block(self, content: dict[str, Any], kind: str) -> bytes:
        self._open = kind
        self._blocks += 1
        return _block({"type": "content_block_start", "index": self._blocks - 1, "content_block": content})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _block({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _end_block(self) -> bytes:
        was, self._open = self._open, ""
        return _block({"type": "content_block_stop", "index": self._blocks - 1}) if was else b""

    def _complete(self, finish_reason: str) -> bytes:
        calls = list(self._calls.values()) if finish_reason == "tool_calls" else []
        delta = {"stop_reason": _stop_reason(finish_reason, bool(calls)), "stop_sequence": None}
        return b"".join(
            [
                self._end_block(),
                *(self._call(call) for call in calls),
                _block({"type": "message_delta", "delta": delta, "usage": _usage(self._usage)}),
                _block({"type": "message_stop"}),
            ]
        )

    def _call(self, call: dict[str, Any]) -> bytes:
        begun = self._begin_block(_tool_use(call["id"], call["name"], {}), "tool_use")
        arguments = to_json(call.get("arguments") or {}).decode()
        return begun + self._delta({"type": "input_json_delta", "partial_json": arguments}) + self._end_block()

    def _fail(self, failure: Failure) -> bytes:
        return _block(failure_body(failure, request_id(self._name)))


def message_of(sid: str, generation: str, model: str, message: Message) -> dict[str, Any]:
    """The whole message of a generation that was completed."""
    content: list[dict[str, Any]] = []
    if message.reasoning:
        content.append({**_empty("thinking"), "thinking": message.reasoning})
    if message.content:
        content.append({"type": "text", "text": message.content})
    calls = _of_client(message)
    content += [_tool_use(call.id, call.name, call.arguments or {}) for call in calls]
    reason = _stop_reason(message.finish_reason or "stop", bool(calls))
    whole = _message(f"{sid}_{generation}", model, content)
    return {**whole, "stop_reason": reason, "usage": _usage(message.usage or Usage())}


def _of_client(message: Message) -> list[Tool]:
    if message.finish_reason != "tool_calls":
        return []
    return [tool for tool in message.tools if tool.output is None and tool.error is None]


def error_body(kind: str, message: str, request: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request}


def error_type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def failure_body(failure: Failure, request: str) -> dict[str, Any]:
    kind = _ERRORS[failure.code][1] if failure.code in _ERRORS else "api_error"
    return error_body(kind, failure.message or failure.code, request)


def failure_status(failure: Failure) -> int:
    return _ERRORS[failure.code][0] if failure.code in _ERRORS else 500


def request_id(name: str) -> str:
    return f"req_{name}"


def _message(name: str, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """As it begins: what the input counts is not known before the end."""
    return {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": model.removeprefix("anthropic/"),
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _empty(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})


def _tool_use(call_id: str, name: str, arguments: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _stop_reason(finish_reason: str, called: bool) -> str:
    return "tool_use" if called else _STOP_REASONS.get(finish_reason, "end_turn")


def _usage(usage: Usage) -> dict[str, Any]:
    """Cumulative. What came from a cache is counted apart here."""
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens),
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _block(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), encode(data))
