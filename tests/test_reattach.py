"""Background responses: a run at the provider is followed again by whoever comes next, and never started twice."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.events import Event, EventType
from shared.transcript import fold
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import (
    Stage,
    Unanswering,
    bad_end,
    cancelled,
    completed,
    counted,
    logged,
    piped,
    started,
    text,
)
from tests.support.lost import QUICK, events_of
from tests.support.sse import read_all
from tests.support.system import System, create, system
from tests.upstream_background import Background, Response
from worker.pipelines import Run
from worker.providers import openai_background
from worker.providers.base import Usage

MODEL = "openai-responses/m"
BODY = {"model": MODEL, "options": {"background": True}}
USAGE = Usage(11, 7, reasoning_tokens=5, cached_tokens=4)
KEYS = {"OPENAI_API_KEY": "key", "NO_PROXY": "127.0.0.1"}


@pytest.fixture
async def up() -> AsyncIterator[Background]:
    async with Background() as upstream:
        yield upstream


@pytest.fixture
async def running(redis_url: str, up: Background) -> AsyncIterator[System]:
    environment = {**QUICK, **KEYS, "OPENAI_BASE_URL": up.url, "HOLDFAST_WORKER_GRACE_S": "0"}
    async with system(redis_url, environment=environment) as started:
        yield started


def without_runs(events: list[Event]) -> list[Any]:
    return [said for said in logged(events) if said[0] != "provider.run"]


async def until_said(stage: Stage, sid: str, words: str) -> None:
    await stage.until(sid, lambda events: words in fold(events).messages[-1].content)


async def begun(stage: Stage, up: Background, sid: str, words: str = "Once ") -> Response:
    """The run of the session's first generation, which has said these words, also in the log."""
    run = await up.begun()
    run.say(words)
    await until_said(stage, sid, words)
    return run


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_lost_worker_leaves_its_run_to_the_next(
    stage: Stage, running: System, up: Background, how: signal.Signals
) -> None:
    """Killed or told to leave, in the middle of the answer: one POST, no cancel, and the next worker follows the run
    from its beginning. A reader that was there all the time ends with the whole text, once."""
    sid = await create(running.url, **BODY)
    reading = asyncio.create_task(read_all(running.url, sid))
    run = await begun(stage, up, sid)
    await running.add_worker()
    await running.workers_ready(2)
    running.workers[0].signal(how)
    await running.workers[0].ended()
    run.say("upon ")
    await up.followed(2)
    run.say("a time.")
    run.end(USAGE)
    events = events_of(await reading)
    assert (up.asked("POST"), up.asked("GET")) == (["/responses"], ["/responses/resp_0?stream=true"])
    starts = [event.value["attempt"] for event in events if event.type == EventType.STARTED]
    assert starts == [1, 2]
    answer = fold(events).messages[-1]
    assert (answer.content, answer.state) == ("Once upon a time.", "completed")
    assert answer.usage is not None
    assert answer.usage.output_tokens == USAGE.output_tokens


async def test_a_background_request(stage: Stage, up: Background) -> None:
    """It asks the provider to keep the run, and the log names it before it says a word."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        (await up.begun()).say("Hi")
        up.responses[0].end(USAGE)
        events = await stage.over(sid)
    asked = up.requests[0].body
    assert (asked["background"], asked["store"], asked["stream"]) == (True, True, True)
    (kind, named), *rest = logged(events)[1:]
    assert (kind, named["id"]) == ("provider.run", "resp_0")
    assert rest == [text("Hi"), counted(USAGE), completed()]
    assert len(up.requests) == 1


async def test_a_stop_ends_the_run_at_the_provider(stage: Stage, up: Background) -> None:
    """Closing the connection would not: it is cancelled, and only then is the stop confirmed."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        run = await begun(stage, up, sid)
        await stage.stop(sid)
        events = await stage.over(sid)
        assert run.cancelled.is_set()
    assert up.asked("POST") == ["/responses", "/responses/resp_0/cancel"]
    assert without_runs(events) == [started(MODEL), text("Once "), cancelled()]


async def test_a_run_that_cannot_be_ended_is_not_confirmed(stage: Stage, up: Background) -> None:
    """The provider refuses to cancel: the user is told that it may go on."""
    up.cancel_status = 400
    async with stage.worker():
        sid = await stage.start(**BODY)
        await begun(stage, up, sid)
        await stage.stop(sid)
        events = await stage.over(sid)
    assert events[-1].value == {"generation": "g1", "by": "user", "confirmed": False}


async def test_a_run_without_a_name_is_not_confirmed(stage: Stage) -> None:
    """Stopped before the provider has answered: it may run there, and nobody knows how to end it."""
    async with Unanswering() as silent:
        models = {"openai-responses": {"sdk": "openai-responses", "base_url": silent.url, "key_env": "UP_KEY"}}
        async with stage.worker(models=models):
            sid = await stage.start(**BODY)
            async with asyncio.timeout(10):
                while not silent.requests:
                    await asyncio.sleep(0.005)
            await stage.stop(sid)
            events = await stage.over(sid)
    assert events[-1].value == {"generation": "g1", "by": "user", "confirmed": False}


async def test_a_message_that_interrupts_ends_the_run(stage: Stage, up: Background) -> None:
    """The worker is not told, only fenced: but nobody will ask for this run again, so it is not left to go on."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        run = await begun(stage, up, sid)
        message = {"role": "user", "content": "no, this"}
        await stage.log.message(sid, "nonce", "body", message, {}, interrupt_by="user")
        run.say("too late")
        async with asyncio.timeout(10):
            await run.cancelled.wait()


async def test_a_time_limit_ends_the_run(stage: Stage, up: Background) -> None:
    """A generation that fails by its limit of time leaves nothing behind at the provider."""
    async with stage.worker(generation_timeout_s=1.0):
        sid = await stage.start(**BODY)
        run = await begun(stage, up, sid)
        events = await stage.over(sid)
        assert run.cancelled.is_set()
    assert logged(events)[-1] == bad_end("timeout", retryable=True)


async def test_a_run_that_is_over_is_not_cancelled(stage: Stage, up: Background) -> None:
    """One that failed at the provider is at its end there."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        (await begun(stage, up, sid)).fail()
        events = await stage.over(sid)
    assert logged(events)[-1] == bad_end("provider_error", retryable=True)
    assert up.asked("POST") == ["/responses"]


async def test_a_run_the_provider_has_forgotten_is_started_again(stage: Stage, up: Background) -> None:
    """404 to the next attempt: a new run answers, and is the one that a third attempt would find."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        await begun(stage, up, sid)
    up.forgotten.add("resp_0")
    async with stage.worker():
        await up.begun(2)
    async with stage.worker():
        up.responses[1].say("Again.")
        up.responses[1].end()
        events = await stage.over(sid)
    assert up.asked("POST") == ["/responses", "/responses"]
    assert up.asked("GET") == ["/responses/resp_0?stream=true", "/responses/resp_1?stream=true"]
    assert fold(events).messages[-1].content == "Again."


async def test_another_request_is_not_answered_by_an_old_run(stage: Stage, up: Background) -> None:
    """A pipeline that asks something else in its next attempt gets an answer to that."""

    async def changes(run: Run) -> None:
        await run.answer([{"role": "user", "content": f"question {run.attempt}"}])

    name = piped(changes)
    async with stage.worker():
        sid = await stage.start(**BODY, pipeline=name)
        await begun(stage, up, sid)
    async with stage.worker():
        second = await up.begun(2)
        second.say("Two.")
        second.end()
        events = await stage.over(sid)
    assert up.asked("GET") == []
    assert fold(events).messages[-1].content == "Two."


async def test_a_broken_connection_goes_on_where_it_was(stage: Stage, up: Background) -> None:
    """The same attempt asks for the events after the last one it saw; the text is whole, without a seam."""
    async with stage.worker():
        sid = await stage.start(**BODY)
        run = await begun(stage, up, sid)
        for words in ("upon ", "a "):
            asked = len(up.requests)
            run.cut()
            await up.followed(asked + 1)
            run.say(words)
            await until_said(stage, sid, words)
        run.say("time.")
        run.end(USAGE)
        events = await stage.over(sid)
    assert without_runs(events) == [started(MODEL), text("Once upon a time."), counted(USAGE), completed()]
    assert up.asked("POST") == ["/responses"]
    after = [f"/responses/resp_0?starting_after={n}&stream=true" for n in (1, 2)]
    assert [sorted(path.split("?")[1].split("&")) for path in up.asked("GET")] == [
        sorted(path.split("?")[1].split("&")) for path in after
    ]


async def test_a_run_that_says_nothing_is_given_up(
    stage: Stage, up: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for a few times, then the generation fails, and the run is ended."""
    monkeypatch.setattr(openai_background, "PAUSE_S", 0.0)
    async with stage.worker(idle_timeout_s=1.0):
        sid = await stage.start(**BODY)
        run = await up.begun()
        events = await stage.over(sid)
        assert run.cancelled.is_set()
    assert logged(events)[-1] == bad_end("idle_timeout", retryable=True)
    assert len(up.asked("GET")) == openai_background.RESUMES
