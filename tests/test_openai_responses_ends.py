"""`/v1/responses` where all does not go well: failures, cancels, lost workers, refusals; by the Python SDK."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response

from shared import keys
from shared.events import encode
from shared.ids import new_token
from tests.support.credentials import ALICE, settings_of_keys
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import DialectStage
from tests.support.inprocess import live_node
from tests.support.openai_sdk import *  # noqa: F403 - fixtures are found by name
from tests.support.openai_sdk import ENDLESS, HELLO, id_of, sdk
from tests.support.sessions import claim, create, deltas, finish
from tests.support.sse import SSE, Severed
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

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
            cancelled = await other.responses.cancel(id_of(stream))
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
