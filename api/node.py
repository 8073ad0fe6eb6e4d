"""What a node is made of, built once and reached through the application's state."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.auth import ANONYMOUS as ANONYMOUS
from api.auth import Authenticator, authenticate
from api.auth import Principal as Principal
from api.first_delivery import FirstDeliveries
from api.hub import Hub
from api.metrics import NodeMetrics
from api.quota import Quota
from shared import jobs
from shared.directory import Directory
from shared.log import Log
from shared.redis import connect
from shared.redis_check import check_servers
from shared.settings import Settings
from shared.tasks import cancel
from shared.tracing import Tracing


@dataclass
class Node:
    settings: Settings
    log: Log
    directory: Directory
    queue: jobs.JobQueue
    hub: Hub
    auth: Authenticator
    quota: Quota
    tracing: Tracing
    metrics: NodeMetrics | None
    """None: they are not wanted."""


@contextlib.asynccontextmanager
async def open_node(settings: Settings, auth: Authenticator | None = None) -> AsyncIterator[Node]:
    """Connections are made on first use: a node starts, and says it is not ready, while Redis is away."""
    redis = connect(settings.log_redis_url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
    queue = jobs.JobQueue(jobs.open_queue(settings.queue_redis_url, settings.redis_timeout_s))
    log, directory = Log(redis, settings.retention), Directory(redis)
    tracing = Tracing.of(settings.traces, "holdfast-api", f"{socket.gethostname()}-{secrets.token_hex(4)}")
    tasks = [asyncio.create_task(check_servers(redis))]
    try:
        async with Hub(settings, log, directory).running() as hub:
            metrics = NodeMetrics(hub, log, lambda: redis.errors + queue.errors) if settings.metrics else None
            if metrics is not None:
                tasks += [asyncio.create_task(work) for work in (metrics.lag.run(), metrics.probe())]
            if tracing.on:
                hub.counts.firsts = FirstDeliveries(tracing, log, hub.spawn)
            quota = Quota(settings, redis, log, directory)
            auth = auth or Authenticator.of(settings)
            yield Node(settings, log, directory, queue, hub, auth, quota, tracing, metrics)
    finally:
        await cancel(tasks)
        await tracing.aclose()
        await queue.aclose()
        await redis.aclose(close_connection_pool=True)


def node_of(connection: HTTPConnection) -> Node:
    return cast(Node, connection.app.state.node)


async def _the_node(connection: HTTPConnection) -> Node:
    """Not `node_of` itself: FastAPI hands what is no coroutine to a thread, for each request."""
    return node_of(connection)


TheNode = Annotated[Node, Depends(_the_node)]


async def caller_of(connection: HTTPConnection) -> Principal:
    """Who calls, by a credential in a header. Raises Unauthorized."""
    return await authenticate(connection)


async def reader_of(connection: HTTPConnection) -> Principal:
    """The same, or by a stream token of the session in the path. Raises Unauthorized."""
    return await authenticate(connection, connection.path_params["sid"])


Caller = Annotated[Principal, Depends(caller_of)]
StreamCaller = Annotated[Principal, Depends(reader_of)]
"""Of a route that follows one session."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000
