"""Tools, end to end: the model calls Python functions, its next request has their results, the log has all of it."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from shared.events import Event, EventType
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import (
    Said,
    Stage,
    bad_end,
    called,
    completed,
    counted,
    logged,
    piped,
    resulted,
    started,
    text,
    without_usage,
)
from tests.upstream import STALL, Upstream, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_frames import Wire
from worker.pipelines import Run
from worker.pipelines.tools import ToolFunction
from worker.providers.base import Reasoning, Text, ToolCall, Usage
from worker.providers.source import Sdk

USAGE = Usage(11, 7, reasoning_tokens=5, cached_tokens=4)
TOOL_S = 0.05


class Kitchen:
    """Tools of all kinds."""

    @staticmethod
    def weather(city: str, days: int = 1) -> dict[str, Any]:
        """The weather of a city."""
        return {"city": city, "days": days, "on": threading.current_thread() is not threading.main_thread()}

    @staticmethod
    async def greet(name: str) -> str:
        return f"Hello {name} 🐙"

    @staticmethod
    async def nothing() -> None:
        return None

    @staticmethod
    async def broken() -> str:
        raise LookupError("no such shelf")

    @staticmethod
    async def unsayable() -> object:
        return object()

    @staticmethod
    async def slow() -> None:
        await asyncio.Event().wait()


TOOLS = [getattr(Kitchen, name) for name in ("weather", "greet", "nothing", "broken", "unsayable", "slow")]


def answering(tools: Sequence[ToolFunction] = TOOLS, **limits: Any) -> str:
    """The pipeline that lets the model answer with these tools."""

    async def answer(run: Run) -> None:
        await run.answer(tools=tools, **limits)

    return piped(answer)


@pytest.fixture
def generate(stage: Stage, sdk: Sdk) -> Callable[..., Any]:
    """Run one generation of a pipeline in a worker of its own; gives its log."""

    async def run(pipeline: str, **changes: Any) -> list[Event]:
        async with stage.worker(**changes):
            return await stage.over(await stage.start(model=f"{sdk}/m", pipeline=pipeline))

    return run


def plan_calls(up: Upstream, wire: Wire, *calls: ToolCall, rounds: int = 1) -> None:
    """The model calls, so many times, then says `Done.`."""
    asks = [reply(wire.answer([Text("Looking."), *calls], "tool_calls", USAGE)) for _ in range(rounds)]
    up.plan(*asks, reply(wire.answer([Text("Done.")], usage=USAGE)))


# -- what the model is told


def told(sdk: Sdk, call: ToolCall, content: str) -> list[dict[str, Any]]:
    """The end of the second request: the model's own turn and the result, in its provider's form."""
    match sdk:
        case "openai-chat":
            function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
            calls = [{"id": call.id, "type": "function", "function": function}]
            turn = {"role": "assistant", "content": "Looking.", "tool_calls": calls}
            return [turn, {"role": "tool", "tool_call_id": call.id, "content": content}]
        case "openai-responses":
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            return [
                {"role": "assistant", "content": "Looking."},
                {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments},
                {"type": "function_call_output", "call_id": call.id, "output": content},
            ]
    use = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": content}
    return [
        {"role": "assistant", "content": [{"type": "text", "text": "Looking."}, use]},
        {"role": "user", "content": [result]},
    ]


def conversation(up: Upstream, sdk: Sdk, request: int = 1) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = up.requests[request].body["input" if sdk == "openai-responses" else "messages"]
    return turns


def results(up: Upstream, sdk: Sdk) -> list[tuple[str, str]]:
    """(id, content) of the results in the second request, in their order."""
    turns = conversation(up, sdk)
    if sdk == "anthropic":
        return [(block["tool_use_id"], block["content"]) for block in turns[-1]["content"]]
    names = ("tool_call_id", "content") if sdk == "openai-chat" else ("call_id", "output")
    return [(turn[names[0]], turn[names[1]]) for turn in turns if set(names) <= turn.keys()]


# -- one call


@dataclass(frozen=True)
class Called:
    """One call, and what it comes to: an output, or an error that begins so."""

    call: ToolCall
    output: Any = None
    error: str | None = None
    told: str = ""


WEATHER = {"city": "Kraków", "days": 1, "on": True}
CALLS = {
    "a result": Called(
        ToolCall("t1", "weather", {"city": "Kraków"}), WEATHER, told=json.dumps(WEATHER, ensure_ascii=False)
    ),
    "text": Called(ToolCall("t1", "greet", {"name": "Zoë"}), "Hello Zoë 🐙", told="Hello Zoë 🐙"),
    "nothing": Called(ToolCall("t1", "nothing", {}), None, told="null"),
    "an error": Called(
        ToolCall("t1", "broken", {}), error="LookupError: no such shelf", told="Error: LookupError: no such shelf"
    ),
    "unknown tool": Called(
        ToolCall("t1", "cook", {"x": [1]}), error="there is no tool 'cook'", told="Error: there is no tool 'cook'"
    ),
    "wrong arguments": Called(
        ToolCall("t1", "weather", {"city": "K", "days": "many"}),
        error="wrong arguments: days: ", told="Error: wrong arguments: days: ",
    ),
    "missing arguments": Called(
        ToolCall("t1", "weather", {}), error="wrong arguments: city: ", told="Error: wrong arguments: city: "
    ),
    "more arguments": Called(
        ToolCall("t1", "greet", {"name": "Z", "loud": True}),
        error="wrong arguments: loud: ", told="Error: wrong arguments: loud: ",
    ),
    "too slow": Called(
        ToolCall("t1", "slow", {}), error="slow took longer than 0.05 s", told="Error: slow took longer than 0.05 s"
    ),
    "no JSON": Called(ToolCall("t1", "unsayable", {}), error="PydanticSerializationError", told="Error: Pydantic"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
async def test_a_tool_is_called(generate: Any, up: Upstream, sdk: Sdk, wire: Wire, case: str) -> None:
    """Call and result are in the log, the model is told the result, and goes on; an error is a result like any."""
    expected = CALLS[case]
    plan_calls(up, wire, expected.call)
    log = logged(await generate(answering(), tool_timeout_s=TOOL_S))
    (_, result), call = log[4], expected.call
    assert (result["error"] or "").startswith(expected.error or "")
    (_, content) = results(up, sdk)[0]
    assert content.startswith(expected.told)
    assert log == [
        started(f"{sdk}/m"), text("Looking."), called("t1", call.name, call.arguments), counted(USAGE),
        resulted("t1", expected.output, result["error"] if expected.error else None),
        text("\n\nDone."), counted(USAGE), completed(),
    ]  # fmt: skip
    assert conversation(up, sdk)[1:] == told(sdk, call, content)
    assert len(up.requests) == 2


async def test_the_model_is_told_the_tools(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Name, description and schema of each go with every request, in the provider's form."""
    plan_calls(up, wire, ToolCall("t1", "nothing", {}))
    await generate(answering([Kitchen.weather, Kitchen.nothing]))
    for request in up.requests:
        weather, nothing = (tool.get("function", tool) for tool in request.body["tools"])
        schema = weather["input_schema" if sdk == "anthropic" else "parameters"]
        assert (weather["name"], weather["description"]) == ("weather", "The weather of a city.")
        assert (schema["type"], schema["required"]) == ("object", ["city"])
        assert schema["properties"].keys() == {"city", "days"}
        assert nothing["name"] == "nothing"


# -- many calls


async def test_calls_of_one_round_run_side_by_side(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Two tools that wait for each other both come to an end; the model gets the results in the calls' order."""
    both = asyncio.Barrier(2)

    async def left() -> str:
        await both.wait()
        return "L"

    async def right() -> str:
        await both.wait()
        return "R"

    plan_calls(up, wire, ToolCall("t1", "left", {}), ToolCall("t2", "right", {}))
    log = logged(await generate(answering([left, right], tool_timeout_s=5)))
    assert log[1:4] == [text("Looking."), called("t1", "left", {}), called("t2", "right", {})]
    assert sorted(log[5:7], key=str) == [resulted("t1", "L"), resulted("t2", "R")]
    assert log[7:] == [text("\n\nDone."), counted(USAGE), completed()]
    assert results(up, sdk) == [("t1", "L"), ("t2", "R")]


async def test_a_result_is_said_when_it_is_there(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """The quick one of two calls does not wait for the slow one to be shown."""
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "slow"

    plan_calls(up, wire, ToolCall("t1", "slow", {}), ToolCall("t2", "nothing", {}))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=answering([slow, Kitchen.nothing]))
        first = await stage.until_event(sid, EventType.TOOL_RESULT)
        go.set()
        second = await stage.until_event(sid, EventType.TOOL_RESULT, 2)
        await stage.over(sid)
    assert (first.value["id"], second.value["id"]) == ("t2", "t1")


async def test_one_failing_call_does_not_hurt_the_other(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Each call of a round has its own result, good or bad."""
    plan_calls(up, wire, ToolCall("t1", "broken", {}), ToolCall("t2", "greet", {"name": "Z"}))
    log = logged(await generate(answering()))
    assert log[-1] == completed()
    assert results(up, sdk) == [("t1", "Error: LookupError: no such shelf"), ("t2", "Hello Z 🐙")]


async def test_several_rounds(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """The model may call, hear and call again; each request has everything before it."""
    plan_calls(up, wire, ToolCall("t1", "nothing", {}), rounds=3)
    log = logged(await generate(answering()))
    assert [kind for kind, _ in log].count("tool.result") == 3
    assert log[-3:] == [text("\n\nDone."), counted(USAGE), completed()]
    turns = [conversation(up, sdk, n) for n in range(4)]
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(turns))


async def test_too_many_rounds(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """A model that never stops calling is one failure; what was said and called is kept."""
    plan_calls(up, wire, ToolCall("t1", "nothing", {}), rounds=9)
    log = logged(await generate(answering(max_rounds=2)))
    assert log[-1] == bad_end("too_many_rounds", retryable=False)
    assert [kind for kind, _ in log].count("tool.call") >= 2
    assert len(up.requests) <= 3


async def test_a_model_may_call_as_often_as_it_is_allowed(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """With one round of calls allowed, the model calls once, hears the result, and answers."""
    plan_calls(up, wire, ToolCall("t1", "nothing", {}))
    log = logged(await generate(answering(), tool_rounds=1))
    assert log[-3:] == [text("\n\nDone."), counted(USAGE), completed()]


async def test_calls_that_cannot_be_answered_are_not_made(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """In the round too many no tool runs: nobody would ever hear its result."""
    made: list[int] = []

    async def count() -> None:
        made.append(1)

    plan_calls(up, wire, ToolCall("t1", "count", {}), rounds=9)
    await generate(answering([count], max_rounds=2))
    assert len(made) == len(up.requests) - 1


# -- tools and the rest


async def test_a_stop_reaches_a_tool(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """A tool that runs is cancelled with its generation, and its result never comes."""
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    plan_calls(up, wire, ToolCall("t1", "wait", {}))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=answering([wait]))
        await entered.wait()
        await stage.stop(sid)
        events = await stage.over(sid)
        assert left.is_set()
    assert [kind for kind, _ in logged(events)][-2:] == ["usage", "generation.cancelled"]
    assert len(up.requests) == 1


async def test_an_error_after_a_tool_keeps_its_result(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """When the second request breaks off, the first round's calls and results stay in the log."""
    asks = wire.answer([Text("Looking."), ToolCall("t1", "nothing", {})], "tool_calls", USAGE)
    up.plan(reply(asks), reply(wire.head("And"), STALL))
    log: list[Said] = without_usage(await generate(answering(), idle_timeout_s=1.0))
    assert log[3:] == [resulted("t1"), text("\n\nAnd"), bad_end("idle_timeout", retryable=True)]
    assert len(up.requests) == 2


async def test_reasoning_before_a_call(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Reasoning that leads to a call is in the log before it."""
    call = ToolCall("t1", "nothing", {})
    up.plan(
        reply(wire.answer([Reasoning("Hm."), call], "tool_calls", USAGE)), reply(wire.answer([Text("Done.")]))
    )  # fmt: skip
    log = logged(await generate(answering()))
    assert [kind for kind, _ in log][1:5] == ["reasoning.delta", "tool.call", "usage", "tool.result"]
    assert log[5] == text("Done.")
