"""The reaper: finds generations nobody looks after, and gives them the next attempt or a verdict."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping

from shared.events import LIVE, State
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
        self._found: Counter[State] = Counter()
        """Live sessions of this sweep so far, by state."""
        self._oldest_ms = 0
        """The longest that one of them has been queued."""

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
        self._found = Counter()
        self._oldest_ms = 0
        failed: RedisError | None = None
        for batches in self._context.log.by_server(list(index), VIEWS):
            try:
                for sids in batches:
                    await self._judge_all(sids, index)
            except RedisError as error:  # the sessions of the other servers must not wait for this one
                failed = error
        if failed is not None:
            raise failed
        counts = self._context.counts
        counts.live = {(state,): self._found[state] for state in LIVE}
        counts.oldest_queued_s = self._oldest_ms / 1000

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
        if view is not None and view.live:
            self._found[view.state] += 1
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
        self._oldest_ms = max(self._oldest_ms, waited_ms)
        if waited_ms > self._settings.queue_timeout_s * 1000:
            if await self._context.log.abandon(sid, view.epoch, int(self._settings.queue_timeout_s * 1000)):
                self._ended("failed", "queue_timeout")
                _log.warning(
                    "no worker took it in time", session=sid, generation=view.generation, attempt=view.attempt,
                    waited_ms=waited_ms,
                )  # fmt: skip
        elif waited_ms > self._settings.requeue_after_s * 1000 and self._may_requeue(sid):
            await self._context.queue.enqueue(sid, view.generation, view.epoch, view.since)
            self._context.counts.requeued += 1
            _log.info(
                "queued again", session=sid, generation=view.generation, attempt=view.attempt, waited_ms=waited_ms
            )

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
        _log.warning(
            "worker lost", session=sid, generation=view.generation, attempt=view.attempt, lost=view.worker,
            next_attempt=reaped.requeued,
        )  # fmt: skip
        if reaped.requeued:
            await self._context.queue.enqueue(sid, reaped.generation, reaped.epoch)
        else:
            self._ended(*(("cancelled", "reaper") if view.stop else ("failed", "worker_lost")))
            self._context.compact(sid)

    def _ended(self, outcome: str, code: str) -> None:
        self._context.counts.appended += 1
        self._context.counts.ended[(outcome, code)] += 1
