"""How long a generation is nobody's: from the loss of its worker to the start of the next attempt elsewhere."""

import asyncio
import signal
import statistics
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from shared import jobs
from shared.directory import Directory
from shared.events import EventType
from shared.ids import new_token
from shared.log import Log, Retention
from shared.redis import connect
from tests.bench.report import Section, percentile
from tests.support.sessions import FIELDS, HELLO
from tests.support.system import Process, System, system

KILLS, TERMS = 50, 25
VICTIMS = 4
"""Workers that take turns to be lost. Beside them is one that stays: it alone has been there long enough to judge."""
PAUSE_S = 2.5
SESSIONS = 6
"""Started before each loss: the workers share them."""
KILL_GOAL_S, TERM_GOAL_S = 10.0, 1.0
OPTIONS = '{"tokens":100000,"rate":2}'
CONTACT_S = 9.0
"""A worker that was just started judges nobody before it has been in contact for a lease and a heartbeat."""


@dataclass
class Loss:
    """One worker that was lost."""

    at_ms: float
    sids: list[str]
    taken_s: dict[str, float] = field(default_factory=dict)
    """Session → how long until its next attempt began."""


class Sessions:
    """Generations without end, in the queue of the workers."""

    def __init__(self, redis_url: str, name: str) -> None:
        self._name = name
        self._client: Any = connect(redis_url, connections=4, timeout_s=5)
        self._queue = jobs.JobQueue(jobs.open_queue(redis_url, 5.0))
        self._directory = Directory(self._client)
        self.log = Log(self._client, Retention(log_ms=600_000, tombstone_ms=600_000))
        self.sids: list[str] = []

    async def start(self, count: int) -> None:
        for _ in range(count):
            sid = f"{self._name}-{len(self.sids)}"
            await self._directory.expect_live(sid)
            fields = {**FIELDS, "model": "demo/lorem", "options": OPTIONS}
            opened = await self.log.create(sid, new_token(), "body", [HELLO], fields)
            await self._queue.enqueue(sid, opened.generation, opened.last.epoch)
            self.sids.append(sid)

    async def of(self, worker: Process) -> list[str]:
        """Those whose first attempt this worker runs."""
        views = await self.log.views(self.sids)
        own = f"-{worker.pid}-"
        return [sid for sid, v in zip(self.sids, views, strict=True) if v and own in v.worker and v.attempt == 1]

    async def taken(self, loss: Loss) -> None:
        """Note when the next attempts began. Raises TimeoutError."""
        async with asyncio.timeout(60):
            for sid in loss.sids:
                while not (began := await self._second(sid)):
                    await asyncio.sleep(0.1)
                loss.taken_s[sid] = (began - loss.at_ms) / 1000
                await self.log.stop(sid, "bench", "")

    async def _second(self, sid: str) -> int:
        starts = [event for event in await self.log.events(sid) if event.type == EventType.STARTED]
        return starts[1].at if len(starts) > 1 else 0

    async def aclose(self) -> None:
        await self._queue.aclose()
        await self._client.aclose(close_connection_pool=True)


async def run(redis_url: str) -> Section:
    section = Section(
        "A worker is lost: until its generations run elsewhere",
        ["how", "workers", "generations", "median s", "p95 s", "p99 s", "worst s"],
    )
    for how, count, goal in ((signal.SIGKILL, KILLS, KILL_GOAL_S), (signal.SIGTERM, TERMS, TERM_GOAL_S)):
        async with aclosing(Sessions(redis_url, how.name)) as sessions:
            losses = await _lose(redis_url, sessions, how, count)
        _report(section, how, losses, goal)
    section.remarks.append(
        f"default settings but a grace of 0 s; from the signal to the next generation.started in the log. {VICTIMS} "
        f"workers take turns, one every {PAUSE_S:g} s; the only other one finds what was killed, and judges alone"
    )
    return section


async def _lose(redis_url: str, sessions: Sessions, how: signal.Signals, count: int) -> list[Loss]:
    environment = {"HOLDFAST_WORKER_GRACE_S": "0", "HOLDFAST_LOG_LEVEL": "critical"}
    losses: list[Loss] = []
    async with system(redis_url, nodes=0, workers=1, environment=environment) as running, asyncio.TaskGroup() as noting:
        for _ in range(VICTIMS):
            await running.add_worker()
        await running.workers_ready(1 + VICTIMS)
        await asyncio.sleep(CONTACT_S)
        while len(losses) < count:
            await sessions.start(SESSIONS)
            await asyncio.sleep(PAUSE_S)
            if loss := await _lose_oldest(running, sessions, how):
                losses.append(loss)
                noting.create_task(sessions.taken(loss))
    return losses


async def _lose_oldest(running: System, sessions: Sessions, how: signal.Signals) -> Loss | None:
    """None where it held nothing."""
    victim = running.workers.pop(1)
    sids = await sessions.of(victim)
    at_ms = time.time_ns() / 1e6
    victim.signal(how)
    await running.add_worker()
    await victim.ended()
    return Loss(at_ms, sids) if sids else None


def _report(section: Section, how: signal.Signals, losses: list[Loss], goal_s: float) -> None:
    taken = [seconds for loss in losses for seconds in loss.taken_s.values()]
    cells = [statistics.median(taken), percentile(taken, 95), percentile(taken, 99), max(taken)]
    section.rows.append([how.name, str(len(losses)), str(len(taken)), *(f"{value:.2f}" for value in cells)])
    verdict = "PASS" if percentile(taken, 99) <= goal_s else "MISS"
    section.remarks.append(f"{verdict}: {how.name}, p99 {percentile(taken, 99):.2f} s, goal ≤ {goal_s:g} s")
    if how is signal.SIGKILL:
        seconds = Counter(int(value) for value in taken)
        section.remarks.append(
            "seconds until then: " + ", ".join(f"{s}–{s + 1}: {seconds[s]}" for s in sorted(seconds))
        )
