"""What providers ask for, and what they refuse to ask; where a key goes, and where it does not."""

import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.upstream import Upstream, failure, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import HELLO, KEY, WIRES, failed, said
from tests.upstream_frames import Wire
from worker.providers import anthropic_request, openai_chat
from worker.providers.base import Code, ModelRequest, Provider, ProviderError, Text, ToolSpec
from worker.providers.registry import ModelSource, Providers
from worker.providers.source import Sdk

CONVERSATION = ModelRequest(
    "m",
    [
        {"role": "system", "content": "Be brief.", "generation": "g1"},
        {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "t1", "name": "weather", "arguments": {"city": "K"}}, {"id": "t2", "name": "time", "arguments": {}},
        ]},
        {"role": "tool", "tool_call_id": "t1", "content": {"sky": "grey"}},
        {"role": "tool", "tool_call_id": "t2", "content": "noon"},
    ],
    [ToolSpec("time", "What time it is", {"type": "object", "properties": {}})],
    {"temperature": 0.5, "max_tokens": 9, "top_p": None, "reasoning_effort": "low"},
)  # fmt: skip
ASKED: dict[Sdk, dict[str, Any]] = {
    "openai-chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather and time?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "K"}'}},
                {"id": "t2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "t1", "content": '{"sky": "grey"}'},
            {"role": "tool", "tool_call_id": "t2", "content": "noon"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "time", "description": "What time it is", "parameters": {"type": "object", "properties": {}},
        }}],
        "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.5, "max_tokens": 9, "reasoning_effort": "low",
    },
    "openai-responses": {
        "model": "m",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather and time?"},
            {"type": "function_call", "call_id": "t1", "name": "weather", "arguments": '{"city": "K"}'},
            {"type": "function_call", "call_id": "t2", "name": "time", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "t1", "output": '{"sky": "grey"}'},
            {"type": "function_call_output", "call_id": "t2", "output": "noon"},
        ],
        "tools": [{
            "type": "function", "name": "time", "description": "What time it is", "strict": False,
            "parameters": {"type": "object", "properties": {}},
        }],
        "stream": True, "store": False,
        "temperature": 0.5, "max_output_tokens": 9, "reasoning": {"effort": "low"},
    },
    "anthropic": {
        "model": "m",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather and time?"}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "K"}},
                {"type": "tool_use", "id": "t2", "name": "time", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": '{"sky": "grey"}'},
                {"type": "tool_result", "tool_use_id": "t2", "content": "noon"},
            ]},
        ],
        "tools": [{
            "name": "time", "description": "What time it is", "input_schema": {"type": "object", "properties": {}},
        }],
        "stream": True, "temperature": 0.5, "max_tokens": 9, "output_config": {"effort": "low"},
    },
}  # fmt: skip


async def test_what_is_asked(provider: Provider, sdk: Sdk, wire: Wire, up: Upstream) -> None:
    """The request on the wire, whole: messages, calls and their results, tools, options under their own names."""
    up.plan(reply(wire.answer([Text("ok")])))
    await said(provider, CONVERSATION)
    assert up.requests[0].body == ASKED[sdk]
    assert up.requests[0].headers["authorization"] == "Bearer secret-of-the-tests"


CHOICES: dict[Sdk, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "openai-chat": [
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tool_choice": {"name": "time"}}, {"tool_choice": {"type": "function", "function": {"name": "time"}}}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ],
    "openai-responses": [
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
        ({"tool_choice": {"name": "time"}}, {"tool_choice": {"type": "function", "name": "time"}}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ],
    "anthropic": [
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": {"type": "none"}}),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        ({"tool_choice": {"name": "time"}}, {"tool_choice": {"type": "tool", "name": "time"}}),
        ({"parallel_tool_calls": False}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        ({"parallel_tool_calls": True}, {}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": {"type": "any"}}),
    ],
}


async def test_which_tool_is_to_be_called(provider: Provider, sdk: Sdk, wire: Wire, up: Upstream) -> None:
    """One option for all providers, each told in its own words."""
    for options, asked in CHOICES[sdk]:
        up.plan(reply(wire.answer([Text("ok")])))
        await said(provider, ModelRequest("m", HELLO.messages, CONVERSATION.tools, options))
        body = up.requests[-1].body
        assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == asked


# -- keys


@pytest.mark.parametrize("source", ["openai", "anthropic", "named"])
async def test_a_missing_key_fails_the_generation_not_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "NOWHERE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # the SDK looks for credentials there too
    sources = {source: ModelSource("openai-chat", "http://127.0.0.1:1", "NOWHERE")}
    providers = Providers.from_settings(1.0, models=sources) if source == "named" else Providers.from_settings(1.0)
    error = await failed(providers.get(f"{source}/m")[0])
    assert error.code is Code.AUTHENTICATION
    assert "is not set" in error.message
    await providers.aclose()


async def test_no_message_contains_a_key(sdk: Sdk, up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the provider's echo of it, nor a transport's complaint about a header, nor the traceback."""
    echo = f"Incorrect API key provided: {KEY}. Also sk-proj-abc123def456. Bearer {KEY}"
    for key, answer in ((KEY, failure(401, {"error": {"message": echo}})), (f"{KEY}\n\x01x", reply())):
        monkeypatch.setenv("A_KEY", key)
        providers = Providers.from_settings(1.0, 0, models={"p": ModelSource(sdk, up.url, "A_KEY")})
        up.plan(answer)
        error = await failed(providers.get("p/m")[0])
        text = "".join(traceback.format_exception(error)) + error.message
        assert KEY not in text
        assert "abc123" not in text
        await providers.aclose()


async def test_a_key_does_not_go_to_another_server(
    sdk: Sdk, up: Upstream, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    providers = Providers.from_settings(1.0, models={"p": ModelSource(sdk, up.url)})
    up.plan(reply(wire.answer([])))
    await said(providers.get("p/m")[0])
    assert KEY not in str(up.requests[0].headers)
    await providers.aclose()


@pytest.mark.parametrize(("source", "sdk"), [("openai", "openai-chat"), ("anthropic", "anthropic")])
async def test_the_sdks_read_their_own_variables(
    up: Upstream, monkeypatch: pytest.MonkeyPatch, source: str, sdk: Sdk
) -> None:
    monkeypatch.setenv(f"{source.upper()}_API_KEY", KEY)
    monkeypatch.setenv(f"{source.upper()}_BASE_URL", up.url)
    providers = Providers.from_settings(1.0)
    up.plan(reply(WIRES[sdk].answer([Text("hi")])))
    assert (await said(providers.get(f"{source}/m")[0]))[0] == Text("hi")
    assert up.requests[0].headers["authorization"] == f"Bearer {KEY}"
    await providers.aclose()


# -- requests that cannot be

REQUESTS: dict[str, ModelRequest] = {
    "an unknown option": ModelRequest("m", HELLO.messages, options={"tempratur": 1}),
    "a tool choice nobody knows": ModelRequest("m", HELLO.messages, options={"tool_choice": "any"}),
    "an unknown role": ModelRequest("m", [{"role": "robot", "content": "hi"}]),
    "no content": ModelRequest("m", [{"role": "user"}]),
    "a result of no call": ModelRequest("m", [{"role": "tool", "content": "hi"}]),
}


@pytest.mark.parametrize("case", REQUESTS)
async def test_a_request_that_cannot_be(provider: Provider, up: Upstream, case: str) -> None:
    """Said before anything is sent."""
    assert (await failed(provider, REQUESTS[case])).code is Code.INVALID_REQUEST
    assert up.connections == []


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.openai.com", "max_completion_tokens"),
        ("eu.api.openai.com", "max_completion_tokens"),
        ("notopenai.com", "max_tokens"),
        ("127.0.0.1", "max_tokens"),
    ],
)
def test_the_limit_goes_by_the_name_the_server_knows(host: str, name: str) -> None:
    body = openai_chat.request_body(ModelRequest("m", HELLO.messages, options={"max_tokens": 5}), host)
    assert body[name] == 5
    assert len({"max_tokens", "max_completion_tokens"} & set(body)) == 1


def test_anthropic_needs_a_limit_and_a_message() -> None:
    turns = [*HELLO.messages, {"role": "assistant", "content": ""}, {"role": "user", "content": "more"}]
    body = anthropic_request.request_body(ModelRequest("m", turns, options={"stop": "END"}))
    assert (body["max_tokens"], body["stop_sequences"]) == (anthropic_request.DEFAULT_MAX_TOKENS, ["END"])
    assert [message["role"] for message in body["messages"]] == ["user", "user"]
    with pytest.raises(ProviderError):
        anthropic_request.request_body(ModelRequest("m", [{"role": "system", "content": "Be brief."}]))
