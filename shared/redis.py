"""Connections to Redis. The number of connections of a process to a server is a small constant, never one per client.

What a client does about a fault by itself, for about a second: it looks the server up again (by name, by the Sentinels,
by the Cluster's nodes) and repeats the command, when a connection is lost or refused, a server is loading, turns out to
be a replica (READONLY), or a slot has moved. Everything else, and what lasts longer, is raised as RedisError:
`transient` tells what passes from what does not.
"""

from typing import Any

from redis.exceptions import RedisError

from shared.errors import ConfigurationError
from shared.topology.client import Client, Link
from shared.topology.cluster import Cluster
from shared.topology.faults import UNREACHABLE, transient
from shared.topology.sentinel import SentinelLink
from shared.topology.single import SingleLink
from shared.topology.url import Kind, parse

__all__ = ["UNREACHABLE", "RedisError", "check_url", "connect", "is_cluster", "link", "transient"]


def check_url(url: str) -> str:
    """Raises ConfigurationError for a URL that is malformed or of an unknown kind, without repeating a password."""
    parse(url)
    return url


def is_cluster(url: str) -> bool:
    """Raises ConfigurationError as `check_url` does."""
    return parse(url).kind is Kind.CLUSTER


def connect(url: str, *, connections: int, timeout_s: float) -> Any:
    """A client for commands, on at most `connections` connections (to each master of a Cluster); callers queue for a
    free one.

    Every command sent through it must be harmless when repeated: it is, after a lost connection. In a Cluster there is
    no MULTI, and all keys of a script share a slot.
    """
    at = parse(url)
    if at.kind is Kind.CLUSTER:
        return Cluster(at, connections, timeout_s)
    return Client(link(url, connections=connections, timeout_s=timeout_s))


def link(url: str, *, connections: int, timeout_s: float) -> Link:
    """The way to one server, for a client of another make. Raises ConfigurationError for a Cluster."""
    at = parse(url)
    match at.kind:
        case Kind.SENTINEL:
            return SentinelLink(at, connections, timeout_s)
        case Kind.CLUSTER:
            raise ConfigurationError("the job queue cannot live in a Redis Cluster")
    return SingleLink(at, connections, timeout_s)
