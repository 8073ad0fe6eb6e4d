"""Two nodes and a worker in the loop of a module's tests, before scripted model servers: what SDKs are pointed at."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest_asyncio

from api.node import Node
from shared.log import Log
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.upstream import Upstream
from tests.upstream_fixtures import WIRES

SECONDS = 30


class DialectStage:
    """`up` answers as it is told to; `openai-chat/m`, `openai-responses/m` and `anthropic/m` reach it."""

    def __init__(self, nodes: list[LiveNode], up: Upstream) -> None:
        self.up = up
        self.node: Node = nodes[0].node
        self.log: Log = nodes[0].node.log
        self.urls = [node.url for node in nodes]
        self.ports = [int(url.rpartition(":")[2]) for url in self.urls]
        self.turns = itertools.cycle(self.ports)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(module_redis_url: str) -> AsyncIterator[DialectStage]:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(Upstream())
        models = {sdk: {"sdk": sdk, "base_url": up.url} for sdk in WIRES}
        node = partial(live_node, module_redis_url, models=models, retry_ms=20)
        nodes = [await stack.enter_async_context(node()) for _ in range(2)]
        await stack.enter_async_context(live_worker(module_redis_url, models=models))
        yield DialectStage(nodes, up)
