"""Time to the first token: from the POST to the first `text.delta` at the client, one session after the other."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import redis

from shared import keys
from tests.bench.http import Connection
from tests.bench.report import Section, spread
from tests.support.sse import SSE, events_path
from tests.support.system import system

RUNS = 200
WARM_UP = 20
GOAL_MS = 10.0
BODY = {"model": "demo/lorem", "input": "hello", "options": {"tokens": 5, "rate": 0}}


@dataclass(frozen=True)
class Taken:
    """ms of one run. The last two are by Redis' clock, which counts whole ms: only their mean means anything."""

    reply: float
    """From sending the POST to its answer."""
    delta: float
    """From sending the POST to the first `text.delta`, the stream being opened after the answer."""
    pick_up: float
    """In the log, from the user's message to `generation.started`."""
    spoke: float
    """In the log, from `generation.started` to the first `text.delta`."""


async def run(redis_url: str) -> Section:
    client = redis.Redis.from_url(redis_url)
    async with system(redis_url) as running, Connection(running.url) as http:
        taken = [await once(http, running.url, client, f"first-{n}") for n in range(WARM_UP + RUNS)][WARM_UP:]
    client.close()
    return _section(taken)


async def once(http: Connection, base: str, client: "redis.Redis", sid: str) -> Taken:
    """One new session, followed to its end."""
    started = time.perf_counter()
    await http.post("/v1/sessions", {"id": sid, **BODY})
    replied = time.perf_counter()
    async with SSE(base, events_path(sid)) as stream:
        async for _ in stream.chunks():
            if b"event: text.delta" in stream.raw:
                break
        spoken = time.perf_counter()
        async for _ in stream.chunks():
            pass
    message, begun, delta = _at(client, sid)
    return Taken((replied - started) * 1000, (spoken - started) * 1000, begun - message, delta - begun)


def _at(client: "redis.Redis", sid: str) -> tuple[int, int, int]:
    """When the log got the message, the start and the first delta, in ms."""
    entries: Any = client.xrange(keys.events(sid), count=3)
    message, begun, delta = (int(fields[b"at"]) for _, fields in entries)
    return message, begun, delta


def _section(taken: list[Taken]) -> Section:
    section = Section("Time to the first token", ["step", "median ms", "p95 ms", "p99 ms", "mean ms"])
    for name, values in {
        "POST → first text.delta at the client": [each.delta for each in taken],
        "POST → its answer": [each.reply for each in taken],
        "answer → first text.delta at the client": [each.delta - each.reply for each in taken],
        "in the log: message → generation.started": [each.pick_up for each in taken],
        "in the log: generation.started → text.delta": [each.spoke for each in taken],
    }.items():
        section.rows.append([name, *spread(values), f"{statistics.fmean(values):.2f}"])
    median = statistics.median(each.delta for each in taken)
    verdict = "PASS" if median <= GOAL_MS else "MISS"
    section.remarks.append(f"{verdict}: median {median:.2f} ms, goal ≤ {GOAL_MS:.0f} ms")
    section.remarks.append(f"{RUNS} sessions one after the other; one node, one worker, demo/lorem without delay")
    return section
