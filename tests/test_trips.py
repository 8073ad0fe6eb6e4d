"""Questions that share round trips: each is answered for itself, and by what was there after it was asked."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from shared import keys, trips
from shared.ids import START
from shared.log import Log
from shared.redis import RedisError, connect
from shared.views import SessionView
from tests.support import sessions
from tests.support.far import far
from tests.support.redis_client import connected
from tests.support.workers import within


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions went on each trip."""
    seen: list[int] = []
    make = trips._Lane._trip

    async def counted(self: trips._Lane, questions: list[Any]) -> None:
        seen.append(len(questions))
        await make(self, questions)

    monkeypatch.setattr(trips._Lane, "_trip", counted)
    return seen


async def _sessions(log: Log, count: int) -> list[str]:
    for n in range(count):
        await sessions.finished(log, f"of {n}", sid=f"s{n}")
    return [f"s{n}" for n in range(count)]


def _view(log: Log, sid: str) -> asyncio.Task[SessionView | None]:
    return asyncio.create_task(log.view(sid))


async def test_questions_of_one_moment_share_round_trips(log: Log, taken: list[int]) -> None:
    """As many as are asked in one turn of the loop go in one trip, up to its size; each gets its own answer."""
    sids = await _sessions(log, trips.QUESTIONS + 5)
    pages = await asyncio.gather(*(log.page(sid, START, 9, 1000) for sid in sids))
    assert taken == [trips.QUESTIONS, 5]
    assert [page[2].value["text"] for _, page in pages] == [f"of {n}" for n in range(len(sids))]


async def test_no_trip_asks_for_too_much(log: Log, taken: list[int]) -> None:
    """Who asks for many entries travels with fewer others."""
    sids = await _sessions(log, 5)
    await asyncio.gather(*(log.page(sid, START, trips.WEIGHT // 2, 1000) for sid in sids))
    assert taken == [2, 2, 1]
    await log.page("s0", START, trips.WEIGHT * 2, 1000)
    assert taken == [2, 2, 1, 1]


async def test_a_slow_redis_makes_trips_longer_not_more(redis_url: str, log: Log, taken: list[int]) -> None:
    """What is asked while all trips are under way goes with the next one."""
    sids = await _sessions(log, 12)
    async with far(redis_url, 0.1) as distant, connected(distant) as client:
        slow, asked = Log(client, log._retention), []
        for sid in sids:
            asked.append(_view(slow, sid))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await within(asyncio.gather(*asked))
    assert taken == [1] * trips.AT_ONCE + [len(sids) - trips.AT_ONCE]


async def test_an_error_is_only_for_its_caller(log: Log, redis: Any) -> None:
    """Redis refuses one question; those that travelled with it are answered."""
    await _sessions(log, 3)
    await redis.delete(keys.session("s0"))
    await redis.set(keys.session("s0"), "no hash")
    refused, *others = (_view(log, f"s{n}") for n in range(3))
    with pytest.raises(ResponseError):
        await refused
    assert [view.generation for other in others if (view := await other)] == ["g1", "g1"]


async def test_a_lost_connection_is_told_to_all_who_wait(redis_url: str, log: Log) -> None:
    """They get a RedisError, each of them, and may ask again."""
    sids = await _sessions(log, 3)
    async with far(redis_url, 1.0) as distant:
        client = connect(distant, connections=4, timeout_s=5)
        slow = Log(client, log._retention)
        await slow.ping()
        asked = [_view(slow, sid) for sid in sids]
        await asyncio.sleep(0.05)
    for one in asked:
        with pytest.raises(RedisError):
            await within(one)
    with pytest.raises(RedisError):
        await within(_view(slow, "s0"))
    await client.aclose(close_connection_pool=True)


async def test_one_who_is_cancelled_disturbs_nobody(redis_url: str, log: Log) -> None:
    """Cancelled while its question waits, or while it is under way: all others get their own answers."""
    sids = await _sessions(log, 5)
    async with far(redis_url, 0.05) as distant, connected(distant) as client:
        slow = Log(client, log._retention)
        asked = [asyncio.create_task(slow.page(sid, START, 9, 1000)) for sid in sids]
        asked[1].cancel()
        await asyncio.sleep(0.02)
        asked[3].cancel()
        for n in (0, 2, 4):
            _, page = await within(asked[n])
            assert page[2].value["text"] == f"of {n}"


async def test_a_trip_that_is_cancelled_ends_all_who_wait(redis_url: str, log: Log) -> None:
    """The end of the loop cancels trips: nobody is left waiting for one."""
    sids = await _sessions(log, 2)
    async with far(redis_url, 1.0) as distant, connected(distant) as client:
        slow = Log(client, log._retention)
        asked = [_view(slow, sid) for sid in sids]
        await asyncio.sleep(0.05)
        for trip in slow._trips._lanes[""]._trips:
            trip.cancel()
        for one in asked:
            with pytest.raises(asyncio.CancelledError):
                await within(one)
