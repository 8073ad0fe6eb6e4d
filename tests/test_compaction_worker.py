"""Compaction by the worker: after the end and its repeats, a few logs at a time, beside the jobs."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared import keys
from shared.log import Log
from shared.tasks import cancel
from tests.support import sessions, workers
from tests.support.inprocess import live_node, live_worker
from tests.support.sessions import SID, say, started
from tests.support.sse import read_all
from tests.support.system import create
from worker import compacting
from worker.compacting import Compacting
from worker.context import WorkerContext
from worker.heartbeat import Contact
from worker.pipelines import Run, pipeline
from worker.reaper import Reaper

WORDS = [f"word{n} " for n in range(20)]
WITHIN_S = 20.0


@pipeline("says-words")
async def says_words(run: Run) -> None:
    for word in WORDS:
        await run.text(word)
        await asyncio.sleep(0)


async def run_one(context: WorkerContext) -> None:
    """One generation, to its end; each word is an event of its own."""
    message = {"role": "user", "content": "hi"}
    await context.log.create(SID, "nonce", "body", [message], {"model": "demo/lorem", "pipeline": "says-words"})
    await workers.run(context)


async def ended(context: WorkerContext) -> None:
    """Wait until nothing is done beside the jobs any more."""
    async with asyncio.timeout(WITHIN_S):
        while context._background:
            await asyncio.wait(set(context._background))


async def runs(redis: Any, sid: str = SID) -> int:
    """Entries of the log that hold several deltas."""
    return sum(b"run" in fields for _, fields in await redis.xrange(keys.events(sid)))


EACH = {"flush_ms": 0.0, "flush_bytes": 1}
"""Every delta is an event."""


async def test_a_log_is_compacted_once_its_end_is_repeated(redis_url: str, redis: Any, log: Log) -> None:
    """Not while the writer may still repeat its last append; then without anybody's asking, to the same events."""
    async with workers.context(redis_url, linger_s=0.2, **EACH) as context:
        await run_one(context)
        before = [(event.id, event.data, event.at) for event in await log.events(SID)]
        assert len(before) > len(WORDS)
        lingering = set(context._background)
        while context.held:  # until the last repeat is done
            assert await runs(redis) == 0
            await asyncio.wait(lingering, timeout=0.01)
        await ended(context)
    assert await runs(redis) == 1
    assert [(event.id, event.data, event.at) for event in await log.events(SID)] == before


async def test_it_can_be_turned_off(redis_url: str, redis: Any) -> None:
    """`HOLDFAST_COMPACT=0` leaves every log as it was said."""
    async with workers.context(redis_url, compact=False, **EACH) as context:
        await run_one(context)
        await ended(context)
    assert await runs(redis) == 0


async def test_a_verdict_is_an_end_too(redis_url: str, redis: Any, log: Log) -> None:
    """What a lost worker had said is compacted after the reaper's verdict; not while there is a next attempt."""
    async with workers.context(redis_url, lease_s=0.001, max_attempts=1) as context:
        await context.directory.restore_live([SID], 0)
        held = await started(log, worker="dead")
        await say(log, held, 2, *WORDS)
        await Reaper(context, _LongContact()).sweep()
        await ended(context)
        assert (await log.events(SID))[-1].type == "generation.failed"
    assert await runs(redis) == 1


class _LongContact(Contact):
    def __init__(self) -> None:
        super().__init__(0.0, 0.0)

    @property
    def unbroken(self) -> bool:
        return True


async def test_from_the_outside_nothing_changes(redis_url: str, redis: Any) -> None:
    """A node and a worker as they run: who was there live and who comes after compaction get the same frames."""
    async with live_node(redis_url) as node, live_worker(redis_url, **EACH):
        sid = await create(node.url, options={"tokens": 40, "rate": 500})
        live = await read_all(node.url, sid, merge=0)
        async with asyncio.timeout(WITHIN_S):
            while not await runs(redis, sid):
                await asyncio.sleep(0.01)
        replayed = await read_all(node.url, sid, merge=0)
    told = [[(frame.id, frame.type, frame.data) for frame in frames if frame.id] for frames in (live, replayed)]
    assert told[0] == told[1]
    assert len(told[1]) > 20


# -- turns


class _Slow:
    """A log whose compaction ends when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.running = self.most = self.done = 0

    async def compact(self, sid: str) -> bool:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.may.wait()
        finally:
            self.running -= 1
        self.done += 1
        return True


async def test_a_few_at_once_and_a_bounded_number_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logs are rewritten at a time; who finds too many waiting does not wait."""
    monkeypatch.setattr(compacting, "MOST", 5)
    turns, log = Compacting(), _Slow()
    tasks = [asyncio.create_task(turns.compact(log, f"s{n}")) for n in range(8)]  # type: ignore[arg-type]
    done, waiting = await asyncio.wait(tasks, timeout=0.05)
    assert (len(done), len(waiting), log.running) == (3, 5, compacting.AT_ONCE)
    log.may.set()
    await asyncio.gather(*tasks)
    assert (log.done, log.most) == (5, compacting.AT_ONCE)


async def test_who_is_cancelled_leaves_their_turn() -> None:
    """A shutdown waits for nobody, and what is cancelled takes nobody's place."""
    turns, log = Compacting(), _Slow()
    tasks = [asyncio.create_task(turns.compact(log, f"s{n}")) for n in range(4)]  # type: ignore[arg-type]
    await asyncio.wait(tasks, timeout=0.02)
    assert await cancel(tasks)
    assert (turns._waiting, log.running, log.done) == (0, 0, 0)
    log.may.set()
    await turns.compact(log, "after")  # type: ignore[arg-type]
    assert log.done == 1


async def test_an_error_of_redis_is_the_end_of_it(redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays as it was said, and the next session has its turn."""

    async def lost(sid: str) -> bool:
        raise RedisConnectionError("lost")

    async with workers.context(redis_url) as context:
        await sessions.finished(context.log, *WORDS)
        with monkeypatch.context() as patched:
            patched.setattr(context.log, "compact", lost)
            await context.compacting.compact(context.log, SID)
        assert await runs(redis) == 0
        await context.compacting.compact(context.log, SID)
    assert await runs(redis) == 1


async def test_a_shutdown_while_a_log_is_read_leaves_it(
    redis_url: str, redis: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between reading and the swap: the log is the old one."""
    reached = asyncio.Event()

    async def hangs(*_: Any) -> bool:
        reached.set()
        await asyncio.sleep(3600)
        return True

    monkeypatch.setattr("shared.staging._Stage.swap", hangs)
    async with workers.context(redis_url) as context:
        await sessions.finished(log, *WORDS)
        before = await redis.xrange(keys.events(SID))
        context.compact(SID)
        await asyncio.wait_for(reached.wait(), WITHIN_S)
        await context.cancel_background()
    assert await redis.xrange(keys.events(SID)) == before
