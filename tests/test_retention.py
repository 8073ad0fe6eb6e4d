"""Retention as clients meet it: a log that is live stays, one that is over expires, and its name is remembered."""

import asyncio
from typing import Any

import httpx

from shared import keys
from shared.log import Log, Retention
from tests.support.inprocess import live_node
from tests.support.sessions import SID, finished, started
from tests.support.sse import SSE, events_path

SHORT = Retention(log_ms=300, tombstone_ms=60_000)
WITHIN_S = 20.0


async def gone(redis: Any, name: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while await redis.exists(name):
            await asyncio.sleep(0.01)


async def test_a_compact_log_expires_and_the_session_says_so(redis_url: str, redis: Any) -> None:
    """Redis itself lets it go: the events are 410, the session says `expired`, no next turn; later it is unknown."""
    log = Log(redis, SHORT)
    held = await finished(log, "a", "b", "c")
    assert await log.compact(SID)
    await gone(redis, keys.events(SID))
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as client:
        for cursor in ("0-0", f"{held.epoch}-3"):
            async with SSE(node.url, events_path(SID, after=cursor)) as stream:
                assert (stream.status, b"session_expired" in stream.body) == (410, True)
        shown = (await client.get(f"/v1/sessions/{SID}")).json()
        assert (shown["state"], shown["expired"], shown["messages"]) == ("completed", True, [])
        assert (await client.post(f"/v1/sessions/{SID}/messages", json={"input": "more"})).status_code == 410
        async with SSE(node.url, events_path(SID, after=f"{held.epoch}-5")) as stream:
            assert stream.status == 204  # who has everything misses nothing
        await redis.pexpire(keys.session(SID), 1)
        await gone(redis, keys.session(SID))
        assert (await client.get(f"/v1/sessions/{SID}")).status_code == 404


async def test_a_live_log_outlives_the_retention(redis: Any) -> None:
    """While a generation runs nothing of its session has an end, also after a compacted turn."""
    log = Log(redis, Retention(log_ms=60_000, tombstone_ms=60_000))
    await finished(log, "a", "b", "c")
    assert await log.compact(SID)
    await log.message(SID, "nonce", "body", {"role": "user", "content": "more"}, {})
    assert (await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))) == (-1, -1)


async def test_what_never_had_an_end_has_none(redis: Any) -> None:
    """A generation that runs from the first turn on."""
    await started(Log(redis, SHORT))
    assert (await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))) == (-1, -1)
