"""A node and a worker inside the test's own event loop: real sockets and a real Redis, but no child processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.main import create_app
from api.node import Node
from api.server import Server, server_config
from shared.settings import Settings
from worker import queue
from worker.main import Stopping, serve
from worker.queue import WakingWorker

WAIT_S = 0.02
"""For so long a worker waits for a job in one go, and so long it may take to leave."""


def settings(redis_url: str, **changes: Any) -> Settings:
    quick = {"linger_s": 0.01, "worker_grace_s": 0.0, "drain_s": 0.1}
    return Settings(redis_url=redis_url, **{**quick, **changes})


class LiveNode:
    """A node that serves; `node` is its inside, `server` what it is served by."""

    def __init__(self, url: str, node: Node, server: Server) -> None:
        self.url = url
        self.node = node
        self.server = server


@contextlib.asynccontextmanager
async def live_node(redis_url: str, **changes: Any) -> AsyncIterator[LiveNode]:
    told = settings(redis_url, port=0, **changes)
    app = create_app(told)
    server = Server(server_config(app, told), app)
    server.config.timeout_graceful_shutdown = 1
    serving = asyncio.create_task(server._serve())  # serve() would take the test runner's signals
    while not server.started:
        await asyncio.sleep(0)
        if serving.done():
            await serving
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield LiveNode(f"http://127.0.0.1:{port}", app.state.node, server)
    finally:
        app.state.node.hub.drain()
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def live_worker(redis_url: str, *, wait_s: float = WAIT_S, **changes: Any) -> AsyncIterator[None]:
    def brisk(told_s: float, **options: Any) -> WakingWorker:
        return WakingWorker(min(told_s, wait_s), **options)

    stopping = Stopping()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "WakingWorker", brisk)
        serving = asyncio.create_task(serve(settings(redis_url, **changes), stopping))
        try:
            yield
        finally:
            stopping.soon.set()
            await serving
