"""Worker parts without a process: a context on a real Redis, and a writer whose turns a test takes itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from shared import keys
from shared.ids import new_token
from shared.log import Log
from shared.outage import Outage
from shared.settings import Settings
from tests.support.readers import cancelled
from tests.support.sessions import SID
from worker import pipelines
from worker.budget import Budget
from worker.context import WorkerContext
from worker.main import open_context
from worker.run import run_generation
from worker.writer import Batching, Pen, Writer

BATCHING = Batching(
    flush_s=0.005, flush_bytes=2048, backlog_bytes=1 << 20, max_output_bytes=1 << 22, max_event_bytes=1 << 20
)


@contextlib.asynccontextmanager
async def context(redis_url: str, **changes: Any) -> AsyncIterator[WorkerContext]:
    pipelines.load(())
    quick = {"linger_s": 0.02, "retention_s": 60.0, "tombstone_s": 60.0}
    async with open_context(Settings(redis_url=redis_url, **{**quick, **changes})) as opened:
        yield opened
        await opened.cancel_background()


class Heard:
    """What a writer told its job."""

    def __init__(self) -> None:
        self.stops = 0
        self.answers: list[str] = []
        self.pens: list[Pen] = []

    def stop(self) -> None:
        self.stops += 1


async def writer(log: Log, generation: str = "g1", worker: str = "w1", sid: str = SID) -> tuple[Writer, Heard]:
    """The writer of a generation that is queued: it claims."""
    token = new_token()
    claimed = await log.claim(sid, token, generation, worker)
    assert claimed is not None
    return writer_of(log, Pen(sid, generation, worker, token, claimed.epoch))


def writer_of(log: Log, pen: Pen) -> tuple[Writer, Heard]:
    heard = Heard()
    share = Budget(1 << 30).share(heard.stop)
    ears = (heard.stop, heard.answers.append, heard.pens.append)
    return Writer(log, pen, BATCHING, *ears, share, Outage("the log")), heard


async def within(work: Any, seconds: float = 10.0) -> Any:
    """The result, in time. Raises TimeoutError, also where the work swallows its cancellation."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        await cancelled(task)
        raise TimeoutError
    return await task


async def job_ids(redis: Any) -> list[str]:
    return [job.decode() for job in await redis.zrange(keys.QUEUE, 0, -1)]


async def run(context: WorkerContext, generation: str = "g1") -> None:
    await run_generation(context, SID, generation)
