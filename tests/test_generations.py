"""What providers do, as the log tells it: one table for every wire format, through a worker and the real SDKs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.events import Event, EventType
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import (
    Said,
    Stage,
    Unanswering,
    bad_end,
    completed,
    counted,
    logged,
    reasoning,
    started,
    text,
    upto,
    without_usage,
)
from tests.upstream import RESET, SEVER, STALL, Reply, Step, Upstream, failure, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import KEY
from tests.upstream_frames import ChatWire, Item, Refusal, Wire, block
from worker.providers.base import FinishReason, Reasoning, Text, Usage
from worker.providers.source import Sdk

USAGE = Usage(11, 7, reasoning_tokens=5, cached_tokens=4)
TRIES = 3
"""Requests of one generation, at most: two retries, all before the first chunk."""


@pytest.fixture
def generate(stage: Stage, sdk: Sdk) -> Callable[..., Any]:
    """Run one generation of plain chat in a worker of its own; gives its log."""

    async def run(**changes: Any) -> list[Event]:
        async with stage.worker(**changes):
            return await stage.over(await stage.start(model=f"{sdk}/m"))

    return run


# -- answers


@dataclass(frozen=True)
class Answer:
    says: list[Item | Refusal]
    finish: FinishReason
    log: list[Said]
    """Between the start and the usage."""
    reason: str = ""
    """What the log gives as finish reason, if it is another one."""


ANSWERS = {
    "plain text": Answer([Text("Hel"), Text("lo "), Text("world")], "stop", [text("Hello world")]),
    "no text at all": Answer([], "stop", []),
    "any script": Answer(
        [Text("Grüße, 世界"), Text(" 🐙\n\r\n\u2028\x00")], "stop", [text("Grüße, 世界 🐙\n\r\n\u2028\x00")]
    ),
    "halves of a character": Answer([Text("a\ud83d"), Text("\udc19b")], "stop", [text("a🐙b")]),
    "half a character": Answer([Text("a\ud83d"), Text("b\udc19")], "stop", [text("a\ufffdb\ufffd")]),
    "reasoning": Answer(
        [Reasoning("Let me "), Reasoning("see."), Text("42")], "stop", [reasoning("Let me see."), text("42")]
    ),
    "reasoning twice": Answer(
        [Reasoning("a"), Text("b"), Reasoning("c"), Text("d")], "stop",
        [reasoning("a"), text("b"), reasoning("c"), text("d")],
    ),
    "too long": Answer([Text("And so it")], "length", [text("And so it")]),
    "filtered": Answer([Text("And so")], "content_filter", [text("And so")]),
    "refusal": Answer([Refusal("I can't"), Refusal(" do that.")], "stop", [text("I can't do that.")], "content_filter"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer(generate: Any, up: Upstream, sdk: Sdk, wire: Wire, case: str) -> None:
    """The log has what the model said, then its usage with cached and reasoning tokens, then one completion."""
    answer = ANSWERS[case]
    up.plan(reply(wire.answer(answer.says, answer.finish, USAGE)))
    end = completed(answer.reason or answer.finish)
    assert logged(await generate()) == [started(f"{sdk}/m"), *answer.log, counted(USAGE), end]
    assert [request.path for request in up.requests] == [wire.path]


async def test_bytes_cut_anywhere(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Where the network cuts the bytes, in the middle of a character too, changes nothing in the log."""
    raw = b"".join(wire.answer([Text("Grüße 🐙")], usage=USAGE))
    raw = (
        raw.replace(rb"\ud83d\udc19", "🐙".encode()).replace(rb"\u00fc", "ü".encode()).replace(rb"\u00df", "ß".encode())
    )
    up.plan(reply([raw[n : n + 1] for n in range(len(raw))]))
    assert logged(await generate()) == [started(f"{sdk}/m"), text("Grüße 🐙"), counted(USAGE), completed()]


async def test_a_provider_that_counts_nothing(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """No usage is said, rather than one of zeros; Anthropic always counts."""
    up.plan(reply(wire.answer([Text("hi")])))
    none = [counted(Usage(0, 0))] if sdk == "anthropic" else []
    assert logged(await generate()) == [started(f"{sdk}/m"), text("hi"), *none, completed()]


async def test_the_next_turn_tells_the_model_the_first(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Its request has both sides of the first turn, and its events are another generation's."""
    up.plan(reply(wire.answer([Text("One.")])), reply(wire.answer([Text("Two.")])))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m")
        await stage.over(sid)
        await stage.next_turn(sid)
        last = await stage.until(sid, lambda events: sum(event.terminal for event in events) == 2)
    assert last[-1].value == {"generation": "g2", "finish_reason": "stop"}
    turns = [(turn["role"], _words(turn["content"])) for turn in up.requests[1].body[wire_list(sdk)]]
    assert turns == [("user", "hi"), ("assistant", "One."), ("user", "and now")]


def wire_list(sdk: Sdk) -> str:
    return "input" if sdk == "openai-responses" else "messages"


def _words(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


# -- errors before the first chunk


@dataclass(frozen=True)
class Http:
    """An HTTP error, as each family says it: (status, type or code, message)."""

    openai: tuple[int, str, str]
    anthropic: tuple[int, str, str]
    code: str
    retryable: bool
    tries: tuple[int, int] = (1, 1)
    """Requests seen, by OpenAI and by Anthropic."""

    def reply(self, sdk: Sdk, **headers: str) -> Reply:
        if sdk == "anthropic":
            status, kind, message = self.anthropic
            error: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
        else:
            status, kind, message = self.openai
            error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": kind}}
        return failure(status, error, **headers)


BAD = "invalid_request_error"
QUOTED = f"Not with the key {KEY}."
HTTP = {
    "authentication": Http(
        (401, "invalid_api_key", QUOTED), (401, "authentication_error", QUOTED), "authentication", False
    ),
    "permission": Http((403, "no_access", "No."), (403, "permission_error", "No."), "permission", False),
    "not found": Http((404, "model_not_found", "No."), (404, "not_found_error", "No."), "not_found", False),
    "wrong": Http((400, "wrong_value", "No."), (400, BAD, "No."), "invalid_request", False),
    "rate limit": Http(
        (429, "rate_limit_exceeded", "Slow."), (429, "rate_limit_error", "Slow."), "rate_limit", True, (TRIES, TRIES)
    ),
    "quota": Http(
        (429, "insufficient_quota", "Pay."), (400, BAD, "Your credit balance is too low."), "quota_exceeded", False,
        (TRIES, 1),
    ),
    "overloaded": Http(
        (503, "server_is_overloaded", "Later."), (529, "overloaded_error", "Later."), "overloaded", True, (TRIES, TRIES)
    ),
    "context": Http(
        (400, "context_length_exceeded", "Long."), (400, BAD, "prompt is too long: 9 tokens > 8 maximum"),
        "context_too_long", False,
    ),
    "content filter": Http(
        (400, "content_filter", "No."), (400, BAD, "Output blocked by content filtering policy"), "content_filter",
        False,
    ),
    "timeout": Http((504, "timeout", "Slow."), (504, "timeout_error", "Slow."), "timeout", True, (TRIES, TRIES)),
    "server": Http((500, "oops", "Oops."), (500, "api_error", "Oops."), "provider_error", True, (TRIES, TRIES)),
}  # fmt: skip


@pytest.mark.parametrize("case", HTTP)
async def test_an_error_instead_of_an_answer(generate: Any, up: Upstream, sdk: Sdk, case: str) -> None:
    """One failure with code and retryable; what may succeed is tried thrice, all else once; no key is quoted."""
    error = HTTP[case]
    up.plan(error.reply(sdk))
    events = await generate()
    assert logged(events) == [started(f"{sdk}/m"), bad_end(error.code, retryable=error.retryable)]
    assert len(up.requests) == error.tries[sdk == "anthropic"]
    assert events[-1].value["message"]
    assert KEY.encode() not in b"".join(event.data for event in events)


async def test_a_rate_limit_that_passes(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """The pause the provider asked for is kept, and the answer is one generation like any other."""
    limit = HTTP["rate limit"].reply(sdk, retry_after_ms="50")
    up.plan(limit, reply(wire.answer([Text("ok")], usage=USAGE)))
    events = await generate()
    assert logged(events) == [started(f"{sdk}/m"), text("ok"), counted(USAGE), completed()]
    assert events[2].at - events[1].at >= 50
    assert len(up.requests) == 2


async def test_a_provider_that_hangs_up(generate: Any, stage: Stage, sdk: Sdk) -> None:
    """A connection lost before the answer began is tried again, and in the end is one failure."""
    async with Unanswering(hangs_up=True) as gone:
        stage.models[sdk]["base_url"] = gone.url
        events = await generate()
        assert logged(events) == [started(f"{sdk}/m"), bad_end("connection_lost", retryable=True)]
        assert len(gone.requests) == TRIES


async def test_a_key_that_is_not_set(generate: Any, stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """It fails the generation, at once and by name, and nobody is asked."""
    stage.models[sdk]["key_env"] = "NO_SUCH_KEY"
    events = await generate()
    assert logged(events) == [started(f"{sdk}/m"), bad_end("authentication", retryable=False)]
    assert "NO_SUCH_KEY" in events[-1].value["message"]
    assert up.requests == []


# -- errors after the first chunk


@dataclass(frozen=True)
class Break:
    """How a stream breaks off after it said `before`."""

    steps: Callable[[Wire], list[Step]]
    code: str
    retryable: bool = True
    before: str = "Hel"
    changes: dict[str, Any] = field(default_factory=dict)


def error(kind: str) -> Callable[[Wire], list[Step]]:
    return lambda wire: [wire.error(kind, QUOTED), *wire.head("never")]


def steps(*steps: Step) -> Callable[[Wire], list[Step]]:
    return lambda _: list(steps)


BREAKS = {
    "overloaded": Break(error("overloaded_error"), "overloaded"),
    "rate limit": Break(error("rate_limit_exceeded"), "rate_limit"),
    "server error": Break(error("server_error"), "provider_error"),
    "wrong": Break(error("invalid_request_error"), "invalid_request", retryable=False),
    "quota": Break(error("insufficient_quota"), "quota_exceeded", retryable=False),
    "clean end": Break(steps(), "truncated"),
    "severed": Break(steps(SEVER), "connection_lost"),
    "reset": Break(steps(RESET), "connection_lost"),
    "no JSON": Break(steps(b"event: message_delta\ndata: {oops\n\n"), "malformed"),
    "no object": Break(steps(block("[1]", "message_delta")), "malformed"),
    "silence": Break(steps(STALL), "idle_timeout", changes={"idle_timeout_s": 1.0}),
    "too late": Break(steps(STALL), "timeout", changes={"generation_timeout_s": 1.0}),
    "clean end, nothing said": Break(steps(), "truncated", before=""),
    "severed, nothing said": Break(steps(SEVER), "connection_lost", before=""),
    "silence, nothing said": Break(steps(STALL), "idle_timeout", before="", changes={"idle_timeout_s": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKS)
async def test_an_answer_that_breaks_off(generate: Any, up: Upstream, sdk: Sdk, wire: Wire, case: str) -> None:
    """What was said is kept, one failure says why, and nothing is asked twice: the model may have been paid."""
    broken = BREAKS[case]
    head = wire.head("H", "el") if broken.before else []
    up.plan(reply(head, *broken.steps(wire)))
    events = await generate(**broken.changes)
    kept = [text(broken.before)] if broken.before else []
    assert without_usage(events) == [started(f"{sdk}/m"), *kept, bad_end(broken.code, retryable=broken.retryable)]
    assert len(up.requests) == 1
    assert KEY.encode() not in b"".join(event.data for event in events)


async def test_the_last_words_before_an_error_are_kept(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Text that still waits for company is said before the failure."""
    gate = asyncio.Event()
    begun, rest = upto(wire.head("Once ", "more"), "Once")
    up.plan(reply(begun, gate, rest, SEVER))
    async with stage.worker(flush_ms=60_000):
        sid = await stage.start(model=f"{sdk}/m")
        await stage.until_event(sid, EventType.TEXT)
        gate.set()
        events = await stage.over(sid)
    end = bad_end("connection_lost", retryable=True)
    assert without_usage(events) == [started(f"{sdk}/m"), text("Once more"), end]


async def test_an_error_nobody_knows(generate: Any, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """A word of a provider's that no table has is a failure too, in the provider's own words."""
    up.plan(reply(wire.head("Hel"), wire.error("brand_new_error", "Something new.")))
    events = await generate()
    assert logged(events)[:2] == [started(f"{sdk}/m"), text("Hel")]
    assert events[-1].value["code"] in ("unknown", "provider_error")
    assert events[-1].value["message"] == "Something new."


async def test_an_answer_that_is_whole_without_its_usage(stage: Stage, up: Upstream) -> None:
    """Chat's end marker comes before its usage: losing that does not make a whole answer a failure."""
    up.plan(reply(ChatWire().answer([Text("hi")], usage=USAGE)[:-2], SEVER))
    async with stage.worker():
        events = await stage.over(await stage.start(model="openai-chat/m"))
    assert logged(events) == [started("openai-chat/m"), text("hi"), completed()]
