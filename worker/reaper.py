"""The reaper: finds generations nobody looks after, and gives them the next attempt or a verdict."""

import asyncio
import random
import time
from collections.abc import Mapping

from shared.events import State
from shared.redis import RedisError, transient
from shared.telemetry import get_logger
from shared.views import SessionView
from worker.context import WorkerContext
from worker.heartbeat import Contact

_log = get_logger(__name__)

PERIOD = (0.28, 0.38)
"""Of a lease: how long after a sweep the next one begins."""
VIEWS = 200
"""Sessions looked at in one round trip."""
STALE_S = 1.0
"""A judgement older than this is not carried out: the worker may have come back."""
REQUEUES = 200
"""Most sessions queued again in one sweep."""
INDEX_AGE_MS = 20_000


class Reaper:
    """Sweeps all live sessions until cancelled. Every worker has one; the scripts decide who wins."""

    def __init__(self, context: WorkerContext, contact: Contact) -> None:
        self._context = context
        self._contact = contact
        self._settings = context.settings
        self._requeued: dict[str, float] = {}
        """Session → when it was queued again, of those that must not be again so soon."""
        self._left = REQUEUES
        """How many more may be queued again in this sweep."""
        self._broken: set[str] = set()
        """Sessions that were complained of."""
        self._now_ms = 0
        """Redis' clock at the beginning of this sweep."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*PERIOD) * self._settings.lease_s)
            try:
                await self.sweep()
                self._context.outage.passed("reaper")
            except RedisError as error:
                self._context.outage.failed("reaper", error)

    async def sweep(self) -> None:
        index = await self._context.directory.live()
        self._now_ms = await self._context.directory.now_ms()
        self._left = REQUEUES
        horizon = time.monotonic() - self._settings.requeue_after_s
        self._requeued = {sid: at for sid, at in self._requeued.items() if at > horizon}
        self._broken &= index.keys()
        failed: RedisError | None = None
        for batches in self._context.log.by_server(list(index), VIEWS):
            try:
                for sids in batches:
                    await self._judge_all(sids, index)
            except RedisError as error:  # the sessions of the other servers must not wait for this one
                failed = error
        if failed is not None:
            raise failed

    async def _judge_all(self, sids: list[str], index: Mapping[str, int]) -> None:
        started = time.monotonic()
        views = await self._context.log.views(sids)
        alive = await self._alive({view.worker for view in views if view and view.worker})
        for sid, view in zip(sids, views, strict=True):
            await self._judge_apart(sid, view, index[sid], alive, started)

    async def _alive(self, workers: set[str]) -> set[str]:
        return {worker for worker in workers if await self._context.directory.is_alive(worker)}

    async def _judge_apart(
        self, sid: str, view: SessionView | None, score: int, alive: set[str], started: float
    ) -> None:
        """A session whose keys Redis refuses to touch must not keep the reaper from all the others."""
        try:
            await self._judge(sid, view, score, alive, started)
        except RedisError as error:
            if transient(error):
                raise
            if sid not in self._broken:
                self._broken.add(sid)
                _log.error("session cannot be judged", session=sid, error=str(error))

    async def _judge(self, sid: str, view: SessionView | None, score: int, alive: set[str], started: float) -> None:
        if view is None or not view.live:
            if self._now_ms - score > INDEX_AGE_MS:
                await self._context.directory.forget_live(sid, score)
        elif view.state is State.QUEUED:
            await self._queued(sid, view)
        elif self._abandoned(view, alive, started):
            await self._reap(sid, view)

    # -- queued

    async def _queued(self, sid: str, view: SessionView) -> None:
        waited_ms = self._now_ms - view.since
        if waited_ms > self._settings.queue_timeout_s * 1000:
            await self._context.log.abandon(sid, view.epoch, int(self._settings.queue_timeout_s * 1000))
        elif waited_ms > self._settings.requeue_after_s * 1000 and self._may_requeue(sid):
            await self._context.queue.enqueue(sid, view.generation, view.epoch, view.since)
            _log.info("queued again", session=sid, generation=view.generation, waited_ms=waited_ms)

    def _may_requeue(self, sid: str) -> bool:
        if self._left == 0 or sid in self._requeued:
            return False
        self._left -= 1
        self._requeued[sid] = time.monotonic()
        return True

    # -- running

    def _abandoned(self, view: SessionView, alive: set[str], started: float) -> bool:
        if view.worker == self._context.worker_id:
            return view.token not in self._context.held
        fresh = time.monotonic() - started < STALE_S
        return view.worker not in alive and self._contact.unbroken and fresh

    async def _reap(self, sid: str, view: SessionView) -> None:
        own = view.worker == self._context.worker_id
        max_crashes = 1 if view.on_crash == "fail" else self._settings.max_attempts
        min_age_ms = 0 if own else int(self._settings.lease_s * 1000)
        reaped = await self._context.log.reap(sid, view.epoch, max_crashes, min_age_ms)
        if reaped is None:
            return
        _log.warning("worker lost", session=sid, worker=view.worker, next_attempt=reaped.requeued)
        if reaped.requeued:
            await self._context.queue.enqueue(sid, reaped.generation, reaped.epoch)
        else:
            self._context.compact(sid)
