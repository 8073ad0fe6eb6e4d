"""How a client behaves, and who it says it is."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import httpx
from pydantic import SecretStr

from shared.client.patience import Patience, Waiting

RETRY_S = 0.5
"""The first wait, until the server says another `retry:`."""

Key = str | Callable[[], str] | None
"""An API key or a JWT; a function is asked for each request, so that it can be renewed."""


class Bearer(httpx.Auth):
    """Says the key with each request. It is in nothing that is ever shown."""

    def __init__(self, key: str | Callable[[], str]) -> None:
        self._key = key if callable(key) else SecretStr(_checked(key))

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        kept = self._key
        secret = kept if isinstance(kept, SecretStr) else SecretStr(_checked(kept()))
        request.headers["authorization"] = f"Bearer {secret.get_secret_value()}"
        yield request

    def __repr__(self) -> str:
        return "Bearer(…)"


def _checked(key: str) -> str:
    """What cannot be sent in a header would be refused with words that show it."""
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key is printable ASCII without spaces")
    return key


class Behaviour(TypedDict, total=False):
    """What a client may be given besides the base."""

    key: Key
    patience_s: float | None
    """How long a call is tried again; None: for ever."""
    follow_patience_s: float | None
    """How long a stream is tried again without an event in between. None, the default: for ever."""
    silent_s: float
    """A connection on which nothing was heard for this long is given up for another."""
    on_wait: Waiting | None
    """Told before each wait how long it is, in seconds, and why."""
    http: Mapping[str, Any]
    """For httpx's client: `verify`, `proxy`, `transport`, …"""


@dataclass(frozen=True)
class Options:
    """See Behaviour. Raises ValueError for what cannot be."""

    base: str
    key: Key = None
    patience_s: float | None = 60.0
    follow_patience_s: float | None = None
    silent_s: float = 30.0
    """Servers say something every 15 s at least."""
    on_wait: Waiting | None = None
    http: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = httpx.URL(self.base)
        if url.userinfo:
            raise ValueError("credentials are given as `key`, and not in the base")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the base is http://… or https://…")

    def __repr__(self) -> str:
        return f"Options({self.base})"

    @property
    def for_httpx(self) -> dict[str, Any]:
        """A stream takes a connection as long as it lasts, so there is no limit to them."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        auth = None if self.key is None else Bearer(self.key)
        return {"base_url": self.base, "auth": auth, "limits": limits, "follow_redirects": False, **self.http}

    def patience(self) -> Patience:
        return Patience(self.patience_s, RETRY_S, told=self.on_wait)

    def follow_patience(self) -> Patience:
        return Patience(self.follow_patience_s, RETRY_S, told=self.on_wait)
