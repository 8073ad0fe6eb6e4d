"""Finds the principal of a connection, whatever its transport."""

from typing import Protocol, Self, cast

from starlette.requests import HTTPConnection

from api.auth.api_keys import ApiKeys
from api.auth.jwts import Jwts
from api.auth.stream_tokens import StreamTokens
from shared.credentials import ANONYMOUS
from shared.errors import ConfigurationError, Unauthorized
from shared.settings import Settings

Principal = str
"""Who calls, as sessions remember it: `shared.credentials.NAME`, or `~` and a digest."""

LONGEST = 8192
"""Characters of a credential; what is longer is not looked at."""


class Verifier(Protocol):
    async def principal(self, credential: str) -> Principal:
        """Raises Unauthorized."""


class Authenticator:
    """One per node; holds no connection."""

    def __init__(self, verifier: Verifier | None, tokens: StreamTokens | None) -> None:
        self._verifier = verifier
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises ConfigurationError for settings that are not enough, or that contradict each other."""
        _check_kind(settings)
        match settings.auth:
            case "none":
                return cls(None, None)
            case "keys":
                return cls(ApiKeys(settings.keys, settings.keys_file), StreamTokens.of(settings))
            case "jwt":
                return cls(Jwts.of(settings), StreamTokens.of(settings))

    async def principal(self, connection: HTTPConnection, session: str | None) -> Principal:
        """See `authenticate`."""
        if self._verifier is None or self._tokens is None:
            return ANONYMOUS
        credential = _credential(connection)
        if credential is not None:
            return await self._verifier.principal(credential)
        token = connection.query_params.get("token")
        if token and session is not None and len(token) <= LONGEST:
            return self._tokens.principal(token, session)
        raise Unauthorized

    def stream_token(self, principal: Principal, session: str) -> str | None:
        """For `?token=`, where no header can be set. None where nobody is asked who they are."""
        return None if self._tokens is None else self._tokens.issue(principal, session)

    @property
    def token_s(self) -> int | None:
        """Seconds a stream token lives from its issue."""
        return None if self._tokens is None else self._tokens.life_s


async def authenticate(connection: HTTPConnection, session: str | None = None) -> Principal:
    """The principal of an HTTP request or a WebSocket, from `Authorization: Bearer` or `x-api-key`.

    With `session`, the one session this connection is about: a stream token of that session in `?token=` will do as
    well. It says who its principal is, and no more: whose the session is must be checked as ever.
    Raises Unauthorized, AuthenticationUnavailable.
    """
    authenticator = cast(Authenticator, connection.app.state.node.auth)
    return await authenticator.principal(connection, session)


def _credential(connection: HTTPConnection) -> str | None:
    """Raises Unauthorized for one that cannot be meant: two of a kind, another scheme, none, or far too long."""
    given = connection.headers.getlist("authorization") or connection.headers.getlist("x-api-key")
    if not given:
        return None
    if len(given) > 1:
        raise Unauthorized
    scheme, space, rest = given[0].partition(" ")
    if "authorization" not in connection.headers:
        credential = given[0].strip()
    elif scheme.lower() == "bearer" and space:
        credential = rest.strip()
    else:
        raise Unauthorized
    if not 1 <= len(credential) <= LONGEST:
        raise Unauthorized
    return credential


def _check_kind(settings: Settings) -> None:
    """What belongs to another kind of authentication than the one that is on is a mistake, and a dangerous one."""
    groups: dict[str, dict[str, object]] = {
        "keys": {"HOLDFAST_KEYS": settings.keys, "HOLDFAST_KEYS_FILE": settings.keys_file},
        "jwt": {"HOLDFAST_JWT_KEY": settings.jwt_key, "HOLDFAST_JWT_JWKS_URL": settings.jwt_jwks_url},
    }
    for kind, group in groups.items():
        given = [name for name, value in group.items() if value]
        if kind != settings.auth and given:
            raise ConfigurationError(f"{given[0]} is set, but HOLDFAST_AUTH is {settings.auth!r}; did you mean {kind}?")
        if kind == settings.auth and not given:
            raise ConfigurationError(f"HOLDFAST_AUTH={kind} needs {' or '.join(group)}")
