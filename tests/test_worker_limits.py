"""What a worker bounds: time, memory, patience with its log and with providers, and the lines it writes about it."""

import asyncio
from functools import partial
from typing import Any

import pytest
from redis._parsers.base import BaseParser

from shared import keys
from shared.events import EventType
from shared.log import Log
from shared.redis import transient
from tests.support import sessions, workers
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import (
    Stage,
    Unanswering,
    bad_end,
    completed,
    logged,
    piped,
    resulted,
    started,
    text,
)
from tests.support.lost import answer, attempts, when
from tests.support.sessions import SID
from tests.upstream import Upstream, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_frames import Wire
from worker import heartbeat
from worker.budget import Budget
from worker.clock import Clock
from worker.heartbeat import Contact
from worker.pipelines import Run
from worker.providers.base import Text, ToolCall
from worker.providers.source import Sdk
from worker.run import run_generation

END_S = 20.0
LOREM = "demo/lorem"


# -- time


async def test_a_clock_stands_still_in_every_pause() -> None:
    """Pauses may overlap; only the time outside of all of them counts."""
    over = asyncio.Event()
    clock = Clock(0.05, over.set)
    with clock.paused():
        with clock.paused():
            await asyncio.sleep(0.08)
        await asyncio.sleep(0.08)
        assert not over.is_set()
    async with asyncio.timeout(END_S):
        await over.wait()


async def test_a_clock_that_is_closed_never_ends() -> None:
    """Also one that is closed within a pause."""
    over = asyncio.Event()
    clock = Clock(0.01, over.set)
    with clock.paused():
        clock.close()
    await asyncio.sleep(0.05)
    assert not over.is_set()


async def test_a_time_limit_holds_though_a_cancellation_is_swallowed(stage: Stage) -> None:
    """As `wait_for` of Python 3.11 may do it: the generation ends nevertheless, and with the right code."""

    async def swallows(run: Run) -> None:
        await run.text("before")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with asyncio.timeout(END_S), stage.worker(generation_timeout_s=0.2):
        events = await stage.over(await stage.start(pipeline=piped(swallows)))
    assert logged(events) == [started(LOREM), text("before"), bad_end("timeout", retryable=True)]


@pytest.mark.parametrize("askers", [1, 2])
async def test_a_tool_that_asks_the_user_may_take_its_time(
    stage: Stage, up: Upstream, sdk: Sdk, wire: Wire, askers: int
) -> None:
    """Waiting for the answer, or for another tool's question to be answered first, is not the tool's own time."""

    async def asks(run: Run) -> None:
        async def choose() -> str:
            return await run.ask("Which?")

        await run.answer(tools=[choose], tool_timeout_s=0.1)

    calls = [ToolCall(f"call_{n}", "choose", {}) for n in range(askers)]
    up.plan(reply(wire.answer(calls, "tool_calls")), reply(wire.answer([Text("Done.")])))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=piped(asks))
        for n in range(askers):
            asked = await stage.until_event(sid, EventType.QUESTION, n + 1)
            await asyncio.sleep(0.3)
            await stage.answer(sid, asked.value["id"], "this")
        events = await stage.over(sid)
    for call in calls:
        assert resulted(call.id, "this") in logged(events)


async def test_a_tool_that_has_asked_still_has_a_limit(stage: Stage, up: Upstream, sdk: Sdk, wire: Wire) -> None:
    """Its time goes on when the answer is there."""

    async def asks(run: Run) -> None:
        async def choose() -> str:
            await run.ask("Which?")
            await asyncio.Event().wait()
            return "never"

        await run.answer(tools=[choose], tool_timeout_s=0.1)

    up.plan(reply(wire.answer([ToolCall("c", "choose", {})], "tool_calls")), reply(wire.answer([Text("Done.")])))
    async with stage.worker():
        sid = await stage.start(model=f"{sdk}/m", pipeline=piped(asks))
        asked = await stage.until_event(sid, EventType.QUESTION)
        await stage.answer(sid, asked.value["id"], "this")
        events = await stage.over(sid)
    assert resulted("c", error="choose took longer than 0.1 s") in logged(events)


async def test_a_provider_that_never_sends_a_status(stage: Stage, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts the request and says nothing: the watchdog ends that, within its own time and without a second try."""
    async with Unanswering() as silent:
        models = {sdk: {"sdk": sdk, "base_url": silent.url, "key_env": "UP_KEY"}}
        async with stage.worker(models=models, idle_timeout_s=1.0):
            events = await stage.over(await stage.start(model=f"{sdk}/m"))
        async with asyncio.timeout(END_S):
            await silent.closed(0)
    assert logged(events) == [started(f"{sdk}/m"), bad_end("idle_timeout", retryable=True)]
    assert len(silent.requests) == 1


# -- memory


def test_of_all_together_the_largest_has_to_go() -> None:
    """And only as many as it takes; what was told to go no longer counts, of equals the newest goes."""
    told: list[str] = []
    budget = Budget(100)
    small, large, late = (budget.share(partial(told.append, name)) for name in ("small", "large", "late"))
    small.add(20)
    large.add(50)
    late.add(30)
    assert told == []
    small.add(1)
    assert told == ["large"]
    late.add(49)
    assert told == ["large"]
    late.add(1)
    assert told == ["large", "late"]
    large.add(1000)
    small.add(79)
    assert told == ["large", "late"]
    small.give_back()
    one, two = budget.share(lambda: told.append("one")), budget.share(lambda: told.append("two"))
    one.add(51)
    two.add(51)
    assert told[2:] == ["two"]


async def test_a_worker_that_keeps_too_much_ends_the_largest(stage: Stage) -> None:
    """Not the one that happens to speak: that one, and all the others, go on to their ends."""
    go_on = asyncio.Event()

    async def says(run: Run) -> None:
        for _ in range(int(run.input)):
            await run.text("x" * 1000)
            await asyncio.sleep(0)
        await go_on.wait()

    name = piped(says)
    async with stage.worker(worker_output_bytes=300_000, linger_s=60.0):
        small, large = [await stage.start(pipeline=name, input=size) for size in ("10", "200")]
        for sid, least in ((small, 10_000), (large, 200_000)):
            await stage.until(sid, lambda events, least=least: len(answer(events).content) >= least)  # type: ignore[misc]  # the default binds it
        third = await stage.start(pipeline=name, input="150")
        events = await stage.over(large)
        go_on.set()
        for sid in (small, third):
            assert logged(await stage.over(sid))[-1] == completed()
    assert logged(events)[-1] == bad_end("output_limit", retryable=True)


# -- a log that refuses


def test_what_passes_and_what_does_not() -> None:
    """An error that passes is waited for, one that does not ends the generation."""
    passing = ["OOM x", "LOADING x", "READONLY x", "CLUSTERDOWN x", "MISCONF x", "BUSY x", "TRYAGAIN x", "NOREPLICAS x"]
    for words in passing:
        assert transient(_error(words)), words
    assert transient(_error("ERR Error running script (call to f_1): @user_script:64: @user_script: 64: -OOM command"))
    for words in ("ERR nothing may follow", "WRONGTYPE Operation", "ERR unknown command 'BUSY'x"):
        assert not transient(_error(words)), words


def _error(words: str) -> Exception:
    error: Exception = BaseParser.parse_error(words)  # type: ignore[no-untyped-call]
    return error


async def test_what_the_log_refuses_fails_the_generation(stage: Stage) -> None:
    """An event its script does not take: one clear end instead of a writer that tries for ever."""

    async def garbles(run: Run) -> None:
        await run.text("before")
        run._writer.event(EventType.QUESTION, {"text": "no id"})
        await asyncio.Event().wait()

    async with asyncio.timeout(END_S), stage.worker():
        events = await stage.over(await stage.start(pipeline=piped(garbles)))
    assert logged(events) == [started(LOREM), text("before"), bad_end("log_refused", retryable=False)]


async def test_a_log_that_takes_nothing_lets_the_worker_go(redis_url: str, log: Log, redis: Any) -> None:
    """Not even an end: the job is over, the provider is closed, and the generation is left to the reaper."""
    cancelled = asyncio.Event()

    async def speaks(run: Run) -> None:
        try:
            while True:
                await run.text("x")
                await asyncio.sleep(0.01)
        finally:
            cancelled.set()

    name = piped(speaks)
    async with workers.context(redis_url) as context:
        await log.create(SID, "nonce", "body", [sessions.HELLO], {"model": LOREM, "pipeline": name})
        job = asyncio.create_task(run_generation(context, SID, "g1"))
        await when(log, SID, lambda view: view.last.seq > 1)
        await redis.set(keys.events(SID), "not a stream")
        await asyncio.wait_for(job, END_S)
        assert cancelled.is_set()
        assert context.held == {}


async def test_a_broken_session_does_not_stop_the_reaper(stage: Stage, redis: Any, log: Log) -> None:
    """Its keys are not what they should be; the one after it is given its next attempt all the same."""
    broken, fine = sorted([await stage.start(id="a-broken"), await stage.start(id="b-fine")])
    for sid in (broken, fine):
        assert await log.claim(sid, f"token-{sid}", "g1", "dead-worker")
    await redis.set(keys.events(broken), "not a stream")
    await redis.hset(keys.session(broken), "stop", "g1")  # its verdict must be written, which cannot be
    async with asyncio.timeout(END_S), stage.worker(lease_s=0.6, heartbeat_s=0.2):
        assert attempts(await stage.over(fine)) == [1, 2]


# -- a Redis that is away


async def test_an_outage_is_two_lines(redis_url: str, log: Log, redis: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """However many generations notice it, and however often they try: one line when it begins, one when it ends."""
    going = asyncio.Event()

    async def speaks(run: Run) -> None:
        while not going.is_set():
            await run.text("x")
            await asyncio.sleep(0.01)

    name = piped(speaks)
    async with workers.context(redis_url, redis_timeout_s=1) as context:
        sids = [f"s{n}" for n in range(5)]
        for sid in sids:
            await log.create(sid, "nonce", "body", [sessions.HELLO], {"model": LOREM, "pipeline": name})
        jobs = [asyncio.create_task(run_generation(context, sid, "g1")) for sid in sids]
        for sid in sids:
            await when(log, sid, lambda view: view.last.seq > 1)
        await redis.execute_command("CLIENT", "PAUSE", "2500", "ALL")
        await asyncio.sleep(2.7)
        going.set()
        async with asyncio.timeout(END_S):
            await asyncio.gather(*jobs)
    said = capsys.readouterr().out
    assert (said.count("Redis fails"), said.count("Redis is back")) == (1, 1), said


async def test_a_lease_waits_for_nobody(redis_url: str, redis: Any) -> None:
    """All connections of the worker are taken: its heart beats nevertheless."""
    async with workers.context(redis_url, lease_s=1.0, heartbeat_s=0.1) as context:
        pool = context.log._redis.connection_pool
        taken = [await pool.get_connection() for _ in range(context.settings.redis_connections)]
        beating = asyncio.create_task(heartbeat.beat(context, Contact(1.0, 0.1)))
        try:
            await asyncio.sleep(1.5)
            assert await redis.exists(keys.worker(context.worker_id))
        finally:
            beating.cancel()
            for connection in taken:
                await pool.release(connection)
