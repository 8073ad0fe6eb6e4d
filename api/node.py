"""What a node is made of, built once and reached through the application's state."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.auth import ANONYMOUS as ANONYMOUS
from api.auth import Authenticator, authenticate
from api.auth import Principal as Principal
from api.hub import Hub
from api.quota import Quota
from shared import jobs
from shared.directory import Directory
from shared.log import Log
from shared.redis import connect
from shared.redis_check import check_servers
from shared.settings import Settings
from shared.tasks import cancel


@dataclass
class Node:
    settings: Settings
    log: Log
    directory: Directory
    queue: jobs.JobQueue
    hub: Hub
    auth: Authenticator
    quota: Quota


@contextlib.asynccontextmanager
async def open_node(settings: Settings, auth: Authenticator | None = None) -> AsyncIterator[Node]:
    """Connections are made on first use: a node starts, and says it is not ready, while Redis is away."""
    redis = connect(settings.log_redis_url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
    queue = jobs.JobQueue(jobs.open_queue(settings.queue_redis_url, settings.redis_timeout_s))
    log, directory = Log(redis, settings.retention), Directory(redis)
    checking = asyncio.create_task(check_servers(redis))
    try:
        async with Hub(settings, log, directory).running() as hub:
            quota = Quota(settings, redis, log, directory)
            yield Node(settings, log, directory, queue, hub, auth or Authenticator.of(settings), quota)
    finally:
        await cancel([checking])
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
