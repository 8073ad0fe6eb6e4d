"""Failures seen in other systems, provoked here. Those of clients are in test_failures_client.py; README.md has the
table of all of them, and of the tests elsewhere."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from api.outputs import CaughtUp, End, Gap
from shared import keys
from shared.errors import SessionNotFound
from shared.events import EventType
from shared.ids import START, EventId, new_token
from shared.log import Log, Retention
from shared.settings import Settings
from tests.bench.crowd import crowd
from tests.support import sessions, workers
from tests.support.far import far
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import WITHIN_S, Stage, cancelled, completed, logged, piped, text
from tests.support.inprocess import live_node, live_worker
from tests.support.paced import Only, Paced
from tests.support.readers import client, hub
from tests.support.redis_client import connected
from tests.support.sessions import SID
from tests.support.sse import SSE, events_path, read_all, text_of
from tests.support.workers import within
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from worker import queue
from worker.pipelines import Run
from worker.run import run_generation

NEVER_S = 3600.0


# -- the seam between replay and live

MOMENTS = 6
"""Before and after each call by which a reader joins: its session, the subscription, its first page."""


@pytest.mark.parametrize("moment", range(MOMENTS))
async def test_what_is_said_at_any_moment_of_joining_arrives_once(
    redis_url: str, redis: Any, log: Log, moment: int
) -> None:
    """Nothing looks at a quiet log here: an event that falls between the reading and the subscription would be lost."""
    held = await sessions.started(log)
    passed = 0

    async def pass_moment() -> None:
        nonlocal passed
        if passed == moment:
            await sessions.say(log, held, 2, "now")
        passed += 1

    def watched(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def passing(*args: Any) -> Any:
            await pass_moment()
            found = await call(*args)
            await pass_moment()
            return found

        return passing

    async with hub(redis_url, redis, quiet_check_s=NEVER_S) as running:
        inside: Any = running
        inside._subscriber.subscribe = watched(running._subscriber.subscribe)
        inside.log.view, inside.log.page = watched(running.log.view), watched(running.log.page)
        async with client(running) as reader:
            await reader.until_events(3)
            await reader.until(CaughtUp)
            await sessions.finish(log, held, 3)
            await reader.until_over()
    assert passed >= MOMENTS
    assert [event.id for event in reader.events] == [event.id for event in await log.events(SID)]


async def test_events_of_one_millisecond_have_ids_of_their_own(log: Log, redis: Any, redis_url: str) -> None:
    """Read live or from the log they have the same ids, each larger than the one before."""
    held = await sessions.started(log)
    async with hub(redis_url, redis) as running, client(running) as live, client(running) as late:
        await live.until(CaughtUp)
        await sessions.say(log, held, 2, *("x" * (n % 5) for n in range(500)))
        await sessions.finish(log, held, 502)
        await live.until_over()
        await late.until_over()
    ids = [event.id for event in live.events]
    assert Counter(event.at for event in await log.events(SID)).most_common(1)[0][1] >= 500
    assert ids == sorted(set(ids))
    assert len(ids) == 503
    assert [event.id for event in late.events] == ids == [event.id for event in await log.events(SID)]


async def test_a_cursor_from_before_a_deletion_is_no_place_in_the_next_log(
    log: Log, redis: Any, redis_url: str
) -> None:
    """A session of the same name begins in another epoch: who comes with an old id is told that what it had is lost."""
    held = await sessions.finished(log, "a", "b", "c")
    await log.delete(SID)
    await sessions.create(log, nonce=new_token())
    assert (await sessions.claim(log)).epoch > held.epoch
    async with hub(redis_url, redis) as running, client(running, EventId(held.epoch, 3)) as reader:
        await reader.until(CaughtUp)
    assert [(gap.requested.seq, gap.reason) for gap in reader.gaps] == [(3, "lost")]
    assert reader.events == []


# -- what Redis forgets


async def test_nothing_of_a_slow_generation_expires(redis: Any) -> None:
    """However long it is silent, or waits for its user: from the first message to the terminal there is no end set."""
    log = Log(redis, Retention(log_ms=200, tombstone_ms=200))

    async def lasts() -> None:
        assert (await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))) == (-1, -1)

    await sessions.create(log)
    await lasts()
    held = await sessions.claim(log)
    await sessions.say(log, held, 2, "a")
    await lasts()
    await log.append(SID, held.token, held.epoch, 3, [sessions.question("q1")])
    await lasts()
    await log.answer(SID, new_token(), "q1", "yes", "user")
    await sessions.say(log, held, 4, "b")
    await lasts()
    await sessions.finish(log, held, 5)
    assert 0 < await redis.pttl(keys.events(SID)) <= 200


async def test_an_evicted_log_is_a_gap_and_the_end_still_comes(log: Log, redis: Any, redis_url: str) -> None:
    """Redis dropped the events of a generation that goes on: whoever comes is told so once, and gets what follows."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a", "b", "c")
    await redis.delete(keys.events(SID))
    async with (
        hub(redis_url, redis) as running,
        client(running) as newcomer,
        client(running, EventId(held.epoch, 2)) as returned,
    ):
        for reader in (newcomer, returned):
            await reader.until(Gap)
        await sessions.say(log, held, 5, "d")
        await sessions.finish(log, held, 6)
        for reader in (newcomer, returned):
            await reader.until_over()
            assert [(gap.reason, gap.id) for gap in reader.gaps] == [("trimmed", EventId(held.epoch, 4))]
            assert [event.type for event in reader.events] == [EventType.TEXT, EventType.COMPLETED]
            assert isinstance(reader.outputs[-1], End)


async def test_a_reader_that_falls_out_of_the_log_each_time_gets_on_and_ends(
    log: Log, redis: Any, redis_url: str
) -> None:
    """More is trimmed between two visits than one brings: each still moves the cursor, and the last one ends."""
    held = await sessions.started(log)
    cursor, seq = EventId(held.epoch, 1), 2
    async with live_node(redis_url) as node, asyncio.timeout(WITHIN_S):
        for _ in range(20):
            await sessions.say(log, held, seq, *"abcde")
            seq += 5
            await redis.xtrim(keys.events(SID), maxlen=1, approximate=False)
            async with SSE(node.url, events_path(SID), {"Last-Event-ID": str(cursor)}) as stream:
                gap = await anext(stream.frames())
            assert (gap.type, gap.event_id) == ("gap", EventId(held.epoch, seq - 1))
            cursor = gap.event_id
        await sessions.say(log, held, seq, *"abcde")
        await sessions.finish(log, held, seq + 5)
        await redis.xtrim(keys.events(SID), maxlen=1, approximate=False)
        frames = await read_all(node.url, SID, str(cursor))
        assert [frame.type for frame in frames] == ["gap", EventType.COMPLETED]
        assert await read_all(node.url, SID, frames[-1].id) == []


# -- connections to Redis


async def _listening(redis: Any) -> list[str]:
    return [each["id"] for each in await redis.client_list(_type="pubsub")]


async def test_a_quiet_stream_outlasts_the_timeouts_of_connections(redis_url: str, log: Log, redis: Any) -> None:
    """Three times as long as a command may take nothing is published: the subscription is still the same one."""
    held = await sessions.started(log)
    async with (
        asyncio.timeout(WITHIN_S),
        live_node(redis_url, redis_timeout_s=1, keepalive_s=0.5, quiet_check_s=NEVER_S) as node,
        SSE(node.url, events_path(SID)) as stream,
    ):
        chunks = stream.chunks()
        async for _ in chunks:
            if b"caught_up" in stream.raw:
                break
        before = await _listening(redis)
        while stream.raw.count(b": ka\n") < 6:
            await anext(chunks)
        assert await _listening(redis) == before != []
        await sessions.say(log, held, 2, "still here")
        while b"still here" not in stream.raw:
            await anext(chunks)


async def test_an_idle_worker_outlasts_the_timeouts_of_connections(redis_url: str, redis: Any) -> None:
    """It asks the queue anew before the answer counts as lost: one connection, and nothing to complain of."""

    async def asking() -> dict[str, int]:
        return {c["id"]: int(c["age"]) for c in await redis.client_list() if c["cmd"] == "bzpopmin"}

    with capture_logs() as said:
        async with asyncio.timeout(WITHIN_S), live_worker(redis_url, wait_s=queue.WAIT_S, redis_timeout_s=1.5):
            while not (first := await asking()):
                await asyncio.sleep(0.05)
            while max((await asking()).values(), default=0) < 4:
                await asyncio.sleep(0.1)
            assert (await asking()).keys() == first.keys()
    assert [entry for entry in said if entry["log_level"] in ("warning", "error")] == []


async def test_cancelled_reads_never_cross_replies(redis_url: str, log: Log) -> None:
    """Half of those who share three connections are cancelled at any moment: all others get their own session."""
    chance = random.Random(5)
    sids = [f"s{n}" for n in range(20)]
    for sid in sids:
        await sessions.finished(log, sid, sid=sid)
    async with far(redis_url, 0.02) as distant, connected(distant, connections=3) as redis:
        shared = Log(redis, log._retention)

        async def read(sid: str) -> tuple[str, list[str]]:
            view, page = await shared.read(sid, START, 10)
            again, owner = await shared.events(sid), await shared.view(sid)
            assert view == owner
            assert view is not None
            assert [event.frame for event in page] == [event.frame for event in again]
            return str(view.last), [event.value["text"] for event in page if event.type == EventType.TEXT]

        for _ in range(10):
            reading = {sid: asyncio.create_task(read(sid)) for sid in sids}
            await asyncio.sleep(chance.uniform(0, 0.1))  # anywhere in a trip: nothing could say where
            for sid in chance.sample(sids, 10):
                reading[sid].cancel()
            outcomes = await within(asyncio.gather(*reading.values(), return_exceptions=True))
            for sid, outcome in zip(sids, outcomes, strict=True):
                if not isinstance(outcome, asyncio.CancelledError):
                    assert outcome == (str((await sessions.last(log, sid)).id), [sid])


async def test_commands_are_answered_beside_idle_readers(redis_url: str, redis: Any, log: Log) -> None:
    """A node with two connections for commands and 200 readers that wait: none of them blocks one in Redis."""
    sids = [f"s{n}" for n in range(50)]
    for sid in sids:
        await sessions.started(log, sid)
    async with live_node(redis_url, redis_connections=2) as node, crowd(node.url, sids, 200):
        assert (await redis.info("clients"))["blocked_clients"] == 0
        async with httpx.AsyncClient(base_url=node.url, timeout=WITHIN_S) as http:
            asked = await asyncio.gather(*(http.get(f"/v1/sessions/{sid}") for sid in sids))
    assert [answer.json()["state"] for answer in asked] == ["running"] * len(sids)


async def test_a_storm_of_readers_is_served_though_one_replay_is_stuck(redis_url: str, redis: Any, log: Log) -> None:
    """300 readers of 100 sessions come back at once, and Redis never answers what one of them asks: catching up is no
    single file, and all others have the rest."""
    sids = [f"s{n}" for n in range(100)]
    held = {sid: await sessions.started(log, sid) for sid in sids}
    for sid, pen in held.items():
        await sessions.say(log, pen, 2, "a", "b", sid, sid=sid)
        await sessions.finish(log, pen, 5, sid=sid)
    async with live_node(redis_url, redis_timeout_s=60) as node:
        inside: Any = node.node.log
        read = inside.page

        async def stuck(sid: str, *args: Any) -> Any:
            if sid == "s0":
                await inside._redis.execute_command("BLPOP", "nobody-writes-this", 0)
            return await read(sid, *args)

        inside.page = stuck
        waiting = asyncio.create_task(read_all(node.url, "s0", f"{held['s0'].epoch}-2"))
        async with asyncio.timeout(WITHIN_S):
            while not (await redis.info("clients"))["blocked_clients"]:
                await asyncio.sleep(0.01)
            rest = await asyncio.gather(*(read_all(node.url, s, f"{held[s].epoch}-2") for s in sids[1:] * 3))
            assert not waiting.done()
            await redis.rpush("nobody-writes-this", "but now")
            assert text_of(await waiting) == "bs0"
    assert [text_of(frames) for frames in rest] == [f"b{sid}" for sid in sids[1:] * 3]
    assert {frames[-1].type for frames in rest} == {EventType.COMPLETED}


# -- the writer's path


@pytest.mark.parametrize("round_trip_s", [0.05, 0.22])
async def test_a_distant_redis_does_not_slow_the_provider(redis_url: str, log: Log, round_trip_s: float) -> None:
    """200 chunks are taken in far less time than as many round trips would need, and are all there."""
    provider = Paced(200, 400.0)
    await sessions.create(log)
    async with far(redis_url, round_trip_s) as distant, workers.context(distant) as context:
        context.providers = Only(provider)
        await within(workers.run(context))
    assert provider.taken_s < 200 * round_trip_s / 3
    assert "".join(await sessions.texts(log)) == provider.text


async def _cost(redis_url: str, log: Log, redis: Any, sid: str, chunks: int) -> tuple[int, int]:
    """Bytes that Redis was sent while an answer of so many chunks was written, and bytes it keeps of it."""
    provider = Paced(chunks, 1e9)
    async with workers.context(redis_url, compact=False) as context:
        context.providers = Only(provider)
        await sessions.create(log, sid)
        before = (await redis.info("stats"))["total_net_input_bytes"]
        await within(run_generation(context, sid, "g1"), 60)
        after = (await redis.info("stats"))["total_net_input_bytes"]
    assert "".join(await sessions.texts(log, sid)) == provider.text
    return after - before, await redis.memory_usage(keys.events(sid), samples=0)


async def test_an_answer_four_times_as_long_costs_about_four_times_as_much(
    redis_url: str, log: Log, redis: Any
) -> None:
    """What is sent to Redis, and what it keeps, grow with the text: nothing that was written is written again."""
    sent, kept = await _cost(redis_url, log, redis, "short", 10_000)
    sent_4, kept_4 = await _cost(redis_url, log, redis, "long", 40_000)
    assert sent_4 < 6 * sent
    assert kept_4 < 6 * kept


# -- stopping


async def test_a_stop_lands_though_the_worker_has_no_room(stage: Stage) -> None:
    """Its only place is taken: what is queued is cancelled without ever being run, what runs is stopped, and then there
    is room again."""

    async def waits(run: Run) -> None:
        await run.text("here")
        await asyncio.Event().wait()

    name = piped(waits)
    async with stage.worker(worker_jobs=1):
        running = await stage.start(pipeline=name)
        await stage.until_event(running, EventType.TEXT)
        queued, later = await stage.start(pipeline=name), await stage.start(pipeline=name)
        assert (await stage.stop(queued)).outcome == "cancelled"
        assert [event.type for event in await stage.log.events(queued)] == [EventType.MESSAGE, EventType.CANCELLED]
        assert EventType.STARTED not in [event.type for event in await stage.log.events(later)]
        await stage.stop(running)
        assert logged(await stage.over(running))[1:] == [text("here"), cancelled()]
        await stage.until_event(later, EventType.TEXT)
        await stage.stop(later)
        await stage.over(later)


async def test_a_stop_of_what_does_not_exist_yet_stops_nothing_later(stage: Stage) -> None:
    """It is refused, and forgotten: a session that is made under that id afterwards runs to its own end."""
    async with stage.worker():
        for early in (stage.stop("kelp"), stage.log.stop("kelp", "user", "g1")):
            with pytest.raises(SessionNotFound):
                await early
        await stage.start(id="kelp", options={"tokens": 100, "rate": 200})
        assert logged(await stage.over("kelp"))[-1] == completed()


# -- liveness


def test_no_setting_makes_keep_alives_rarer_than_every_fifteen_seconds() -> None:
    """Proxies and load balancers give up what is silent for 30 s and longer."""
    assert Settings().keepalive_s <= 15
    with pytest.raises(ValidationError):
        Settings(keepalive_s=15.1)
