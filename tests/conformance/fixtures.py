"""Two nodes over one Redis, in the loop of the tests; and a session that is theirs to write."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from api import delivery
from shared.log import Log, Retention
from tests.conformance.scene import Scene
from tests.support.inprocess import LiveNode, live_node
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(_server: RedisServer) -> AsyncIterator[list[LiveNode]]:
    async with live_node(_server.url) as one, live_node(_server.url) as other:
        yield [one, other]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_redis(_server: RedisServer) -> AsyncIterator[Any]:
    async with connected(_server.url, connections=8) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared_redis: Any, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Redis is emptied; who is ahead of the log looks again soon."""
    monkeypatch.setattr(delivery, "HEAL_POLL_S", 0.01)
    await shared_redis.flushall()
    return Scene(shared_redis, Log(shared_redis, Retention(log_ms=60_000, tombstone_ms=60_000)))
