"""What it costs to come back: a replay of 10,000 deltas, against the bare read of the same log."""

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from shared import keys
from shared.events import EventType, encode
from shared.log import Log, Retention
from shared.redis import connect
from tests.bench.report import Section, spread
from tests.support.sse import SSE, events_path
from tests.support.system import system

SID = "resume"
DELTAS = 10_000
BATCH = 500
ROUNDS = 15


async def run(redis_url: str) -> Section:
    await _write(redis_url)
    client = redis.Redis.from_url(redis_url)
    section = Section(
        f"Replay of {DELTAS:,} deltas from the start", ["way", "median ms", "p95 ms", "p99 ms", "of XRANGE", "bytes"]
    )
    async with system(redis_url, workers=0) as running:
        ways: dict[str, Callable[[], Awaitable[int]]] = {
            "XRANGE by redis-py": lambda: _xrange(client),
            "replay, merged": lambda: _replay(running.url, merge=1),
            "replay, every delta": lambda: _replay(running.url, merge=0),
        }
        times, sizes = await _alternate(ways)
    client.close()
    bare = statistics.median(times["XRANGE by redis-py"])
    for name, taken in times.items():
        section.rows.append([name, *spread(taken), f"{statistics.median(taken) / bare:.2f}", f"{sizes[name]:,}"])
    section.remarks.append(f"{ROUNDS} rounds, the ways in turn within each. Bytes: of the stream, or of the data read.")
    return section


async def _write(redis_url: str) -> None:
    client: Any = connect(redis_url, connections=2, timeout_s=5)
    log = Log(client, Retention(log_ms=600_000, tombstone_ms=600_000))
    await log.create(SID, "nonce", "body", [{"role": "user", "content": "hello"}], {"principal": "anonymous"})
    claimed = await log.claim(SID, "token", "g1", "nobody")
    assert claimed is not None
    for first in range(0, DELTAS, BATCH):
        batch = [(EventType.TEXT.value, encode({"text": f"word {first + n} "})) for n in range(BATCH)]
        await log.append(SID, "token", claimed.epoch, first + 2, batch)
    end = encode({"generation": "g1", "finish_reason": "stop"})
    await log.append(SID, "token", claimed.epoch, DELTAS + 2, [(EventType.COMPLETED, end)])
    await client.aclose(close_connection_pool=True)


async def _alternate(ways: dict[str, Callable[[], Awaitable[int]]]) -> tuple[dict[str, list[float]], dict[str, int]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for n in range(-1, ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            sizes[name] = await way()
            if n >= 0:  # the round before the first warms up
                times[name].append((time.perf_counter() - started) * 1000)
    return times, sizes


async def _xrange(client: "redis.Redis") -> int:
    entries: Any = client.xrange(keys.events(SID))
    assert len(entries) == DELTAS + 3
    return sum(len(fields[b"data"]) for _, fields in entries)


async def _replay(base: str, merge: int) -> int:
    async with SSE(base, events_path(SID, merge=merge)) as stream:
        size = 0
        async for chunk in stream.chunks():
            size += len(chunk)
    return size
