"""What an append costs Redis: CPU, commands, and memory."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from shared import keys
from shared.events import EventType, encode
from shared.ids import new_token
from shared.log import Log, Retention
from tests.bench.child import OTHER_CORE, Child, cpu_seconds, pinned, sids_of
from tests.bench.redis_floor import floor
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast
from tests.support.redis_client import connected
from tests.support.redis_server import redis_server
from tests.support.sessions import FIELDS, HELLO, terminal

SESSIONS, RATE = 500, 20.0
CPU_GOAL_US, BYTES_GOAL = 10.0, 60.0
EVENTS = (100, 1000, 10_000)
WORDS = ("Hold", "fast", " keeps", " kelp", " where", " it", " is", ",", " whatever", " the", " current")
INNER = {"hmget", "hget", "hset", "xadd", "publish", "time"}
"""Commands of the script itself: no client sends these while deltas are said."""


async def run(scale: Scale) -> list[Section]:
    return [await _appends(scale), floor(scale), await _bytes()]


async def _appends(scale: Scale) -> Section:
    section = Section(
        f"Redis' cost of an append, {scale.of(SESSIONS)} sessions × {RATE:g} appends/s",
        ["who listens", "Redis CPU µs", "of it in the script µs", "commands sent", "commands run by it"],
    )
    sids, cost = sids_of("cost", scale.of(SESSIONS)), 0.0
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Holdfast().running(sids))
        load = await Child.start("tests.bench.load")
        stack.push_async_callback(load.stop)
        for who in ("nobody", "a node with a reader of each"):
            if cost:
                requests = [target.path(sid) for sid in sids]
                address = ["127.0.0.1", target.port]
                await load.ask("open", address=address, requests=requests, until=target.until)
            cost, row = await _measure(target, scale)
            section.rows.append([who, *row])
    verdict = "PASS" if cost <= CPU_GOAL_US else "MISS"
    section.remarks.append(f"{verdict}: {cost:.1f} µs of Redis' CPU per append, goal ≤ {CPU_GOAL_US:g}")
    section.remarks.append("One delta in each append; those of one moment travel together, as a worker's do.")
    return section


async def _measure(target: Holdfast, scale: Scale) -> tuple[float, list[str]]:
    producer, server = target.producer, target.redis
    first = (await producer.ask("say", rate=RATE, seconds=0.5))["said"]
    with server.client() as client:
        client.config_resetstat()
        before = cpu_seconds([server.pid])
        said = (await producer.ask("say", rate=RATE, seconds=scale.seconds))["said"]
        cost = cpu_seconds([server.pid]) - before
        stats: Any = client.info("commandstats")
    appends = sum(said) - sum(first)
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return cost / appends * 1e6, _row(cost, appends, calls, stats["cmdstat_evalsha"]["usec"])


def _row(cost: float, appends: int, calls: Mapping[str, int], usec: float) -> list[str]:
    sent = sum(count for name, count in calls.items() if name == "evalsha")
    inner = ", ".join(f"{count / appends:.1f} {name}" for name, count in sorted(calls.items()) if name in INNER)
    return [f"{cost / appends * 1e6:.1f}", f"{usec / appends:.1f}", f"{sent / appends:.2f}", inner]


async def _bytes() -> Section:
    section = Section(
        "Bytes of Redis' memory per event", ["small events", "as they are said", "compacted", "of it text"]
    )
    with pinned(OTHER_CORE), redis_server() as server:
        async with connected(server.url, connections=2, timeout_s=10) as client:
            log = Log(client, Retention(log_ms=600_000, tombstone_ms=600_000))
            found = [await _log_bytes(log, client, count) for count in EVENTS]
    for count, (said, compacted, text) in zip(EVENTS, found, strict=True):
        section.rows.append([f"{count:,}", f"{said / count:.1f}", f"{compacted / count:.1f}", f"{text / count:.1f}"])
    worst = found[EVENTS.index(1000)][0] / 1000
    verdict = "PASS" if worst <= BYTES_GOAL else "MISS"
    section.remarks.append(f"{verdict}: {worst:.1f} bytes per small event as said, goal ≤ {BYTES_GOAL:g}")
    section.remarks.append("MEMORY USAGE of the log, all of it sampled; a word in each delta.")
    return section


async def _log_bytes(log: Log, client: Any, count: int) -> tuple[int, int, int]:
    """As said, compacted, and the text alone."""
    sid, token, text = f"bytes-{count}", new_token(), 0
    await log.create(sid, sid, "body", [HELLO], FIELDS)
    claimed = await log.claim(sid, token, "g1", "bench")
    assert claimed is not None
    for n in range(count):
        word = WORDS[n % len(WORDS)]
        text += len(word)
        await log.append(sid, token, claimed.epoch, n + 2, [(EventType.TEXT.value, encode({"text": word}))])
    said = await client.memory_usage(keys.events(sid), samples=0)
    await log.append(sid, token, claimed.epoch, count + 2, [terminal()])
    assert await log.compact(sid)
    return said, await client.memory_usage(keys.events(sid), samples=0), text
