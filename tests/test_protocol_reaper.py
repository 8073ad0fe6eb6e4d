"""The rules of those who look after generations: reaper, heartbeat, live index, queue. Each test fails without one."""

import asyncio
import time
from typing import Any

import pytest
from arq.constants import job_key_prefix
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from api import schemas
from api.commands import Commands
from api.node import open_node
from shared import keys
from shared.directory import Directory
from shared.errors import HoldfastError
from shared.ids import new_token
from shared.log import Log
from shared.settings import Settings
from tests.support import sessions, workers
from tests.support.sessions import SID
from tests.support.wire import Wire
from tests.support.workers import within
from worker import heartbeat
from worker.context import WorkerContext
from worker.heartbeat import Contact
from worker.holding import Holding
from worker.main import new_worker_id
from worker.queue import build_worker
from worker.reaper import Reaper


class Clock:
    """The loop's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self._patch = monkeypatch

    def contact(self, lease_s: float = 6.0, heartbeat_s: float = 2.0) -> Contact:
        class Loop:
            time = staticmethod(lambda: self.now)

        self._patch.setattr("worker.heartbeat.asyncio.get_running_loop", lambda: Loop)
        return Contact(lease_s, heartbeat_s)


class LongContact(Contact):
    """Redis has been there for ever."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)

    @property
    def unbroken(self) -> bool:
        return True


async def _lost(context: WorkerContext, worker: str = "dead") -> sessions.Held:
    """A generation in the live index that is held by `worker`, who has no lease."""
    await context.directory.restore_live([SID], 0)
    return await sessions.started(context.log, worker=worker)


async def _state(log: Log) -> str:
    view = await log.view(SID)
    assert view is not None
    return view.state.value


# -- contact


def test_reap_grace_needs_a_lease_of_unbroken_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker judges others only once every live one had the time to renew its lease."""
    clock = Clock(monkeypatch)
    contact = clock.contact()
    judged = []
    for _ in range(5):
        judged.append(contact.unbroken)
        clock.now += 2.0
        contact.heard()
    assert judged == [False, False, False, False, True]


def test_reap_grace_begins_anew_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failover or restart all leases are gone: a break in the contact, heard or told, starts the time again."""
    clock = Clock(monkeypatch)
    contact = clock.contact()
    clock.now += 8.0
    contact.heard()
    judged = [contact.unbroken]  # after 8 s of silence
    for _ in range(4):
        clock.now += 2.0
        contact.heard()
    judged.append(contact.unbroken)
    contact.broken()
    assert [*judged, contact.unbroken] == [False, True, False]


def test_reap_grace_ends_with_the_silence_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis stood still for longer than a lease and is back: the first to speak to it must not judge on the strength
    of a contact that nobody has renewed yet."""
    clock = Clock(monkeypatch)
    contact = clock.contact()
    for _ in range(6):
        clock.now += 2.0
        contact.heard()
    before = contact.unbroken
    clock.now += 7.0
    assert (before, contact.unbroken) == (True, False)


# -- sweeps


async def test_a_lost_worker_is_replaced(log: Log, redis: Any, redis_url: str) -> None:
    """A generation whose owner has no lease is queued for the next attempt."""
    async with workers.context(redis_url, lease_s=0.001) as context:
        held = await _lost(context)
        await asyncio.sleep(0.005)
        await Reaper(context, LongContact()).sweep()
        assert await _state(log) == "queued"
        assert await workers.job_ids(redis) == [f"{SID}:{held.epoch}"]


async def test_reap_grace_stays_the_reapers_hand(log: Log, redis_url: str) -> None:
    """Without the contact, without the age, or with a lease, nobody is judged."""
    async with workers.context(redis_url, lease_s=0.001) as context:
        await _lost(context)
        await asyncio.sleep(0.005)
        await Reaper(context, Contact(60.0, 2.0)).sweep()
        assert await _state(log) == "running"
        await context.directory.refresh_lease("dead", 60_000, "")
        await Reaper(context, LongContact()).sweep()
        assert await _state(log) == "running"
    async with workers.context(redis_url, lease_s=60.0) as context:
        await context.directory.end_lease("dead")
        await Reaper(context, LongContact()).sweep()
        assert await _state(log) == "running"


async def test_a_stale_judgement_is_not_carried_out(log: Log, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper that was held up between looking and judging judges nobody: the worker may have come back."""
    async with workers.context(redis_url, lease_s=0.001) as context:
        await _lost(context)
        await asyncio.sleep(0.005)
        monkeypatch.setattr("worker.reaper.STALE_S", -1.0)
        await Reaper(context, LongContact()).sweep()
        assert await _state(log) == "running"


async def test_self_reconcile_hands_back_what_is_not_held(log: Log, redis: Any, redis_url: str) -> None:
    """A worker that is named as the owner of a generation it does not hold hands it back at once."""
    async with workers.context(redis_url, lease_s=60.0) as context:
        await context.directory.refresh_lease(context.worker_id, 60_000, "")
        held = await _lost(context, context.worker_id)
        context.held[held.token] = Holding(SID, "g1")
        reaper = Reaper(context, Contact(60.0, 2.0))
        await reaper.sweep()
        assert await _state(log) == "running"
        context.held.clear()
        await reaper.sweep()
        assert await _state(log) == "queued"


async def test_requeue_lost_jobs(log: Log, redis: Any, redis_url: str) -> None:
    """A generation queued for too long without a job gets one; a young one, or one just queued again, does not."""
    async with workers.context(redis_url, requeue_after_s=60.0) as context:
        await context.directory.restore_live([SID], 0)
        opened = await sessions.create(log)
        await Reaper(context, LongContact()).sweep()
        assert await workers.job_ids(redis) == []
    async with workers.context(redis_url, requeue_after_s=0.001) as context:
        await asyncio.sleep(0.005)
        await Reaper(context, LongContact()).sweep()
        assert await workers.job_ids(redis) == [f"{SID}:{opened.last.epoch}"]


async def test_a_queued_generation_has_a_time_limit(log: Log, redis_url: str) -> None:
    """What no worker takes in time fails, and says so."""
    async with workers.context(redis_url, queue_timeout_s=0.001) as context:
        await context.directory.restore_live([SID], 0)
        await sessions.create(log)
        await asyncio.sleep(0.005)
        await Reaper(context, LongContact()).sweep()
        assert await _state(log) == "failed"


# -- the live index


@pytest.mark.parametrize("turn", ["create", "message"])
async def test_index_before_the_session_changes(turn: str, log: Log, redis: Any, redis_url: str) -> None:
    """The live index has the session before the session is live: a crash in between loses nothing."""
    await sessions.finished(log)
    async with open_node(Settings(redis_url=redis_url)) as node:

        async def crash(*_: Any, **__: Any) -> Any:
            raise RedisConnectionError("the node crashed here")

        node.log.create = node.log.message = crash  # type: ignore[method-assign]
        commands = Commands(node, "anonymous")
        created = schemas.CreateSession(id=SID, model="demo/echo", input="x")
        asked = commands.create(created, None) if turn == "create" else None
        with pytest.raises(RedisConnectionError):
            await (asked or commands.message(SID, schemas.NextMessage(input="x"), None))
        assert list(await node.directory.live()) == [SID]


async def test_index_cond_removes_only_what_is_unchanged(directory: Directory, redis: Any) -> None:
    """An entry that was renewed since it was judged stays: its session is about to be live."""
    await redis.zadd(keys.LIVE_INDEX, {SID: 2_000})
    await directory.forget_live(SID, 1_000)
    assert await directory.live() == {SID: 2_000}
    await directory.forget_live(SID, 2_000)
    assert await directory.live() == {}


async def test_index_cond_removes_only_what_is_old(log: Log, redis_url: str) -> None:
    """The entry of a session that is not live goes only when it is old: its create may be on its way."""
    now = time.time_ns() // 1_000_000
    async with workers.context(redis_url) as context:
        await sessions.finished(log)
        await context.directory.restore_live([SID], now)
        await context.directory.restore_live(["old"], now - 60_000)
        await Reaper(context, LongContact()).sweep()
        assert await context.directory.live() == {SID: now}


async def test_index_keeps_what_is_live(log: Log, redis_url: str) -> None:
    """A live session never leaves the index, however old its entry."""
    async with workers.context(redis_url) as context:
        await _lost(context)
        await context.directory.refresh_lease("dead", 60_000, "")
        await Reaper(context, LongContact()).sweep()
        assert await context.directory.live() == {SID: 0}


# -- the heartbeat


async def test_heartbeat_outlives_a_full_memory(directory: Directory, redis: Any) -> None:
    """The lease is prolonged before it is written: a full memory refuses the write, not the life of the worker."""
    await directory.refresh_lease("w1", 50, "")
    await redis.config_set("maxmemory", 1)
    with pytest.raises(RedisError):
        await directory.refresh_lease("w1", 60_000, "")
    await redis.config_set("maxmemory", 0)
    assert await redis.pttl(keys.worker("w1")) > 1_000


async def test_heartbeat_writes_a_lease_that_was_lost(directory: Directory) -> None:
    """After a failover lost the lease, the next heartbeat makes it anew."""
    await directory.refresh_lease("w1", 60_000, "")
    await directory.end_lease("w1")
    await directory.refresh_lease("w1", 60_000, "")
    assert await directory.is_alive("w1")


async def test_heartbeat_is_retried_soon(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that failed is tried again after 250 ms, not after a whole period."""
    assert heartbeat.RETRY_S == 0.25
    monkeypatch.setattr(heartbeat, "RETRY_S", 0.0)
    async with workers.context(redis_url, heartbeat_s=60.0) as context:
        beats, again = [0], asyncio.Event()

        async def fail(*_: Any, **__: Any) -> None:
            beats[0] += 1
            if beats[0] == 3:
                again.set()
            raise RedisConnectionError

        monkeypatch.setattr(context.lease, "refresh_lease", fail)
        beating = asyncio.create_task(heartbeat.beat(context, LongContact()))
        await within(again.wait())
        beating.cancel()


def test_worker_ids_are_unique() -> None:
    """A worker that restarts must not inherit what its dead self held."""
    assert new_worker_id() != new_worker_id()


async def test_a_lost_announcement_costs_one_heartbeat(log: Log, redis_url: str) -> None:
    """A stop is stored with the session: the heartbeat finds it, and only for the generation it was meant for."""
    async with workers.context(redis_url) as context:
        held = await sessions.started(log, worker=context.worker_id)
        holding, stranger = Holding(SID, "g1"), Holding(SID, "g1")
        context.held = {held.token: holding, new_token(): stranger}
        await log.stop(SID, "user", "g1")
        await heartbeat._hear_requests(context)
        assert (holding.verdict.done(), stranger.verdict.done()) == (True, False)


# -- the queue


async def test_job_id_contains_the_epoch(redis: Any, redis_url: str) -> None:
    """One attempt is queued once, the next one again: the job id holds the epoch."""
    async with workers.context(redis_url) as context:
        await context.queue.enqueue(SID, "g1", 5)
        await context.queue.enqueue(SID, "g1", 5)
        await context.queue.enqueue(SID, "g1", 7)
        assert await workers.job_ids(redis) == [f"{SID}:5", f"{SID}:7"]


async def test_a_finished_job_leaves_nothing_behind(log: Log, redis: Any, redis_url: str) -> None:
    """No result is kept: it would refuse a job of the same id for as long as it lives."""
    async with workers.context(redis_url) as context:
        opened = await sessions.create(log)
        await context.queue.enqueue(SID, "g1", opened.last.epoch)
        worker = build_worker(context, context.queue.arq)
        await worker.sem.acquire()
        assert await within(worker._take())
        await within(asyncio.gather(*worker.tasks.values()))
        assert (await sessions.last(log)).type == sessions.COMPLETED
        left = [key.decode() async for key in redis.scan_iter("arq:*")]
        assert [key for key in left if "health" not in key] == []
        assert await redis.exists(job_key_prefix + f"{SID}:{opened.last.epoch}") == 0


async def test_a_duplicated_job_is_harmless(log: Log, redis_url: str) -> None:
    """The claim decides who runs a generation, however many jobs there are for it."""
    await sessions.create(log)
    async with workers.context(redis_url) as context:
        await within(asyncio.gather(*(workers.run(context) for _ in range(3))))
    assert (await sessions.types(log)).count("generation.started") == 1
    assert (await sessions.types(log)).count(sessions.COMPLETED) == 1


# -- late commands


async def test_stop_gid_without_a_name_never_hits_a_newer_generation(log: Log, redis: Any, redis_url: str) -> None:
    """A stop of "whatever runs" means the one that ran when it was asked for: its late duplicate leaves the next turn
    alone."""
    held = await sessions.started(log)
    async with open_node(Settings(redis_url=redis_url)) as node:
        wire = await Wire(redis).open()
        node.log = Log(wire, log._retention)
        assert (await Commands(node, "anonymous").stop(SID, "")).generation == "g1"
    await sessions.finish(log, held, 2)
    await sessions.next_turn(log)
    await wire.again(wire.sent[-1])
    assert await _state(log) == "queued"


async def test_stop_of_another_generation_is_told(log: Log, redis_url: str) -> None:
    """A stop that names a generation that is not current is refused."""
    await sessions.started(log)
    async with open_node(Settings(redis_url=redis_url)) as node:
        with pytest.raises(HoldfastError):
            await Commands(node, "anonymous").stop(SID, "g7")
