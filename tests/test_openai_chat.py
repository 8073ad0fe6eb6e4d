"""`/v1/chat/completions` as the Python SDK of OpenAI speaks to it, pointed here by its base URL alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from shared.ids import new_token
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import SECONDS, DialectStage
from tests.support.inprocess import live_node
from tests.support.sessions import claim, deltas
from tests.support.sse import read_all, text_of
from tests.upstream import RESET, SEVER, failure, reply
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire
from worker.providers.base import Reasoning, Text, ToolCall, Usage

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

HELLO: Any = [{"role": "user", "content": "hello out there"}]
LONG: dict[str, Any] = {"options": {"tokens": 5000, "rate": 100}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})


@pytest_asyncio.fixture(loop_scope="module")
async def client(stage: DialectStage) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{stage.urls[0]}/v1", api_key="none", max_retries=0, timeout=SECONDS) as made:
        yield made


@pytest.fixture(params=sorted(WIRES))
def provider(request: pytest.FixtureRequest) -> tuple[str, Wire]:
    return f"{request.param}/m", WIRES[request.param]


async def said(stream: Any) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in stream]


def content(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_streamed(client: AsyncOpenAI) -> None:
    """The whole text, a finish reason, and the usage that was asked for; under one id."""
    stream = await client.chat.completions.create(
        model="demo/echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = await said(stream)
    assert content(chunks) == "hello out there"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_whole(client: AsyncOpenAI) -> None:
    """The same in one piece."""
    whole = await client.chat.completions.create(model="demo/echo", messages=HELLO)
    assert whole.choices[0].message.content == "hello out there"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 6


async def test_streams_by_the_helper(client: AsyncOpenAI) -> None:
    """`.stream()` ends with the completion it has put together."""
    async with client.chat.completions.stream(model="demo/echo", messages=HELLO) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "hello out there"


@pytest.mark.parametrize("stream", [True, False])
async def test_any_model_and_all_of_the_conversation(
    client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], stream: bool
) -> None:
    """Every role and the options reach the provider, in its words; text, reasoning and usage come back in OpenAI's."""
    model, wire = provider
    answer = wire.answer([Reasoning("hm"), Text("Cold, "), Text("as always.")], usage=Usage(5, 7, 1, 2))
    stage.up.plan(reply(answer))
    stage.up.requests.clear()
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "minus 3"},
    ]  # fmt: skip
    request: dict[str, Any] = {"model": model, "messages": messages, "tools": [WEATHER], "max_completion_tokens": 99}
    if stream:
        chunks = await said(await client.chat.completions.create(**request, stream=True))
        reasoning = "".join((chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks)
        text = content(chunks)
    else:
        message = (await client.chat.completions.create(**request)).choices[0].message
        reasoning, text = (message.model_extra or {})["reasoning_content"], message.content
    assert (reasoning, text) == ("hm", "Cold, as always.")
    sent = json.dumps(stage.up.requests[0].body)
    for part in ("be brief", "weather?", "call_1", "Oslo", "minus 3", "99", '"properties"'):
        assert part in sent


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_call_and_its_result(
    client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], stream: bool
) -> None:
    """The model's call comes as OpenAI's, whole; what the client made of it goes back as messages."""
    model, wire = provider
    answer = wire.answer([Text("One moment."), CALL], "tool_calls", usage=Usage(1, 1))
    stage.up.plan(reply(answer), reply(wire.answer([Text("Cold.")], usage=Usage(1, 1))))
    request: dict[str, Any] = {"model": model, "tools": [WEATHER], "tool_choice": "required"}
    if stream:
        async with client.chat.completions.stream(**request, messages=HELLO) as events:
            choice: Any = (await events.get_final_completion()).choices[0]
    else:
        choice = (await client.chat.completions.create(**request, messages=HELLO)).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call_1", "weather", CALL.arguments)
    back = [*HELLO, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "minus 3"}]
    told: Any = await client.chat.completions.create(model=model, tools=[WEATHER], messages=back)
    assert told.choices[0].message.content == "Cold."


class City(BaseModel):
    name: str


async def test_parsed(client: AsyncOpenAI, stage: DialectStage) -> None:
    """`.parse()` sends its schema to a provider that takes one, and gets an object back."""
    wire = WIRES["openai-chat"]
    stage.up.plan(reply(wire.answer([Text('{"name": "Oslo"}')], usage=Usage(1, 1))))
    stage.up.requests.clear()
    parsed = await client.chat.completions.parse(model="openai-chat/m", messages=HELLO, response_format=City)
    assert parsed.choices[0].message.parsed == City(name="Oslo")
    assert stage.up.requests[0].body["response_format"]["json_schema"]["name"] == "City"


def _breaks(wire: Wire) -> Iterator[Any]:
    head = wire.head("Half ", "of ")
    yield reply(head, wire.error("overloaded_error", "too busy"))
    yield reply(head, SEVER)
    yield reply(head, RESET)
    yield reply(head)


@pytest.mark.parametrize("how", range(4))
@pytest.mark.parametrize("stream", [True, False])
async def test_a_provider_that_breaks_off_is_an_error(
    client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], how: int, stream: bool
) -> None:
    """However the provider ends, in an error, cut or all too cleanly: the SDK raises after what was said."""
    model, wire = provider
    stage.up.plan(list(_breaks(wire))[how])
    chunks: list[ChatCompletionChunk] = []

    async def ask() -> None:
        request: dict[str, Any] = {"model": model, "messages": HELLO}
        if not stream:
            await client.chat.completions.create(**request)
            return
        async for chunk in await client.chat.completions.create(**request, stream=True):
            chunks.append(chunk)

    with pytest.raises(openai.APIError) as caught:
        await ask()
    assert caught.value.code in {"overloaded", "provider_error", "connection_lost", "truncated"}
    assert content(chunks) == ("Half of " if stream else "")
    assert not any(chunk.choices[0].finish_reason for chunk in chunks)


@pytest.mark.parametrize(
    ("status", "code", "asked"), [(400, "invalid_request", 1), (401, "authentication", 1), (503, "overloaded", 2)]
)
async def test_only_what_may_succeed_is_run_again(stage: DialectStage, status: int, code: str, asked: int) -> None:
    """By the SDK, which is told so: a request that the provider refuses, or a key, is no better the next time."""
    stage.up.plan(failure(status, {"error": {"message": "no", "type": "x"}}, x_should_retry="false"))
    stage.up.requests.clear()
    async with AsyncOpenAI(base_url=f"{stage.urls[0]}/v1", api_key="none", max_retries=1) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="openai-chat/m", messages=HELLO)
    assert caught.value.code == code
    assert len(stage.up.requests) == asked


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_node_that_leaves_starts_nothing_twice(module_redis_url: str, key: str | None) -> None:
    """It cannot wait for the end: whether the SDK may repeat the request depends on whether that would be known again.
    The session is named."""
    async with live_node(module_redis_url) as node, httpx.AsyncClient(base_url=node.url, timeout=SECONDS) as http:
        body = {"model": "demo/lorem", "messages": HELLO, "options": {"tokens": 20, "rate": 10}}
        headers = {"Idempotency-Key": key} if key else {}
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=body, headers=headers))
        while not any(feed.readers for feed in node.node.hub._feeds.values()):
            await asyncio.sleep(0)
        node.node.hub.drain()
        answer = await asking
    assert answer.status_code == 503
    assert answer.headers.get("x-should-retry") == (None if key else "false")
    assert answer.headers["holdfast-session"]
    assert answer.json()["error"]["code"] == "draining"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_is_an_error(client: AsyncOpenAI, stage: DialectStage, stream: bool) -> None:
    """Somebody stops the session: whoever waits for the answer is told, and takes it for no success."""
    asked: dict[str, Any] = {"model": "demo/lorem", "messages": HELLO, "extra_body": LONG}

    async def ask() -> None:
        if stream:
            async for _ in await client.chat.completions.create(**asked, stream=True):
                begun.set()
        else:
            await client.chat.completions.create(**asked)

    begun = asyncio.Event()
    async with httpx.AsyncClient(base_url=stage.urls[1], timeout=SECONDS) as native:
        before = await _running(native)
        asking = asyncio.create_task(ask())
        if stream:
            await begun.wait()
        while not (new := await _running(native) - before):
            pass
        await native.post(f"/v1/sessions/{new.pop()}/stop", json={})
    with pytest.raises(openai.APIError) as caught:
        await asking
    assert caught.value.code == "cancelled"


async def _running(native: httpx.AsyncClient) -> set[str]:
    listed = await native.get("/v1/sessions", params={"state": "running"})
    return {session["id"] for session in listed.json()["sessions"]}


async def test_what_is_cut_off_can_be_picked_up(client: AsyncOpenAI, stage: DialectStage) -> None:
    """The answer's header names the session, and the native API has all of it."""
    stream = await client.chat.completions.create(
        model="demo/lorem", messages=HELLO, stream=True, extra_body={"options": {"tokens": 40, "rate": 400}}
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    frames = await read_all(stage.urls[1], stream.response.headers["holdfast-session"])
    assert len(text_of(frames).split()) == 40
    assert frames[-1].type == "generation.completed"


async def test_an_answer_that_begins_anew_is_cut(module_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker was lost after it had said something: the SDK raises, rather than to go on with another text."""
    async with (
        live_node(module_redis_url) as node,
        AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as client,
    ):
        log = node.node.log
        monkeypatch.setattr(node.node.queue, "enqueue", _nowhere)  # the worker of the other tests must not get it
        stream = await client.chat.completions.create(model="demo/echo", messages=HELLO, stream=True)
        sid = stream.response.headers["holdfast-session"]
        held = await claim(log, sid)
        await log.append(sid, held.token, held.epoch, 2, deltas("Half"))
        chunks = aiter(stream)
        while (await anext(chunks)).choices[0].delta.content != "Half":
            pass
        await log.reap(sid, held.epoch, 9, 0)
        await claim(log, sid)
        with pytest.raises(openai.APIConnectionError):
            await anext(chunks)


async def _nowhere(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("audio", {"voice": "x"}),
        ("functions", [{"name": "f"}]),
        ("modalities", ["audio"]),
        ("web_search_options", {}),
        ("surprise", 1),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("tool_choice", {"type": "allowed_tools"}),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "function", "content": "x"}]),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("messages", [{"role": "assistant", "content": "x"}]),
        ("messages", []),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(client: AsyncOpenAI, field: str, value: Any) -> None:
    """Nothing that would change the answer is passed over in silence."""
    asked: dict[str, Any] = {"model": "demo/echo", "messages": HELLO, "tools": [WEATHER]}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked, extra_body={field: value})
    assert field in str(caught.value)
    assert caught.value.type == "invalid_request_error"


async def test_harmless_fields_are_taken(client: AsyncOpenAI) -> None:
    """What changes nothing, and what says how it is anyway."""
    whole = await client.chat.completions.create(
        model="demo/echo", messages=HELLO, user="u", metadata={"a": "b"}, store=True, n=1, logprobs=False,
        service_tier="auto", modalities=["text"], logit_bias={}, response_format={"type": "text"},
    )  # fmt: skip
    assert whole.choices[0].message.content == "hello out there"


async def test_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    """In OpenAI's code for it; a bare name is taken for OpenAI's or Anthropic's."""
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="nobody/m", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert (await client.models.retrieve("gpt-5")).id == "openai/gpt-5"
    assert (await client.models.retrieve("claude-opus-4")).id == "anthropic/claude-opus-4"
    assert "demo/lorem" in [model.id async for model in client.models.list()]


async def test_a_repeat_with_its_key_starts_nothing(client: AsyncOpenAI) -> None:
    """The same answer, of the same session."""
    asked: dict[str, Any] = {"model": "demo/echo", "messages": HELLO, "extra_headers": {"Idempotency-Key": new_token()}}
    first = await client.chat.completions.create(**asked)
    again = await client.chat.completions.create(**asked)
    assert first == again
