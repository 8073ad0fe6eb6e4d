"""The way into the job queue: an arq job per attempt."""

import time
from typing import Any

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from pydantic_core import from_json, to_json

from shared import keys
from shared.redis import link
from shared.topology.client import Errors, Patient

FUNCTION = "generate"
JOB_TTL_MS = 86_400_000
CONNECTIONS = 2


def serialize(job: dict[str, Any]) -> bytes:
    """arq's default is pickle, which runs what it reads. JSON cannot."""
    return to_json(job, fallback=str)


def deserialize(job: bytes) -> dict[str, Any]:
    value: dict[str, Any] = from_json(job)
    return value


class QueueRedis(Patient, ArqRedis):  # type: ignore[misc]  # redis-py's own bases disagree
    """arq's client, over any way to one server."""

    def __init__(self, url: str, connections: int, timeout_s: float) -> None:
        self.link = link(url, connections=connections, timeout_s=timeout_s)
        self.errors = Errors()
        super().__init__(
            pool_or_conn=self.link.pool,
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name=keys.QUEUE,
        )


def open_queue(url: str, timeout_s: float, connections: int = CONNECTIONS) -> ArqRedis:
    """Raises ConfigurationError for a Cluster: arq's keys do not share a slot."""
    return QueueRedis(url, connections, timeout_s)


class JobQueue:
    """Queues generations. Every method may raise redis.exceptions.RedisError; a lost job is found by a reaper."""

    def __init__(self, arq: ArqRedis) -> None:
        self._arq = arq

    @property
    def arq(self) -> ArqRedis:
        """The queue's client, for the worker that takes jobs out of it."""
        return self._arq

    @property
    def errors(self) -> Errors:
        """See `shared.topology.client`."""
        client: Any = self._arq
        errors: Errors = client.errors
        return errors

    async def enqueue(self, sid: str, generation: str, epoch: int, since_ms: int | None = None) -> None:
        """Queue one attempt, in arq's own form and in one round trip.

        The epoch in its id keeps it apart from earlier and later attempts; twice is once. arq's own enqueue_job
        would refuse a job whose worker died between taking it and claiming the generation. A job that is still
        there keeps its place; one that was lost gets that of `since_ms`.
        """
        now_ms = time.time_ns() // 1_000_000
        job_id = f"{sid}:{epoch}"
        job = serialize_job(FUNCTION, (sid, generation), {}, None, now_ms, serializer=serialize)
        async with self._arq.pipeline(transaction=True) as pipe:
            pipe.psetex(job_key_prefix + job_id, JOB_TTL_MS, job)
            pipe.zadd(keys.QUEUE, {job_id: now_ms if since_ms is None else since_ms}, nx=True)
            await pipe.execute()

    async def aclose(self) -> None:
        await self._arq.aclose(close_connection_pool=True)
