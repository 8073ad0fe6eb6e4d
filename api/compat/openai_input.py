"""The `input` of OpenAI's Responses as messages: text, calls of functions, and what they came to."""

from typing import Any

from api.compat.openai_request import Unsupported, arguments_of, text_of

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT = ("input_text", "output_text", "text", "refusal")
_SKIPPED = ("reasoning",)
"""Items of an answer that clients send back, and that no model of another maker could read."""


def messages_of(given: str | list[Any]) -> list[dict[str, Any]]:
    """Raises Unsupported, which names the item."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    said: list[dict[str, Any]] = []
    for n, item in enumerate(given):
        _add(said, item, f"input[{n}]")
    return said


def _add(said: list[dict[str, Any]], item: object, param: str) -> None:
    if not isinstance(item, dict):
        raise Unsupported(param, "must be an object")
    match item.get("type", "message"):
        case "message":
            said.append(_message(item, param))
        case "function_call":
            _add_call(said, item, param)
        case "function_call_output":
            content = text_of(item.get("output"), f"{param}.output", _TEXT)
            said.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case kind if kind not in _SKIPPED:
            raise Unsupported(f"{param}.type", f"{str(kind)[:64]!r} is not supported here")


def _message(item: dict[str, Any], param: str) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Unsupported(f"{param}.role", f"{str(role)[:64]!r} is not supported here")
    return {"role": _ROLES[role], "content": text_of(item.get("content"), f"{param}.content", _TEXT)}


def _add_call(said: list[dict[str, Any]], item: dict[str, Any], param: str) -> None:
    """Calls are part of what the assistant said right before them."""
    if not said or said[-1]["role"] != "assistant":
        said.append({"role": "assistant", "content": ""})
    call = {"id": item.get("call_id"), "name": item.get("name"), "arguments": arguments_of(item, param)}
    said[-1].setdefault("tool_calls", []).append(call)
