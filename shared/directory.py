"""Who is there: live sessions, a principal's sessions, workers and their leases. Never part of a session's scripts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import keys

_EXPECT = """
-- KEYS[1] live index. ARGV: session id. By Redis' clock, as everything that a reaper compares.
local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
"""
_TIME = """
-- KEYS[1] live index. In a Cluster, the clock of its server, which is the one its scores are made by.
return redis.call('TIME')
"""
_REMOVE_UNCHANGED = """
-- KEYS[1] live index. ARGV: session id, score it had when it was judged. Returns 1 if removed.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
"""
_ANNOUNCE = """
-- KEYS[1] a principal's live sessions. ARGV: session id, ms, seconds to keep. Returns whether it was not there, and the
-- number that there are: in one step, so that of many at once no more than the limit see room.
local fresh = redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return { fresh, redis.call('ZCARD', KEYS[1]) }
"""
RUNNING_S = 7 * 86_400
"""A principal who starts nothing for so long has no live session that counts."""

UNHEARD_MS = 600_000
"""A worker that was not heard of for so long is left out of the index: it did not take its leave."""


@dataclass(frozen=True)
class Lease:
    worker_id: str
    about: str
    """JSON: what the worker says of itself."""
    left_ms: int


class Directory:
    """Indexes over sessions and workers. Stateless; every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    # -- live sessions

    async def expect_live(self, sid: str) -> None:
        """Say that a session is about to have a live generation, before it has: a crash in between loses nothing."""
        await self._redis.eval(_EXPECT, 1, keys.LIVE_INDEX, sid)

    async def now_ms(self) -> int:
        """Redis' clock: the one that everything in the log is measured by."""
        seconds, micros = await self._redis.eval(_TIME, 1, keys.LIVE_INDEX)
        return int(seconds) * 1000 + int(micros) // 1000

    async def restore_live(self, sids: Sequence[str], now_ms: int) -> None:
        """Put back what is seen to be live; a failover may have lost it."""
        if sids:
            await self._redis.zadd(keys.LIVE_INDEX, dict.fromkeys(sids, now_ms), nx=True)

    async def live(self) -> dict[str, int]:
        """Session id → ms of its entry, of everything that may be live."""
        found = await self._redis.zrange(keys.LIVE_INDEX, 0, -1, withscores=True)
        return {sid.decode(): int(score) for sid, score in found}

    async def count_live(self) -> int:
        """Of what `live` would say: some may have ended a moment ago."""
        return int(await self._redis.zcard(keys.LIVE_INDEX))

    async def newest_live(self, top_ms: int | None, skip: int, limit: int) -> list[tuple[str, int]]:
        """A part of `live`, newest first: from `top_ms` downwards, without the first `skip`."""
        return await self._newest(keys.LIVE_INDEX, top_ms, skip, limit)

    async def forget_live(self, sid: str, judged_score: int) -> None:
        await self._redis.eval(_REMOVE_UNCHANGED, 1, keys.LIVE_INDEX, sid, judged_score)

    # -- a principal's sessions

    async def touch_owned(self, principal: str, sid: str, now_ms: int, forget_ms: int) -> None:
        """Put a session on top of its principal's list, and drop from it what was not touched for `forget_ms`."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(keys.owned(principal), {sid: now_ms})
            pipe.zremrangebyscore(keys.owned(principal), "-inf", now_ms - forget_ms)
            await pipe.execute()

    async def owned(self, principal: str, top_ms: int | None, skip: int, limit: int) -> list[tuple[str, int]]:
        """Newest first: (session id, ms of its newest turn), from `top_ms` downwards, without the first `skip`."""
        return await self._newest(keys.owned(principal), top_ms, skip, limit)

    async def _newest(self, index: str, top_ms: int | None, skip: int, limit: int) -> list[tuple[str, int]]:
        top = "+inf" if top_ms is None else top_ms
        found = await self._redis.zrevrangebyscore(index, top, "-inf", start=skip, num=limit, withscores=True)
        return [(sid.decode(), int(score)) for sid, score in found]

    async def remove_owned(self, principal: str, *sids: str) -> None:
        if sids:
            await self._redis.zrem(keys.owned(principal), *sids)

    # -- a principal's live sessions

    async def announce_running(self, principal: str, sid: str, now_ms: int) -> tuple[bool, int]:
        """Count a session among those that may be live: whether it was not yet, and how many there are with it."""
        fresh, count = await self._redis.eval(_ANNOUNCE, 1, keys.running(principal), sid, now_ms, RUNNING_S)
        return bool(fresh), int(count)

    async def running(self, principal: str) -> dict[str, int]:
        """Session id → ms of its newest turn, of all that may be live."""
        found = await self._redis.zrange(keys.running(principal), 0, -1, withscores=True)
        return {sid.decode(): int(at) for sid, at in found}

    async def remove_running(self, principal: str, *sids: str) -> None:
        if sids:
            await self._redis.zrem(keys.running(principal), *sids)

    # -- workers

    async def refresh_lease(self, worker_id: str, lease_ms: int, about: str) -> None:
        """Prolong the lease, then write it anew: a full memory refuses the SET, but not the PEXPIRE."""
        key, now_ms = keys.worker(worker_id), time.time_ns() // 1_000_000
        await self._redis.pexpire(key, lease_ms)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(key, about, px=lease_ms)
            pipe.zadd(keys.WORKER_INDEX, {worker_id: now_ms})
            pipe.zremrangebyscore(keys.WORKER_INDEX, "-inf", now_ms - UNHEARD_MS)
            await pipe.execute()

    async def end_lease(self, worker_id: str) -> None:
        await self._redis.delete(keys.worker(worker_id))
        await self._redis.zrem(keys.WORKER_INDEX, worker_id)

    async def leases(self, limit: int) -> list[Lease]:
        """Of the workers that were heard of last, at most `limit`, those that are alive."""
        found = await self._redis.zrevrangebyscore(keys.WORKER_INDEX, "+inf", "-inf", start=0, num=limit)
        names = [name.decode() for name in found]
        if not names:
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(keys.worker(name))
                pipe.pttl(keys.worker(name))
            replies = await pipe.execute()
        pairs = zip(names, replies[::2], replies[1::2], strict=True)
        return [Lease(name, about.decode(), max(0, left_ms)) for name, about, left_ms in pairs if about is not None]

    async def lease_left(self, worker_id: str) -> int | None:
        """ms; None: it is not alive."""
        left_ms = int(await self._redis.pttl(keys.worker(worker_id)))
        return left_ms if left_ms > 0 else None

    async def is_alive(self, worker_id: str) -> bool:
        return bool(worker_id) and bool(await self._redis.exists(keys.worker(worker_id)))

    async def tell(self, worker_id: str, message: str) -> None:
        """Announce something to a worker. May be lost: what matters is stored with the session first."""
        if worker_id:
            await self._redis.publish(keys.control(worker_id), message)
