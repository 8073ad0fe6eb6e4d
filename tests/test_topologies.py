"""Wherever Redis is, everything works: one server by TCP, TLS or socket, Sentinel, Cluster."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.cluster import cluster
from tests.support.flow import whole_flow
from tests.support.inprocess import live_node, live_worker
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.sentinel import sentinel_group
from tests.support.tls import certificates

Where = tuple[str, str]
"""HOLDFAST_REDIS_URL and HOLDFAST_QUEUE_URL."""


@contextlib.contextmanager
def _socket() -> Iterator[Where]:
    with TemporaryDirectory(prefix="hf-") as folder:
        path = Path(folder) / "redis.sock"
        with redis_server("--unixsocket", str(path)):
            yield f"unix://{path}?db=2", ""


@contextlib.contextmanager
def _tls() -> Iterator[Where]:
    with TemporaryDirectory(prefix="hf-") as folder:
        made, port = certificates(Path(folder)), free_port()
        with redis_server("--tls-port", str(port), *made.server):
            yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={made.authority}", ""


@contextlib.contextmanager
def _password() -> Iterator[Where]:
    with redis_server("--requirepass", "p@ss/word") as server:
        yield f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/1", ""


@contextlib.contextmanager
def _sentinel() -> Iterator[Where]:
    with sentinel_group() as group:
        yield group.url, ""


@contextlib.contextmanager
def _cluster() -> Iterator[Where]:
    with cluster() as nodes, redis_server() as queue:
        yield nodes.url, queue.url


@pytest.mark.parametrize("where", [_password, _tls, _socket, _sentinel, _cluster], ids=lambda where: where.__name__[1:])
async def test_everything_works(where: Callable[[], contextlib.AbstractContextManager[Where]]) -> None:
    """A session's whole life, through a node and a worker, on each kind of Redis."""
    with where() as (redis_url, queue_url):
        async with (
            asyncio.timeout(90),
            live_node(redis_url, queue_url=queue_url, turns_per_minute=10_000, live_sessions=1_000) as node,
            live_worker(redis_url, queue_url=queue_url),
        ):
            await whole_flow(node.url)
