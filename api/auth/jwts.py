"""JWTs of somebody else's, verified with a key of the settings or with those their issuer publishes."""

from typing import Any, Protocol, Self

import jwt

from api.auth.jwks import Jwks
from api.auth.stream_tokens import SHORTEST_SECRET, TYPE
from shared.credentials import principal_of
from shared.errors import ConfigurationError, Unauthorized
from shared.settings import Settings

SYMMETRIC = {"HS256": 32, "HS384": 48, "HS512": 64}
"""With the fewest bytes of a secret that each of them needs."""
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
)
EXPIRED = "the token has expired"


class Keys(Protocol):
    async def key(self, header: dict[str, Any]) -> Any:
        """The key that must have signed a token with this header. Raises Unauthorized, AuthenticationUnavailable."""


class OneKey:
    def __init__(self, key: str) -> None:
        self._key = key

    async def key(self, header: dict[str, Any]) -> Any:
        return self._key


class Jwts:
    def __init__(self, keys: Keys, settings: Settings, algorithms: list[str]) -> None:
        self._keys = keys
        self._algorithms = algorithms
        self._claim = settings.jwt_principal_claim
        self._checks: dict[str, Any] = {
            "algorithms": algorithms,
            "issuer": settings.jwt_issuer or None,
            "audience": settings.jwt_audience or None,
            "leeway": settings.jwt_leeway_s,
            "options": {"require": ["exp", self._claim], "verify_aud": bool(settings.jwt_audience)},
        }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises ConfigurationError."""
        key, url = settings.jwt_key.get_secret_value(), settings.jwt_jwks_url
        if key and url:
            raise ConfigurationError("HOLDFAST_JWT_KEY and HOLDFAST_JWT_JWKS_URL exclude each other")
        if url:
            if not settings.jwt_audience or not settings.jwt_issuer:
                raise ConfigurationError(
                    "HOLDFAST_JWT_JWKS_URL needs HOLDFAST_JWT_ISSUER and HOLDFAST_JWT_AUDIENCE: "
                    "an issuer's keys sign tokens for others, too"
                )
            return cls(Jwks(url), settings, _algorithms(settings, ASYMMETRIC))
        if "-----BEGIN" in key:
            return cls(OneKey(_checked(key)), settings, _algorithms(settings, ASYMMETRIC))
        _check_secret(key, settings.token_secret.get_secret_value())
        fitting = frozenset(name for name, shortest in SYMMETRIC.items() if len(key.encode()) >= shortest)
        return cls(OneKey(key), settings, _algorithms(settings, fitting))

    async def principal(self, credential: str) -> str:
        """Raises Unauthorized, AuthenticationUnavailable."""
        try:
            header = jwt.get_unverified_header(credential)
            if header.get("typ") == TYPE or header.get("alg") not in self._algorithms:
                raise Unauthorized
            claims = jwt.decode(credential, await self._keys.key(header), **self._checks)
        except jwt.ExpiredSignatureError:
            raise Unauthorized(EXPIRED) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Unauthorized from None
        subject = claims[self._claim]
        if not isinstance(subject, str) or not subject:
            raise Unauthorized
        return principal_of(subject)


def _algorithms(settings: Settings, fitting: frozenset[str]) -> list[str]:
    """Those allowed. A key is for one family alone: a public key must not be taken for a shared secret."""
    unfit = [name for name in settings.jwt_algorithms if name not in fitting]
    if unfit:
        raise ConfigurationError(f"HOLDFAST_JWT_ALGORITHMS: {unfit[0]!r} does not go with this key")
    return list(settings.jwt_algorithms) or sorted(fitting)


def _checked(pem: str) -> str:
    """A key that cannot be read is found at start, not at the first token. Raises ConfigurationError."""
    for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA"):
        try:
            jwt.get_algorithm_by_name(name).prepare_key(pem)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        return pem
    raise ConfigurationError("HOLDFAST_JWT_KEY is no public key in PEM that can be read")


def _check_secret(key: str, token_secret: str) -> None:
    if len(key) < SHORTEST_SECRET:
        raise ConfigurationError(f"HOLDFAST_JWT_KEY: a shared secret must have {SHORTEST_SECRET} characters at least")
    if key in (part.strip() for part in token_secret.split(",")):
        raise ConfigurationError("HOLDFAST_JWT_KEY and HOLDFAST_TOKEN_SECRET must differ")
