"""Anthropic's own SDKs, unmodified, pointed at a node by their base URL alone: Python and JavaScript."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic.types import MessageParam, RawMessageStreamEvent, ToolParam
from pydantic import TypeAdapter

from shared.events import EventType
from tests.support.generations import Stage, stage
from tests.support.inprocess import LiveNode, live_node
from tests.support.node_script import speaking
from tests.upstream import Upstream, failure, reply
from tests.upstream_fixtures import WIRES, up
from tests.upstream_frames import Item, Refusal
from worker.providers.base import Reasoning, Text, ToolCall, Usage
from worker.providers.demo import lorem
from worker.providers.source import Sdk

__all__ = ["stage", "up"]

WITHIN_S = 30
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
TOOL: ToolParam = {"name": "weather", "description": "It", "input_schema": {"type": "object", "properties": {}}}
SLOW: dict[str, Any] = {"options": {"tokens": 500, "rate": 50}}
"""Of a demo model: it speaks for 10 s, so that it is still speaking when something happens to it."""
LOREM = "".join(lorem(20))
BROKEN = (anthropic.AnthropicError, httpx2.TransportError)
"""What the Python SDK raises for a stream that broke off."""


@pytest.fixture
async def node(stage: Stage) -> AsyncIterator[LiveNode]:
    async with live_node(stage.redis_url, models=stage.models) as node, stage.worker():
        yield node


@pytest.fixture
async def client(node: LiveNode) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=node.url, api_key="none") as client:
        yield client


def script(url: str, how: str, body: dict[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
    """Run the JavaScript SDK; gives the lines it says."""
    return speaking("anthropic.mjs", url, how, json.dumps({"max_tokens": 1000, **body}))


async def js(url: str, how: str, **body: Any) -> list[dict[str, Any]]:
    """All lines of it."""
    async with script(url, how, body) as lines:
        return [line async for line in lines]


async def read(
    stream: AsyncIterator[RawMessageStreamEvent], take: Callable[[str], object] = str, upto: int | None = None
) -> None:
    """Read on to the end, or up to so many deltas of text; `take` is given each."""
    async for event in stream:
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            take(event.delta.text)
            if upto is not None and (upto := upto - 1) == 0:
                return


# -- whole answers


async def test_python_is_given_the_whole_message(client: anthropic.AsyncAnthropic) -> None:
    """Text, stop reason, counts, and the session by which the native API knows it."""
    raw = await client.messages.with_raw_response.create(
        model="demo/lorem", max_tokens=1000, messages=HI, extra_body={"options": {"tokens": 20}}
    )
    message = await raw.parse()
    assert [block.text for block in message.content if block.type == "text"] == [LOREM]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 20)
    assert (message.id, message._request_id) == (f"msg_{raw.headers['holdfast-session']}_g1", raw.headers["request-id"])


async def test_python_streams_the_same(client: anthropic.AsyncAnthropic) -> None:
    """By `create(stream=True)` and by the helper, which puts the message together."""
    asked: dict[str, Any] = {
        "model": "demo/lorem",
        "max_tokens": 10,
        "messages": HI,
        "extra_body": {"options": {"tokens": 20}},
    }
    async with await client.messages.create(**asked, stream=True) as stream:
        kinds = [event.type async for event in stream]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    async with client.messages.stream(**asked) as helper:
        message = await helper.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == ["".join(lorem(20)[:10])]
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 10)


async def test_javascript_is_given_both(node: LiveNode) -> None:
    """The whole message; the events; and the message its helper puts together."""
    asked = {"model": "demo/lorem", "messages": HI, "options": {"tokens": 20}}
    ([whole], events, helped) = await asyncio.gather(
        *(js(node.url, how, **asked) for how in ("create", "events", "stream"))
    )
    assert whole["done"]["content"] == [{"type": "text", "text": LOREM}]
    kinds = [line["event"]["type"] for line in events[:-1]]
    assert (kinds[0], kinds[-1], events[-1]) == ("message_start", "message_stop", {"done": None})
    assert helped[-1]["done"]["content"] == [{"type": "text", "text": LOREM}]
    assert helped[-1]["done"]["stop_reason"] == "end_turn"


# -- tools


TURNS: list[Item | Refusal] = [Reasoning("hm"), Text("Let me look."), ToolCall("t1", "weather", {"city": "Kiel"})]
RESULT: MessageParam = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}]}


def _asked_again(sdk: Sdk, body: dict[str, Any]) -> None:
    """The second request of a round of tools, as the provider was sent it."""
    wire = "anthropic" if sdk == "anthropic" else "openai"
    said = body["messages"]
    if wire == "openai":
        assert [m["role"] for m in said] == ["user", "assistant", "tool"]
        assert said[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Kiel"}'}
        assert said[2] == {"role": "tool", "tool_call_id": "t1", "content": "rain"}
    else:
        assert said[1]["content"] == [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}},
        ]
        assert said[2]["content"] == [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}]
    assert len(body["tools"]) == 1


@pytest.mark.parametrize("sdk", ["openai-chat", "anthropic"])
async def test_python_takes_a_round_of_tools(client: anthropic.AsyncAnthropic, up: Upstream, sdk: Sdk) -> None:
    """Whoever the model is of: what the SDK was given goes back with the result, and the model goes on."""
    wire = WIRES[sdk]
    up.plan(reply(wire.answer(TURNS, "tool_calls", Usage(5, 3))), reply(wire.answer([Text("Rain.")])))
    asked: dict[str, Any] = {"model": f"{sdk}/m", "max_tokens": 50, "tools": [TOOL], "tool_choice": {"type": "any"}}
    async with client.messages.stream(**asked, messages=HI) as stream:
        first = await stream.get_final_message()
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    assert (first.stop_reason, first.usage.input_tokens, first.usage.output_tokens) == ("tool_use", 5, 3)
    told: list[Any] = [*HI, {"role": "assistant", "content": [block.model_dump() for block in first.content]}, RESULT]
    second = await client.messages.create(**{**asked, "tool_choice": {"type": "auto"}}, messages=told)
    assert [block.text for block in second.content if block.type == "text"] == ["Rain."]
    assert up.requests[0].body["tool_choice"] == ({"type": "any"} if sdk == "anthropic" else "required")
    _asked_again(sdk, up.requests[1].body)


async def test_javascript_takes_a_round_of_tools(node: LiveNode, up: Upstream) -> None:
    """The same, by the helper and then whole."""
    wire = WIRES["openai-chat"]
    up.plan(reply(wire.answer(TURNS, "tool_calls")), reply(wire.answer([Text("Rain.")])))
    asked = {"model": "openai-chat/m", "tools": [TOOL]}
    first = (await js(node.url, "stream", **asked, messages=HI))[-1]["done"]
    assert first["content"][-1] == {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}}
    told: list[Any] = [*HI, {"role": "assistant", "content": first["content"]}, RESULT]
    [second] = await js(node.url, "create", **asked, messages=told)
    assert second["done"]["content"] == [{"type": "text", "text": "Rain."}]
    _asked_again("openai-chat", up.requests[1].body)


# -- errors


async def test_python_is_told_of_a_failure_in_the_midst(client: anthropic.AsyncAnthropic, up: Upstream) -> None:
    """What was said arrives, then the SDK raises, with Anthropic's type of error."""
    wire = WIRES["anthropic"]
    up.plan(reply(wire.head("Once"), wire.error("overloaded_error", "Overloaded")))
    said: list[str] = []
    async with await client.messages.create(model="anthropic/m", max_tokens=9, messages=HI, stream=True) as stream:
        with pytest.raises(anthropic.APIStatusError) as raised:
            await read(stream, said.append)
    assert said == ["Once"]
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == "overloaded_error"


async def test_javascript_is_told_of_a_failure_in_the_midst(node: LiveNode, up: Upstream) -> None:
    """By the events and by the helper."""
    wire = WIRES["anthropic"]
    for how in ("events", "stream"):
        up.plan(reply(wire.head("Once"), wire.error("overloaded_error", "Overloaded")))
        *events, end = await js(node.url, how, model="anthropic/m", messages=HI)
        assert [line["event"]["type"] for line in events][-1] == "content_block_delta"
        assert end["error"]["told"]["error"]["type"] == "overloaded_error"


async def test_a_failure_that_would_come_again_is_not_asked_for_again(
    client: anthropic.AsyncAnthropic, up: Upstream
) -> None:
    """Without a stream the status says what it was, and the SDK's own retries start nothing in vain."""
    up.plan(failure(401, {"error": {"type": "authentication_error", "message": "no"}}))
    with pytest.raises(anthropic.InternalServerError):
        await client.messages.create(model="anthropic/m", max_tokens=9, messages=HI)
    assert len(up.requests) == 1
    with pytest.raises(anthropic.BadRequestError, match="no option 'top_k'"):
        await client.messages.create(model="openai-chat/m", max_tokens=9, messages=HI, extra_body={"top_k": 3})


REFUSALS: dict[str, tuple[dict[str, Any], type[anthropic.APIStatusError], str]] = {
    "an unknown model": ({"model": "nobody/m"}, anthropic.NotFoundError, "not_found_error"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
        anthropic.BadRequestError,
        "invalid_request_error",
    ),
    "no limit": ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", REFUSALS)
async def test_refusals_are_in_anthropics_shape(client: anthropic.AsyncAnthropic, case: str, stream: bool) -> None:
    """Before anything is started: status, type and request id."""
    changes, error, kind = REFUSALS[case]
    asked: dict[str, Any] = {"model": "demo/echo", "max_tokens": 9, "messages": HI, **changes}
    with pytest.raises(error) as raised:
        await client.messages.create(**asked, stream=stream)
    assert isinstance(body := raised.value.body, dict)
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", kind, raised.value.request_id)


@pytest.mark.parametrize("body", [b"{", b'{"model": "\xff"}', b"[]", b'{"model": 3}'])
async def test_a_body_that_is_none_is_refused_in_the_same_shape(node: LiveNode, body: bytes) -> None:
    """Whatever part of the node finds it out."""
    async with httpx.AsyncClient(base_url=node.url) as client:
        told = await client.post("/v1/messages", content=body, headers={"content-type": "application/json"})
    assert (told.status_code, told.json()["error"]["type"]) == (400, "invalid_request_error")
    assert told.json()["request_id"] == told.headers["request-id"]


async def test_a_stranger_is_refused_in_anthropics_shape(redis_url: str) -> None:
    """By the key that the SDK sends."""
    keys = {"alice": ("a" * 64,)}
    async with (
        live_node(redis_url, auth="keys", keys=keys, token_secret="x" * 32) as node,
        anthropic.AsyncAnthropic(base_url=node.url, api_key="wrong") as client,
    ):
        with pytest.raises(anthropic.AuthenticationError) as raised:
            await client.messages.create(model="demo/echo", max_tokens=9, messages=HI)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == "authentication_error"


# -- ends that are none


async def test_a_stop_is_no_success_in_python(node: LiveNode, client: anthropic.AsyncAnthropic, stage: Stage) -> None:
    """Stopped through the native API, by the session the answer names: the SDK raises, streamed and whole."""
    asked: dict[str, Any] = {"model": "demo/lorem", "max_tokens": 1000, "messages": HI, "extra_body": SLOW}
    async with await client.messages.create(**asked, stream=True) as stream:
        sid = stream.response.headers["holdfast-session"]
        await read(stream, upto=1)
        await stage.stop(sid)
        with pytest.raises(anthropic.APIStatusError, match="cancelled"):
            await read(stream)
    waiting = asyncio.create_task(client.messages.create(**asked))
    await stage.stop(await _newest(node, not_=sid))
    with pytest.raises(anthropic.InternalServerError, match="cancelled"):
        await waiting
    assert len(await _sessions(node)) == 2  # and it was not tried again


async def _sessions(node: LiveNode) -> list[str]:
    async with httpx.AsyncClient(base_url=node.url) as client:
        return [session["id"] for session in (await client.get("/v1/sessions")).json()["sessions"]]


async def _newest(node: LiveNode, not_: str) -> str:
    """The session beside this one, as soon as there is one."""
    async with asyncio.timeout(WITHIN_S):
        while not (found := [sid for sid in await _sessions(node) if sid != not_]):
            await asyncio.sleep(0)
    return found[0]


@pytest.mark.parametrize("how", ["events", "stream"])
async def test_a_stop_is_no_success_in_javascript(node: LiveNode, stage: Stage, how: str) -> None:
    """By the events and by the helper."""
    async with script(node.url, how, {"model": "demo/lorem", "messages": HI, **SLOW}) as lines:
        async for line in lines:
            if line.get("event", {}).get("type") == "content_block_delta":
                await stage.stop((await _sessions(node))[0])
    assert "cancelled" in line["error"]["message"]


async def test_a_stream_that_the_node_cuts_is_an_error_in_python(stage: Stage, redis_url: str) -> None:
    """Behind the node all goes on; the client learns that it has not everything, and finds the rest natively."""
    async with (
        stage.worker(),
        live_node(redis_url) as node,
        anthropic.AsyncAnthropic(base_url=node.url, api_key="none") as client,
    ):
        asked: dict[str, Any] = {"model": "demo/lorem", "max_tokens": 1000, "messages": HI, "extra_body": SLOW}
        async with await client.messages.create(**asked, stream=True) as stream:
            await read(stream, upto=1)
            node.node.hub.drain()
            with pytest.raises(BROKEN):
                await read(stream)
        view = await stage.log.view(stream.response.headers["holdfast-session"])
        assert view is not None
        assert view.live


async def test_a_whole_answer_the_node_cannot_wait_for_is_not_asked_for_again(stage: Stage, redis_url: str) -> None:
    """The generation goes on without it: the SDK's own retries would start another one."""
    async with (
        stage.worker(),
        live_node(redis_url) as node,
        anthropic.AsyncAnthropic(base_url=node.url, api_key="none") as client,
    ):
        asked = client.messages.create(model="demo/lorem", max_tokens=1000, messages=HI, extra_body=SLOW)
        waiting = asyncio.create_task(asked)
        sid = await _newest(node, not_="")
        await stage.until_event(sid, EventType.TEXT)
        node.node.hub.drain()
        with pytest.raises(anthropic.InternalServerError) as raised:
            await waiting
        assert raised.value.response.headers["holdfast-session"] == sid
        assert await _sessions(node) == [sid]


@pytest.mark.parametrize("how", ["events", "stream"])
async def test_a_stream_that_the_node_cuts_is_an_error_in_javascript(stage: Stage, redis_url: str, how: str) -> None:
    """By the events and by the helper."""
    asked = {"model": "demo/lorem", "messages": HI, **SLOW}
    async with stage.worker(), live_node(redis_url) as node, script(node.url, how, asked) as lines:
        async for line in lines:
            if line.get("event", {}).get("type") == "content_block_delta":
                node.node.hub.drain()
    assert "error" in line
    assert "done" not in line


# -- the same for everybody


async def test_the_same_bytes_on_every_node_and_again(node: LiveNode, redis_url: str) -> None:
    """A request that is repeated under its key is answered from the log: on another node, live or later, alike."""
    body = {
        "model": "demo/lorem",
        "max_tokens": 1000,
        "messages": HI,
        "stream": True,
        "options": {"tokens": 300, "rate": 600},
    }

    async def read(url: str) -> bytes:
        async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:
            response = await client.post("/v1/messages", json=body, headers={"idempotency-key": "k"})
            return b"\n".join(line for line in response.content.split(b"\n") if not line.startswith(b":"))

    async with live_node(redis_url) as other:
        first, second = await asyncio.gather(read(node.url), read(other.url))
        again = await read(other.url)
    assert first == second == again
    assert first.endswith(b'data: {"type":"message_stop"}\n\n')
    strict: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for block in first.decode().split("\n\n")[:-1]:
        strict.validate_json(block.split("\ndata: ")[1], strict=True)
