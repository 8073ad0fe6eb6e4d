"""A connection that ends under a command is a lost connection, whatever loop is under it."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.topology.connections import TcpConnection
from tests.support.redis_client import connected


async def _ping(connection: TcpConnection) -> None:
    for _ in range(3):  # the first may still be taken
        await connection.send_command("PING")
        await connection.read_response()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_writing_on_a_closed_connection_is_a_lost_connection(
    redis_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Never an error that a caller of Redis does not expect: it could only answer 500."""

    async def write() -> None:
        port = int(redis_url.rsplit(":", 1)[1].partition("/")[0])
        connection = TcpConnection(host="127.0.0.1", port=port, socket_timeout=5)
        await connection.connect()  # type: ignore[no-untyped-call]
        transport = connection._writer.transport  # type: ignore[union-attr]
        transport.abort()
        with pytest.raises(RedisConnectionError):
            await _ping(connection)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(write())


def test_a_command_outlives_a_connection_that_was_closed(redis_url: str) -> None:
    """The client makes another one."""

    async def ask() -> None:
        async with connected(redis_url, connections=1) as client:
            await client.ping()
            (idle,) = client.connection_pool._available_connections
            idle._writer.transport.abort()
            assert await client.ping()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())
