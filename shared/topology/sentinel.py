"""The way to the master that the Sentinels agree on."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import Sentinel

from shared.topology.connections import connection_class, cut, options
from shared.topology.url import Address, RedisUrl
from shared.topology.watch import Shared, Watch

ASK_TIMEOUT_S = 1.0
"""One Sentinel's time to answer. Then the next one is asked."""


class Sentinels:
    def __init__(self, url: RedisUrl) -> None:
        timeouts = {"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S}
        tls = {"ssl": True, **url.tls} if url.sentinel_tls and url.tls is not None else {}
        access = {"username": url.sentinel_username, "password": url.sentinel_password}
        self._service = url.service
        self._sentinel: Any = Sentinel(url.addresses, sentinel_kwargs={**timeouts, **tls, **access})  # type: ignore[no-untyped-call]

        self._asking = Shared(self._ask)

    async def master(self) -> Address:
        """Raises redis.asyncio.sentinel.MasterNotFoundError, a ConnectionError, also while nobody is elected."""
        return await self._asking.result()

    async def _ask(self) -> Address:
        """One at a time: redis-py (5.3) moves the Sentinel that answered to the front, and loses others if two do."""
        host, port = await self._sentinel.discover_master(self._service)
        return str(host), int(port)

    async def aclose(self) -> None:
        await self._asking.aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose(close_connection_pool=True)


class _WatchedPool(BlockingConnectionPool):
    """Begins to watch with its first connection."""

    watch: Watch

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        self.watch.start()
        return await super().get_connection()


class SentinelLink:
    """Connections to a server that is no longer the master are cut as soon as the Sentinels say so: a master that hangs
    or is cut off would keep them until their time is over, and take writes that will be lost."""

    def __init__(self, url: RedisUrl, connections: int, timeout_s: float) -> None:
        self.patience_s = timeout_s
        self._sentinels = Sentinels(url)
        self._watch = Watch(self._look)
        self.pool = _WatchedPool(
            connection_class=connection_class(url, located=True),
            max_connections=connections,
            timeout=timeout_s,  # type: ignore[arg-type]  # it takes fractions
            locate=self._sentinels.master,
            **options(url, timeout_s),
        )
        self.pool.watch = self._watch

    async def _look(self) -> None:
        master = await self._sentinels.master()
        connections: Iterable[Any] = chain(self.pool._available_connections, self.pool._in_use_connections)
        for connection in list(connections):
            if connection.is_connected and (connection.host, connection.port) != master:
                cut(connection)

    async def aclose(self) -> None:
        await self._watch.aclose()
        await self._sentinels.aclose()


class SentinelEar:
    """See `shared.topology.listening`."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._sentinels = Sentinels(url)

    async def connect(self) -> Any:
        kind: Any = connection_class(self._url, located=True)
        connection = kind(locate=self._sentinels.master, **options(self._url, None))
        await connection.connect()
        return connection

    async def moved(self, connection: Any) -> bool:
        return (connection.host, connection.port) != await self._sentinels.master()

    async def aclose(self) -> None:
        await self._sentinels.aclose()
