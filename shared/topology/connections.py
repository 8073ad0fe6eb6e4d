"""Single connections: to a fixed address, or to one that is looked up anew each time."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.topology.faults import code_of
from shared.topology.url import Address, RedisUrl

CONNECT_TIMEOUT_S = 2.0
HEALTH_CHECK_S = 15

Locate = Callable[[], Awaitable[Address]]
"""Gives the address of the moment; raises RedisError."""


class _LeavesReplica:
    """A server that refuses a write as a replica was its master once: leave it, so that the name is looked up again."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if code_of(error) != "READONLY":
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise RedisConnectionError("the server is a replica, and takes no writes") from error


class _SaysClosed:
    """A connection whose other end has gone is a lost one, also in the words of uvloop: it raises no OSError for it."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)  # type: ignore[misc]
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            raise RedisConnectionError("the connection is closed") from error


class _Located:
    """Asks where to connect each time it connects, and makes sure that it found a master."""

    def __init__(self, *, locate: Locate, **options: Any) -> None:
        super().__init__(**options)
        self._locate = locate

    async def connect(self) -> None:
        connection: Any = self
        if not connection.is_connected:
            connection.host, connection.port = await self._locate()
            await super().connect()  # type: ignore[misc]

    async def on_connect(self) -> None:
        await super().on_connect()  # type: ignore[misc]
        connection: Any = self
        await connection.send_command("ROLE", check_health=False)
        if (await connection.read_response())[0] != b"master":
            raise RedisConnectionError("the server is not the master (any more)")


class TcpConnection(_LeavesReplica, _SaysClosed, Connection):
    pass


class TlsConnection(_LeavesReplica, _SaysClosed, SSLConnection):
    pass


class SocketConnection(_LeavesReplica, _SaysClosed, UnixDomainSocketConnection):
    pass


class LocatedTcpConnection(_Located, TcpConnection):
    pass


class LocatedTlsConnection(_Located, TlsConnection):
    pass


def options(url: RedisUrl, timeout_s: float | None) -> dict[str, Any]:
    """Arguments of a connection, but for where it leads. No time for answers: None.

    A connection retries nothing: its client does, for the whole of a command.
    """
    found: dict[str, Any] = {
        "db": url.db,
        "username": url.username,
        "password": url.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "lib_name": None,  # CLIENT SETINFO would be one more right to give, and Redis 7.0 does not know it
        "lib_version": None,
    }
    if timeout_s is not None:
        found["health_check_interval"] = HEALTH_CHECK_S
    if not url.path:
        found["socket_keepalive"] = True
    return {**found, **(url.tls or {})}


def connection_class(url: RedisUrl, *, located: bool = False) -> type[AbstractConnection]:
    if url.path:
        return SocketConnection
    if located:
        return LocatedTlsConnection if url.tls is not None else LocatedTcpConnection
    return TlsConnection if url.tls is not None else TcpConnection


def place(url: RedisUrl, address: Address | None = None) -> dict[str, Any]:
    """Arguments that say where a connection leads: to `address`, or to the URL's only one."""
    if url.path:
        return {"path": url.path}
    host, port = address or url.addresses[0]
    return {"host": host, "port": port}


def pool(kind: type[AbstractConnection], connections: int, wait_s: float, **arguments: Any) -> BlockingConnectionPool:
    """At most `connections`; callers queue for a free one, `wait_s` at most."""
    return BlockingConnectionPool(
        connection_class=kind,
        max_connections=connections,
        timeout=wait_s,  # type: ignore[arg-type]  # it takes fractions
        **arguments,
    )


def cut(connection: Any) -> None:
    """End a connection at once, without a goodbye: a peer that hangs takes none.

    Whoever uses it meanwhile gets a ConnectionError, as if the peer had gone. (redis-py's own `disconnect` would take
    the streams from under them, which is an AttributeError.)
    """
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
