"""Batching: the chunks of a provider share events and round trips, however far away Redis is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from shared.events import EventType
from shared.log import Log
from tests.support import sessions, workers
from tests.support.far import far
from tests.support.paced import Only, Paced
from tests.support.workers import within
from worker import writer
from worker.context import WorkerContext
from worker.run import run_generation

ROUND_TRIP_S = 0.05
CHUNKS = 60
RATE = 200.0


@contextlib.asynccontextmanager
async def _speaking(redis_url: str, provider: Paced) -> AsyncIterator[WorkerContext]:
    """A worker with the default batching, whose models all speak like `provider`."""
    async with workers.context(redis_url) as context:
        context.providers = Only(provider)
        yield context


async def test_chunks_share_events(redis_url: str, log: Log) -> None:
    """With the default batching a generation has far fewer entries than its provider said chunks, and says the same."""
    provider = Paced(CHUNKS, RATE)
    await sessions.create(log)
    async with _speaking(redis_url, provider) as context:
        await within(workers.run(context))
    assert len(await log.events(sessions.SID)) < CHUNKS / 2
    assert "".join(await sessions.texts(log)) == provider.text


async def test_the_first_delta_has_no_company(redis_url: str, log: Log) -> None:
    """It is flushed at once: what comes later is in the next event."""
    provider = Paced(CHUNKS, RATE)
    await sessions.create(log)
    async with _speaking(redis_url, provider) as context:
        await within(workers.run(context))
    first, second, *_ = await sessions.texts(log)
    assert first == "w0 "
    assert second.startswith("w1 w2 ")


@pytest.mark.parametrize(
    ("now", "wait", "due"),
    [(1.0, 0.04, 1.06), (1.019, 0.04, 1.06), (1.021, 0.04, 1.08), (1.0, 0.0, 1.0), (1.013, 0.01, 1.023)],
)
def test_due_is_a_tick_that_all_share(now: float, wait: float, due: float) -> None:
    """Deltas that began to wait within one tick are flushed together, later than asked for but never earlier; a wait
    shorter than a tick is kept."""
    assert writer._due(now, wait) == pytest.approx(due)


async def test_a_distant_redis_loses_nothing(redis_url: str, log: Log) -> None:
    """With 50 ms to Redis and back the log is the same, and the provider is not kept waiting for it."""
    provider = Paced(CHUNKS, RATE)
    await sessions.create(log)
    async with far(redis_url, ROUND_TRIP_S) as distant, _speaking(distant, provider) as context:
        await within(workers.run(context))
    assert "".join(await sessions.texts(log)) == provider.text
    types = await sessions.types(log)
    assert types[-2:] == [EventType.USAGE, EventType.COMPLETED]
    assert len(types) < CHUNKS / 2


async def test_many_generations_share_a_distant_redis(redis_url: str, log: Log) -> None:
    """Each log has what its own generation said: no append and no answer of Redis goes to another session."""
    providers = {f"s{n}": Paced(CHUNKS + n, RATE) for n in range(20)}
    async with far(redis_url, ROUND_TRIP_S) as distant, contextlib.AsyncExitStack() as stack:
        contexts = {sid: await stack.enter_async_context(_speaking(distant, p)) for sid, p in providers.items()}
        shared = next(iter(contexts.values())).log
        for sid, context in contexts.items():
            context.log = shared  # one worker's log, and as many answers as generations
            await sessions.create(log, sid)
        await within(asyncio.gather(*(run_generation(context, sid, "g1") for sid, context in contexts.items())))
    for sid, provider in providers.items():
        assert "".join(await sessions.texts(log, sid)) == provider.text
        assert (await sessions.types(log, sid))[-1] == EventType.COMPLETED


async def test_a_stop_is_heard_over_a_distance(redis_url: str, log: Log) -> None:
    """It comes back with the answer to an append, and what was said until then is kept."""
    provider = Paced(100 * CHUNKS, RATE)
    await sessions.create(log)
    async with far(redis_url, ROUND_TRIP_S) as distant, _speaking(distant, provider) as context:
        running = asyncio.create_task(workers.run(context))
        while EventType.TEXT not in await sessions.types(log):
            await asyncio.sleep(0.01)
        await log.stop(sessions.SID, "user", "g1")
        await within(running)
    assert (await sessions.types(log))[-1] == EventType.CANCELLED
    assert provider.text.startswith("".join(await sessions.texts(log)))
