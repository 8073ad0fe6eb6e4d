"""From a transcript to the conversation a model is told. Pure."""

from collections.abc import Sequence
from typing import Any

from shared.transcript import Message, Tool, Transcript


def conversation(transcript: Transcript) -> list[dict[str, Any]]:
    """The messages, as `worker.providers.base.ModelRequest` has them.

    What was said before a stop or a failure stays, cut off as it was. Of the calls a generation has made, those are
    told whose results came with the next turn: a model is refused calls without result, and results without call.
    What the client itself has said is told as it is.
    """
    told: list[dict[str, Any]] = []
    answered: set[str] = set()
    for n, message in enumerate(transcript.messages):
        if message.role == "tool":
            if message.tool_call_id not in answered:  # the first counts: a turn that failed may be asked again
                answered.add(str(message.tool_call_id))
                told.append({"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content})
            continue
        calls = _calls(message, transcript.messages[n + 1 :])
        if calls:
            answered = set()
            told.append({"role": message.role, "content": message.content, "tool_calls": calls})
        elif message.content:
            told.append({"role": message.role, "content": message.content})
    return told


def _calls(message: Message, later: Sequence[Message]) -> list[dict[str, Any]]:
    if not message.tools:
        return []
    results = set(_results(later))
    calls = message.tools if message.state is None else [tool for tool in message.tools if tool.id in results]
    return [_call(tool) for tool in calls]


def _results(later: Sequence[Message]) -> list[str]:
    """Ids of the calls that are answered right after."""
    found: list[str] = []
    for message in later:
        if message.role != "tool":
            break
        found.append(str(message.tool_call_id))
    return found


def _call(tool: Tool) -> dict[str, Any]:
    return {"id": tool.id, "name": tool.name, "arguments": tool.arguments or {}}
