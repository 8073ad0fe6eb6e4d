"""JWTs: whose they are, and everything that makes one nobody's."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from api.auth import jwks
from api.auth.authenticator import Authenticator
from api.auth.jwks import Jwks
from api.auth.jwts import Jwts
from api.auth.stream_tokens import StreamTokens
from shared.errors import AuthenticationUnavailable, ConfigurationError, Unauthorized
from shared.settings import Settings

SECRET = "the issuer's secret, which is long enough"
TOKENS = "the secret of stream tokens, long enough too"
ISSUER = "https://issuer"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def settings(**changes: Any) -> Settings:
    return Settings(**{"auth": "jwt", "jwt_key": SECRET, "token_secret": TOKENS, **changes})


def claims(**changes: Any) -> dict[str, Any]:
    given = {"sub": "alice", "exp": int(time.time()) + 60, "iss": ISSUER, "aud": ["else", "holdfast"], **changes}
    return {name: value for name, value in given.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


def by_hand(header: dict[str, Any], payload: object, key: bytes | None) -> str:
    """What no library would sign."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(payload).encode())}"
    signature = hmac.digest(key, text.encode(), hashlib.sha256) if key is not None else b""
    return f"{text}.{part(signature)}"


async def refused(verifier: Jwts, token: str) -> bool:
    try:
        await verifier.principal(token)
    except Unauthorized:
        return True
    return False


async def test_subject_is_the_principal() -> None:
    """A valid token is its subject's, or whose the configured claim says; a subject that is no name by its digest."""
    assert await Jwts.of(settings()).principal(signed()) == "alice"
    assert await Jwts.of(settings(jwt_principal_claim="email")).principal(signed(email="a@b.c")) == "a@b.c"
    assert (await Jwts.of(settings()).principal(signed(sub="a b"))).startswith("~")


PAIRS = [
    (RSA, rsa.generate_private_key(65537, 2048), "RS256"),
    (RSA, rsa.generate_private_key(65537, 2048), "PS512"),
    (EC, ec.generate_private_key(ec.SECP256R1()), "ES256"),
    (ED, ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
]


@pytest.mark.parametrize(("key", "stranger", "algorithm"), PAIRS, ids=[algorithm for _, _, algorithm in PAIRS])
async def test_public_keys(key: Any, stranger: Any, algorithm: str) -> None:
    """A public key in PEM verifies what its owner signed, and nothing that another key of its kind did."""
    verifier = Jwts.of(settings(jwt_key=pem(key)))
    assert await verifier.principal(signed(key, algorithm)) == "alice"
    assert await refused(verifier, signed(stranger, algorithm))


BAD: list[tuple[str, Callable[[], str]]] = [
    ("expired", lambda: signed(exp=int(time.time()) - 60)),
    ("no exp", lambda: signed(exp=None)),
    ("exp is text", lambda: by_hand({"alg": "HS256"}, {"sub": "alice", "exp": "soon"}, SECRET.encode())),
    ("exp is huge", lambda: by_hand({"alg": "HS256"}, {"sub": "alice", "exp": 1e400}, SECRET.encode())),
    ("not yet", lambda: signed(nbf=int(time.time()) + 60)),
    ("no subject", lambda: signed(sub=None)),
    ("empty subject", lambda: signed(sub="")),
    ("subject is a number", lambda: by_hand({"alg": "HS256"}, claims(sub=7), SECRET.encode())),
    ("subject is a list", lambda: by_hand({"alg": "HS256"}, claims(sub=["alice"]), SECRET.encode())),
    ("wrong key", lambda: signed("another secret, of the same length or so")),
    ("wrong issuer", lambda: signed(iss="https://else")),
    ("no issuer", lambda: signed(iss=None)),
    ("wrong audience", lambda: signed(aud="another service")),
    ("no audience", lambda: signed(aud=None)),
    ("alg none", lambda: by_hand({"alg": "none"}, claims(), None)),
    ("alg None", lambda: by_hand({"alg": "None"}, claims(), None)),
    ("alg missing", lambda: by_hand({}, claims(), SECRET.encode())),
    ("alg is a list", lambda: by_hand({"alg": ["HS256"]}, claims(), SECRET.encode())),
    ("alg RS256", lambda: signed(RSA, "RS256")),
    ("claims are a list", lambda: by_hand({"alg": "HS256"}, [], SECRET.encode())),
    ("header is a list", lambda: by_hand([], claims(), SECRET.encode())),  # type: ignore[arg-type]
    ("critical header", lambda: signed(headers={"crit": ["x"], "x": 1})),
    ("no JWT", lambda: "a.b.c"),
    ("empty", lambda: ""),
    ("no text", lambda: "é\ud800"),
    ("deep", lambda: by_hand({"alg": "HS256"}, claims(), SECRET.encode()) + "." * 9),
]


@pytest.mark.parametrize("make", [make for _, make in BAD], ids=[name for name, _ in BAD])
async def test_nobodys_token(make: Callable[[], str]) -> None:
    """Whatever is wrong with a token, its bearer is nobody."""
    verifier = Jwts.of(settings(jwt_issuer=ISSUER, jwt_audience="holdfast"))
    assert await verifier.principal(signed()) == "alice"
    assert await refused(verifier, make())


async def test_public_key_is_no_shared_secret() -> None:
    """A token signed with the public key as if it were a secret is nobody's: the key decides the algorithm."""
    text = pem(RSA)
    forged = by_hand({"alg": "HS256", "typ": "JWT"}, claims(), text.encode())
    assert await refused(Jwts.of(settings(jwt_key=text)), forged)


async def test_leeway() -> None:
    """A clock that differs by less than the leeway is forgiven."""
    late = signed(exp=int(time.time()) - 5)
    assert await Jwts.of(settings(jwt_leeway_s=60)).principal(late) == "alice"
    assert await refused(Jwts.of(settings(jwt_leeway_s=0)), late)


async def test_stream_token_is_no_jwt_of_the_issuer() -> None:
    """Not even where it was signed with the very same secret."""
    verifier = Jwts.of(settings())
    assert await refused(verifier, StreamTokens((SECRET,), 60).issue("alice", "s1"))
    marked = signed(headers={"typ": "holdfast-stream"})
    assert await refused(verifier, marked)


URL = {"jwt_key": "", "jwt_jwks_url": "https://issuer/keys", "jwt_issuer": "i", "jwt_audience": "a"}
WRONG: list[dict[str, Any]] = [
    {"jwt_key": ""}, {"jwt_key": "short"}, {"jwt_key": TOKENS}, {"token_secret": ""}, {"token_secret": "short"},
    {"token_secret": f"{TOKENS},short"}, {"jwt_key": "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"},
    {"jwt_algorithms": "none"}, {"jwt_algorithms": "HS256,none"}, {"jwt_algorithms": "HS512"},
    {"jwt_algorithms": "RS256"},
    {"jwt_key": pem(RSA), "jwt_algorithms": "HS256"}, {**URL, "jwt_algorithms": "HS256"}, {**URL, "jwt_audience": ""},
    {**URL, "jwt_issuer": ""}, {**URL, "jwt_key": SECRET}, {**URL, "jwt_jwks_url": "http://issuer/keys"},
    {**URL, "jwt_jwks_url": "file:///etc/passwd"},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: "+".join(changes))
def test_what_is_refused_at_start(changes: dict[str, Any]) -> None:
    """Settings that are not enough, contradict each other, or would weaken the check are said at start; no secret in
    the words."""
    with pytest.raises(ConfigurationError) as error:
        Authenticator.of(settings(**changes))
    for secret in (SECRET, TOKENS, "short"):
        assert secret not in error.value.message


MIXED: list[dict[str, Any]] = [
    {"auth": "none"}, {"auth": "none", "jwt_key": "", "keys": {"alice": ("0" * 64,)}}, {"auth": "keys", "jwt_key": ""},
    {"auth": "keys", "keys": {"alice": ("0" * 64,)}}, {"keys": {"alice": ("0" * 64,)}}, {"keys_file": "keys.json"},
]  # fmt: skip


@pytest.mark.parametrize("changes", MIXED, ids=repr)
def test_credentials_of_another_kind(changes: dict[str, Any]) -> None:
    """Keys where JWTs are asked for, or the other way round, or either where nobody is asked: one of the two is a
    mistake, and the node says so instead of guessing."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_AUTH"):
        Authenticator.of(settings(**changes))


def test_settings_do_not_show_secrets() -> None:
    """Settings can be printed: neither secret is in them."""
    assert SECRET not in repr(settings())
    assert TOKENS not in str(settings())


class Issuer:
    """Publishes keys over HTTP on loopback; counts who asks."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"one": RSA}
        self.asked = 0
        self.status = 200
        self.hold = asyncio.Event()
        self.hold.set()
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self.hold.wait()
        body = json.dumps({"keys": [self._jwk(kid, key) for kid, key in self.keys.items()]}).encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    def _jwk(self, kid: str, key: Any) -> dict[str, Any]:
        if isinstance(key, str):
            return {"kty": "oct", "k": base64.urlsafe_b64encode(key.encode()).decode(), "kid": kid}
        kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    published = Issuer()
    async with await asyncio.start_server(published, "127.0.0.1", 0) as server:
        published.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        yield published
        published.hold.set()


def verifier_of(issuer: Issuer) -> Jwts:
    return Jwts.of(settings(jwt_key="", jwt_jwks_url=issuer.url, jwt_issuer=ISSUER, jwt_audience="holdfast"))


def by(key: Any, kid: str, algorithm: str = "RS256") -> str:
    return signed(key, algorithm, headers={"kid": kid})


async def test_published_keys(issuer: Issuer) -> None:
    """A token is verified with the published key it names; many tokens cost one fetch, also all at once."""
    issuer.keys["two"] = EC
    verifier = verifier_of(issuer)
    tokens = [by(RSA, "one"), by(EC, "two", "ES256")] * 20
    assert set(await asyncio.gather(*(verifier.principal(token) for token in tokens))) == {"alice"}
    assert issuer.asked == 1
    assert await refused(verifier, by(RSA, "two"))
    assert await refused(verifier, by(EC, "one", "ES256"))


async def test_unknown_key_ids_do_not_drive_us_to_the_issuer(issuer: Issuer) -> None:
    """Tokens with made-up key ids cost no fetch each."""
    verifier = verifier_of(issuer)
    for n in range(50):
        assert await refused(verifier, by(RSA, f"made up {n}"))
    assert issuer.asked == 1


async def test_new_key_is_fetched(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the issuer published since is found by the first token that names it."""
    monkeypatch.setattr(jwks, "PAUSE_S", 0.0)
    verifier = verifier_of(issuer)
    assert await verifier.principal(by(RSA, "one")) == "alice"
    issuer.keys = {"two": EC}
    assert await verifier.principal(by(EC, "two", "ES256")) == "alice"
    assert await refused(verifier, by(RSA, "one"))


async def test_published_secret_is_no_key(issuer: Issuer) -> None:
    """A shared secret among published keys verifies nothing: everybody knows it."""
    issuer.keys["secret"] = SECRET
    assert await refused(verifier_of(issuer), by(SECRET, "secret", "HS256"))
    with pytest.raises(Unauthorized):
        await Jwks(issuer.url).key({"kid": "secret"})


async def test_issuer_away_at_first(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any key was had a token can be neither good nor bad; it is asked again, and then it is."""
    monkeypatch.setattr(jwks, "PAUSE_S", 0.0)
    issuer.status = 500
    verifier = verifier_of(issuer)
    with pytest.raises(AuthenticationUnavailable):
        await verifier.principal(by(RSA, "one"))
    issuer.status = 200
    assert await verifier.principal(by(RSA, "one")) == "alice"


async def test_issuer_away_later(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are due for a fetch go on to be used while the issuer is away, and the request does not wait for it;
    much older ones do not."""
    monkeypatch.setattr(jwks, "PAUSE_S", 0.0)
    monkeypatch.setattr(jwks, "FRESH_S", 0.0)
    verifier = verifier_of(issuer)
    assert await verifier.principal(by(RSA, "one")) == "alice"
    issuer.hold.clear()
    assert await verifier.principal(by(RSA, "one")) == "alice"
    issuer.status = 500
    issuer.hold.set()
    assert await verifier.principal(by(RSA, "one")) == "alice"
    monkeypatch.setattr(jwks, "STALE_S", 0.0)
    with pytest.raises(AuthenticationUnavailable):
        await verifier.principal(by(RSA, "one"))


async def test_request_that_goes_does_not_cancel_the_fetch(issuer: Issuer) -> None:
    """A client that leaves while keys are fetched takes nothing from the others who wait."""
    issuer.hold.clear()
    keys = Jwks(issuer.url)
    first, second = (asyncio.create_task(keys.key({"kid": "one"})) for _ in range(2))
    while not issuer.asked:
        await asyncio.sleep(0.001)
    first.cancel()
    issuer.hold.set()
    assert (await second).key_id == "one"
    assert issuer.asked == 1
