"""Fixtures every test may use. Each test has a Redis that is empty."""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import hypothesis
import pytest
import structlog

from shared.directory import Directory
from shared.log import Log, Retention
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("patient")

LONG = (
    "test_image",
    "test_log_property",
    "test_deploy",
    "test_chaos",
    "test_interrupt",
    "test_takeover",
    "test_redis_faults_failover",
)
"""Files that would keep one process busy after all others are done. They are begun first."""


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: more processes than processors, since many tests wait for processes that start, leave or are lost."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a test does to the logs of this process, other tests hear."""
    yield
    loggers_are_kept = structlog.get_config()["cache_logger_on_first_use"]
    structlog.reset_defaults()
    assert not loggers_are_kept


@pytest.fixture(scope="session")
def _server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis_url(_server: RedisServer) -> str:
    """A real Redis, emptied."""
    with _server.client() as client:
        client.config_set("maxmemory", 0)
        client.flushall()
    return _server.url


@pytest.fixture(scope="module")
def module_redis_url() -> Iterator[str]:
    """A real Redis of the module's own, which nobody empties: for processes that go on from test to test."""
    with redis_server() as server:
        yield server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with connected(redis_url, connections=8) as client:
        yield client


@pytest.fixture
def log(redis: Any) -> Log:
    return Log(redis, Retention(log_ms=60_000, tombstone_ms=60_000))


@pytest.fixture
def directory(redis: Any) -> Directory:
    return Directory(redis)
