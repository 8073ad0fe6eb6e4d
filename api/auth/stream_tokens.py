"""Stream tokens: who may read and act on one session for a few minutes, where no header can be set.

An EventSource or a browser's WebSocket can only put them into the URL. So they are short-lived, of one session, and no
credential anywhere else: a token cannot be renewed by itself.
"""

import time
from typing import Self

import jwt

from shared.errors import ConfigurationError, Unauthorized
from shared.settings import Settings

ALGORITHM = "HS256"
TYPE = "holdfast-stream"
"""`typ` of their header, required here and refused everywhere else."""
AUDIENCE = "holdfast:stream"
SHORTEST_SECRET = 32
EXPIRED = "the stream token has expired; POST /v1/sessions/{id}/token gives another"


class StreamTokens:
    def __init__(self, secrets: tuple[str, ...], life_s: int) -> None:
        """The first secret signs, all of them verify: that is how one is replaced by another. Raises
        ConfigurationError."""
        if not secrets:
            raise ConfigurationError(
                "HOLDFAST_TOKEN_SECRET is needed with authentication, the same on every node; "
                "`holdfast keys secret` makes one"
            )
        if min(map(len, secrets)) < SHORTEST_SECRET:
            raise ConfigurationError(f"HOLDFAST_TOKEN_SECRET must have {SHORTEST_SECRET} characters at least")
        self._secrets = secrets
        self.life_s = life_s

    @classmethod
    def of(cls, settings: Settings) -> Self:
        given = settings.token_secret.get_secret_value().split(",")
        return cls(tuple(part.strip() for part in given if part.strip()), settings.token_s)

    def issue(self, principal: str, session: str) -> str:
        now = int(time.time())
        claims = {"aud": AUDIENCE, "sub": principal, "sid": session, "iat": now, "exp": now + self.life_s}
        return jwt.encode(claims, self._secrets[0], ALGORITHM, headers={"typ": TYPE})

    def principal(self, token: str, session: str) -> str:
        """Whose token of this session it is. Raises Unauthorized."""
        for secret in self._secrets:
            try:
                return _verified(token, secret, session)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise Unauthorized(EXPIRED) from None
            except (jwt.PyJWTError, ValueError):
                break
        raise Unauthorized


def _verified(token: str, secret: str, session: str) -> str:
    decoded = jwt.decode_complete(
        token, secret, [ALGORITHM], audience=AUDIENCE, options={"require": ["aud", "exp", "sub", "sid"]}
    )
    claims = decoded["payload"]
    if decoded["header"].get("typ") != TYPE or claims["sid"] != session:
        raise Unauthorized
    return str(claims["sub"])
