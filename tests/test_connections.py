"""A node's connections to Redis are a small constant: a thousand readers of two hundred sessions, on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from shared import keys
from shared.log import Log, Retention
from tests.bench.crowd import OBSERVER, connections, crowd, open_files, serve
from tests.support.sse import text_of
from tests.support.system import System, system

SESSIONS = [f"s{n}" for n in range(200)]
READERS = 1000
MOST = 9
"""Connections a node may have: 4 for commands, 2 for the queue, 1 subscription, and some room."""
FORGOTTEN_S = 15


@pytest.fixture
def many_files() -> Iterator[None]:
    with open_files():
        yield


@pytest.fixture
async def observer(redis_url: str) -> AsyncIterator[Any]:
    """A client that can be told from the node's by its name."""
    client = Redis.from_url(redis_url, client_name=OBSERVER)
    yield client
    await client.aclose()


@pytest.fixture
async def node(redis_url: str, many_files: None) -> AsyncIterator[System]:
    """One node and no worker: whoever else is connected to Redis is the node. Its sessions wait to be run."""
    async with system(redis_url, workers=0) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            for sid in SESSIONS:
                assert (await client.post("/v1/sessions", json={"id": sid, "input": "hello"})).status_code == 201
        yield running


async def channels(observer: Any) -> int:
    return len(await observer.pubsub_channels(keys.live("*")))


async def until_zero(count: Any) -> None:
    async with asyncio.timeout(FORGOTTEN_S):
        while await count():
            await asyncio.sleep(0.1)


async def test_connections_do_not_grow_with_readers(node: System, observer: Any) -> None:
    """A node with a thousand readers keeps fewer than ten connections, while they wait and while they are served."""
    log = Log(observer, Retention(log_ms=60_000, tombstone_ms=60_000))
    async with crowd(node.url, SESSIONS, READERS) as readers:
        seen = [await connections(observer)]
        seen += await serve(log, observer, readers, SESSIONS)
    assert 1 <= max(seen) <= MOST, seen
    assert {text_of(reader.frames) == f"one two {reader.sid}" for reader in readers} == {True}
    assert {reader.frames[-1].type for reader in readers} == {"generation.completed"}


async def test_readers_that_vanish_are_forgotten(node: System, observer: Any) -> None:
    """After a thousand readers vanished from sessions that go on, the node keeps none of their sockets and feeds."""
    process = psutil.Process(node.nodes[0].pid)

    async def sockets() -> int:
        return sum(each.laddr.port == node.nodes[0].port for each in process.net_connections("tcp")) - 1

    async with crowd(node.url, SESSIONS, READERS):
        subscribers = await observer.pubsub_numsub(*(keys.live(sid) for sid in SESSIONS))
        assert [count for _, count in subscribers] == [1] * len(SESSIONS)
        assert await channels(observer) == len(SESSIONS)
        assert await sockets() >= READERS
    await until_zero(sockets)
    await until_zero(lambda: channels(observer))
    assert await connections(observer) <= MOST
