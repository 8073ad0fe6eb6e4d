"""Where a provider's models are reached, and with which key."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from worker.providers.errors import Code, ProviderError

Sdk = Literal["openai-chat", "openai-responses", "anthropic", "demo"]

CONNECT_TIMEOUT_S = 10.0
READ_MARGIN_S = 5.0
"""How much longer than the watchdog the transport waits: within a stream the watchdog is to speak first."""
NO_KEY = "none"
"""What a server that wants no key is sent: the SDKs insist on one."""


@dataclass(frozen=True)
class ModelSource:
    sdk: Sdk
    base_url: str | None = None
    """None: the SDK's own, or what its environment variable says."""
    key_env: str | None = None
    """Environment variable with the key. None: the SDK's own for its own URL, but no key for another URL: a
    key must not reach a server it was not meant for."""

    def api_key(self) -> str | None:
        """The key to give the SDK; None: it looks for itself. Raises ProviderError `authentication`."""
        if self.key_env is None:
            return None if self.base_url is None else NO_KEY
        if not (key := os.environ.get(self.key_env, "").strip()):
            raise no_key(self.key_env)
        return key


def no_key(variable: str) -> ProviderError:
    return ProviderError(Code.AUTHENTICATION, f"no API key: {variable} is not set")


@dataclass(frozen=True)
class Link:
    """How all providers of a worker treat their connections."""

    idle_timeout_s: float
    max_retries: int


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Lazy(Generic[T]):
    """A client that is made at its first use, so that a missing key fails a generation and not the start."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._client: T | None = None

    def get(self) -> T:
        if self._client is None:
            self._client = self._make()
        return self._client

    def secrets(self) -> list[str]:
        """The keys the client holds: no error may quote them."""
        held: list[Any] = [getattr(self._client, name, None) for name in ("api_key", "auth_token")]
        return [key for key in held if isinstance(key, str)]

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
