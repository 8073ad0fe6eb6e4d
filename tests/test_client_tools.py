"""Tools of the client: the model calls them, the generation ends with the call, and the next turn brings the result."""

import json
from typing import Any

import httpx
import pytest

from api.commands import Commands
from api.node import ANONYMOUS
from api.schemas import ClientTool, NextMessage
from shared.events import Event, EventType, encode
from shared.ids import EventId
from shared.transcript import fold
from tests.support.generations import Stage, called, completed, logged, piped, resulted, stage, started, text
from tests.support.inprocess import live_node
from tests.upstream import Upstream, reply
from tests.upstream_fixtures import WIRES, up
from worker.pipelines import Run
from worker.pipelines.conversation import conversation
from worker.providers.base import Text, ToolCall

__all__ = ["stage", "up"]

WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLS = [ToolCall("t1", "weather", {"city": "Kiel"}), ToolCall("t2", "weather", {"city": "Rome"})]
RESULTS: list[dict[str, Any]] = [
    {"role": "tool", "tool_call_id": "t1", "content": "rain"},
    {"role": "tool", "tool_call_id": "t2", "content": ""},
]
SAID_CALLS = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in CALLS]


async def test_a_call_ends_the_turn_and_its_result_opens_the_next(stage: Stage, up: Upstream) -> None:
    """The model is told the tools; its calls are said and the generation completes with them; with the results the next
    generation goes on, and the model is told calls and results."""
    wire = WIRES["openai-chat"]
    up.plan(reply(wire.answer([Text("Let me look."), *CALLS])), reply(wire.answer([Text("Rain.")])))
    async with stage.worker():
        sid = await stage.start(model="openai-chat/m", tools=[WEATHER], options={"tool_choice": "required"})
        first = await stage.over(sid)
        await stage.commands.message(sid, NextMessage(messages=RESULTS, options={}), None)
        second = await stage.over(sid)
    assert [said for said in logged(first) if said[0] != EventType.USAGE] == [
        started("openai-chat/m"),
        text("Let me look."),
        *(called(call.id, call.name, call.arguments) for call in CALLS),
        completed("tool_calls"),
    ]
    assert [m.content for m in fold(second).messages] == ["hi", "Let me look.", "rain", "", "Rain."]
    asked, then = (request.body for request in up.requests)
    assert asked["tools"] == [{"type": "function", "function": WEATHER}] == then["tools"]
    assert (asked["tool_choice"], "tool_choice" in then) == ("required", False)
    assert [m["role"] for m in then["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [c["id"] for c in then["messages"][1]["tool_calls"]] == ["t1", "t2"]
    assert then["messages"][2:] == RESULTS


async def test_a_history_with_calls_may_open_a_session(stage: Stage, up: Upstream) -> None:
    """A client that keeps the conversation itself brings all of it: turns that only call, and their results."""
    up.plan(reply(WIRES["anthropic"].answer([Text("Rain.")])))
    history = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": SAID_CALLS}, *RESULTS]
    async with stage.worker():
        await stage.over(await stage.start(model="anthropic/m", input=None, messages=history))
    user, assistant, results = up.requests[0].body["messages"]
    assert (user["role"], results["role"]) == ("user", "user")
    assert [block["id"] for block in assistant["content"]] == ["t1", "t2"]
    assert [(block["tool_use_id"], block["content"]) for block in results["content"]] == [("t1", "rain"), ("t2", "")]


async def test_the_next_turn_may_replace_the_tools(stage: Stage, up: Upstream) -> None:
    """None given: the session's; an empty list: none any more."""
    wire = WIRES["openai-chat"]
    up.plan(*(reply(wire.answer([Text("ok")])) for _ in range(3)))
    async with stage.worker():
        sid = await stage.start(model="openai-chat/m", tools=[WEATHER])
        await stage.over(sid)
        replacing: list[list[ClientTool] | None] = [None, []]
        for tools in replacing:
            await stage.commands.message(sid, NextMessage(input="go on", tools=tools), None)
            await stage.over(sid)
    assert [len(request.body.get("tools", [])) for request in up.requests] == [1, 1, 0]


async def test_a_pipeline_runs_its_own_tools_before_it_leaves_the_others_to_the_client(
    stage: Stage, up: Upstream
) -> None:
    """One round calls both kinds: the pipeline's gets its result, the client's gets none, and the turn ends."""

    def clock() -> str:
        """The time."""
        return "noon"

    async def both(run: Run) -> None:
        await run.answer(tools=[clock], client_tools=run.client_tools)

    up.plan(reply(WIRES["openai-chat"].answer([ToolCall("t0", "clock", {}), CALLS[0]])))
    async with stage.worker():
        events = await stage.over(await stage.start(model="openai-chat/m", tools=[WEATHER], pipeline=piped(both)))
    assert [said for said in logged(events)[1:] if said[0] != EventType.USAGE] == [
        called("t0", "clock", {}),
        called("t1", "weather", {"city": "Kiel"}),
        resulted("t0", "noon"),
        completed("tool_calls"),
    ]


def _conversation(*said: tuple[str, dict[str, Any]]) -> list[str]:
    """What a model is told, a word a message: `assistant:t1+t2`, `tool:t1`."""
    events = [Event(EventId(1, n), kind, encode(data)) for n, (kind, data) in enumerate(said, 1)]

    def word(message: dict[str, Any]) -> str:
        calls = "+".join(call["id"] for call in message.get("tool_calls", ()))
        return f"{message['role']}:{calls or message.get('tool_call_id') or message['content']}"

    return [word(message) for message in conversation(fold(events))]


def _turn(n: int, *messages: dict[str, Any], calls: tuple[str, ...] = (), end: str = "completed") -> list[Any]:
    generation = f"g{n}"
    return [
        *(("message", {**message, "generation": generation}) for message in messages),
        ("generation.started", {"generation": generation, "attempt": 1, "model": "m"}),
        *(("tool.call", {"id": call, "name": "weather", "arguments": {}}) for call in calls),
        (f"generation.{end}", {"generation": generation, "code": "x"}),
    ]


ASKED = {"role": "user", "content": "hi"}


def test_only_calls_that_were_answered_are_told() -> None:
    """A model is refused a call without its result: one the client never answered is left out."""
    first = _turn(1, ASKED, calls=("t1", "t2"))
    assert _conversation(*first, *_turn(2, ASKED)) == ["user:hi", "user:hi"]
    told = _conversation(*first, *_turn(2, RESULTS[0], ASKED))
    assert told == ["user:hi", "assistant:t1", "tool:t1", "user:hi"]


def test_what_the_client_says_itself_is_told_as_it_is() -> None:
    """A history that leaves a call open is the client's own: the provider says what is wrong with it."""
    opened = {"role": "assistant", "content": "", "tool_calls": SAID_CALLS}
    assert _conversation(*_turn(1, ASKED, opened, ASKED)) == ["user:hi", "assistant:t1+t2", "user:hi"]


def test_results_that_are_brought_again_are_told_once() -> None:
    """The turn with the results failed before its first word, and is asked again."""
    first = _turn(1, ASKED, calls=("t1",))
    again = _turn(2, RESULTS[0], end="failed"), _turn(3, RESULTS[0])
    assert _conversation(*first, *again[0], *again[1]) == ["user:hi", "assistant:t1", "tool:t1"]


JSON = {"content-type": "application/json"}
BODIES: dict[str, dict[str, Any]] = {
    "a result without its call's id": {"messages": [{"role": "tool", "content": "x"}]},
    "calls of a user": {"messages": [{"role": "user", "content": "x", "tool_calls": SAID_CALLS}]},
    "an assistant that says nothing": {"messages": [{"role": "assistant"}, ASKED]},
    "an end that is the assistant's": {"messages": [ASKED, {"role": "assistant", "content": "x"}]},
    "two tools of one name": {"input": "x", "tools": [WEATHER, WEATHER]},
    "parameters that are no object": {"input": "x", "tools": [{"name": "a", "parameters": {"type": "string"}}]},
    "content that is no Unicode": {"messages": [{"role": "tool", "tool_call_id": "t1", "content": "\ud800"}]},
    "an id that is no Unicode": {"messages": [{"role": "tool", "tool_call_id": "\ud800", "content": "x"}]},
    "arguments that are no Unicode": {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": "t", "name": "a", "arguments": {"a": "\ud800"}}]},
            ASKED,
        ]
    },
    "a description that is no Unicode": {"input": "x", "tools": [{"name": "a", "description": "\ud800"}]},
    "parameters that are no Unicode": {
        "input": "x",
        "tools": [{"name": "a", "parameters": {"type": "object", "title": "\ud800"}}],
    },
    "a name no model takes": {"input": "x", "tools": [{"name": "a b"}]},
    "too many tools": {"input": "x", "tools": [{"name": f"t{n}"} for n in range(129)]},
    "tools that are too large": {"input": "x", "tools": [{"name": "a", "description": "x" * 140_000}]},
}


async def test_what_cannot_be_is_refused(redis_url: str) -> None:
    """422, with words, and no session: for a session's first turn and for its next."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        known = (await client.post("/v1/sessions", json={"input": "hi"})).json()["id"]
        for what, body in BODIES.items():
            for path in ("/v1/sessions", f"/v1/sessions/{known}/messages"):
                refused = await client.post(path, content=json.dumps(body), headers=JSON)
                assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_request"), what
        assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1


@pytest.mark.parametrize("interrupt", [False, True])
async def test_the_cursor_before_a_turn_of_several_messages(redis_url: str, interrupt: bool) -> None:
    """A stream that begins there is given all of them, also where the turn ended another one in the same step."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        sid = (await client.post("/v1/sessions", json={"input": "hi"})).json()["id"]
        if not interrupt:
            await client.post(f"/v1/sessions/{sid}/stop")
        commands = Commands(node.node, ANONYMOUS)
        turn = await commands.message(sid, NextMessage(messages=RESULTS, interrupt=interrupt), None)
        cursor = await commands.before(sid, turn, len(RESULTS))
        _, page = await node.node.log.read(sid, cursor, 10)
    assert [event.value.get("tool_call_id") for event in page] == ["t1", "t2"]
    assert page[0].before == cursor
