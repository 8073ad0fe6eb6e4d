"""What providers say, over real sockets with the real SDKs: one table of answers for every wire format."""

import asyncio
from contextlib import aclosing
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
import structlog
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from tests.upstream import STALL, Upstream, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import HELLO, joined, said
from tests.upstream_frames import ChatWire, Item, MessagesWire, Refusal, ResponsesWire, Wire
from worker.providers.base import (
    Finish,
    FinishReason,
    Part,
    Provider,
    Reasoning,
    Text,
    ToolCall,
    Usage,
)
from worker.providers.registry import Providers

CALL = ToolCall("t1", "weather", {"city": "Kraków 🐙"})
OTHER_CALL = ToolCall("t2", "time", {})


# -- one table of answers

ANSWERS: dict[str, tuple[list[Item | Refusal], FinishReason, Usage | None]] = {
    "plain text": ([Text("Hel"), Text("lo "), Text("world")], "stop", None),
    "no text at all": ([], "stop", None),
    "any script": ([Text("Grüße, 世界"), Text(" 🐙\n\r\n\u2028\x00 \\ud83d")], "stop", None),
    "reasoning": ([Reasoning("Let me "), Reasoning("see."), Text("42")], "stop", None),
    "one tool call": ([Text("Looking."), CALL], "tool_calls", None),
    "a call without arguments": ([OTHER_CALL], "tool_calls", None),
    "parallel tool calls": ([CALL, OTHER_CALL, ToolCall("t3", "weather", {"n": [1, {"a": None}]})], "tool_calls", None),
    "length": ([Text("And so it")], "length", None),
    "filtered": ([Text("And so")], "content_filter", None),
    "refusal": ([Refusal("I can't"), Refusal(" do that.")], "content_filter", None),
    "usage": ([Text("ok")], "stop", Usage(11, 7, reasoning_tokens=5, cached_tokens=4)),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
async def test_answer(provider: Provider, wire: Wire, up: Upstream, case: str) -> None:
    """What the provider says comes out as the same parts, with one Finish at the end and Usage right before it."""
    items, finish, usage = ANSWERS[case]
    refused = any(isinstance(item, Refusal) for item in items)
    up.plan(reply(wire.answer(items, "stop" if refused else finish, usage)))
    parts = await said(provider)
    if usage is None and isinstance(wire, MessagesWire):
        usage = Usage(0, 0)  # this format always counts
    counted: list[Part] = [] if usage is None else [usage]
    assert parts == [*joined(items), *counted, Finish(finish)]
    assert up.requests[0].path == wire.path


@pytest.mark.parametrize("size", [1, 3])
async def test_answer_in_small_pieces(provider: Provider, wire: Wire, up: Upstream, size: int) -> None:
    """Where the network cuts the bytes, in the middle of a character too, changes nothing."""
    frames = wire.answer([Text("Grüße, 世界 🐙"), CALL], "tool_calls")
    raw = b"".join(frames).replace(rb"\ud83d\udc19", "🐙".encode()).replace(rb"\u00fc", "ü".encode())
    up.plan(reply([raw[n : n + size] for n in range(0, len(raw), size)]))
    parts = await said(provider)
    assert parts[:2] == [Text("Grüße, 世界 🐙"), CALL]


async def test_halves_of_a_character_in_two_chunks(provider: Provider, wire: Wire, up: Upstream) -> None:
    """Surrogates that belong together are joined; one without its other half becomes U+FFFD."""
    thought: list[Item | Refusal] = [Reasoning("\ud83d"), Reasoning("\udc19!")]
    up.plan(reply(wire.answer([*thought, Text("a\ud83d"), Text("\udc19b\ud83d")])))
    assert (await said(provider))[:2] == [Reasoning("🐙!"), Text("a🐙b\ufffd")]
    up.plan(reply(wire.answer([*thought, Text("\ud83d"), Text(" c"), Text("\udc19")])))
    assert (await said(provider))[:2] == [Reasoning("🐙!"), Text("\ufffd c\ufffd")]


async def test_frames_are_what_the_sdks_document(wire: Wire) -> None:
    """The scripted upstream is held against the SDKs' own strict schemas."""
    schema: Any = {
        ChatWire: openai.types.chat.ChatCompletionChunk,
        ResponsesWire: openai.types.responses.ResponseStreamEvent,
        MessagesWire: anthropic.types.RawMessageStreamEvent,
    }[type(wire)]
    adapter: TypeAdapter[Any] = TypeAdapter(schema)
    for items, finish, _ in ANSWERS.values():
        for frame in wire.answer(items, finish, Usage(3, 2, 1, 1)):
            data = frame.partition(b"data: ")[2].strip()
            if data != b"[DONE]" and b'"ping"' not in data:
                adapter.validate_json(data)


# -- connections


async def test_aclose_in_the_middle_closes_the_socket(provider: Provider, wire: Wire, up: Upstream) -> None:
    up.plan(reply(wire.head("Hel"), STALL))
    stream = provider.stream(HELLO)
    assert await anext(stream) == Text("Hel")
    await stream.aclose()
    async with asyncio.timeout(2):
        await up.closed(0)


async def test_cancelling_the_waiting_task_closes_the_socket(provider: Provider, wire: Wire, up: Upstream) -> None:
    up.plan(reply(wire.head("Hel"), STALL))
    spoke = asyncio.Event()

    async def listen() -> None:
        async with aclosing(provider.stream(HELLO)) as stream:
            async for _ in stream:
                spoke.set()

    task = asyncio.create_task(listen())
    await spoke.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        await up.closed(0)


async def test_a_stream_nobody_starts_opens_nothing(provider: Provider, up: Upstream) -> None:
    await provider.stream(HELLO).aclose()
    assert up.connections == []


async def test_parts_come_as_they_are_said(provider: Provider, wire: Wire, up: Upstream) -> None:
    """A part is given out before the next chunk is there."""
    gate = asyncio.Event()
    frames = wire.answer([Text("one"), Text("two")])
    at = next(n for n, frame in enumerate(frames) if b"one" in frame) + 1
    up.plan(reply(frames[:at], gate, frames[at:]))
    stream = provider.stream(HELLO)
    assert await anext(stream) == Text("one")
    gate.set()
    assert await anext(stream) == Text("two")
    await stream.aclose()


async def test_a_connection_is_used_again(provider: Provider, wire: Wire, up: Upstream) -> None:
    up.plan(reply(wire.answer([Text("hi")])))
    for _ in range(3):
        await said(provider)
    assert len(up.connections) == 1


async def test_an_end_marker_is_enough(provider: Provider, wire: Wire, up: Upstream) -> None:
    """A server that keeps the connection open after its end marker does not hold the answer up."""
    up.plan(reply(wire.answer([Text("hi")]), STALL))
    async with asyncio.timeout(2):
        assert (await said(provider))[0] == Text("hi")
        await up.closed(0)


# -- what only one of them does


async def test_chat_servers_that_are_not_openai(providers: Providers, up: Upstream) -> None:
    """The other name of reasoning, usage with every chunk, calls that share an index or have no id, no `[DONE]`."""
    chat = ChatWire()

    def call(call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": call_id, "function": {"name": name, "arguments": arguments}}]}

    up.plan(
        reply(
            chat.chunk({"reasoning": "Hm.", "reasoning_content": "Hm."}, usage=Usage(1, 1)),
            chat.chunk(call("t1", "a", '{"x":')),
            chat.chunk(call("t1", "a", "1}")),
            chat.chunk(call("t2", "b", "{}")),
            chat.chunk({}, "stop", usage=Usage(1, 4)),
        )
    )
    expected = [Reasoning("Hm."), ToolCall("t1", "a", {"x": 1}), ToolCall("t2", "b", {})]
    assert await said(providers.get("openai-chat/m")[0]) == [*expected, Usage(1, 4), Finish("tool_calls")]
    up.plan(reply(chat.chunk(call(None, "a", "{}")), chat.chunk({}, "tool_calls")))
    named, _ = await said(providers.get("openai-chat/m")[0])
    assert isinstance(named, ToolCall)
    assert (named.id[:5], named.name) == ("call_", "a")


async def test_halves_of_a_character_in_arguments(providers: Providers, up: Upstream) -> None:
    chat = ChatWire()
    pieces = ('{"pair": "\ud83d', '\udc19", "lone": "\\ud83d"}')
    calls = [{"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "a", "arguments": x}}]} for x in pieces]
    up.plan(reply([chat.chunk(call) for call in calls], chat.chunk({}, "tool_calls")))
    expected = ToolCall("t1", "a", {"pair": "🐙", "lone": "\ufffd"})
    assert (await said(providers.get("openai-chat/m")[0]))[0] == expected


async def test_a_call_that_was_cut_off_is_dropped(providers: Providers, up: Upstream) -> None:
    """Half a call must not be run; the whole one before it may."""
    chat, messages = ChatWire(), MessagesWire()
    opening = {"index": 1, "id": "t2", "type": "function", "function": {"name": "w", "arguments": '{"a": '}}
    frames = chat.answer([CALL], "length")
    up.plan(reply(frames[:-2], chat.chunk({"tool_calls": [opening]}), frames[-2:]))
    assert await said(providers.get("openai-chat/m")[0]) == [CALL, Finish("length")]
    started = {"type": "tool_use", "id": "t2", "name": "w", "input": {}}
    frames = messages.answer([CALL], "length")
    cut = [messages.frame("content_block_start", index=1, content_block=started)]
    cut.append(messages.frame("content_block_stop", index=1))
    up.plan(reply(frames[:-2], cut, frames[-2:]))
    assert await said(providers.get("anthropic/m")[0]) == [CALL, Usage(0, 0), Finish("length")]


async def test_anthropic_says_why_it_refused(providers: Providers, up: Upstream) -> None:
    messages = MessagesWire()
    details = {"type": "refusal", "category": "bio", "explanation": "Too dangerous."}
    delta = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    end = [messages.frame("message_delta", delta=delta, usage={"output_tokens": 3}), messages.frame("message_stop")]
    up.plan(reply(messages.head("Take"), end))
    expected = [Text("Take\n\nToo dangerous."), Usage(0, 3), Finish("content_filter")]
    assert await said(providers.get("anthropic/m")[0]) == expected


async def test_summaries_of_reasoning_are_paragraphs(providers: Providers, up: Upstream) -> None:
    wire = ResponsesWire()
    place = {"item_id": "i0", "output_index": 0}
    part = {"part": {"type": "summary_text", "text": ""}}
    kind = "response.reasoning_summary"
    events = [
        {"type": f"{kind}_part.added", **place, "summary_index": 0, **part},
        {"type": f"{kind}_text.delta", **place, "summary_index": 0, "delta": "One."},
        {"type": f"{kind}_part.added", **place, "summary_index": 1, **part},
        {"type": f"{kind}_text.delta", **place, "summary_index": 1, "delta": "Two."},
    ]
    up.plan(reply(wire.frames(*events), wire.answer([])[-1]))
    assert (await said(providers.get("openai-responses/m")[0]))[0] == Reasoning("One.\n\nTwo.")


async def test_a_call_that_comes_only_whole(providers: Providers, up: Upstream) -> None:
    """Servers that do not stream arguments say a call once, when it is done."""
    wire = ResponsesWire()
    frames = [
        frame for frame in wire.answer([CALL]) if b"output_item.added" not in frame and b"arguments." not in frame
    ]
    up.plan(reply(frames))
    assert (await said(providers.get("openai-responses/m")[0])) == [CALL, Finish("tool_calls")]


async def test_the_providers_request_id_is_logged(
    provider: Provider, wire: Wire, up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer leaves a line with what the provider calls the request."""
    monkeypatch.setattr("worker.providers.sdk._log", structlog.get_logger())
    up.plan(reply(wire.answer([Text("ok")], "stop", None)))
    with capture_logs() as lines:
        await said(provider)
    assert [line["request_id"] for line in lines if line["event"] == "provider answers"] == ["req_1"]
