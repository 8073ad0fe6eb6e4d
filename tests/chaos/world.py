"""What is broken: two nodes behind nginx, two workers, and a Redis that keeps its log on disk, all child processes."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from shared.log import Log, Retention
from shared.redis import RedisError, connect
from tests.chaos.readers import LATER, Reader
from tests.support.nginx import Nginx, nginx
from tests.support.redis_server import RedisServer
from tests.support.system import Node, Process, System

LEASE_S = 2.0
GRACE_S = 1.0
DRAIN_S = 1.0
SETTINGS = {
    "HOLDFAST_LEASE_S": str(LEASE_S),
    "HOLDFAST_HEARTBEAT_S": "0.5",
    "HOLDFAST_REQUEUE_AFTER_S": "1",
    "HOLDFAST_WORKER_GRACE_S": str(GRACE_S),
    "HOLDFAST_DRAIN_S": str(DRAIN_S),
    "HOLDFAST_KEEPALIVE_S": "2",
    "HOLDFAST_MAX_ATTEMPTS": "1000",
}
"""Times are scaled down. Attempts are not used up: what is lost often must come to its end all the same."""
REDIS = ("--appendonly", "yes", "--appendfsync", "always")
"""`always`: a kill of Redis loses nothing that it answered. With `everysec` it may put off writing itself, for up to
two seconds while a sync is under way: that loses a tail, which is what the tests of failovers are about."""
REQUEST_S = 60.0
RETRY_S = 0.2


class World:
    """All processes, and how to reach them."""

    def __init__(self, redis: RedisServer, system: System, front: Nginx) -> None:
        self.redis = redis
        self.nodes: list[Node] = system.nodes
        self.workers: list[Process] = system.workers
        self.front = front
        self.readers: set[Reader] = set()
        """Those that read now."""
        self.retries: list[str] = []
        """Why requests had to be repeated."""
        self.locks: dict[str, asyncio.Lock] = {}
        """Of what is broken at the moment, so that no two faults undo one another."""
        self._client = httpx.AsyncClient(base_url=front.url, timeout=REQUEST_S)
        self._redis = connect(redis.url, connections=4, timeout_s=10)
        self.log = Log(self._redis, Retention(1, 1))

    @property
    def url(self) -> str:
        return self.front.url

    def lock(self, name: str) -> asyncio.Lock:
        return self.locks.setdefault(name, asyncio.Lock())

    async def post(self, path: str, body: dict[str, Any], key: str = "") -> httpx.Response:
        """Repeated under one key until it is answered for good. Raises TimeoutError."""
        key = key or new_key()
        async with asyncio.timeout(REQUEST_S):
            while True:
                try:
                    answer = await self._client.post(path, json=body, headers={"Idempotency-Key": key})
                    if answer.status_code not in LATER:
                        return answer
                    self.retries.append(answer.text)
                except httpx.TransportError as error:
                    self.retries.append(repr(error))
                await asyncio.sleep(RETRY_S)

    async def asked(self, question: Callable[[], Any]) -> Any:
        """An answer of the log's, however often Redis goes away."""
        while True:
            try:
                return await question()
            except RedisError:
                await asyncio.sleep(RETRY_S)

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._redis.aclose(close_connection_pool=True)


def new_key() -> str:
    return uuid.uuid4().hex


@contextlib.asynccontextmanager
async def world(place: Path, settings: Mapping[str, str] = SETTINGS) -> AsyncIterator[World]:
    """Everything, started and ready. What the processes print is in files there."""
    redis = RedisServer(place, *REDIS)
    await asyncio.to_thread(redis.start)
    system = System(redis.url, nodes=2, workers=2, environment=dict(settings))
    for kind, processes in (("node", system.nodes), ("worker", system.workers)):
        for n, process in enumerate(processes):
            process.output = place / f"{kind}{n}.log"
    try:
        await system.start()
        async with nginx([node.port for node in system.nodes]) as front:
            running = World(redis, system, front)
            try:
                yield running
            finally:
                await running.aclose()
    finally:
        await system.stop()
        await asyncio.to_thread(redis.stop)
