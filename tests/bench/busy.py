"""Time to the first token while the worker holds other generations that say little."""

import statistics

import redis

from tests.bench import first_token
from tests.bench.http import Connection
from tests.bench.report import Section, spread
from tests.support.sse import SSE, events_path
from tests.support.system import System, system

HELD = (0, 50, 100, 250)
RUNS = 60
WARM_UP = 10
QUIET = {"model": "demo/lorem", "input": "hello", "options": {"tokens": 500, "rate": 0.1}}


async def run(redis_url: str) -> Section:
    head = ["generations held", "median ms", "p95 ms", "p99 ms", "message → generation.started, mean ms"]
    section = Section("Time to the first token of a busy worker", head)
    for held in HELD:
        section.rows.append(await _measure(redis_url, held))
    section.remarks.append(f"{RUNS} sessions one after the other; each held generation says a word every 10 s")
    return section


async def _measure(redis_url: str, held: int) -> list[str]:
    client = redis.Redis.from_url(redis_url)
    async with system(redis_url) as running, Connection(running.url) as http:
        await _hold(running, http, held)
        for n in range(WARM_UP):
            await first_token.once(http, running.url, client, f"warm-{held}-{n}")
        taken = [await first_token.once(http, running.url, client, f"busy-{held}-{n}") for n in range(RUNS)]
    client.flushall()
    client.close()
    pick_up = statistics.fmean(each.pick_up for each in taken)
    return [f"{held}", *spread([each.delta for each in taken]), f"{pick_up:.1f}"]


async def _hold(running: System, http: Connection, count: int) -> None:
    for n in range(count):
        sid = f"held-{count}-{n}"
        await http.post("/v1/sessions", {"id": sid, **QUIET})
        async with SSE(running.url, events_path(sid)) as stream:
            async for _ in stream.chunks():
                if b"event: text.delta" in stream.raw:
                    break
