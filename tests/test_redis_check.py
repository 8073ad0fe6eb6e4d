"""What is said of Redis at the start of a process."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.redis_check import check_servers
from tests.support.inprocess import live_node, live_worker
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server
from tests.support.workers import within


async def _said(server: RedisServer) -> list[Any]:
    async with connected(server.url, connections=1) as client:
        with capture_logs() as said:
            await within(check_servers(client))
    return [(entry["log_level"], entry["event"].split(":")[0]) for entry in said]


EVICTS = ("warning", "Redis may evict")
NO_FILE = ("info", "Redis keeps no append-only file")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], [EVICTS, NO_FILE]),
        (["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl", "--appendonly", "yes"], [EVICTS]),
        (["--maxmemory", "100mb", "--maxmemory-policy", "noeviction", "--appendonly", "yes"], []),
        (["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"], []),
        ([], [NO_FILE]),
    ],
)
async def test_a_redis_that_may_evict_is_warned_of(arguments: list[str], expected: list[Any]) -> None:
    """Only where there is a limit that could be reached; a missing file is told, and no more."""
    with redis_server(*arguments) as server:
        assert await _said(server) == expected


@pytest.mark.parametrize("part", [live_node, live_worker])
async def test_nodes_and_workers_look_at_their_start(part: Callable[..., Any]) -> None:
    """Each says so by itself, as soon as Redis is there, also if it comes later."""
    with redis_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        server.kill()
        with capture_logs() as said:
            async with part(server.url):
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(20):
                    while not any(entry["event"].startswith("Redis may evict") for entry in said):
                        await asyncio.sleep(0.05)
