"""Anthropic's Messages as pure functions: the log in, bytes out; a request in, a session out."""

import json
from typing import Any

import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.compat.anthropic_request import MessageRequest
from api.dialects.anthropic_messages import MessageEvents, error_type, message_of
from api.dialects.encoder import Unsayable
from shared.errors import InvalidRequest
from shared.events import Event, encode
from shared.ids import EventId
from shared.transcript import fold

Said = tuple[str, dict[str, Any]]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ASKED: Said = ("message", {"role": "user", "content": "hi", "generation": "g1"})
USAGE: Said = (
    "usage",
    {"input_tokens": 9, "output_tokens": 7, "reasoning_tokens": 3, "cached_tokens": 4},
)


def started(attempt: int = 1, generation: str = "g1", model: str = "demo/lorem") -> Said:
    return "generation.started", {"generation": generation, "attempt": attempt, "model": model}


def text(text: str) -> Said:
    return "text.delta", {"text": text}


def thought(text: str) -> Said:
    return "reasoning.delta", {"text": text}


def call(id: str, **arguments: Any) -> Said:
    return "tool.call", {"id": id, "name": "weather", "arguments": arguments}


def over(reason: str = "stop", generation: str = "g1") -> Said:
    return "generation.completed", {"generation": generation, "finish_reason": reason}


def failed(code: str) -> Said:
    return "generation.failed", {"generation": "g1", "code": code, "message": "why", "retryable": False}


CANCELLED: Said = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})


def events(*said: Said) -> list[Event]:
    return [Event(EventId(1, n), kind, encode(data)) for n, (kind, data) in enumerate(said, 1)]


def frames(*said: Said) -> list[dict[str, Any]]:
    """What a client is sent, each block's name checked against its data."""
    projection = MessageEvents("s1", "g1")
    raw = b"".join(projection.take(event) for event in events(*said))
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def strict(kind: TypeAdapter[Any], data: dict[str, Any]) -> None:
    """As the SDK's own types have it: right types, and no field they do not know."""
    _known(kind.validate_json(json.dumps(data), strict=True))


def _known(value: object) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, value
        for name in type(value).model_fields:
            _known(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            _known(each)


WHOLE = (
    ASKED, started(), ("status", {"text": "…"}), thought("hm"), thought(" hm"), text("a"), text("b"), thought("so"),
    call("t1", city="Kiel"), ("source", {"title": "x"}), call("t2"), USAGE, over("tool_calls"),
)  # fmt: skip


def test_an_answer_with_everything() -> None:
    """Blocks one after another: thinking, text, calls with their whole input in one delta; counts at the end."""
    assert frames(*WHOLE) == [
        {"type": "message_start", "message": {
            "id": "msg_s1_g1", "type": "message", "role": "assistant", "model": "demo/lorem", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
        }},
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": " hm"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2,
         "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "thinking_delta", "thinking": "so"}},
        {"type": "content_block_stop", "index": 2},
        {"type": "content_block_start", "index": 3,
         "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}},
        {"type": "content_block_delta", "index": 3,
         "delta": {"type": "input_json_delta", "partial_json": '{"city":"Kiel"}'}},
        {"type": "content_block_stop", "index": 3},
        {"type": "content_block_start", "index": 4,
         "content_block": {"type": "tool_use", "id": "t2", "name": "weather", "input": {}}},
        {"type": "content_block_delta", "index": 4, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 4},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {
            "input_tokens": 5, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
            "output_tokens_details": {"thinking_tokens": 3},
        }},
        {"type": "message_stop"},
    ]  # fmt: skip


LOGS: dict[str, tuple[Said, ...]] = {
    "everything": WHOLE,
    "nothing said": (ASKED, started(), over()),
    "cut off": (ASKED, started(), text("a"), USAGE, USAGE, over("length")),
    "refused": (ASKED, started(), text("no"), over("content_filter")),
    "begun again": (ASKED, started(), started(2), text("a"), over()),
}


@pytest.mark.parametrize("log", LOGS)
def test_every_frame_is_as_the_sdk_has_it(log: str) -> None:
    """Strictly, by the SDK's own types; so is the whole message."""
    for frame in frames(*LOGS[log]):
        strict(EVENT, frame)
    strict(TypeAdapter(TheirMessage), _whole(*LOGS[log]))


def _whole(*said: Said) -> dict[str, Any]:
    return message_of("s1", "g1", "demo/lorem", fold(events(*said)).messages[-1])


def test_the_whole_message_says_what_the_stream_says() -> None:
    """The same id, calls, stop reason and counts; thoughts are joined."""
    whole = _whole(*WHOLE)
    streamed = frames(*WHOLE)
    assert whole["id"] == streamed[0]["message"]["id"]
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hm hmso", "signature": ""},
        {"type": "text", "text": "ab"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}},
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
    ]
    assert whole["stop_reason"] == streamed[-2]["delta"]["stop_reason"]
    assert whole["usage"] == streamed[-2]["usage"]


REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


@pytest.mark.parametrize("reason", REASONS)
def test_why_it_stopped(reason: str) -> None:
    """In Anthropic's words, streamed and whole."""
    log = ASKED, started(), *([call("t1")] if reason == "tool_calls" else []), over(reason)
    assert frames(*log)[-2]["delta"]["stop_reason"] == REASONS[reason] == _whole(*log)["stop_reason"]


def test_counts_add_up() -> None:
    """Those of all calls to models together."""
    assert frames(ASKED, started(), USAGE, USAGE, over())[-2]["usage"]["output_tokens"] == 14


def test_tools_the_pipeline_ran_are_nobodys_call() -> None:
    """A call that has its result is not the client's to run, also beside one that is."""
    done: Said = ("tool.result", {"id": "t1", "output": 3, "error": None})
    log = ASKED, started(), call("t1"), done, text("three"), over()
    assert [frame["type"] for frame in frames(*log)].count("content_block_start") == 1
    assert frames(*log)[-2]["delta"]["stop_reason"] == "end_turn"
    both = ASKED, started(), call("t1"), call("t2"), done, over("tool_calls")
    assert [block["id"] for block in _whole(*both)["content"]] == ["t2"]
    begun = [frame["content_block"] for frame in frames(*both) if frame["type"] == "content_block_start"]
    assert [block["id"] for block in begun] == ["t2"]


def test_an_attempt_that_makes_void_what_was_said_is_not_sayable() -> None:
    """The stream is cut; where nothing was said, the client learns of nothing, and old calls and counts are void."""
    with pytest.raises(Unsayable):
        frames(ASKED, started(), text("a"), started(2), text("b"), over())
    again = frames(ASKED, started(), call("t0"), USAGE, started(2), call("t1"), USAGE, over("tool_calls"))
    assert again == frames(ASKED, started(), call("t1"), USAGE, over("tool_calls"))


ERRORS = {
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "invalid_request": "invalid_request_error",
    "context_too_long": "invalid_request_error",
    "not_found": "not_found_error",
    "idle_timeout": "timeout_error",
    "authentication": "api_error",
    "connection_lost": "api_error",
    "worker_lost": "api_error",
}


@pytest.mark.parametrize("code", ERRORS)
def test_a_failure_is_an_error_in_the_stream(code: str) -> None:
    """Its type is Anthropic's; no block and no message is ended as if it were whole."""
    *_, last_said, error = frames(ASKED, started(), text("a"), failed(code))
    assert error == {
        "type": "error",
        "error": {"type": ERRORS[code], "message": "why"},
        "request_id": "req_s1_g1",
    }
    assert last_said["type"] == "content_block_delta"


def test_being_cancelled_is_an_error_too() -> None:
    """Whoever did not stop it must not take it for the whole."""
    assert [frame["type"] for frame in frames(ASKED, started(), text("a"), CANCELLED)][-2:] == [
        "content_block_delta",
        "error",
    ]


def test_other_generations_are_none_of_it() -> None:
    """The session may have gone on, natively: the message is that of its generation."""
    after = ("message", {"role": "user", "content": "more", "generation": "g2"}), started(generation="g2"), text("z")
    assert frames(*WHOLE, *after) == frames(*WHOLE)


@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (401, "authentication_error"),
    (403, "permission_error"), (404, "not_found_error"), (413, "request_too_large"), (429, "rate_limit_error"),
    (500, "api_error"), (503, "api_error")])  # fmt: skip
def test_types_of_errors_before_the_stream(status: int, kind: str) -> None:
    """By status, as Anthropic's documentation has them."""
    assert error_type(status) == kind


# -- requests

HI = {"role": "user", "content": "hi"}
TOOL = {"name": "weather", "description": "It", "input_schema": {"type": "object", "properties": {}}}


def session(**body: Any) -> dict[str, Any]:
    """The session a request asks for."""
    whole = {"model": "demo/echo", "max_tokens": 9, "messages": [HI], **body}
    opened = MessageRequest.model_validate(whole).session()
    return opened.model_dump(exclude_none=True, exclude_defaults=True)


def test_a_request_as_a_session() -> None:
    """System prompt, blocks, calls and their results, tools and options: all of it as the native API has it."""
    assert session(
        model="claude-x",
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no such city", "is_error": True},
                {"type": "text", "text": "go on"},
            ]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3"}]},
        ],
        tools=[TOOL, {**TOOL, "name": "other", "type": "custom"}],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["END"], metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024}, output_config={"effort": "low"},
        pipeline="research", options={"rate": 3},
    ) == {
        "model": "anthropic/claude-x",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a\n\nb"},
            {"role": "assistant", "content": "c", "tool_calls": [
                {"id": "t1", "name": "weather", "arguments": {"city": "Kiel"}}, {"id": "t2", "name": "weather"},
            ]},
            {"role": "tool", "tool_call_id": "t1", "content": "rain"},
            {"role": "tool", "tool_call_id": "t2", "content": "Error: no such city"},
            {"role": "user", "content": "go on"},
            {"role": "tool", "tool_call_id": "t3"},
        ],
        "tools": [
            {"name": "weather", "description": "It"},
            {"name": "other", "description": "It"},
        ],
        "options": {
            "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["END"],
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "reasoning_effort": "low",
            "tool_choice": {"name": "weather"}, "parallel_tool_calls": False, "rate": 3,
        },
        "pipeline": "research",
    }  # fmt: skip


@pytest.mark.parametrize(("choice", "option"), [("auto", "auto"), ("any", "required"), ("none", "none")])
def test_which_tool_is_to_be_called(choice: str, option: str) -> None:
    """In the words of the option that all providers understand."""
    assert session(tools=[TOOL], tool_choice={"type": choice})["options"]["tool_choice"] == option


@pytest.mark.parametrize(("asked", "model"), [("claude-x", "anthropic/claude-x"), ("gpt-x", "openai/gpt-x"),
    ("o3", "openai/o3"), ("demo/lorem", None), ("openai/x", "openai/x")])  # fmt: skip
def test_bare_names_of_models(asked: str, model: str | None) -> None:
    """A name without provider is one of those its users would give."""
    assert session(model=asked).get("model") == model


def test_thinking_that_is_off_anyway() -> None:
    """Told to models that could think; to others it says nothing new."""
    off = {"type": "disabled"}
    assert session(model="claude-x", thinking=off)["options"]["thinking"] == off
    assert "thinking" not in session(model="gpt-x", thinking=off)["options"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {}}]}]},
        "messages.0.content.1.type: 'image'",
    ),
    "an image in a result": (
        {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}]}]},
        "messages.0.content.0.content.0.type: 'image'",
    ),
    "a document for the system": ({"system": [{"type": "document"}]}, "system.0.type: 'document'"),
    "a server's tool": ({"tools": [{"type": "web_search_20250305", "name": "s"}]}, "tools.0.type: 'web_search"),
    "a tool without schema": ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
    "the answer's beginning": ({"messages": [HI, {"role": "assistant", "content": "x"}]}, "the last of messages"),
    "a field it cannot follow": ({"mcp_servers": [{}]}, "mcp_servers"),
    "an output format": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    "text that is none": ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
        "messages.0.content.0.text"),
    "nothing": ({"messages": [{"role": "user", "content": ""}]}, "without content"),
    "a choice of no name": ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(case: str) -> None:
    """Never left out in silence."""
    body, words = REFUSED[case]
    with pytest.raises((InvalidRequest, ValidationError)) as refused:
        session(**body)
    assert words in str(refused.value)
