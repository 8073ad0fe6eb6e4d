"""The heartbeat: one lease for all generations a worker holds, and a look at what was asked of them."""

import asyncio
import os
import socket
import time

from shared.events import State, encode
from shared.redis import RedisError
from shared.tasks import within
from shared.telemetry import get_logger
from shared.views import SessionView
from worker.context import WorkerContext
from worker.holding import Holding

_log = get_logger(__name__)

RETRY_S = 0.25
END_S = 1.0
VIEWS = 500
"""Sessions looked at in one round trip."""


class Contact:
    """How long Redis has been there without a break.

    After a failover or a restart all leases are gone and everybody looks dead: nobody may be judged until every live
    worker had the time to come back.
    """

    def __init__(self, lease_s: float, heartbeat_s: float) -> None:
        self._silence_s = lease_s - heartbeat_s
        self._grace_s = lease_s + heartbeat_s
        self.made = asyncio.Event()
        """Set with the first lease: before it, no generation may be taken."""
        now = asyncio.get_running_loop().time()
        self._since = self._last = now

    def heard(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._last > self._silence_s:
            self._since = now
        self._last = now
        self.made.set()

    def broken(self) -> None:
        """A connection was remade: this may be another Redis, or one that forgot."""
        self._since = self._last = asyncio.get_running_loop().time()

    @property
    def unbroken(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - self._last <= self._silence_s and now - self._since >= self._grace_s


async def beat(context: WorkerContext, contact: Contact) -> None:
    """Refreshes the lease until cancelled. Redis being away only makes it try more often."""
    settings = context.settings
    lease_ms = int(settings.lease_s * 1000)
    while True:
        try:
            await context.lease.refresh_lease(context.worker_id, lease_ms, _about(context))
        except RedisError as error:
            context.outage.failed("heartbeat", error)
            await asyncio.sleep(RETRY_S)
        else:
            contact.heard()
            context.outage.passed("heartbeat")
            await asyncio.sleep(settings.heartbeat_s)


async def listen(context: WorkerContext) -> None:
    """Looks for what was asked of this worker's generations, until cancelled. Apart from the lease, which must not wait
    for it."""
    while True:
        await _hear_requests(context)
        await asyncio.sleep(context.settings.heartbeat_s)


async def _hear_requests(context: WorkerContext) -> None:
    """Stops and answers are stored with the session; an announcement that was lost costs no more than one heartbeat."""
    held: dict[str, list[tuple[str, Holding]]] = {}
    for token, holding in context.held.items():
        if holding is not None:  # one that lingers, and the next one of its session, may both be here
            held.setdefault(holding.sid, []).append((token, holding))
    for batches in context.log.by_server(list(held), VIEWS):
        try:
            for sids in batches:
                for sid, view in zip(sids, await context.log.views(sids), strict=True):
                    for token, holding in held[sid]:
                        _hear(token, holding, view)
        except RedisError as error:  # of one server; the others are asked nevertheless
            context.outage.failed("requests", error)
        else:
            context.outage.passed("requests")


def _hear(token: str, held: Holding, view: SessionView | None) -> None:
    if view is None or view.token != token:
        held.check()  # deleted, taken over, or rolled back by a failover: the writer finds out which
        return
    if view.stop == held.generation:
        held.stop()
    if view.answer:
        held.answer(view.answer)


async def end(context: WorkerContext) -> None:
    try:
        await within(END_S, context.lease.end_lease(context.worker_id))
    except (RedisError, TimeoutError) as error:
        _log.info("lease left to run out", error=str(error))


def _about(context: WorkerContext) -> str:
    """What whoever looks at the lease is told. Counts go on from the start of the process; `at` is its clock."""
    counts = context.counts
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "generations": len(context.held),
        "room": context.settings.worker_jobs,
        "at": time.time_ns() // 1_000_000,
        "attempts": counts.attempts,
        "appended": counts.appended,
        "failed": sum(count for (outcome, _), count in counts.ended.items() if outcome == State.FAILED),
    }
    return encode(about).decode()
