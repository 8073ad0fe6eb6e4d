"""The tool loop: the model speaks, calls tools, hears their results, and goes on."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.events import EventType
from worker.pipelines.tools import Toolbox
from worker.providers.base import Text, ToolCall, ToolSpec

if TYPE_CHECKING:
    from worker.pipelines.run import Run


class TooManyRounds(Exception):
    """The model went on calling tools."""


async def answer(
    run: "Run",
    messages: Sequence[Mapping[str, Any]],
    toolbox: Toolbox,
    max_rounds: int,
    client_tools: Sequence[ToolSpec] = (),
) -> str:
    """Say what the model says until it calls no more tools, or one of the client's; gives the text of all rounds.

    `max_rounds` is how often it may call. Raises TooManyRounds, and whatever `run.model` raises.
    """
    tools = [*toolbox.specs, *(tool for tool in client_tools if not toolbox.has(tool.name))]
    conversation = [dict(message) for message in messages]
    said: list[str] = []
    for left in reversed(range(max_rounds + 1)):
        text, calls = await _round(run, conversation, tools, said)
        if text:
            said.append(text)
        own = [call for call in calls if toolbox.has(call.name)] if client_tools else calls
        if len(own) < len(calls):  # the client's turn: what else was called is done before
            await _call_all(run, toolbox, own)
        if not calls or len(own) < len(calls):
            return "\n\n".join(said)
        if not left:
            break  # the model would never hear the results: these calls are not made
        conversation.append({"role": "assistant", "content": text, "tool_calls": [_as_dict(call) for call in calls]})
        conversation += await _call_all(run, toolbox, calls)
    raise TooManyRounds(f"the model still called tools after {max_rounds} rounds")


async def _round(
    run: "Run", conversation: list[dict[str, Any]], tools: Sequence[ToolSpec], said: list[str]
) -> tuple[str, list[ToolCall]]:
    text: list[str] = []
    calls: list[ToolCall] = []
    async for part in run.model(conversation, tools=tools):
        if isinstance(part, Text):
            if said and not text:
                await run.text("\n\n")  # what was said before the tools is a paragraph of its own
            text.append(part.text)
        elif isinstance(part, ToolCall):
            calls.append(part)
        await run.emit(part)
    return "".join(text), calls


async def _call_all(run: "Run", toolbox: Toolbox, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Side by side. Should the generation end over one of them, none of the others goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_call(run, toolbox, call)) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _call(run: "Run", toolbox: Toolbox, call: ToolCall) -> dict[str, Any]:
    """The result becomes an event as soon as it is there."""
    outcome = await toolbox.call(call)
    await run.event(EventType.TOOL_RESULT, outcome.event(call))
    return outcome.message(call)


def _as_dict(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}
