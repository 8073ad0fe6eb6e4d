"""The keys an issuer publishes (JWKS), fetched ahead of need: a request waits only for a key never seen before."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import jwt
from jwt import PyJWKClient

from shared.errors import AuthenticationUnavailable, ConfigurationError, Unauthorized
from shared.telemetry import get_logger

_log = get_logger(__name__)

FRESH_S = 300.0
"""Older keys are fetched anew, while they go on to be used."""
STALE_S = 3600.0
"""Older ones are used no more: an issuer that cannot be reached for so long may have withdrawn them."""
PAUSE_S = 10.0
"""Between two fetches, whatever came of the first: tokens with made-up key ids must not drive us to the issuer."""
FETCH_S = 5.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Jwks:
    def __init__(self, url: str) -> None:
        """Raises ConfigurationError: over plain http anybody on the way could put in a key of their own."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ConfigurationError("HOLDFAST_JWT_JWKS_URL must be https")
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_S)
        self._keys: dict[str | None, Any] = {}
        self._fetched = 0.0
        """Monotonic time of the last fetch that succeeded; meaningful while there are keys."""
        self._tried = -PAUSE_S
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, header: dict[str, Any]) -> Any:
        """The key of the header's `kid`. Raises Unauthorized, AuthenticationUnavailable."""
        kid = header.get("kid")
        found = self._find(kid)
        if found is None:
            await self._fetch()
            found = self._find(kid)
        elif time.monotonic() - self._fetched > FRESH_S:
            self._start()
        if found is not None:
            return found
        raise Unauthorized if self._usable else AuthenticationUnavailable()

    @property
    def _usable(self) -> bool:
        return bool(self._keys) and time.monotonic() - self._fetched < STALE_S

    def _find(self, kid: object) -> Any:
        if not self._usable:
            return None
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if isinstance(kid, str) else None

    async def _fetch(self) -> None:
        self._start()
        if self._fetching is not None:
            await asyncio.wait([self._fetching], timeout=FETCH_S)  # one for all who wait; none of them cancels it

    def _start(self) -> None:
        if self._fetching is None and time.monotonic() - self._tried >= PAUSE_S:
            self._tried = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch_once())

    async def _fetch_once(self) -> None:
        """Ends always: what fails is logged, and tried again by a later request."""
        try:
            keys = await asyncio.to_thread(self._client.get_signing_keys)
            self._keys = {key.key_id: key for key in keys if key.key_type != "oct"}
            self._fetched = time.monotonic()
        except (jwt.PyJWTError, ValueError, OSError) as error:
            _log.error("the keys of HOLDFAST_JWT_JWKS_URL could not be had", error=str(error))
        finally:
            self._fetching = None
