"""Messages as LangChain writes them in JSON, and the state of a thread that is made of them."""

from collections.abc import Sequence
from typing import Any

from api.dialects.conversation import Call, Said, json_text
from shared.events import State
from shared.transcript import Failure, Question, Usage

_TYPES = {"user": "human", "system": "system", "assistant": "ai", "tool": "tool"}
INTERRUPT = "__interrupt__"


def message(said: Said, model: str = "") -> dict[str, Any]:
    """A whole message. `model`: named beside the finish reason, where it has one."""
    written: dict[str, Any] = {
        "type": _TYPES[said.role],
        "id": said.id,
        "content": said.text,
        "additional_kwargs": {"reasoning_content": said.reasoning} if said.reasoning_parts else {},
        "response_metadata": {},
    }
    if said.role == "assistant":
        written |= {
            "tool_calls": [_call(call) for call in said.calls],
            "invalid_tool_calls": [],
            "usage_metadata": usage(said.usage) if said.usage else None,
            "response_metadata": ending(said.finish_reason, model) if said.finish_reason else {},
        }
    if said.role == "tool":
        written |= {
            "name": said.name or None,
            "tool_call_id": said.call_id,
            "status": "error" if said.failed else "success",
        }
    return written


def chunk(id_: str, **fields: Any) -> dict[str, Any]:
    """A piece of an assistant's message: its client puts all pieces of one id together."""
    return {"type": "AIMessageChunk", "id": id_, "content": "", **fields}


def call_chunk(call: Call, index: int) -> dict[str, Any]:
    return {
        "type": "tool_call_chunk",
        "index": index,
        "id": call.id,
        "name": call.name,
        "args": json_text(_arguments(call)),
    }


def _call(call: Call) -> dict[str, Any]:
    return {"type": "tool_call", "id": call.id, "name": call.name, "args": _arguments(call)}


def _arguments(call: Call) -> dict[str, Any]:
    """LangChain has objects only."""
    match call.arguments:
        case dict():
            return call.arguments
        case None:
            return {}
    return {"input": call.arguments}


def usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "input_token_details": {"cache_read": used.cached_tokens},
        "output_token_details": {"reasoning": used.reasoning_tokens},
    }


def ending(finish_reason: str, model: str) -> dict[str, Any]:
    return {"finish_reason": finish_reason, "model_name": model}


def values(messages: Sequence[Said], model: str = "") -> dict[str, Any]:
    """The state of a thread: its messages."""
    return {"messages": [message(said, model) for said in messages]}


def interrupt(question: Question) -> dict[str, Any]:
    """An open question, as a graph that waits for its user says it."""
    value = {"question": question.text, "choices": question.choices, "expires_at": question.expires_at}
    return {"id": question.id, "value": value}


def error(failure: Failure) -> dict[str, Any]:
    return {"error": failure.code, "message": failure.message}


CANCELLED = Failure(code="UserInterrupt", message="the run was cancelled")
"""To be cut off by somebody is no success: a client that did not do it itself must learn of it."""

RUN_STATUS: dict[str, str] = {
    State.QUEUED: "pending",
    State.RUNNING: "running",
    State.WAITING: "running",
    State.COMPLETED: "success",
    State.FAILED: "error",
    State.CANCELLED: "interrupted",
}
THREAD_STATUS: dict[str, str] = {
    State.QUEUED: "busy",
    State.RUNNING: "busy",
    State.WAITING: "interrupted",
    State.COMPLETED: "idle",
    State.FAILED: "error",
    State.CANCELLED: "idle",
}
