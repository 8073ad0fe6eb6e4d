"""Workers that are told to leave: what ends soon may end, all else goes on elsewhere, and nothing runs twice."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shared import keys
from shared.events import EventType, State
from shared.log import Log
from shared.tasks import cancel
from tests.support import workers
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import Stage, logged, piped
from tests.support.lost import answer, attempts, events_of, holder, until_said, when
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import read_all
from tests.support.system import create, system
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from worker import queue
from worker.pipelines import Run
from worker.providers.demo import lorem

PIPELINES = {"HOLDFAST_PIPELINES": "tests.support.stuck"}
LONG_GRACE = {**PIPELINES, "HOLDFAST_WORKER_GRACE_S": "600"}
NO_GRACE = {**PIPELINES, "HOLDFAST_WORKER_GRACE_S": "0"}
ENDLESS = {"tokens": 100_000, "rate": 20}
SLOW = {"tokens": 60, "rate": 30, "seed": 7}


async def takes_no_jobs(redis: Any) -> None:
    """Until no worker waits at the queue any more: the only one has understood that it is to leave."""
    async with asyncio.timeout(20):
        while any(client["cmd"] == "bzpopmin" and "b" in client["flags"] for client in await redis.client_list()):
            await asyncio.sleep(0.02)


async def test_what_ends_within_the_grace_ends_where_it_is(
    redis_url: str, log: Log, redis: Any, tmp_path: Path
) -> None:
    """SIGTERM: the generation goes on to its end in its first attempt, the worker takes no other, and then it exits."""
    async with system(redis_url, environment=LONG_GRACE) as running:
        sid = await create(running.url, pipeline="ends-soon", input=str(tmp_path / "go"))
        await until_said(log, sid, "before ")
        running.workers[0].signal(signal.SIGTERM)
        await takes_no_jobs(redis)
        other = await create(running.url, options={"tokens": 5})
        (tmp_path / "go").touch()
        assert await running.workers[0].ended() == 0
        events = events_of(await read_all(running.url, sid))
        view = await log.view(other)
        assert view is not None
        assert (view.state, view.attempt) == (State.QUEUED, 0)
        await running.add_worker()
        assert attempts(events_of(await read_all(running.url, other))) == [1]
    assert attempts(events) == [1]
    assert answer(events).content == "before after"


async def test_what_does_not_end_is_handed_over(redis_url: str, log: Log) -> None:
    """Without a grace: the next attempt elsewhere, which costs no crash; the text is whole, and the worker is gone."""
    async with system(redis_url, workers=2, environment=NO_GRACE) as running:
        sid = await create(running.url, options=SLOW)
        reading = asyncio.create_task(read_all(running.url, sid))
        await until_said(log, sid)
        leaving = holder(running, await log.view(sid))
        leaving.signal(signal.SIGTERM)
        assert await leaving.ended() == 0
        view = await log.view(sid)
        events = events_of(await reading)
    assert view is not None
    assert view.crashes == 0
    assert attempts(events) == [1, 2]
    assert answer(events).content == "".join(lorem(60, 7))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_grace(redis_url: str, log: Log, redis: Any, second: signal.Signals) -> None:
    """Whoever is in a hurry says it twice: what still runs is handed over, and no lease has to run out."""
    async with system(redis_url, environment=LONG_GRACE) as running:
        sid = await create(running.url, options=ENDLESS)
        await until_said(log, sid)
        running.workers[0].signal(signal.SIGTERM)
        await takes_no_jobs(redis)
        assert running.workers[0].running
        running.workers[0].signal(second)
        assert await running.workers[0].ended() == 0
        view = await log.view(sid)
    assert view is not None
    assert (view.state, view.crashes) == (State.QUEUED, 0)


async def test_who_waits_for_a_user_does_not_wait_for_the_grace(redis_url: str, log: Log, tmp_path: Path) -> None:
    """A generation with an open question goes to another worker at once, while its neighbour still ends at home."""
    async with system(redis_url, environment=LONG_GRACE) as running:
        sid = await create(running.url, pipeline="trip")
        neighbour = await create(running.url, pipeline="ends-soon", input=str(tmp_path / "go"))
        await when(log, sid, lambda view: view.state == State.WAITING)
        await until_said(log, neighbour, "before ")
        await running.add_worker()
        await running.workers_ready(2)
        running.workers[0].signal(signal.SIGTERM)
        view = await when(log, sid, lambda view: (view.state, view.attempt) == (State.WAITING, 2))
        assert holder(running, view) is running.workers[1]
        assert running.workers[0].running
        (tmp_path / "go").touch()
        assert await running.workers[0].ended() == 0
        assert attempts(await log.events(neighbour)) == [1]


async def test_a_question_within_the_grace_is_handed_over(stage: Stage) -> None:
    """The pipeline asks while its worker is about to leave: the next one waits for the answer."""
    leaving = asyncio.Event()

    async def asks_late(run: Run) -> None:
        await run.text("before ")
        await leaving.wait()
        await run.text(await run.ask("Which?"))

    async with asyncio.timeout(30):
        async with stage.worker(worker_grace_s=600):
            sid = await stage.start(pipeline=piped(asks_late))
            await stage.until_event(sid, EventType.TEXT)
            asyncio.get_running_loop().call_later(0.2, leaving.set)
        async with stage.worker():
            asked = await stage.until_event(sid, EventType.QUESTION, 2)
            await stage.answer(sid, asked.value["id"], "this")
            events = await stage.over(sid)
    assert attempts(events) == [1, 2]
    assert answer(events).content == "before this"


async def test_a_pipeline_that_clings_does_not_run_twice(redis_url: str, log: Log, redis: Any) -> None:
    """One that does not let itself be cancelled is left behind: the next attempt is the only one that is heard, and the
    queue's own bookkeeping brings none back."""
    async with system(redis_url, environment=NO_GRACE) as running:
        sid = await create(running.url, pipeline="clings")
        await until_said(log, sid, "mine")
        await running.add_worker()
        await running.workers_ready(2)
        running.workers[0].signal(signal.SIGTERM)
        events = events_of(await read_all(running.url, sid))
        assert await running.workers[0].ended() == 0
        after = await log.events(sid)
        assert await redis.zcard(keys.QUEUE) == 0
        left = [
            key for pattern in ("arq:retry:*", "arq:in-progress:*", "arq:result:*") for key in await redis.keys(pattern)
        ]
    assert left == []
    assert attempts(events) == [1, 2]
    assert answer(events).content == "mine, at last"
    assert logged(after) == logged(events)


async def test_a_thread_that_is_blocked_does_not_keep_the_process(redis_url: str, log: Log) -> None:
    """Python would wait for it at its end, however long that takes; the generation is handed over."""
    async with system(redis_url, environment=NO_GRACE) as running:
        sid = await create(running.url, pipeline="blocks-a-thread")
        await until_said(log, sid, "before ")
        running.workers[0].signal(signal.SIGTERM)
        assert await running.workers[0].ended() == 0
        view = await log.view(sid)
    assert view is not None
    assert (view.state, view.crashes) == (State.QUEUED, 0)


@pytest.mark.parametrize("away", ["refuses", "is silent"])
async def test_leaving_while_redis_is_away(away: str) -> None:
    """Nobody can be told that the generations are free: the worker leaves them to their lease, and exits in time."""
    with redis_server() as server:
        log_url = server.url
        async with system(log_url, environment={**NO_GRACE, "HOLDFAST_REDIS_TIMEOUT_S": "2"}) as running:
            for _ in range(5):
                await create(running.url, options=ENDLESS)
            await running_all(server, 5)
            _take_away(server, away)
            await asyncio.sleep(0.5)
            running.workers[0].signal(signal.SIGTERM)
            try:
                assert await running.workers[0].ended(within_s=20) == 0
            finally:
                if away == "is silent":
                    os.kill(server.pid, signal.SIGCONT)
                else:
                    server.start()


async def running_all(server: RedisServer, count: int) -> None:
    with server.client() as client:
        async with asyncio.timeout(20):
            while sum(client.hget(key, "state") == b"running" for key in client.keys("holdfast:*:session")) < count:
                await asyncio.sleep(0.05)


def _take_away(server: RedisServer, how: str) -> None:
    if how == "is silent":
        os.kill(server.pid, signal.SIGSTOP)
    else:
        server.kill()


async def test_a_job_that_comes_as_its_worker_leaves_goes_back(redis_url: str, redis: Any) -> None:
    """The queue has given it out already: it is put back in its place, instead of being missed until a reaper looks."""
    async with workers.context(redis_url) as context:
        arq = queue.build_worker(context, context.queue.arq)
        taking = asyncio.create_task(arq.main())
        async with asyncio.timeout(20):
            while not any(
                client["cmd"] == "bzpopmin" and "b" in client["flags"] for client in await redis.client_list()
            ):
                await asyncio.sleep(0.005)
            await cancel([taking])
            await context.queue.enqueue("s1", "g1", 1, since_ms=123)
            while await redis.zcard(keys.QUEUE):
                await asyncio.sleep(0.005)
            await arq.give_back()
    assert await redis.zrange(keys.QUEUE, 0, -1, withscores=True) == [(b"s1:1", 123.0)]
