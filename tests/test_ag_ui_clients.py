"""AG-UI's own JavaScript client, unmodified, pointed at a node by its URL alone."""

import asyncio
import json
import random
from collections.abc import Iterable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import httpx
import pytest
from ag_ui.core import Event as TheirEvent
from pydantic import TypeAdapter

from shared.events import EventType
from tests.support.cutting import cutting
from tests.support.dialect_stage import DialectStage, stage
from tests.support.generations import piped
from tests.support.node_script import all_said
from tests.support.speaking import until_it_speaks
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from worker.pipelines import Run
from worker.providers.base import Reasoning, Text, ToolCall
from worker.providers.demo import lorem

__all__ = ["stage"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUTS = 10
CUT_BYTES = (1, 6000)
TOKENS = 600
TEXT = "".join(lorem(TOKENS))
TOOL = {"name": "look", "description": "Look", "parameters": {"type": "object", "properties": {"where": {}}}}
_threads = map("ag-ui-{}".format, count())
_EVENT: TypeAdapter[Any] = TypeAdapter(TheirEvent)

Done = dict[str, Any]
"""What one run of a client came to: `events`, `error`, and its `messages` and `interrupts` then."""


def run(url: str, name: str = "r1", model: str = "demo/lorem", **more: Any) -> dict[str, Any]:
    """`more` is of the run; `props` are forwarded, `tools` the client's."""
    props = {"model": model, **more.pop("props", {})}
    return {"url": url, "input": {"runId": name, "forwardedProps": props, "tools": more.pop("tools", [])}, **more}


async def agents(*jobs: Iterable[dict[str, Any]], thread: str = "") -> list[list[Done]]:
    """For each job, runs one after the other in a thread of its own, what each of its runs came to."""
    asked = [{"id": "u1", "role": "user", "content": "hello"}]
    told = [{"thread": thread or next(_threads), "messages": asked, "runs": list(runs)} for runs in jobs]
    done: list[list[Done]] = await all_said("ag_ui.mjs", json.dumps(told))
    assert len(done) == len(jobs)
    for each in [each for runs in done for each in runs]:
        for event in each["events"]:
            _EVENT.validate_python(event)
    return done


def types(done: Done) -> list[str]:
    return [event["type"] for event in done["events"]]


def said(done: Done) -> list[tuple[str, str | None]]:
    return [(message["role"], message.get("content")) for message in done["messages"]]


async def test_runs_to_the_end_turn_after_turn(stage: DialectStage) -> None:
    """Two turns of one agent: each answer is one message, each run ends in success."""
    first = run(stage.urls[0], "r1", "demo/echo")
    second = run(stage.urls[1], "r2", "demo/echo", add={"id": "u2", "role": "user", "content": "again"})
    ((one, two),) = await agents([first, second])
    assert said(one) == [("user", "hello"), ("assistant", "hello")]
    assert said(two) == [*said(one), ("user", "again"), ("assistant", "again")]
    for done in (one, two):
        assert (types(done)[0], types(done)[-1], done["error"]) == ("RUN_STARTED", "RUN_FINISHED", None)
        assert done["events"][-1]["outcome"] == {"type": "success"}


async def test_says_steps_and_sources(stage: DialectStage) -> None:
    """The research pipeline: steps begin and end, status and sources are custom events."""
    props = {"pipeline": "research"}
    ((done,),) = await agents([run(stage.urls[0], model="demo/echo", props=props)])
    steps = [event["stepName"] for event in done["events"] if event["type"].startswith("STEP_")]
    assert steps == ["think", "think", "search", "search", "write", "write"]
    assert {event["name"] for event in done["events"] if event["type"] == "CUSTOM"} == {"status", "source"}


async def test_says_tools_and_reasoning_of_a_pipeline(stage: DialectStage) -> None:
    """Reasoning is a message of its own; a pipeline's call and its result are beside the text."""

    async def look(where: str) -> str:
        return f"{where} it is"

    async def looking(run: Run) -> None:
        await run.answer(tools=[look])

    wire, call = WIRES["anthropic"], ToolCall("c1", "look", {"where": "here"})
    stage.up.plan(reply(wire.answer([Reasoning("hm"), call], "tool_calls")), reply(wire.answer([Text("Found.")])))
    ((done,),) = await agents([run(stage.urls[0], model="anthropic/m", props={"pipeline": piped(looking)})])
    assert said(done) == [
        ("user", "hello"),
        ("reasoning", "hm"),
        ("assistant", None),
        ("tool", "here it is"),
        ("assistant", "Found."),
    ]
    called = next(message for message in done["messages"] if message.get("toolCalls"))
    function = {"name": "look", "arguments": '{"where":"here"}'}
    assert called["toolCalls"] == [{"id": "c1", "type": "function", "function": function}]
    assert done["events"][-1]["outcome"] == {"type": "success"}


async def test_runs_tools_of_the_client(stage: DialectStage) -> None:
    """A tool of the client's: the run ends with the call pending, the next one brings its result to the model."""
    wire = WIRES["openai-chat"]
    stage.up.plan(
        reply(wire.answer([ToolCall("c1", "look", {"where": "here"})], "tool_calls")),
        reply(wire.answer([Text("Found.")])),
    )
    result = {"id": "u2", "role": "tool", "toolCallId": "c1", "content": "it is there"}
    runs = [
        run(stage.urls[0], "r1", "openai-chat/m", tools=[TOOL]),
        run(stage.urls[1], "r2", "openai-chat/m", tools=[TOOL], add=result),
    ]
    before = len(stage.up.requests)
    ((one, two),) = await agents(runs)
    assert one["events"][-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c1"]}
    assert said(two)[-1] == ("assistant", "Found.")
    asked = [request.body for request in stage.up.requests[before:]]
    assert asked[0]["tools"][0]["function"]["name"] == "look"
    assert [message["role"] for message in asked[1]["messages"]] == ["user", "assistant", "tool"]
    assert asked[1]["messages"][-1]["content"] == "it is there"


async def test_error_in_the_middle_is_told(stage: DialectStage) -> None:
    """A provider that breaks off in its answer: what was said, then RUN_ERROR, and no RUN_FINISHED."""
    stage.up.plan(reply(WIRES["openai-chat"].head("half an "), SEVER))
    ((done,),) = await agents([run(stage.urls[0], model="openai-chat/m")])
    assert types(done)[-1] == "RUN_ERROR"
    assert "RUN_FINISHED" not in types(done)
    assert "half an " in [event.get("delta") for event in done["events"]]


async def test_stopped_run_is_cancelled(stage: DialectStage) -> None:
    """A run that is stopped through the native API ends with the outcome `cancelled`."""
    thread = next(_threads)
    props = {"options": {"tokens": 20_000, "rate": 50}}
    running = asyncio.create_task(agents([run(stage.urls[0], props=props)], thread=thread))
    await until_it_speaks(stage, thread)
    async with httpx.AsyncClient(base_url=stage.urls[1]) as client:
        stopped = await client.post(f"/v1/sessions/{thread}/stop")
        assert stopped.json()["state"] == "cancelled"
    ((done,),) = await running
    assert done["events"][-1]["outcome"] == {"type": "cancelled"}


async def test_run_that_is_deleted_is_no_success(stage: DialectStage) -> None:
    """A stream that breaks off for good, as its session is deleted, is rejected by the client."""
    thread = next(_threads)
    props = {"options": {"tokens": 20_000, "rate": 50}}
    running = asyncio.create_task(agents([run(stage.urls[0], props=props)], thread=thread))
    await until_it_speaks(stage, thread)
    async with httpx.AsyncClient(base_url=stage.urls[1]) as client:
        assert (await client.delete(f"/v1/sessions/{thread}")).status_code == 204
    ((done,),) = await running
    assert done["error"] is not None
    assert "RUN_FINISHED" not in types(done)


async def test_questions_are_interrupts(stage: DialectStage) -> None:
    """A question interrupts the run; each answer begins the next run, which goes on behind it."""
    props = {"pipeline": "trip"}
    runs = [run(stage.urls[0], model="demo/echo", props=props)]
    runs += [run(stage.urls[1], f"r{n}", "demo/echo", resume=said) for n, said in ((2, "A weekend"), (3, "food"))]
    ((one, two, three),) = await agents(runs)
    assert [len(done["interrupts"]) for done in (one, two, three)] == [1, 1, 0]
    assert one["interrupts"][0]["responseSchema"]["enum"] == ["A weekend", "A week", "Two weeks"]
    assert said(three)[-1][1].startswith("**A weekend**, with food")  # type: ignore[union-attr]


async def test_cut_runs_are_resumed_on_another_node(stage: DialectStage) -> None:
    """Runs that are cut at random points are rejected, never taken for a success; asked for again on another node,
    each is complete, once, and began nothing a second time."""
    chance = random.Random(11)
    props = {"options": {"tokens": TOKENS, "rate": 600}}
    async with AsyncExitStack() as stack:
        budgets = [chance.randint(*CUT_BYTES) for _ in range(CUTS)]
        ways = [await stack.enter_async_context(cutting(iter(stage.ports[:1]), iter([size]))) for size in budgets]
        jobs = [[run(way.url, props=props), run(stage.urls[1], props=props)] for way in ways]
        for cut, whole in await agents(*jobs):
            assert cut["error"] is not None
            assert "RUN_FINISHED" not in types(cut)
            assert whole["error"] is None
            assert said(whole) == [("user", "hello"), ("assistant", TEXT)]
            assert types(whole)[-1] == "RUN_FINISHED"
        assert [way.cuts for way in ways] == [1] * CUTS


async def test_same_run_again_begins_nothing(stage: DialectStage) -> None:
    """A run that is over is told again, and the messages are as before; the session has one turn."""
    again = run(stage.urls[1], model="demo/echo")
    thread = next(_threads)
    ((one, two),) = await agents([run(stage.urls[0], model="demo/echo"), again], thread=thread)
    assert said(two) == said(one)
    assert [event.type for event in await stage.log.events(thread)].count(EventType.MESSAGE) == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"context": [{"description": "d", "value": "v"}]}, "context"),
        ({"messages": []}, "messages"),
        ({"messages": [{"id": "u", "role": "user", "content": "\ud800"}]}, "nicode"),
        ({"runId": "\ud800"}, "runId"),
        ({"messages": [{"id": "u", "role": "nobody", "content": "x"}]}, "role"),
        ({"forwardedProps": {"model": "nobody/m"}}, "model"),
        ({"resume": [{"interruptId": "q", "status": "resolved", "payload": "x"}]}, "no session"),
        ({"messages": [{"id": "u", "role": "user", "content": [{"type": "image"}]}]}, "content"),
    ],
)
async def test_refuses_what_it_cannot_do(stage: DialectStage, more: dict[str, Any], named: str) -> None:
    """What would change the answer, and cannot be had, is refused by its name, and nothing is started."""
    thread = next(_threads)
    asked = [{"id": "u1", "role": "user", "content": "hi"}]
    async with httpx.AsyncClient(base_url=stage.urls[0]) as client:
        body = {"threadId": thread, "runId": "r1", "messages": asked, **more}
        sent: Any = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        response = await client.post("/ag-ui", **sent)
        assert response.status_code in (400, 404, 422)
        assert named in response.json()["error"]["message"]
        assert (await client.get(f"/v1/sessions/{thread}")).status_code == 404
