"""arq, woken: a worker that has room blocks on the queue and starts a job the moment it is there."""

import asyncio
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Worker, func

from shared import jobs, keys
from shared.outage import Outage
from shared.redis import RedisError
from shared.tasks import cancel, within
from shared.telemetry import get_logger
from worker.context import WorkerContext
from worker.run import run_generation

_log = get_logger(__name__)

WAIT_S = 1.0
"""Longest wait for a job in one go, where the timeout of the connection's reads leaves room for it."""
REDIS_AWAY_S = 0.25
CONNECTIONS = 8
LONGEST_S = 7 * 86_400
"""arq's own limit is never to be the one that is met: a generation has its own, and may wait for an answer."""


class WakingWorker(Worker):
    """An arq worker that blocks on the queue instead of polling it, and outlives an outage of its Redis.

    arq leaves a job in the queue until it is done, and walks past all running ones at each poll. Here a job leaves the
    queue when it is taken. If its worker dies before it claims the generation, a reaper queues it again; after that the
    log, not the queue, knows who runs it.
    """

    def __init__(self, wait_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._wait_s = wait_s
        self._outage = Outage("the queue")
        self._popping: asyncio.Task[Any] | None = None
        """What asks the queue. Outlives `main`: a job that is on its way to this worker must not be lost."""

    async def main(self) -> None:
        """Runs until cancelled; call `give_back` then. Overrides arq's polling loop."""
        while True:
            await self.sem.acquire()
            try:
                taken = await self._take()
                self._outage.passed(self)
            except RedisError as error:
                self._outage.failed(self, error)
                await asyncio.sleep(REDIS_AWAY_S)
                taken = False
            finally:
                self._forget_done()
            if not taken:
                self.sem.release()

    async def _take(self) -> bool:
        """Wait a while for a job; True if one was started. It then releases the semaphore when it is over."""
        pool: Any = self.pool
        self._popping = asyncio.create_task(pool.execute_command("BZPOPMIN", keys.QUEUE, self._wait_s))
        found = await asyncio.shield(self._popping)
        self._popping = None
        if found is None:
            return False
        job_id, score = found[1].decode(), int(float(found[2]))
        if job_id in self.tasks and not self.tasks[job_id].done():
            return False  # queued again while it was being taken: it runs here already
        self.job_counter += 1
        task = self.loop.create_task(self.run_job(job_id, score))
        task.add_done_callback(lambda _: self._release_sem_dec_counter_on_complete())
        self.tasks[job_id] = task
        return True

    async def give_back(self) -> None:
        """A job that was taken in the moment `main` was cancelled goes back to its place."""
        pool: Any = self.pool
        popping, self._popping = self._popping, None
        if popping is None:
            return
        try:
            if (found := await within(2 * WAIT_S, _result(popping))) is not None:
                await within(WAIT_S, pool.zadd(keys.QUEUE, {found[1]: float(found[2])}, nx=True))
        except (RedisError, TimeoutError) as error:
            _log.info("if a job was taken, a reaper will queue it again", error=str(error))

    def _forget_done(self) -> None:
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                if not task.cancelled() and (error := task.exception()) is not None:
                    _log.warning("a job could not be run or put away", job=job_id, error=repr(error))


def build_worker(context: WorkerContext, pool: ArqRedis) -> WakingWorker:
    """One arq worker whose jobs are generations. It handles no signals: worker/main.py does."""
    settings = context.settings

    async def generate(_: dict[Any, Any], sid: str, generation: str) -> None:
        await run_generation(context, sid, generation)

    return WakingWorker(
        min(WAIT_S, settings.redis_timeout_s / 2),
        functions=[func(generate, name=jobs.FUNCTION)],  # type: ignore[arg-type]
        queue_name=keys.QUEUE,
        redis_pool=pool,
        handle_signals=False,
        max_jobs=settings.worker_jobs - 1,  # arq's semaphore has one more
        job_timeout=LONGEST_S,
        keep_result=0,
        retry_jobs=False,  # the log decides about attempts: a retry of arq's would be a second generation
        job_serializer=jobs.serialize,
        job_deserializer=jobs.deserialize,
        health_check_interval=3600,
        log_results=False,
    )


async def drained(arq: WakingWorker, within_s: float, now: asyncio.Event | None = None) -> bool:
    """Wait until no job runs any more; False if some still do. Meaningful once `main` was ended. Once `now` is set,
    the waiting is over."""
    ending: asyncio.Future[Any] = asyncio.gather(*arq.tasks.values(), return_exceptions=True)
    hurry = asyncio.create_task((now or asyncio.Event()).wait())
    waits: set[asyncio.Future[Any]] = {ending, hurry}
    await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    return ending.done()


async def _result(task: asyncio.Task[Any]) -> Any:
    return await task


async def end_jobs(arq: WakingWorker, within_s: float) -> None:
    """Cancel what still runs: each job hands its generation back, if it can, and is not disturbed in that."""
    await cancel(arq.tasks.values(), within_s, again_s=within_s)
