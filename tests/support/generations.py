"""Generations at work: a worker in the test's own loop, scripted model servers, and the log as it grows."""

import contextlib
import itertools
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from api.commands import Commands
from api.node import ANONYMOUS, Node, open_node
from api.schemas import AnswerRequest, CreateSession, NextMessage
from shared import keys
from shared.events import Event, EventType, merged
from shared.log import Log, Stopped
from shared.transcript import Message, fold
from tests.support.inprocess import live_worker, settings
from tests.upstream import Upstream
from tests.upstream_fixtures import KEY, WIRES
from worker.pipelines import Run, pipeline
from worker.providers.base import Usage

WITHIN_S = 20
BLOCK_MS = 1000
Said = tuple[str, dict[str, Any]]
"""An event as a table has it: type and data."""


class Stage:
    """Sessions on a node, and their logs. `models` are settings: each wire format as a provider of its own."""

    def __init__(self, node: Node, redis: Any, models: dict[str, dict[str, str]]) -> None:
        self.log: Log = node.log
        self.models = models
        self.commands = Commands(node, ANONYMOUS)
        self.redis_url = node.settings.redis_url
        self._redis = redis

    def worker(self, **changes: Any) -> contextlib.AbstractAsyncContextManager[None]:
        return live_worker(self.redis_url, **{"models": self.models, **changes})

    async def start(self, **body: Any) -> str:
        """Queue a session's first generation; gives the session's id."""
        sid, _ = await self.commands.create(CreateSession(**{"input": "hi", **body}), None)
        return sid

    async def next_turn(self, sid: str) -> None:
        await self.commands.message(sid, NextMessage(input="and now"), None)

    async def stop(self, sid: str) -> Stopped:
        return await self.commands.stop(sid, "")

    async def answer(self, sid: str, question: str, text: str, key: str | None = None) -> None:
        await self.commands.answer(sid, AnswerRequest(question=question, text=text), key)

    async def until(self, sid: str, true: Callable[[list[Event]], bool]) -> list[Event]:
        """The log, as soon as `true` holds of it; woken by each append."""
        async with timeout(WITHIN_S):
            while not true(events := await self.log.events(sid)):
                last = str(events[-1].id) if events else "0-0"
                await self._redis.xread({keys.events(sid): last}, block=BLOCK_MS)
        return events

    async def until_event(self, sid: str, kind: EventType, count: int = 1) -> Event:
        """The log's event number `count` of this kind, as soon as it is there."""
        events = await self.until(sid, lambda events: len(_of(events, kind)) >= count)
        return _of(events, kind)[count - 1]

    async def over(self, sid: str) -> list[Event]:
        """The log of a session whose newest generation has ended."""
        return await self.until(sid, lambda events: events[-1].terminal)

    async def answer_of(self, sid: str) -> Message:
        """The assistant's last message, as a reader that comes now is shown it."""
        return fold(await self.log.events(sid)).messages[-1]


def _of(events: list[Event], kind: EventType) -> list[Event]:
    return [event for event in events if event.type == kind]


@pytest.fixture
async def stage(redis_url: str, redis: Any, up: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Every wire format under its own name, all of them reaching `up`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UP_KEY", KEY)
    models: dict[str, dict[str, str]] = {sdk: {"sdk": sdk, "base_url": up.url, "key_env": "UP_KEY"} for sdk in WIRES}
    async with open_node(settings(redis_url, models=models)) as node:
        yield Stage(node, redis, models)


class Unanswering(Upstream):
    """Takes requests and says nothing, not even a status; or closes the connection instead."""

    def __init__(self, *, hangs_up: bool = False) -> None:
        super().__init__()
        self._hangs_up = hangs_up

    async def _answer(self, connection: Any, writer: Any) -> bool:
        if not self._hangs_up:
            await connection.gone.wait()
        return False


def upto(frames: list[bytes], word: str) -> tuple[list[bytes], list[bytes]]:
    """The frames up to the one that says the word, and the rest."""
    at = next(n for n, frame in enumerate(frames) if word.encode() in frame) + 1
    return frames[:at], frames[at:]


# -- pipelines of a test

_names = (f"test-{n}" for n in itertools.count())


def piped(function: Callable[[Run], Awaitable[None]]) -> str:
    """Register a pipeline; gives a name nobody else has."""
    name = next(_names)
    pipeline(name)(function)
    return name


# -- what a log is expected to say


def logged(events: list[Event]) -> list[Said]:
    """All events after the user's message, deltas merged, without `prev` and the words of a failure."""
    return [_said(event) for event in merged(events) if event.type != EventType.MESSAGE]


def without_usage(events: list[Event]) -> list[Said]:
    """For answers that broke off: whether a provider has counted by then is its own affair."""
    return [(kind, data) for kind, data in logged(events) if kind != EventType.USAGE]


def _said(event: Event) -> Said:
    unforeseen = {"prev", "message"} if event.type == EventType.FAILED else {"prev"}
    return event.type, {name: value for name, value in event.value.items() if name not in unforeseen}


def started(model: str, attempt: int = 1) -> Said:
    return "generation.started", {"generation": "g1", "attempt": attempt, "model": model}


def text(text: str) -> Said:
    return "text.delta", {"text": text}


def reasoning(text: str) -> Said:
    return "reasoning.delta", {"text": text}


def called(id: str, name: str, arguments: dict[str, Any]) -> Said:
    return "tool.call", {"id": id, "name": name, "arguments": arguments}


def resulted(id: str, output: Any = None, error: str | None = None) -> Said:
    return "tool.result", {"id": id, "output": output, "error": error}


def counted(usage: Usage) -> Said:
    names = ("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens")
    return "usage", {name: getattr(usage, name) for name in names}


def completed(reason: str = "stop") -> Said:
    return "generation.completed", {"generation": "g1", "finish_reason": reason}


def bad_end(code: str, *, retryable: bool) -> Said:
    return "generation.failed", {"generation": "g1", "code": code, "retryable": retryable}


def cancelled(by: str = "user") -> Said:
    return "generation.cancelled", {"generation": "g1", "by": by, "confirmed": True}
