"""Where a worker's parts meet badly: jobs queued twice, pipelines that will not stop, ends that get lost."""

import asyncio
from typing import Any

import pytest

from shared import keys
from shared.events import EventType
from shared.log import Log
from shared.tasks import cancel
from tests.support import sessions, workers
from tests.support.sessions import SID, Snapshot
from worker import queue
from worker.heartbeat import Contact, _hear_requests
from worker.pipelines import Run, pipeline
from worker.providers import base
from worker.reaper import Reaper
from worker.run import run_generation

END_S = 20.0


async def _run_with(log: Log, name: str) -> int:
    """A queued session with that pipeline; gives its epoch."""
    message = {"role": "user", "content": "hi"}
    opened = await log.create(SID, "nonce", "body", [message], {"model": "demo/lorem", "pipeline": name})
    return opened.last.epoch


async def test_a_job_that_is_queued_twice_is_still_known_to_run(redis_url: str, log: Log) -> None:
    """A second copy of a running job is dropped: a shutdown that asks for running jobs is told of the first."""
    running = asyncio.Event()

    @pipeline("runs")
    async def runs(run: Run) -> None:
        running.set()
        await asyncio.sleep(3600)

    async with workers.context(redis_url) as context:
        epoch = await _run_with(log, "runs")
        await context.queue.enqueue(SID, "g1", epoch)
        arq = queue.build_worker(context, context.queue.arq)
        taking = asyncio.create_task(arq.main())
        await asyncio.wait_for(running.wait(), END_S)
        await context.queue.enqueue(SID, "g1", epoch)
        async with asyncio.timeout(END_S):
            while await context.queue.arq.zcard(keys.QUEUE):
                await asyncio.sleep(0.005)
        await cancel([taking])
        assert not await queue.drained(arq, 0.05)
        context.release_all()
        assert await queue.drained(arq, END_S)
    view = await log.view(SID)
    assert view is not None
    assert view.state == "queued"


async def test_what_clings_after_the_end_adds_nothing(redis_url: str, log: Log) -> None:
    """A pipeline that goes on after its generation is over cannot put anything behind the terminal."""
    async with workers.context(redis_url, linger_s=0.0):
        await sessions.create(log)
        writer, _ = await workers.writer(log)
        writer.end(EventType.COMPLETED, {"finish_reason": "stop"})
        writer.delta(EventType.TEXT, "late")
        writer.event(EventType.STATUS, {"text": "late"})
        writer.end(EventType.CANCELLED, {"by": "user", "confirmed": True})
        await asyncio.wait_for(writer.run(), END_S)
    assert await sessions.types(log) == ["message", "generation.started", "generation.completed"]


async def test_a_lost_end_is_not_taken_for_a_forgotten_generation(redis_url: str, log: Log, redis: Any) -> None:
    """A failover loses the terminal: the worker's own sweep leaves the generation to the repeats, which heal it."""
    before: list[Snapshot] = []

    @pipeline("snaps")
    async def snaps(run: Run) -> None:
        before.append(await Snapshot.of(redis))

    async with workers.context(redis_url, linger_s=0.2) as context:
        await context.directory.expect_live(SID)
        await _run_with(log, "snaps")
        await run_generation(context, SID, "g1")
        await before[0].restore()
        await Reaper(context, Contact(6.0, 2.0)).sweep()
        assert [held.over for held in context.held.values() if held] == [True]
        await asyncio.wait_for(asyncio.gather(*context._background), END_S)
        assert context.held == {}
    assert await sessions.types(log) == ["message", "generation.started", "generation.completed"]


async def test_a_deleted_session_stops_its_silent_generation(redis_url: str, log: Log) -> None:
    """Even if nobody is told: the heartbeat sees that the session is gone, and the pipeline is ended."""
    cancelled = asyncio.Event()

    @pipeline("chat-silent")
    async def silent(run: Run) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async with workers.context(redis_url) as context:
        await _run_with(log, "chat-silent")
        job = asyncio.create_task(run_generation(context, SID, "g1"))
        async with asyncio.timeout(END_S):
            while not [held for held in context.held.values() if held]:
                await asyncio.sleep(0.005)
            await log.delete(SID)
            await _hear_requests(context)
            await job
        assert cancelled.is_set()
    assert await log.events(SID) == []


class _Slow:
    """A provider whose closing takes a moment."""

    def __init__(self) -> None:
        self.closed = False

    async def stream(self, request: base.ModelRequest) -> Any:
        try:
            while True:
                yield base.Text("x")
        finally:
            await asyncio.sleep(0.2)
            self.closed = True

    async def aclose(self) -> None:
        return


async def test_confirmed_means_that_the_provider_is_closed(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the stop finds the pipeline at its own work, with the provider's stream open behind it."""
    provider, busy = _Slow(), asyncio.Event()

    @pipeline("busy")
    async def works(run: Run) -> None:
        async for part in run.model():
            await run.emit(part)
            busy.set()
            await asyncio.sleep(3600)

    async with workers.context(redis_url) as context:
        monkeypatch.setattr(context.providers, "get", lambda _: (provider, "x"))
        await _run_with(log, "busy")
        job = asyncio.create_task(run_generation(context, SID, "g1"))
        await asyncio.wait_for(busy.wait(), END_S)
        held = context.find(SID, "g1")
        assert held is not None
        held.stop("user")
        await asyncio.wait_for(job, END_S)
    end = (await log.events(SID))[-1]
    assert (end.type, end.value["confirmed"], provider.closed) == ("generation.cancelled", True, True)


async def test_a_pipeline_that_swallows_its_cancellation_is_left_behind(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shutdown hands its generation over all the same: it can write nothing more."""
    monkeypatch.setattr("worker.run.CLOSE_S", 0.1)
    let_go = asyncio.Event()

    @pipeline("clings")
    async def clings(run: Run) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with workers.context(redis_url) as context:
        await _run_with(log, "clings")
        job = asyncio.create_task(run_generation(context, SID, "g1"))
        async with asyncio.timeout(END_S):
            while context.find(SID, "g1") is None:
                await asyncio.sleep(0.005)
        context.release_all()
        await asyncio.wait_for(job, END_S)
        view = await log.view(SID)
        assert view is not None
        assert view.state == "queued"
        let_go.set()


async def test_a_requeued_job_keeps_its_place(redis_url: str, log: Log, redis: Any) -> None:
    """One that was never lost is not sent to the back of the queue; one that was gets the place of its time."""
    async with workers.context(redis_url) as context:
        await context.queue.enqueue("old", "g1", 1, since_ms=1_000)
        await context.queue.enqueue("new", "g1", 2, since_ms=2_000)
        await context.queue.enqueue("old", "g1", 1)
        await context.queue.enqueue("lost", "g1", 3, since_ms=1_500)
    assert await redis.zrange(keys.QUEUE, 0, -1) == [b"old:1", b"lost:3", b"new:2"]


async def test_a_pipeline_cannot_say_what_only_the_system_may(redis_url: str, log: Log) -> None:
    """A question without its book-keeping, or a terminal of its own, is refused in the pipeline, not in the log."""

    @pipeline("forges")
    async def forges(run: Run) -> None:
        await run.event(EventType.COMPLETED, {"generation": "g1", "finish_reason": "stop"})

    async with workers.context(redis_url) as context:
        await _run_with(log, "forges")
        await asyncio.wait_for(run_generation(context, SID, "g1"), END_S)
    types = await sessions.types(log)
    assert types[-1] == "generation.failed"
    assert "generation.completed" not in types


async def test_a_task_the_pipeline_left_behind_does_not_spoil_its_end(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that returns while a task of its own still reads a model has completed; the task is ended."""
    provider, left = _Slow(), []

    @pipeline("leaves")
    async def leaves(run: Run) -> None:
        reading = asyncio.Event()

        async def read() -> None:
            async for _ in run.model():
                reading.set()
                await asyncio.sleep(0)

        left.append(asyncio.create_task(read()))
        await reading.wait()

    async with workers.context(redis_url) as context:
        monkeypatch.setattr(context.providers, "get", lambda _: (provider, "x"))
        await _run_with(log, "leaves")
        await asyncio.wait_for(run_generation(context, SID, "g1"), END_S)
    assert (await sessions.types(log))[-1] == "generation.completed"
    assert (left[0].done(), provider.closed) == (True, True)


async def test_no_tool_outlives_its_generation(redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one result is too much for the log, the other tools of the round are ended with the generation."""
    ended = asyncio.Event()

    async def huge() -> str:
        return "x" * 10_000

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    class Caller:
        async def stream(self, request: base.ModelRequest) -> Any:
            yield base.ToolCall("a", "huge", {})
            yield base.ToolCall("b", "slow", {})
            yield base.Finish("tool_calls")

    @pipeline("calls")
    async def calls(run: Run) -> None:
        await run.answer(tools=[huge, slow])

    async with workers.context(redis_url, max_event_bytes=5_000) as context:
        monkeypatch.setattr(context.providers, "get", lambda _: (Caller(), "x"))
        await _run_with(log, "calls")
        await asyncio.wait_for(run_generation(context, SID, "g1"), END_S)
    assert ended.is_set()
    assert (await log.events(SID))[-1].value["code"] == "output_limit"
