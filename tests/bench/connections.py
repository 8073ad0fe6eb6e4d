"""How many connections to Redis a node has, by its readers."""

import time

from redis.asyncio import Redis

from shared.log import Log, Retention
from tests.bench.crowd import OBSERVER, connections, crowd, open_files, serve
from tests.bench.http import Connection
from tests.bench.report import Section
from tests.support.system import system

SESSIONS = 200
READERS = (0, 200, 1000, 2000)


async def run(redis_url: str) -> Section:
    section = Section(
        "Redis connections of one node",
        ["readers", "sessions", "connections: waiting", "connections: served", "all joined after s", "all served s"],
    )
    with open_files():
        for readers in READERS:
            section.rows.append(await _measure(redis_url, readers))
    section.remarks.append("No worker: every connection but the observer's is the node's.")
    return section


async def _measure(redis_url: str, readers: int) -> list[str]:
    sids = [f"crowd-{readers}-{n}" for n in range(SESSIONS)]
    observer = Redis.from_url(redis_url, client_name=OBSERVER)
    log = Log(observer, Retention(log_ms=60_000, tombstone_ms=60_000))
    async with observer, system(redis_url, workers=0) as running:
        async with Connection(running.url) as http:
            for sid in sids:
                await http.post("/v1/sessions", {"id": sid, "input": "hello"})
        started = time.perf_counter()
        async with crowd(running.url, sids, readers) as everybody:
            joined = time.perf_counter()
            waiting = await connections(observer)
            served = await serve(log, observer, everybody, sids)
            done = time.perf_counter()
    return [
        f"{readers}", f"{SESSIONS}", f"{waiting}", f"{max(served)}", f"{joined - started:.2f}", f"{done - joined:.2f}"
    ]  # fmt: skip
