"""What a Redis URL says, as one value. Pure: nothing is looked up and nothing is opened.

    redis://[user:password@]host[:6379][/db]            one server
    unix://[user:password@]/path/to/socket[?db=0]       the same, on this machine
    redis+sentinel://[user:password@]host[:26379][,host…]/name[/db]
    redis+cluster://[user:password@]host[:6379][,host…]

`rediss` instead of `redis`, or `?ssl=true`, means TLS to the servers; with `?sentinel_ssl=true` to the Sentinels too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError

Address = tuple[str, int]


class Kind(Enum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": Kind.SINGLE,
    "rediss": Kind.SINGLE,
    "unix": Kind.SINGLE,
    "redis+sentinel": Kind.SENTINEL,
    "rediss+sentinel": Kind.SENTINEL,
    "redis+cluster": Kind.CLUSTER,
    "rediss+cluster": Kind.CLUSTER,
}
_PORTS = {Kind.SINGLE: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_PARAMETERS = ("db", "password", "ssl", "sentinel_username", "sentinel_password", "sentinel_ssl", *_TLS)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    kind: Kind
    addresses: tuple[Address, ...] = ()
    """The server; the Sentinels; or nodes of the Cluster to begin with. Empty for a socket."""
    path: str = ""
    """Of a Unix socket."""
    service: str = ""
    """The master's name among the Sentinels."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    sentinel_tls: bool = False
    tls: Mapping[str, Any] | None = None
    """Arguments of redis-py's SSLConnection; None: no TLS."""


def parse(url: str) -> RedisUrl:
    """Raises ConfigurationError for what is no such URL. It repeats no part of it: any may be a password."""
    try:
        return _parse(url)
    except ValueError:  # urllib's own errors quote what they found
        raise ConfigurationError("the Redis URL is malformed") from None


def _parse(url: str) -> RedisUrl:
    parts = urlsplit(url)
    kind = _SCHEMES.get(parts.scheme)
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ConfigurationError(f"the Redis URL is of an unknown kind; known are: {known}")
    if parts.fragment:
        raise ConfigurationError("the Redis URL has a `#`: percent-encode it as %23")
    query = _query(parts.query)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    said: dict[str, Any] = {
        "kind": kind,
        "username": unquote(username) or None,
        "password": unquote(password) or query.get("password") or None,
        "sentinel_username": query.get("sentinel_username"),
        "sentinel_password": query.get("sentinel_password"),
        "sentinel_tls": _flag("sentinel_ssl", query.get("sentinel_ssl", "false")),
        "tls": _tls(parts.scheme, query),
    }
    if parts.scheme == "unix":
        return _socket(parts, hosts, query, said)
    service, db = _path(kind, parts.path, query)
    return RedisUrl(**said, addresses=_addresses(hosts, kind), service=service, db=db)


def _query(text: str) -> dict[str, str]:
    query = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))
    for name in query:
        if name not in _PARAMETERS:
            raise ConfigurationError(f"the Redis URL has an unknown parameter; known are: {', '.join(_PARAMETERS)}")
    return query


def _socket(parts: SplitResult, hosts: str, query: Mapping[str, str], said: Mapping[str, Any]) -> RedisUrl:
    if hosts or len(parts.path) < 2:
        raise ConfigurationError("a unix:// URL names an absolute path: unix:///path/to/socket")
    if said["tls"] is not None:
        raise ConfigurationError("a unix:// URL can have no TLS")
    return RedisUrl(**said, path=unquote(parts.path), db=_db(query.get("db", "")))


def _path(kind: Kind, path: str, query: Mapping[str, str]) -> tuple[str, int]:
    """Service and database. `/name/db` for Sentinel, `/db` for a server, nothing for a Cluster."""
    steps = [unquote(step) for step in path.strip("/").split("/")] if path.strip("/") else []
    service = ""
    if kind is Kind.SENTINEL:
        if not steps or not steps[0]:
            raise ConfigurationError("a redis+sentinel:// URL names its master: redis+sentinel://host1,host2/name")
        service = steps.pop(0)
    if len(steps) > 1:
        raise ConfigurationError("the path of the Redis URL has too many parts")
    db = _db(query.get("db") or (steps[0] if steps else ""))
    if kind is Kind.CLUSTER and (db or steps):
        raise ConfigurationError("a Cluster has no databases: the URL ends with the hosts")
    return service, db


def _db(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError("the database of the Redis URL must be a number")
    return int(text)


def _addresses(hosts: str, kind: Kind) -> tuple[Address, ...]:
    if not hosts and kind is Kind.SINGLE:
        return (("localhost", _PORTS[kind]),)
    addresses = tuple(_address(host, _PORTS[kind]) for host in hosts.split(","))
    if kind is Kind.SINGLE and len(addresses) > 1:
        raise ConfigurationError("several hosts need redis+sentinel:// or redis+cluster://")
    return addresses


def _address(text: str, default_port: int) -> Address:
    if text.startswith("["):  # IPv6
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":"):
            raise ConfigurationError("an IPv6 address in the Redis URL is malformed")
    else:
        host, colon, port = text.partition(":")
    if not host:
        raise ConfigurationError("a host of the Redis URL is empty")
    if not colon:
        return unquote(host), default_port
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigurationError("a port of the Redis URL is no port number (is the password percent-encoded?)")
    return unquote(host), int(port)


def _tls(scheme: str, query: Mapping[str, str]) -> dict[str, Any] | None:
    on = scheme.startswith("rediss")
    if "ssl" in query and _flag("ssl", query["ssl"]) != on:
        if on:
            raise ConfigurationError("the Redis URL says rediss and ssl=false: which?")
        on = True
    if not on:
        if given := [name for name in _TLS if name in query]:
            raise ConfigurationError(f"the Redis URL has {given[0]}, but no TLS: use rediss, or ssl=true")
        return None
    reqs = query.get("ssl_cert_reqs", "required")
    if reqs not in ("none", "optional", "required"):
        raise ConfigurationError("ssl_cert_reqs of the Redis URL must be none, optional or required")
    check = _flag("ssl_check_hostname", query.get("ssl_check_hostname", "true")) and reqs != "none"
    files = {name: query[name] for name in _TLS_FILES if name in query}
    return {**files, "ssl_cert_reqs": reqs, "ssl_check_hostname": check}


def _flag(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ConfigurationError(f"{name} of the Redis URL must be true or false")
    return text.lower() in _TRUE
