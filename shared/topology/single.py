"""The way to one server, whose name is looked up for each connection."""

from typing import Any

from shared.topology.connections import connection_class, options, place, pool
from shared.topology.url import RedisUrl


class SingleLink:
    def __init__(self, url: RedisUrl, connections: int, timeout_s: float) -> None:
        self.patience_s = timeout_s
        self.pool = pool(connection_class(url), connections, timeout_s, **options(url, timeout_s), **place(url))

    async def aclose(self) -> None:
        return


class SingleEar:
    """See `shared.topology.listening`."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url

    async def connect(self) -> Any:
        kind: Any = connection_class(self._url)
        connection = kind(**options(self._url, None), **place(self._url))
        await connection.connect()
        return connection

    async def moved(self, connection: Any) -> bool:
        return False  # a replica is told by its master whatever is published

    async def aclose(self) -> None:
        return
