"""Appends that share round trips: each caller gets its own answer, and nobody else's trouble."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from shared import together
from shared.events import EventType, encode
from shared.log import Appended, Log
from shared.redis import RedisError, connect
from tests.support import sessions
from tests.support.far import far
from tests.support.redis_client import connected
from tests.support.sessions import Held
from tests.support.workers import within

END = (EventType.COMPLETED, encode({"generation": "g1", "finish_reason": "stop"}))


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many appends went on each trip."""
    seen: list[int] = []
    make = together.Together._trip

    async def counted(self: together.Together, calls: list[Any]) -> None:
        seen.append(len(calls))
        await make(self, calls)

    monkeypatch.setattr(together.Together, "_trip", counted)
    return seen


def _delta(text: str) -> tuple[str, bytes]:
    return EventType.TEXT, encode({"text": text})


async def _held(log: Log, count: int) -> dict[str, Held]:
    return {f"s{n}": await sessions.started(log, f"s{n}") for n in range(count)}


def _append(log: Log, sid: str, held: Held, *batch: tuple[str, bytes], first: int = 2) -> asyncio.Task[Appended]:
    return asyncio.create_task(log.append(sid, held.token, held.epoch, first, batch))


async def _calls(redis: Any, command: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_appends_of_one_moment_share_round_trips(log: Log, trips: list[int]) -> None:
    """As many as asked in one turn of the loop go out in one trip, up to its size; each is answered for itself."""
    held = await _held(log, together.MOST + 5)
    outcomes = await asyncio.gather(*(_append(log, sid, h, *map(_delta, sid)) for sid, h in held.items()))
    assert trips == [together.MOST, 5]
    assert [outcome[:2] for outcome in outcomes] == [("OK", len(sid) + 1) for sid in held]
    for sid in held:
        assert await sessions.texts(log, sid) == list(sid)


async def test_what_is_asked_while_all_trips_are_under_way_waits_for_the_next(
    redis_url: str, log: Log, trips: list[int]
) -> None:
    """A slow Redis makes trips longer, not more: no caller waits for more than the trip before its own."""
    held = await _held(log, 12)
    async with far(redis_url, 0.1) as distant, connected(distant) as client:
        slow = Log(client, log._retention)
        asked = []
        for sid, h in held.items():
            asked.append(_append(slow, sid, h, _delta(sid)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await within(asyncio.gather(*asked))
    assert trips[: together.TRIPS] == [1] * together.TRIPS
    assert len(trips) == together.TRIPS + 1
    assert sum(trips) == len(held)


async def test_an_error_is_only_for_its_caller(log: Log) -> None:
    """Redis refuses one append; those that travelled with it are done."""
    held = await _held(log, 3)
    bad, *good = held
    refused = _append(log, bad, held[bad], END, _delta("after the end"))
    others = [_append(log, sid, held[sid], _delta(sid)) for sid in good]
    with pytest.raises(ResponseError):
        await refused
    assert [(await other)[0] for other in others] == ["OK", "OK"]


async def test_a_caller_that_is_cancelled_disturbs_nobody(redis_url: str, log: Log) -> None:
    """Cancelled while its append waits, or while it is under way: all others get their own answers."""
    held = await _held(log, 6)
    async with far(redis_url, 0.05) as distant, connected(distant) as client:
        slow = Log(client, log._retention)
        asked = {sid: _append(slow, sid, h, *map(_delta, "x" * n)) for n, (sid, h) in enumerate(held.items(), 1)}
        asked["s1"].cancel()
        await asyncio.sleep(0.02)
        asked["s3"].cancel()
        for n, sid in enumerate(held, 1):
            if sid not in ("s1", "s3"):
                assert (await within(asked[sid]))[:2] == ("OK", n + 1)
        for n, (sid, h) in enumerate(held.items(), 1):
            again = await within(_append(slow, sid, h, *map(_delta, "x" * n)))
            assert again[:2] == ("OK", n + 1)
    for n, sid in enumerate(held, 1):
        assert await sessions.texts(log, sid) == ["x"] * n


async def test_a_server_that_forgot_the_script_is_told_it(log: Log, redis: Any) -> None:
    """After a restart or a failover all appends of a trip go through, and the script travels once."""
    held = await _held(log, 5)
    await redis.script_flush()
    before = await _calls(redis, "script|load")
    outcomes = await asyncio.gather(*(_append(log, sid, h, _delta(sid)) for sid, h in held.items()))
    assert [outcome[0] for outcome in outcomes] == ["OK"] * 5
    assert await _calls(redis, "script|load") - before <= 1


async def test_a_lost_connection_is_told_to_all_who_wait(redis_url: str, log: Log) -> None:
    """They get a RedisError, each of them, and may ask again."""
    held = await _held(log, 3)
    async with far(redis_url, 1.0) as distant:
        client = connect(distant, connections=4, timeout_s=5)
        slow = Log(client, log._retention)
        await slow.ping()
        asked = [_append(slow, sid, h, _delta(sid)) for sid, h in held.items()]
        await asyncio.sleep(0.05)
    for one in asked:
        with pytest.raises(RedisError):
            await within(one)
    await client.aclose(close_connection_pool=True)
    for sid, h in held.items():
        assert (await _append(log, sid, h, _delta(sid)))[0] == "OK"
        assert await sessions.texts(log, sid) == [sid]


async def test_a_trip_that_is_cancelled_ends_all_who_wait(redis_url: str, log: Log) -> None:
    """The end of the loop cancels trips: nobody is left waiting for one."""
    held = await _held(log, 2)
    async with far(redis_url, 1.0) as distant, connected(distant) as client:
        slow = Log(client, log._retention)
        asked = [_append(slow, sid, h, _delta(sid)) for sid, h in held.items()]
        await asyncio.sleep(0.05)
        appends: Any = slow._append
        for trip in appends.__self__._trips:
            trip.cancel()
        for one in asked:
            with pytest.raises(asyncio.CancelledError):
                await within(one)
