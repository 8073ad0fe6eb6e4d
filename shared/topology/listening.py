"""Where to listen for what is published.

A Cluster passes a plain PUBLISH on to all its nodes, so any one of them will do. (redis-py has no sharded subscriptions
for asyncio, and a node would need a connection to each master.)
"""

from typing import Any, Protocol

from shared.topology.cluster import ClusterEar
from shared.topology.sentinel import SentinelEar
from shared.topology.single import SingleEar
from shared.topology.url import Kind, parse


class Ear(Protocol):
    async def connect(self) -> Any:
        """A new connection to the server to listen to. Raises RedisError.

        It has no time limit for reads: a quiet stream must not look like a broken one.
        """

    async def moved(self, connection: Any) -> bool:
        """Whether another server is the one to listen to by now. Raises RedisError where nobody can say."""

    async def aclose(self) -> None: ...


def ear(url: str, near: str) -> Ear:
    """`near`: a key; in a Cluster, its server is listened to. Without one, any is. Raises ConfigurationError."""
    at = parse(url)
    match at.kind:
        case Kind.SENTINEL:
            return SentinelEar(at)
        case Kind.CLUSTER:
            return ClusterEar(at, near)
    return SingleEar(at)
