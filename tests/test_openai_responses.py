"""`/v1/responses` as the Python SDK of OpenAI speaks to it, pointed here by its base URL alone."""

import json
import random
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from shared.ids import new_token
from tests.support.cutting import cutting
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import DialectStage
from tests.support.openai_sdk import *  # noqa: F403 - fixtures are found by name
from tests.support.openai_sdk import ENDLESS, HELLO, id_of, over, sdk
from tests.support.proxy import proxy
from tests.support.sse import SSE, Frame
from tests.upstream import reply
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire
from worker.providers.base import Reasoning, Text, ToolCall, Usage
from worker.providers.demo import lorem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "How it is",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


async def frames(url: str, path: str, post: dict[str, Any] | None = None) -> list[Frame]:
    """Every frame to the clean end, each held against the SDK's type."""
    async with SSE(url, path, post=None if post is None else json.dumps(post).encode()) as stream:
        assert stream.status == 200, stream.body
        assert stream.headers["holdfast-session"]
        found = [frame async for frame in stream.frames() if frame.raw]
    for frame in found:
        event = _EVENT.validate_json(json.dumps(frame.data), strict=True)
        assert frame.type == event.type
    return found


# -- asking


async def test_whole(client: AsyncOpenAI, other: AsyncOpenAI) -> None:
    """It waits for the end; and what is shown later, on another node, is the same."""
    response = await client.responses.create(model="demo/echo", input=HELLO)
    assert (response.status, response.output_text) == ("completed", HELLO)
    assert await other.responses.retrieve(response.id) == response


async def test_streamed(client: AsyncOpenAI) -> None:
    """The last event has the response, which is the one that is shown."""
    events = [event async for event in await client.responses.create(model="demo/echo", input=HELLO, stream=True)]
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == HELLO
    assert events[-1].type == "response.completed"
    assert await client.responses.retrieve(events[-1].response.id) == events[-1].response


async def test_streams_by_the_helper(client: AsyncOpenAI) -> None:
    """`.stream()` ends with the response; and by its id it can be had again, from a number on."""
    async with client.responses.stream(model="demo/echo", input=HELLO) as stream:
        all_of_it = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == HELLO
    async with client.responses.stream(response_id=final.id, starting_after=4) as stream:
        rest = [event async for event in stream]
        assert (await stream.get_final_response()).output_text == HELLO
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in all_of_it][5:]


@pytest.mark.parametrize("stream", [True, False])
async def test_any_model(client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], stream: bool) -> None:
    """Instructions, input and options reach the provider, in its words; reasoning, text and usage come back."""
    model, wire = provider
    stage.up.plan(reply(wire.answer([Reasoning("hm"), Text("Cold.")], usage=Usage(5, 7, 1, 2))))
    stage.up.requests.clear()
    asked: dict[str, Any] = {
        "model": model,
        "instructions": "be brief",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "weather?"}]}],
        "max_output_tokens": 99,
    }
    response: Any
    if stream:
        async with client.responses.stream(**asked) as events:
            response = await events.get_final_response()
    else:
        response = await client.responses.create(**asked)
    reasoning, message = response.output
    assert (reasoning.summary[0].text, message.content[0].text) == ("hm", "Cold.")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (5, 7, 1)
    sent = json.dumps(stage.up.requests[0].body)
    assert all(part in sent for part in ("be brief", "weather?", "99"))


@pytest.mark.parametrize("linked", [True, False])
async def test_a_tool_call_and_its_result(
    client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], linked: bool
) -> None:
    """The client runs the tool, and comes back with its output: after the response, or with all of the conversation."""
    model, wire = provider
    calls = wire.answer([Text("One moment."), CALL], "tool_calls", usage=Usage(1, 1))
    stage.up.plan(reply(calls), reply(wire.answer([Text("Cold.")], usage=Usage(1, 1))))
    stage.up.requests.clear()
    async with client.responses.stream(model=model, input=HELLO, tools=[WEATHER], tool_choice="required") as stream:
        first = await stream.get_final_response()
    call: Any = first.output[-1]
    assert (call.type, call.call_id, call.name, json.loads(call.arguments)) == (
        "function_call", "call_1", "weather", CALL.arguments,
    )  # fmt: skip
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "minus 3"}
    before: list[Any] = [] if linked else [{"role": "user", "content": HELLO}, *first.output]
    second = await client.responses.create(
        model=model, input=[*before, output], tools=[WEATHER],
        previous_response_id=first.id if linked else None,
    )  # fmt: skip
    assert second.output_text == "Cold."
    sent = json.dumps(stage.up.requests[1].body)
    assert all(part in sent for part in (HELLO, "One moment.", "call_1", "Oslo", "minus 3"))


class City(BaseModel):
    name: str


async def test_parsed(client: AsyncOpenAI, stage: DialectStage) -> None:
    """`.parse()` gives an object, where the provider takes a schema."""
    wire = WIRES["openai-chat"]
    stage.up.plan(reply(wire.answer([Text('{"name": "Oslo"}')], usage=Usage(1, 1))))
    stage.up.requests.clear()
    parsed = await client.responses.parse(model="openai-chat/m", input=HELLO, text_format=City)
    assert parsed.output_parsed == City(name="Oslo")
    assert stage.up.requests[0].body["response_format"]["json_schema"]["schema"]["title"] == "City"


# -- one after another


async def test_the_next_response_is_the_next_turn(client: AsyncOpenAI, stage: DialectStage) -> None:
    """The model is told all that was said; the same instructions only once, and no tools that are not named again."""
    wire = WIRES["openai-chat"]
    answers = [reply(wire.answer([Text(text)], usage=Usage(1, 1))) for text in ("One.", "Two.")]
    stage.up.plan(*answers)
    stage.up.requests.clear()
    asked: dict[str, Any] = {"model": "openai-chat/m", "instructions": "count"}
    first = await client.responses.create(**asked, input="begin", tools=[WEATHER])
    second = await client.responses.create(**asked, input="go on", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    body = stage.up.requests[1].body
    assert [message["content"] for message in body["messages"]] == ["count", "begin", "One.", "go on"]
    assert "tools" not in body
    shown = await client.responses.retrieve(first.id)
    assert (shown, (await client.responses.retrieve(second.id)).output_text) == (first, "Two.")


async def test_an_earlier_response_keeps_its_model(client: AsyncOpenAI) -> None:
    """Also in its first frames, where a later turn has another one."""
    first = await client.responses.create(model="demo/echo", input="one")
    before = [event.to_dict() async for event in await client.responses.retrieve(first.id, stream=True)]
    await client.responses.create(model="demo/lorem", input="two", previous_response_id=first.id)
    after = [event.to_dict() async for event in await client.responses.retrieve(first.id, stream=True)]
    assert before == after


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "never seen"}])
async def test_only_the_newest_can_be_continued(client: AsyncOpenAI, stage: DialectStage, key: dict[str, str]) -> None:
    """Another one would be answered in a conversation it does not belong to. So nothing is, whether that is seen at
    once, or, where it might be a repeat, only after the turn was opened."""
    first = await client.responses.create(model="demo/echo", input="one")
    await client.responses.create(model="demo/echo", input="two", previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(
            model="demo/lorem", input="two?", previous_response_id=first.id, extra_headers=key, extra_body=ENDLESS
        )
    assert caught.value.param == "previous_response_id"
    if key:
        assert (await over(client, first.id.replace("_g1", "_g3"))).status == "cancelled"
    else:
        view = await stage.log.view(first.id.split("_")[1])
        assert view is not None
        assert view.generation == "g2"


async def test_one_that_runs_cannot_be_continued(client: AsyncOpenAI) -> None:
    """And the refusal is none that the SDK repeats."""
    first = await client.responses.create(model="demo/lorem", input="one", background=True, extra_body=ENDLESS)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await client.responses.create(model="demo/echo", input="two", previous_response_id=first.id)
    assert caught.value.code == "generation_running"
    await client.responses.cancel(first.id)


async def test_a_repeat_with_its_key_starts_nothing(client: AsyncOpenAI) -> None:
    """Of a first response and of a next one."""
    previous: dict[str, Any] = {}
    for _ in range(2):
        headers = {"Idempotency-Key": new_token()}
        asked: dict[str, Any] = {"model": "demo/echo", "input": HELLO, "extra_headers": headers, **previous}
        first = await client.responses.create(**asked)
        assert await client.responses.create(**asked) == first
        assert await client.responses.create(**asked, background=True) == first
        previous = {"previous_response_id": first.id}


# -- in the background


async def test_background(client: AsyncOpenAI, other: AsyncOpenAI) -> None:
    """It is answered at once, goes on by itself, and can be asked for and followed."""
    queued = await client.responses.create(model="demo/echo", input=HELLO, background=True)
    assert (queued.status, queued.output) == ("queued", [])
    done = await over(other, queued.id)
    assert (done.id, done.status, done.output_text) == (queued.id, "completed", HELLO)


async def test_a_response_under_way_shows_what_was_said(client: AsyncOpenAI) -> None:
    """As in progress."""
    stream = await client.responses.create(
        model="demo/lorem", input=HELLO, background=True, stream=True, extra_body=ENDLESS
    )
    said = ""
    async for event in stream:
        said += event.delta if event.type == "response.output_text.delta" else ""
        if said:
            break
    await stream.close()
    shown = await client.responses.retrieve(id_of(stream))
    assert shown.status == "in_progress"
    assert shown.output_text.startswith(said)
    await client.responses.cancel(shown.id)


async def test_cut_at_random_points(client: AsyncOpenAI, stage: DialectStage) -> None:
    """Ten connections are reset after so many bytes; each next one goes to the other node, and on from the last number:
    nothing is missing, nothing comes twice."""
    chance = random.Random(7)
    budgets = [chance.randrange(700, 4000) for _ in range(10)]
    options = {"options": {"tokens": 400, "rate": 1000}}
    begun = await client.responses.create(model="demo/lorem", input=HELLO, background=True, extra_body=options)
    seen: list[Any] = []
    async with cutting(stage.turns, iter(budgets)) as network, sdk(network.url) as cut:
        while not seen or seen[-1].type != "response.completed":
            after = {"starting_after": seen[-1].sequence_number} if seen else {}
            try:
                async for event in await cut.responses.retrieve(begun.id, stream=True, **after):
                    seen.append(event)
            except openai.APIConnectionError:
                continue
        assert network.cuts == 10
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "".join(lorem(400))
    assert seen == [event async for event in await client.responses.retrieve(begun.id, stream=True)]


async def test_a_stream_that_was_created_and_cut_goes_on_elsewhere(stage: DialectStage) -> None:
    """The connection that made it breaks, which the SDK tells; the other node has the rest."""
    seen: list[Any] = []
    async with proxy(stage.ports[0]) as network, sdk(network.url) as cut:
        stream = await cut.responses.create(
            model="demo/lorem", input=HELLO, background=True, stream=True,
            extra_body={"options": {"tokens": 200, "rate": 400}},
        )  # fmt: skip

        async def follow() -> None:
            async for event in stream:
                seen.append(event)
                if len(seen) == 9:
                    await network.cut()

        with pytest.raises(openai.APIConnectionError):
            await follow()
        network.target_port = stage.ports[1]
        after = seen[-1].sequence_number
        async for event in await cut.responses.retrieve(seen[0].response.id, stream=True, starting_after=after):
            seen.append(event)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].response.output_text == "".join(lorem(200))


async def test_every_replay_is_the_same_to_the_byte(stage: DialectStage) -> None:
    """Live, on both nodes, and after the log was stored otherwise."""
    body = {"model": "demo/lorem", "input": HELLO, "stream": True, "options": {"tokens": 120, "rate": 600}}
    live = [frame.raw for frame in await frames(stage.urls[0], "/v1/responses", body)]
    found = json.loads(live[-1].split(b"data: ")[1])["response"]["id"]
    for url in stage.urls * 2:
        assert [frame.raw for frame in await frames(url, f"/v1/responses/{found}?stream=true")] == live
        await stage.log.compact(found.split("_")[1])
    rest = await frames(stage.urls[1], f"/v1/responses/{found}?stream=true&starting_after=60")
    assert [frame.raw for frame in rest] == live[61:]
    assert await frames(stage.urls[0], f"/v1/responses/{found}?stream=true&starting_after=100000") == []
