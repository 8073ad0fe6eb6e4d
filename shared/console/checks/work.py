"""Whether work gets done: workers, the queue, and sessions that nobody looks after."""

import asyncio
from collections import Counter
from typing import Any

from pydantic_core import from_json

from shared import keys
from shared.console.checks.findings import Finding, Subject, bad, ok, warn
from shared.console.render import count, span
from shared.console.search import BATCH
from shared.directory import Directory
from shared.events import State
from shared.reading import Reading
from shared.views import SessionView

SLOW_MS, STUCK_MS = 2_000, 10_000
"""How long the oldest job may wait."""
ORPHAN_MS = 8_000
"""A generation that was taken less than a lease ago may belong to a worker whose lease is on its way."""
TAKEOVER_S, AGAIN_S = 12.0, 1.0
"""Within about 10 s another worker has taken over; so long to look again."""
MOST = 20_000
"""Live sessions that are looked at, and workers."""
NAMED = 3
BUSY = 0.9


async def workers_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """Worker id → what it says of itself, of all that have a lease."""
    leases = await Directory(subject.redis).leases(MOST)
    return {lease.worker_id: _said(lease.about) for lease in leases}


def _said(about: str) -> dict[str, Any]:
    """What another version of a worker says may be anything."""
    try:
        value = from_json(about)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def check_workers(subject: Subject) -> list[Finding]:
    found = await workers_of(subject)
    if not found:
        remedy = (
            "start some: `holdfast worker` with the same HOLDFAST_REDIS_URL; look at their logs if they should be there"
        )
        return [bad("workers", "none is alive: nobody answers", remedy)]
    load = [int(about.get("generations", 0)) for about in found.values()]
    hosts = len({about.get("host") for about in found.values()})
    text = f"{count(len(found), 'worker')} on {count(hosts, 'host')}, with {count(sum(load), 'generation')}"
    if len(found) > 1:
        text += f", at most {max(load)} on one"
    room = subject.settings.worker_jobs if subject.settings is not None else 0
    if room and min(load) >= room * BUSY:
        return [warn("workers", f"{text}: all are full (HOLDFAST_WORKER_JOBS is {room} here)", "start more workers")]
    if len(found) == 1:
        return [ok("workers", f"{text}; a second one would take over where this one is lost")]
    return [ok("workers", text)]


async def check_queue(subject: Subject) -> list[Finding]:
    depth = int(await subject.queue.zcard(keys.QUEUE))
    if not depth:
        return [ok("queue", "empty: each job is taken at once")]
    ((job, score),) = await subject.queue.zrange(keys.QUEUE, 0, 0, withscores=True)
    seconds, micros = await subject.queue.time()
    waited = max(int(seconds) * 1000 + int(micros) // 1000 - int(score), 0)
    oldest = job.decode(errors="replace").rpartition(":")[0]
    text = f"{count(depth, 'job')}, the oldest ({oldest}) waits for {span(waited)}"
    if waited > STUCK_MS:
        remedy = "no worker takes it: start workers, or more of them; those there are must have this HOLDFAST_QUEUE_URL"
        return [bad("queue", text, remedy)]
    if waited > SLOW_MS:
        return [warn("queue", text, "workers are behind: start more, or raise HOLDFAST_WORKER_JOBS")]
    return [ok("queue", text)]


async def check_sessions(subject: Subject) -> list[Finding]:
    """A worker that was lost a moment ago is none of our business yet: as long as others are alive to take over, they
    are given the time for it."""
    states, orphans = await _looked_after(subject)
    deadline = asyncio.get_running_loop().time() + TAKEOVER_S
    while orphans and asyncio.get_running_loop().time() < deadline and await workers_of(subject):
        await asyncio.sleep(AGAIN_S)
        states, orphans = await _looked_after(subject)
    return [_sessions(states, orphans)]


async def _looked_after(subject: Subject) -> tuple[Counter[str], list[str]]:
    """How many live sessions there are by state, and those that nobody looks after."""
    reading, directory = Reading(subject.redis), Directory(subject.redis)
    index, now_ms = list(await directory.live()), await directory.now_ms()
    states: Counter[str] = Counter()
    orphans: list[str] = []
    alive: dict[str, bool] = {}
    for n in range(0, min(len(index), MOST), BATCH):
        sids = index[n : n + BATCH]
        for sid, view in zip(sids, await reading.views(sids), strict=True):
            if view is None or not view.live:
                continue
            states[view.state] += 1
            if view.worker and view.worker not in alive:
                alive[view.worker] = await directory.is_alive(view.worker)
            if _orphaned(view, alive.get(view.worker, False), now_ms):
                orphans.append(sid)
    return states, orphans


def _orphaned(view: SessionView, alive: bool, now_ms: int) -> bool:
    return view.state is not State.QUEUED and not alive and now_ms - view.since > ORPHAN_MS


def _sessions(states: Counter[str], orphans: list[str]) -> Finding:
    live = ", ".join(f"{number:,} {state}" for state, number in states.most_common()) or "none is live"
    if not orphans:
        return ok("sessions", f"{live}; each has its worker" if states else live)
    named = ", ".join(orphans[:NAMED]) + (", …" if len(orphans) > NAMED else "")
    text = f"{count(len(orphans), 'session')} without a live worker that nobody takes over: {named}"
    remedy = "start a worker: it gives them their next attempt within about 20 s; or end one: `holdfast stop SID`"
    return bad("sessions", text, remedy)
