"""API keys as they are made and stored, and the names of those who hold them."""

import hashlib
import re
import secrets

from shared.errors import ConfigurationError

KEY_PREFIX = "hf_"
"""Says what it is to whoever finds one, and to the scanners that look for lost secrets."""
ANONYMOUS = "anonymous"
"""The one caller there is while nobody is asked who they are. Nobody else may bear this name."""
NAME = re.compile(r"[A-Za-z0-9_.@|:-]{1,128}")
"""A principal: it becomes part of a Redis key, and people read it there. So no space, brace, glob or control."""
DIGEST = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """256 bits from the system. Shown once; what is stored is its digest."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """SHA-256, in hex. Slow hashes are for what people make up: 256 random bits cannot be guessed, however fast."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def check_principal(name: str) -> str:
    """Raises ConfigurationError for what cannot be a principal's name."""
    if not NAME.fullmatch(name) or name == ANONYMOUS:
        raise ConfigurationError(
            f"{name[:64]!r} cannot be a principal: 1 to 128 letters, digits, `_.@|:-`, and not {ANONYMOUS!r}"
        )
    return name


def principal_of(subject: str) -> str:
    """A principal for what somebody else calls a subject: itself where it may be, else `~` and its digest.

    `~` is in no name of the first kind, so no two subjects become the same principal.
    """
    if NAME.fullmatch(subject) and subject != ANONYMOUS:
        return subject
    return "~" + digest(subject)
