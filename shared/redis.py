"""Connections to Redis. The number of connections of a process is a small constant, never one per client."""

import re
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    ExecAbortError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import ConfigurationError

SCHEMES = ("redis", "rediss", "unix")
CONNECT_TIMEOUT_S = 2.0
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)
"""What a command raises while Redis is away. The command may have been carried out nevertheless."""

__all__ = [
    "SCHEMES",
    "UNREACHABLE",
    "RedisError",
    "blocking_pool",
    "check_url",
    "connect",
    "connect_blocking",
    "transient",
]


def check_url(url: str) -> str:
    """Raises ConfigurationError for a URL of an unknown kind, without repeating a password."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ConfigurationError(f"Redis URL with scheme {scheme!r}; known are: {', '.join(SCHEMES)}")
    return url


def connect(url: str, *, connections: int, timeout_s: float) -> Any:
    """A client for commands, on at most `connections` connections; callers queue for a free one.

    Every command sent through it must be harmless when repeated: it is, up to three times, after a lost connection.
    """
    return Redis(connection_pool=blocking_pool(url, connections, timeout_s))


def blocking_pool(url: str, connections: int, timeout_s: float) -> ConnectionPool:
    return BlockingConnectionPool.from_url(
        check_url(url),
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )


def connect_blocking(url: str) -> Any:
    """A client for one blocking read at a time, such as a subscription. It has no read timeout of its own: a quiet
    stream must not look like a broken one. Callers bound each wait, and ping."""
    return Redis.from_url(
        check_url(url),
        max_connections=2,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
    )


_PASSING = re.compile(
    r"(?:^|[\s-])(?:ASK|BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|NOSCRIPT|OOM|READONLY|TRYAGAIN"
    r"|UNBLOCKED)\b"
)
"""Words of errors that pass by themselves. Redis 6 puts them behind the name of the script that met them."""
_PASSING_KINDS = (
    AskError,
    ClusterDownError,
    ExecAbortError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)


def transient(error: Exception) -> bool:
    """Whether the same command may succeed later. False: Redis has refused what it says, and will again."""
    if isinstance(error, DataError):
        return False
    return (
        not isinstance(error, ResponseError) or isinstance(error, _PASSING_KINDS) or bool(_PASSING.search(str(error)))
    )
