"""The way into the job queue: an arq job per attempt, and a wake-up for a worker that waits."""

from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from pydantic_core import from_json, to_json

from shared import keys
from shared.redis import blocking_pool

FUNCTION = "generate"
WAKE_CAP = 1000
"""Wake-ups kept for workers that are busy; one that is lost costs the queue's polling interval."""
CONNECTIONS = 2


def serialize(job: dict[str, Any]) -> bytes:
    """arq's default is pickle, which runs what it reads. JSON cannot."""
    return to_json(job, fallback=str)


def deserialize(job: bytes) -> dict[str, Any]:
    value: dict[str, Any] = from_json(job)
    return value


def open_queue(url: str, timeout_s: float, connections: int = CONNECTIONS) -> ArqRedis:
    return ArqRedis(
        pool_or_conn=blocking_pool(url, connections, timeout_s),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=keys.QUEUE,
    )


class JobQueue:
    """Queues generations. Every method may raise redis.exceptions.RedisError; a lost job is found by a reaper."""

    def __init__(self, arq: ArqRedis) -> None:
        self._arq = arq

    @property
    def arq(self) -> ArqRedis:
        """The queue's client, for the worker that takes jobs out of it."""
        return self._arq

    async def enqueue(self, sid: str, generation: str, epoch: int) -> None:
        """Queue one attempt. The epoch in its id keeps it apart from earlier and later attempts; twice is once."""
        await self._arq.enqueue_job(FUNCTION, sid, generation, _job_id=_job_id(sid, epoch))
        await self._wake()

    async def enqueue_again(self, sid: str, generation: str, epoch: int) -> None:
        """Queue an attempt that seems lost.

        Its job may hang on the mark of a worker that died between taking the job and claiming the generation; the
        claim decides who runs it, so taking the mark away is safe.
        """
        await self._arq.delete(in_progress_key_prefix + _job_id(sid, epoch))
        await self.enqueue(sid, generation, epoch)

    async def _wake(self) -> None:
        async with self._arq.pipeline(transaction=False) as pipe:
            pipe.lpush(keys.WAKE, 1)
            pipe.ltrim(keys.WAKE, 0, WAKE_CAP - 1)
            await pipe.execute()

    async def aclose(self) -> None:
        await self._arq.aclose(close_connection_pool=True)


def _job_id(sid: str, epoch: int) -> str:
    return f"{sid}:{epoch}"
