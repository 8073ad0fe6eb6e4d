"""arq, woken: a worker that has room blocks on a list and starts a job the moment it is queued."""

import asyncio
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Worker, func

from shared import jobs, keys
from shared.redis import RedisError
from shared.tasks import cancel
from shared.telemetry import get_logger
from worker.context import WorkerContext
from worker.run import run_generation

_log = get_logger(__name__)

POLL_S = 0.5
"""arq's own polling stays, as the remedy for a lost wake-up."""
REDIS_AWAY_S = 0.25
CONNECTIONS = 8
LONGEST_S = 7 * 86_400
"""arq's own limit is never to be the one that is met: a generation has its own, and may wait for an answer."""


class WakingWorker(Worker):
    """An arq worker that waits for a wake-up instead of sleeping, and outlives an outage of its Redis."""

    async def main(self) -> None:
        """Runs until cancelled. Overrides arq's polling loop."""
        while True:
            try:
                await self._poll_iteration()
                await self._wait()
            except RedisError as error:
                _log.warning("queue unreachable", error=str(error))
                await asyncio.sleep(REDIS_AWAY_S)

    async def _wait(self) -> None:
        if self.allow_pick_jobs and self.job_counter < self.max_jobs:
            pool: Any = self.pool
            await pool.execute_command("BLPOP", keys.WAKE, POLL_S)  # blpop() takes whole seconds only
        else:
            await asyncio.sleep(POLL_S / 10)


def build_worker(context: WorkerContext, pool: ArqRedis) -> WakingWorker:
    """One arq worker whose jobs are generations. It handles no signals: worker/main.py does."""
    settings = context.settings

    async def generate(_: dict[Any, Any], sid: str, generation: str) -> None:
        await run_generation(context, sid, generation)

    return WakingWorker(
        functions=[func(generate, name=jobs.FUNCTION)],  # type: ignore[arg-type]
        queue_name=keys.QUEUE,
        redis_pool=pool,
        handle_signals=False,
        max_jobs=settings.worker_jobs,
        job_timeout=LONGEST_S,
        keep_result=0,
        retry_jobs=False,  # the log decides about attempts: a retry of arq's would be a second generation
        job_serializer=jobs.serialize,
        job_deserializer=jobs.deserialize,
        health_check_interval=3600,
        log_results=False,
    )


async def drained(arq: WakingWorker, within_s: float) -> bool:
    """Wait until no job runs any more; False if some still do. Meaningful once `main` was ended."""
    running = [job for job in arq.tasks.values() if not job.done()]
    if not running:
        return True
    _, left = await asyncio.wait(running, timeout=within_s)
    return not left


async def end_jobs(arq: WakingWorker) -> None:
    """Cancel what still runs: each job hands its generation back, if it can."""
    await cancel(arq.tasks.values())
