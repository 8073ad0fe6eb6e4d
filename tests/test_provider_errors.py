"""Why a model did not answer: every way to fail, over real sockets with the real SDKs, and the tables behind it."""

import asyncio
import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.upstream import RESET, SEVER, STALL, Reply, Upstream, failure, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import HELLO, failed, said
from tests.upstream_frames import ChatWire, MessagesWire, ResponsesWire, Wire, block
from worker.providers.base import (
    Code,
    Finish,
    Part,
    Provider,
    ProviderError,
    Text,
    ToolCall,
)
from worker.providers.errors import RETRYABLE
from worker.providers.registry import ModelSource, Providers
from worker.providers.sdk_errors import as_provider_error, class_code
from worker.providers.source import Sdk

# -- the tables


def test_every_code_says_whether_it_is_retryable() -> None:
    assert set(RETRYABLE) == set(Code)
    assert all(ProviderError(code, "m").retryable is RETRYABLE[code] for code in Code)


def exported(module: ModuleType, root: type[Exception]) -> set[type[Exception]]:
    members = {member for _, member in inspect.getmembers(module, inspect.isclass)}
    return {member for member in members if issubclass(member, root)}


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    for kind in root.__subclasses__():
        yield kind
        yield from below(kind)


ROOTS: set[type[Exception]] = {
    openai.OpenAIError, openai.APIError, openai.APIStatusError,
    anthropic.AnthropicError, anthropic.APIError, anthropic.APIStatusError,
}  # fmt: skip
"""They say nothing themselves: their status and body do."""
RAISED = sorted(
    exported(openai, openai.OpenAIError) | exported(anthropic, anthropic.AnthropicError)
    | {kind for kind in below(httpx2.TransportError) if kind.__module__.startswith("httpx2")}
    | {httpx2.TransportError, httpx2.DecodingError, httpx2.TooManyRedirects, httpx2.StreamClosed, httpx2.InvalidURL}
    | {json.JSONDecodeError, UnicodeDecodeError},
    key=lambda kind: (kind.__module__, kind.__name__),
)  # fmt: skip


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_exception_of_the_sdks_is_mapped(kind: type[Exception]) -> None:
    """A new class in an SDK fails here until somebody decides what it means."""
    assert (class_code(kind) is None) == (kind in ROOTS)


def test_a_class_of_the_same_name_elsewhere_is_not_mapped() -> None:
    assert class_code(type("RateLimitError", (Exception,), {"__module__": "elsewhere"})) is None
    assert as_provider_error(ZeroDivisionError("x")).code is Code.UNKNOWN


# -- HTTP errors, before the first chunk

OPENAI: tuple[Sdk, ...] = ("openai-chat", "openai-responses")


def spoken(kind: str, message: str = "No.", code: str | None = None) -> dict[str, Any]:
    """An error body that both families understand."""
    error = {"type": kind, "message": message, "code": code, "param": None}
    return {"type": "error", "error": error, "request_id": "req_2"}


STATUSES: dict[str, tuple[int, dict[str, Any], Code]] = {
    "bad request": (400, spoken("invalid_request_error"), Code.INVALID_REQUEST),
    "wrong key": (401, spoken("invalid_request_error", code="invalid_api_key"), Code.AUTHENTICATION),
    "no money": (402, spoken("billing_error"), Code.QUOTA_EXCEEDED),
    "not allowed": (403, spoken("permission_error"), Code.PERMISSION),
    "no such model": (404, spoken("invalid_request_error", code="model_not_found"), Code.NOT_FOUND),
    "slow request": (408, spoken("timeout_error"), Code.TIMEOUT),
    "conflict": (409, spoken("conflict_error"), Code.OVERLOADED),
    "precondition": (412, spoken("other"), Code.INVALID_REQUEST),
    "too large": (413, spoken("request_too_large"), Code.CONTEXT_TOO_LONG),
    "unprocessable": (422, spoken("invalid_request_error"), Code.INVALID_REQUEST),
    "too many": (429, spoken("rate_limit_error"), Code.RATE_LIMIT),
    "out of quota": (429, spoken("insufficient_quota", code="insufficient_quota"), Code.QUOTA_EXCEEDED),
    "server": (500, spoken("api_error"), Code.PROVIDER_ERROR),
    "bad gateway": (502, spoken("api_error"), Code.PROVIDER_ERROR),
    "unavailable": (503, spoken("api_error"), Code.OVERLOADED),
    "gateway timeout": (504, spoken("timeout_error"), Code.TIMEOUT),
    "overloaded": (529, spoken("overloaded_error"), Code.OVERLOADED),
    "a status nobody knows": (418, {}, Code.INVALID_REQUEST),
    "openai: context": (400, spoken("invalid_request_error", code="context_length_exceeded"), Code.CONTEXT_TOO_LONG),
    "anthropic: context": (
        400, spoken("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        Code.CONTEXT_TOO_LONG,
    ),
    "vllm: context": (
        400, {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError", "code": 400},
        Code.CONTEXT_TOO_LONG,
    ),
    "anthropic: no money": (
        400, spoken("invalid_request_error", "Your credit balance is too low."), Code.QUOTA_EXCEEDED
    ),
    "filtered": (400, spoken("invalid_request_error", code="content_filter"), Code.CONTENT_FILTER),
}  # fmt: skip


@pytest.mark.parametrize("case", STATUSES)
async def test_http_error(provider: Provider, up: Upstream, case: str) -> None:
    """An HTTP error has its code, tells the provider's own words, and names the request."""
    status, body, code = STATUSES[case]
    up.plan(failure(status, body, request_id="req_7", x_request_id="req_7", x_should_retry="false"))
    error = await failed(provider)
    assert (error.code, error.request_id) == (code, "req_7")
    assert body.get("error", body).get("message", "") in error.message


@pytest.mark.parametrize(
    ("header", "expected"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("nan", None)]
)
async def test_retry_after_is_handed_on(provider: Provider, up: Upstream, header: str, expected: float | None) -> None:
    reply_ = failure(429, {}, retry_after=header, x_should_retry="false")
    up.plan(Reply(reply_.steps, 429, {k: v for k, v in reply_.headers.items() if k != "retry-after-ms"}))
    assert (await failed(provider)).retry_after_s == expected


def test_retry_after_may_be_a_date() -> None:
    headers = {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=90))}
    request = httpx2.Request("POST", "http://u")
    error = openai.RateLimitError("m", response=httpx2.Response(429, headers=headers, request=request), body=None)
    wait_s = as_provider_error(error).retry_after_s
    assert wait_s is not None
    assert 85 < wait_s <= 90


async def test_overload_before_the_first_chunk_is_retried(provider: Provider, wire: Wire, up: Upstream) -> None:
    """Twice, after the pause the provider asked for; then it is an answer like any other."""
    up.plan(failure(503, {}), failure(429, {}), reply(wire.answer([Text("ok")])))
    assert (await said(provider))[0] == Text("ok")
    assert [r.headers["x-stainless-retry-count"] for r in up.requests] == ["0", "1", "2"]


async def test_retries_end(provider: Provider, up: Upstream) -> None:
    up.plan(failure(503, {}))
    assert (await failed(provider)).code is Code.OVERLOADED
    assert len(up.requests) == 3


# -- errors inside a stream


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", Code.OVERLOADED),
        ("server_error", Code.PROVIDER_ERROR),
        ("rate_limit_exceeded", Code.RATE_LIMIT),
        ("invalid_request_error", Code.INVALID_REQUEST),
        ("api_error", Code.PROVIDER_ERROR),
    ],
)
async def test_error_in_the_middle(provider: Provider, wire: Wire, up: Upstream, kind: str, code: Code) -> None:
    """Status 200, some text, then an error: the text is given out, the error is not retried."""
    up.plan(reply(wire.head("Hel"), wire.error(kind, "Sorry."), wire.head("never")))
    heard: list[Part] = []

    async def listen() -> None:
        async for part in provider.stream(HELLO):
            heard.append(part)

    with pytest.raises(ProviderError) as caught:
        await listen()
    assert heard == [Text("Hel")]
    assert (caught.value.code, caught.value.message, caught.value.request_id) == (code, "Sorry.", "req_1")
    assert len(up.requests) == 1


ENDINGS: dict[str, tuple[list[Any], Code]] = {
    "a clean end without its marker": ([], Code.TRUNCATED),
    "severed": ([SEVER], Code.CONNECTION_LOST),
    "reset": ([RESET], Code.CONNECTION_LOST),
    "no JSON": ([b"event: message_delta\ndata: {oops\n\n"], Code.MALFORMED),
    "no UTF-8": ([b"event: message_delta\ndata: {\"\xff\": 1}\n\n"], Code.MALFORMED),
    "JSON, but no object": ([block("[1]", "message_delta")], Code.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDINGS)
async def test_a_stream_that_breaks_off(provider: Provider, wire: Wire, up: Upstream, case: str) -> None:
    """Silence is no end: a stream without its end marker has failed, however it ended."""
    steps, code = ENDINGS[case]
    up.plan(reply(wire.head("Hel"), *steps))
    error = await failed(provider)
    assert (error.code, error.request_id) == (code, "req_1")
    async with asyncio.timeout(2):
        await up.closed(0) if code is Code.MALFORMED else None


async def test_no_chunk_at_all(provider: Provider, up: Upstream) -> None:
    up.plan(reply())
    assert (await failed(provider)).code is Code.TRUNCATED


@pytest.mark.parametrize("ending", [SEVER, RESET])
async def test_chat_that_breaks_off_after_its_finish_reason(providers: Providers, up: Upstream, ending: Any) -> None:
    """Everything was said: losing the usage does not make a whole answer a failure."""
    up.plan(reply(ChatWire().answer([Text("hi")])[:-1], ending))
    assert await said(providers.get("openai-chat/m")[0]) == [Text("hi"), Finish("stop")]


async def test_chat_that_gave_up(providers: Providers, up: Upstream) -> None:
    up.plan(reply(ChatWire().chunk({"content": "Hel"}, "error")))
    assert (await failed(providers.get("openai-chat/m")[0])).code is Code.PROVIDER_ERROR


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        ("failed", {"error": {"code": "server_error", "message": "m"}}, Code.PROVIDER_ERROR),
        ("failed", {"error": {"code": "rate_limit_exceeded", "message": "m"}}, Code.RATE_LIMIT),
        ("failed", {"error": {"code": "invalid_prompt", "message": "m"}}, Code.CONTENT_FILTER),
        ("failed", {"error": None}, Code.PROVIDER_ERROR),
        ("incomplete", {"status": "cancelled"}, Code.PROVIDER_ERROR),
    ],
)
async def test_a_response_that_failed(
    providers: Providers, up: Upstream, status: str, details: dict[str, Any], code: Code
) -> None:
    wire = ResponsesWire()
    response = {**wire.response(status), **details}
    up.plan(reply(wire.frames({"type": f"response.{status}", "response": response})))
    assert (await failed(providers.get("openai-responses/m")[0])).code is code


@pytest.mark.parametrize("arguments", ["{", "[1]", "null"])
async def test_arguments_that_are_no_object(providers: Providers, up: Upstream, arguments: str) -> None:
    chat, messages = ChatWire(), MessagesWire()
    function = {"name": "a", "arguments": arguments}
    call = {"index": 0, "id": "t", "type": "function", "function": function}
    up.plan(reply(chat.chunk({"tool_calls": [call]}), chat.chunk({}, "tool_calls")))
    assert (await failed(providers.get("openai-chat/m")[0])).code is Code.MALFORMED
    frames = messages.answer([ToolCall("t", "a", {"k": 1})], "tool_calls")
    cut = [frame for frame in frames if b'"partial_json": "{' not in frame]
    up.plan(reply(cut))
    assert (await failed(providers.get("anthropic/m")[0])).code is Code.MALFORMED


# -- time and place


async def test_a_provider_that_falls_silent(wire: Wire, sdk: Sdk, up: Upstream) -> None:
    """The idle watchdog speaks, and the socket is closed."""
    quick = Providers.from_settings(1.0, models={"p": ModelSource(sdk, up.url)})
    up.plan(reply(wire.head("Hel"), STALL))
    error = await failed(quick.get("p/m")[0])
    assert (error.code, error.request_id) == (Code.IDLE_TIMEOUT, "req_1")
    async with asyncio.timeout(2):
        await up.closed(0)
    await quick.aclose()


async def test_nobody_listens(sdk: Sdk) -> None:
    async with Upstream() as gone:
        url = gone.url
    providers = Providers.from_settings(5.0, max_retries=0, models={"p": ModelSource(sdk, url)})
    error = await failed(providers.get("p/m")[0])
    assert error.code is Code.CONNECTION_LOST
    assert error.message != "Connection error."
    await providers.aclose()


async def test_a_url_that_cannot_be(sdk: Sdk) -> None:
    """What no retry can mend is not called a lost connection."""
    providers = Providers.from_settings(5.0, max_retries=0, models={"p": ModelSource(sdk, "ftp://127.0.0.1")})
    error = await failed(providers.get("p/m")[0])
    assert (error.code, error.retryable) == (Code.INVALID_REQUEST, False)
    await providers.aclose()
