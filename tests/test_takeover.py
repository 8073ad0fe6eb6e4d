"""Workers that are lost, as processes: found in time, and every reader ends with the whole text, once."""

import asyncio
import signal
from typing import Any

import pytest

from shared import keys
from shared.events import EventType
from shared.jobs import JobQueue, open_queue
from shared.log import Log
from tests.support.generations import logged
from tests.support.lost import QUICK, REQUEUES, answer, attempts, events_of, holder, leased, until_said, when
from tests.support.proxy import proxy
from tests.support.sse import read_all
from tests.support.stuck import STUCK_S
from tests.support.system import Node, create, system
from tests.upstream import STALL, Upstream, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_frames import ChatWire
from worker.providers.base import Text
from worker.providers.demo import lorem

SLOW = {"tokens": 60, "rate": 30, "seed": 7}
SLOW_TEXT = "".join(lorem(60, 7))
ENDLESS = {"tokens": 100_000, "rate": 20}
WIRE = ChatWire()


async def test_a_killed_worker_is_replaced(redis_url: str, log: Log) -> None:
    """kill -9 in the middle of an answer: the other worker begins again, and whoever reads, from before or from now,
    has the whole text once, with nothing of the first attempt."""
    async with system(redis_url, workers=2, environment=QUICK) as running:
        sid = await create(running.url, options=SLOW)
        reading = asyncio.create_task(read_all(running.url, sid))
        await until_said(log, sid)
        holder(running, await log.view(sid)).signal(signal.SIGKILL)
        events = events_of(await reading)
        late = events_of(await read_all(running.url, sid))
    for seen in (events, late):
        assert attempts(seen) == [1, 2]
        assert answer(seen).content == SLOW_TEXT
        assert [event.terminal for event in seen].index(True) == len(seen) - 1


async def test_a_single_worker_takes_over_from_its_dead_self(redis_url: str, log: Log) -> None:
    """There is only one, it is killed, and started again: it goes on with what it had."""
    async with system(redis_url, environment=QUICK) as running:
        sid = await create(running.url, options=SLOW)
        await until_said(log, sid)
        await running.workers[0].kill()
        await running.add_worker()
        events = events_of(await read_all(running.url, sid))
    assert attempts(events) == [1, 2]
    assert answer(events).content == SLOW_TEXT


@pytest.mark.parametrize(("on_crash", "kills"), [("fail", 1), ("restart", 2)])
async def test_a_generation_without_attempts_left_fails(redis_url: str, log: Log, on_crash: str, kills: int) -> None:
    """At once where the caller wants that, else when the second worker is lost too; one clear end."""
    async with system(redis_url, workers=kills + 1, environment=QUICK) as running:
        sid = await create(running.url, options=ENDLESS, on_crash=on_crash)
        for attempt in range(1, kills + 1):
            await until_said(log, sid, attempt=attempt)
            holder(running, await log.view(sid)).signal(signal.SIGKILL)
        events = events_of(await read_all(running.url, sid))
    assert attempts(events) == list(range(1, kills + 1))
    assert (events[-1].type, events[-1].value["code"]) == (EventType.FAILED, "worker_lost")
    assert events[-1].value["retryable"] is True


@pytest.mark.parametrize("speaks", [False, True])
async def test_a_paused_worker_that_wakes_up_adds_nothing(
    redis_url: str, log: Log, redis: Any, up: Upstream, speaks: bool
) -> None:
    """SIGSTOP: another worker takes over. SIGCONT: whether its provider goes on or is silent, the first one closes it,
    and its words are in no log. It then works as before."""
    gate = asyncio.Event()
    up.plan(
        reply(WIRE.head("Once "), gate, WIRE.head("too late"), STALL),
        reply(WIRE.answer([Text("Once upon a time.")])),
    )
    keys_of = {"OPENAI_API_KEY": "key", "NO_PROXY": "127.0.0.1", "OPENAI_BASE_URL": up.url}
    async with system(redis_url, environment={**QUICK, **keys_of}) as running:
        first = running.workers[0]
        sid = await create(running.url, model="openai/m")
        await until_said(log, sid, "Once ")
        second = await running.add_worker()
        await running.workers_ready(2)
        first.signal(signal.SIGSTOP)
        events = events_of(await read_all(running.url, sid))
        if speaks:
            gate.set()
        first.signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            await up.closed(0)
        await leased(redis, first)
        await second.kill()
        again = await create(running.url, model="openai/m")
        assert answer(events_of(await read_all(running.url, again))).content == "Once upon a time."
        after = await log.events(sid)
    assert attempts(events) == [1, 2]
    assert answer(events).content == "Once upon a time."
    assert logged(after) == logged(events)


async def test_a_worker_whose_loop_is_stuck_is_replaced(redis_url: str, log: Log, redis: Any) -> None:
    """Code that blocks keeps the heart from beating: the lease runs out. When the worker comes back it is fenced, and
    goes on with other generations."""
    environment = {**QUICK, "HOLDFAST_PIPELINES": "tests.support.stuck", STUCK_S: "9"}
    async with system(redis_url, workers=2, environment=environment) as running:
        sid = await create(running.url, pipeline="stuck")
        await until_said(log, sid, "before ")
        first = holder(running, await log.view(sid))
        (second,) = [worker for worker in running.workers if worker is not first]
        events = events_of(await read_all(running.url, sid))
        await leased(redis, first)
        await second.kill()
        again = events_of(await read_all(running.url, await create(running.url, options={"tokens": 3})))
        after = await log.events(sid)
    assert attempts(events) == [1, 2]
    assert answer(events).content == "before after"
    assert logged(after) == logged(events)
    assert again[-1].type == EventType.COMPLETED


async def test_a_job_whose_worker_dies_before_it_claims(redis_url: str, log: Log, redis: Any) -> None:
    """The job has left the queue, and the log knows of nobody: a reaper queues it again."""
    environment = {**REQUEUES, "HOLDFAST_QUEUE_URL": redis_url}
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    async with proxy(port) as way, system(redis_url, environment=environment, workers=0) as running:
        cut_off = {"HOLDFAST_REDIS_URL": f"redis://127.0.0.1:{way.port}/0"}
        first = await running.add_worker(cut_off)
        await leased(redis, first)
        way.pause()  # from here on it takes jobs, and cannot claim
        sid = await create(running.url, options={"tokens": 5})
        async with asyncio.timeout(20):
            while await redis.zcard(keys.QUEUE):
                await asyncio.sleep(0.01)
        await first.kill()
        await running.add_worker()
        events = events_of(await read_all(running.url, sid))
    assert attempts(events) == [1]
    assert answer(events).content == "".join(lorem(5))


async def test_a_worker_that_dies_after_the_end(redis_url: str, log: Log) -> None:
    """Killed as soon as the end is in the log: it stays the end, and nobody begins again."""
    async with system(redis_url, environment=QUICK) as running:
        sid = await create(running.url, options={"tokens": 5})
        await when(log, sid, lambda view: not view.live)
        running.workers[0].signal(signal.SIGKILL)
        other = await running.add_worker()
        probe = await create(running.url, options=ENDLESS)
        await until_said(log, probe)
        other.signal(signal.SIGKILL)  # what is lost now is found later than what was lost before
        await running.add_worker()
        await until_said(log, probe, attempt=2)
        events = await log.events(sid)
    assert attempts(events) == [1]
    assert [event.type for event in events if event.terminal] == [EventType.COMPLETED]


async def test_a_job_that_is_queued_twice_runs_once(redis_url: str, log: Log) -> None:
    """Whichever worker comes second finds the generation taken; also while a third copy comes late."""
    queue = JobQueue(open_queue(redis_url, 5.0))
    async with system(redis_url, workers=2) as running:
        sid = await create(running.url, options=SLOW)
        view = await log.view(sid)
        assert view is not None
        for _ in range(3):
            await queue.enqueue(sid, "g1", view.epoch)
            await queue.enqueue(sid, "g1", view.epoch + 1)
        events = events_of(await read_all(running.url, sid))
        await queue.enqueue(sid, "g1", view.epoch)
        done = await create(running.url, options={"tokens": 1})
        await read_all(running.url, done)
        after = await log.events(sid)
    await queue.aclose()
    assert attempts(after) == [1]
    assert answer(events).content == SLOW_TEXT
    assert len(after) == len(await log.events(sid))


async def test_a_node_that_dies_between_log_and_queue(redis_url: str, log: Log, redis: Any) -> None:
    """Its queue does not answer, and it is killed while it waits: the message is in the log, and a reaper queues it."""
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    doomed = Node(redis_url, {"HOLDFAST_QUEUE_URL": f"redis://127.0.0.1:{port}/0", "HOLDFAST_LOG_LEVEL": "warning"})
    async with system(redis_url, environment=REQUEUES) as running:
        try:
            doomed.start()
            await doomed.ready()
            asking = asyncio.create_task(create(doomed.url, id="orphan", options={"tokens": 5}))
            await when(log, "orphan", lambda view: view.state == "queued")
            await doomed.kill()
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a client makes of a connection that is reset
                await asking
            events = events_of(await read_all(running.url, "orphan"))
        finally:
            await doomed.kill()
            silent.close()
            for writer in held:
                writer.close()
    assert attempts(events) == [1]
    assert answer(events).content == "".join(lorem(5))
