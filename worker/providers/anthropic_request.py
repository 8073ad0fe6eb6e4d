"""A request in the words of Anthropic's Messages."""

from collections.abc import Iterator
from typing import Any, Final

from worker.providers.base import ModelRequest, ToolSpec
from worker.providers.options import as_text, checked_messages, invalid, renamed, tool_choice

DEFAULT_MAX_TOKENS: Final = 8192
"""Messages insist on a limit. All current models allow this one."""

_OPTIONS: Final = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "thinking": "thinking",
    "reasoning_effort": "effort",
}
_SAMPLING: Final = ("temperature", "top_p", "top_k")
"""The SDK has no words for these any more. Whether a model takes them is for its server to say."""


_TOOL_CHOICES: Final = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


def request_body(request: ModelRequest) -> dict[str, Any]:
    """The arguments of `messages.create`. Raises ProviderError `invalid_request`."""
    options = renamed(request.options, _OPTIONS, "anthropic")
    if "effort" in options:
        options["output_config"] = {"effort": options.pop("effort")}
    if sampling := {name: options.pop(name) for name in _SAMPLING if name in options}:
        options["extra_body"] = sampling
    options |= _tool_choice(options.get("tool_choice"), options.pop("parallel_tool_calls", True))
    if isinstance(stop := options.get("stop_sequences"), str):
        options["stop_sequences"] = [stop]
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True,
        "max_tokens": DEFAULT_MAX_TOKENS,
        **_system(request),
        **options,
    }
    return {**body, "tools": [_tool(tool) for tool in request.tools]} if request.tools else body


def _tool_choice(option: object, parallel: object) -> dict[str, Any]:
    """Whether several tools may be called at once is part of it here."""
    if option is None and parallel:
        return {}
    choice = tool_choice(option or "auto", _TOOL_CHOICES, lambda name: {"type": "tool", "name": name})
    alone = not parallel and choice["type"] != "none"
    return {"tool_choice": {**choice, "disable_parallel_tool_use": True} if alone else choice}


def _system(request: ModelRequest) -> dict[str, Any]:
    """System messages are no messages here, wherever they stood."""
    blocks = [block for m in request.messages if m.get("role") == "system" for block in _blocks(m["content"])]
    return {"system": blocks} if blocks else {}


def _messages(request: ModelRequest) -> list[dict[str, Any]]:
    """Results of parallel calls share one message: they must all stand right after the calls.

    Empty messages would be refused, so a turn that was stopped before its first word is left out.
    """
    said: list[dict[str, Any]] = []
    previous = ""
    for message in checked_messages(request):
        role = message["role"]
        if role == "system" or not (blocks := list(_content(message))):
            continue
        if role == previous == "tool":
            said[-1]["content"] += blocks
        else:
            said.append({"role": "user" if role == "tool" else role, "content": blocks})
        previous = role
    if not said:
        raise invalid("no message with content, apart from system messages")
    return said


def _content(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message["role"] == "tool":
        yield {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": as_text(content)}
        return
    yield from _blocks(content)
    for call in message.get("tool_calls") or ():
        yield {
            "type": "tool_use",
            "id": call["id"],
            "name": call["name"],
            "input": call.get("arguments") or {},
        }


def _blocks(content: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    return list(content or [])


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
