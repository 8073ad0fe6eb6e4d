"""API keys: found by their digests, which is all that is stored of them."""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shared.credentials import DIGEST, check_principal, digest
from shared.errors import ConfigurationError, Unauthorized
from shared.telemetry import get_logger

_log = get_logger(__name__)

LOOK_S = 1.0
"""How often the file is asked whether it changed: as long may a key that was taken out still be accepted."""

Stored = Mapping[str, tuple[str, ...]]
"""Principal → digests of its keys."""
_STORED = TypeAdapter(dict[str, tuple[str, ...]])


class ApiKeys:
    """Keys of the settings, and those of a file, which is read again when it changes."""

    def __init__(self, given: Stored, path: Path | None) -> None:
        """Raises ConfigurationError where they cannot be read, or name no key at all."""
        self._blind = secrets.token_bytes(32)
        """Digests are looked up under a hash with this, which nobody knows: the time a lookup takes says nothing."""
        self._given = given
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._looked = time.monotonic()
        self._known: dict[bytes, str] = {}
        self._load()
        if not self._known:
            raise ConfigurationError("HOLDFAST_AUTH=keys, but there is no key; `holdfast keys new NAME` makes one")

    async def principal(self, credential: str) -> str:
        self._look()
        found = self._known.get(self._blinded(digest(credential)))
        if found is None:
            raise Unauthorized
        return found

    def _look(self) -> None:
        """A changed file that cannot be read leaves everything as it was: nobody is locked out by a typing error."""
        if self._path is None or time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            if _stamp(self._path) != self._stamp:
                self._load()
                _log.info("API keys were read again", keys=len(self._known))
        except (OSError, ConfigurationError) as error:
            reason = error.message if isinstance(error, ConfigurationError) else str(error)
            _log.error("API keys could not be read again; the old ones hold", error=reason)

    def _load(self) -> None:
        stamp, in_file = (_stamp(self._path), _read(self._path)) if self._path is not None else (None, {})
        self._stamp = stamp  # also of a file that is refused: said once
        known: dict[bytes, str] = {}
        for stored in (self._given, in_file):
            for principal, digests in stored.items():
                self._add(known, check_principal(principal), digests)
        self._known = known

    def _add(self, known: dict[bytes, str], principal: str, digests: tuple[str, ...]) -> None:
        for each in digests:
            if not DIGEST.fullmatch(each):
                raise ConfigurationError(
                    f"a key of {principal!r} is no SHA-256 in 64 hex digits; is it the key itself?"
                )
            if known.setdefault(self._blinded(each), principal) != principal:
                raise ConfigurationError(f"{principal!r} has a key that somebody else has, too")

    def _blinded(self, hexadecimal: str) -> bytes:
        return hashlib.blake2b(hexadecimal.encode(), key=self._blind, digest_size=32).digest()


def _stamp(path: Path) -> tuple[int, ...]:
    """Raises ConfigurationError."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"HOLDFAST_KEYS_FILE: {error.strerror}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> Stored:
    """Raises ConfigurationError. What is in the file is not repeated: it might be a key."""
    try:
        return _STORED.validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigurationError(f"HOLDFAST_KEYS_FILE: {error.strerror}") from None
    except (ValueError, RecursionError, ValidationError):
        raise ConfigurationError('HOLDFAST_KEYS_FILE: not JSON such as {"alice": ["<SHA-256 in hex>"]}') from None
