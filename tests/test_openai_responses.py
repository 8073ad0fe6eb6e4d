"""`/v1/responses` as the Python SDK of OpenAI speaks to it, pointed here by its base URL alone."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from shared import keys
from shared.events import encode
from shared.ids import new_token
from tests.support.credentials import ALICE, settings_of_keys
from tests.support.cutting import cutting
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import SECONDS, DialectStage
from tests.support.inprocess import live_node
from tests.support.proxy import proxy
from tests.support.sessions import claim, create, deltas, finish
from tests.support.sse import SSE, Frame, Severed
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire
from worker.providers.base import Reasoning, Text, ToolCall, Usage
from worker.providers.demo import lorem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

HELLO = "hello out there"
ENDLESS: dict[str, Any] = {"options": {"tokens": 50_000, "rate": 100}}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "How it is",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=SECONDS)


@pytest_asyncio.fixture(loop_scope="module")
async def client(stage: DialectStage) -> AsyncIterator[AsyncOpenAI]:
    async with sdk(stage.urls[0]) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def other(stage: DialectStage) -> AsyncIterator[AsyncOpenAI]:
    """The same SDK at the other node."""
    async with sdk(stage.urls[1]) as made:
        yield made


@pytest.fixture(params=sorted(WIRES))
def provider(request: pytest.FixtureRequest) -> tuple[str, Wire]:
    return f"{request.param}/m", WIRES[request.param]


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


async def over(client: AsyncOpenAI, response_id: str) -> Response:
    """The response when it is over, by its stream."""
    async for _ in await client.responses.retrieve(response_id, stream=True):
        pass
    return await client.responses.retrieve(response_id)


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
    shown = await client.responses.retrieve(_id_of(stream))
    assert shown.status == "in_progress"
    assert shown.output_text.startswith(said)
    await client.responses.cancel(shown.id)


def _id_of(stream: Any) -> str:
    return f"resp_{stream.response.headers['holdfast-session']}_g1"


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


# -- ends that are none


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["error", "severed", "too clean"])
async def test_a_provider_that_breaks_off_is_no_success(
    client: AsyncOpenAI, stage: DialectStage, provider: tuple[str, Wire], how: str, stream: bool
) -> None:
    """The stream ends with `response.failed`; who waits for the whole is given an error."""
    model, wire = provider
    head = wire.head("Half ")
    ends: dict[str, Any] = {"error": [wire.error("overloaded_error", "too busy")], "severed": SEVER, "too clean": []}
    stage.up.plan(reply(head, ends[how]))
    if not stream:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model=model, input=HELLO)
        assert caught.value.code in {"overloaded", "provider_error", "connection_lost", "truncated"}
        return
    events = [event async for event in await client.responses.create(model=model, input=HELLO, stream=True)]
    last: Any = events[-1]
    assert (last.type, last.response.status, last.response.output_text) == ("response.failed", "failed", "Half ")
    assert last.response.error.code in {"server_error", "rate_limit_exceeded"}
    shown = await client.responses.retrieve(last.response.id)
    assert (shown.status, shown.error) == ("failed", last.response.error)


async def test_the_helper_gives_no_response_that_failed(client: AsyncOpenAI, stage: DialectStage) -> None:
    """`get_final_response` raises."""
    stage.up.plan(reply(WIRES["openai-chat"].head("Half "), SEVER))
    async with client.responses.stream(model="openai-chat/m", input=HELLO) as stream:
        with pytest.raises(RuntimeError):
            await stream.get_final_response()


async def test_cancel(client: AsyncOpenAI, other: AsyncOpenAI) -> None:
    """It is over when that is answered; the stream ends as incomplete; to cancel it again changes nothing."""
    stream = await client.responses.create(model="demo/lorem", input=HELLO, stream=True, extra_body=ENDLESS)
    events: list[Any] = []
    cancelled: Response | None = None
    async for event in stream:
        events.append(event)
        if cancelled is None and event.type == "response.output_text.delta":
            cancelled = await other.responses.cancel(_id_of(stream))
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert events[-1].type == "response.incomplete"
    assert events[-1].response == cancelled == await client.responses.cancel(cancelled.id)


async def test_cancel_waits_for_the_end(module_redis_url: str) -> None:
    """The worker takes its time to let go: what is answered is how it ended."""
    async with live_node(module_redis_url) as node, sdk(node.url) as client:
        log = node.node.log
        await create(log, "slow")
        held = await claim(log, "slow")
        cancelling = asyncio.create_task(client.responses.cancel("resp_slow_g1"))
        while not cancelling.done() and not any(feed.readers for feed in node.node.hub._feeds.values()):
            await asyncio.sleep(0)
        end = ("generation.cancelled", encode({"generation": "g1", "by": "user", "confirmed": True}))
        await log.append("slow", held.token, held.epoch, 2, [end])
        assert (await cancelling).status == "cancelled"


async def test_a_response_that_is_over_stays_as_it_was(client: AsyncOpenAI) -> None:
    """To cancel it does nothing, nor to the turn after it."""
    first = await client.responses.create(model="demo/echo", input="one")
    assert await client.responses.cancel(first.id) == first
    second = await client.responses.create(
        model="demo/lorem", input="two", previous_response_id=first.id, background=True, extra_body=ENDLESS
    )
    assert await client.responses.cancel(first.id) == first
    assert (await client.responses.retrieve(second.id)).status != "cancelled"
    assert (await client.responses.cancel(second.id)).status == "cancelled"


async def test_whoever_waits_for_a_response_that_is_cancelled_is_told(client: AsyncOpenAI, stage: DialectStage) -> None:
    """By an error: what there is of it is no answer."""
    key = {"Idempotency-Key": new_token()}
    asked: dict[str, Any] = {"model": "demo/lorem", "input": HELLO, "extra_headers": key, "extra_body": ENDLESS}
    begun = await client.responses.create(**asked, background=True)
    waiting = asyncio.create_task(client.responses.create(**asked))
    while not any(feed.readers for feed in stage.node.hub._feeds.values()):
        await asyncio.sleep(0)
    await client.responses.cancel(begun.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await waiting
    assert caught.value.code == "cancelled"


async def test_a_later_attempt_goes_on_in_new_items(module_redis_url: str) -> None:
    """A worker was lost: what it said is closed as incomplete, and the response has only what counts."""
    async with live_node(module_redis_url) as node, sdk(node.url) as client:
        log = node.node.log
        await create(log, "lost")
        held = await claim(log, "lost")
        await log.append("lost", held.token, held.epoch, 2, deltas("Half"))
        async with client.responses.stream(response_id="resp_lost_g1") as stream:
            events = aiter(stream)
            while (await anext(events)).type != "response.output_text.delta":
                pass
            await log.reap("lost", held.epoch, 9, 0)
            held = await claim(log, "lost")
            await log.append("lost", held.token, held.epoch, 2, deltas("Whole"))
            await finish(log, held, 3, "lost")
            rest = [event async for event in events]
            final = await stream.get_final_response()
    done: list[Any] = [event for event in rest if event.type == "response.output_item.done"]
    assert [event.item.status for event in done] == ["incomplete", "completed"]
    assert final.output_text == "Whole"
    assert [event.sequence_number for event in rest] == list(range(6, 6 + len(rest)))


async def test_a_node_that_leaves_ends_no_stream(module_redis_url: str) -> None:
    """The connection is cut: the SDK raises, and takes nothing for the end."""
    async with live_node(module_redis_url) as node, sdk(node.url) as client:
        await create(node.node.log, "leaving")
        stream = await client.responses.retrieve("resp_leaving_g1", stream=True)
        events = aiter(stream)
        assert (await anext(events)).type == "response.created"
        node.node.hub.drain()
        with pytest.raises(openai.APIConnectionError):
            await _to_the_end(events)


# -- refusals


@pytest.mark.parametrize("wrong", ["nothing", "resp_nobody_g1", "resp_nobody_x"])
async def test_an_unknown_response_is_not_found(client: AsyncOpenAI, wrong: str) -> None:
    """In OpenAI's shape, for all that can be asked of it."""
    for ask in (
        client.responses.retrieve(wrong),
        client.responses.retrieve(wrong, stream=True),
        client.responses.cancel(wrong),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask
        assert (caught.value.code, caught.value.type) == ("response_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.responses.create(model="demo/echo", input=HELLO, previous_response_id=wrong)
    assert bad.value.code == "previous_response_not_found"


async def test_a_turn_to_come_is_not_found(client: AsyncOpenAI) -> None:
    """The session is there, and has not come to it."""
    first = await client.responses.create(model="demo/echo", input=HELLO)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(first.id.replace("_g1", "_g2"))
    assert caught.value.code == "response_not_found"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_expired_response_is_said_to_be(client: AsyncOpenAI, stage: DialectStage, stream: bool) -> None:
    """Not found, as the SDK has it; the code says that it was there."""
    first = await client.responses.create(model="demo/echo", input=HELLO)
    async with httpx.AsyncClient(base_url=stage.urls[0]) as native:
        sid = first.id.split("_")[1]
        while (await native.get(f"/v1/sessions/{sid}")).json()["expired"] is False:
            await stage.log._redis.delete(keys.events(sid))
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(first.id, stream=stream)
    assert caught.value.code == "session_expired"


async def test_a_session_of_somebody_else_is_unknown(module_redis_url: str) -> None:
    """An id is no capability: not to read, not to cancel, not to go on from."""
    async with live_node(module_redis_url, **settings_of_keys()) as node:
        await create(node.node.log, "theirs")
        mine = AsyncOpenAI(base_url=f"{node.url}/v1", api_key=ALICE, max_retries=0)
        nobody = AsyncOpenAI(base_url=f"{node.url}/v1", api_key="wrong", max_retries=0)
        async with mine, nobody:
            with pytest.raises(openai.NotFoundError):
                await mine.responses.retrieve("resp_theirs_g1", stream=True)
            with pytest.raises(openai.NotFoundError):
                await mine.responses.cancel("resp_theirs_g1")
            with pytest.raises(openai.BadRequestError):
                await mine.responses.create(model="demo/echo", input="x", previous_response_id="resp_theirs_g1")
            with pytest.raises(openai.AuthenticationError):
                await nobody.responses.retrieve("resp_theirs_g1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("conversation", "c"),
        ("prompt", {"id": "p"}),
        ("truncation", "auto"),
        ("max_tool_calls", 1),
        ("text", {"verbosity": "low"}),
        ("text", {"format": {"type": "grammar"}}),
        ("tools", [{"type": "web_search"}]),
        ("input", [{"type": "item_reference", "id": "x"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("input", [{"role": "wizard", "content": "x"}]),
        ("input", [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]),
        ("input", []),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(client: AsyncOpenAI, field: str, value: Any) -> None:
    """Nothing that would change the answer is passed over in silence."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="demo/echo", input=HELLO, extra_body={field: value})
    assert field in str(caught.value)


async def test_harmless_fields_are_taken(client: AsyncOpenAI) -> None:
    """What changes nothing, and what says how it is anyway."""
    response = await client.responses.create(
        model="demo/echo", input=HELLO, user="u", metadata={"a": "b"}, store=False, truncation="disabled",
        include=["reasoning.encrypted_content"], text={"format": {"type": "text"}}, reasoning={"summary": "auto"},
    )  # fmt: skip
    assert response.output_text == HELLO


async def test_a_cut_is_seen_below_the_sdk_too(module_redis_url: str) -> None:
    """The response has no end of its own where the generation has none."""
    async with live_node(module_redis_url) as node:
        await create(node.node.log, "cut")
        async with SSE(node.url, "/v1/responses/resp_cut_g1?stream=true") as stream:
            assert stream.status == 200
            found = stream.frames()
            await anext(found)
            node.node.hub.drain()
            with pytest.raises(Severed):
                await _to_the_end(found)


async def _to_the_end(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass
