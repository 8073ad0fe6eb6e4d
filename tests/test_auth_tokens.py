"""Stream tokens: of one session and one principal, for a few minutes, and no credential anywhere else."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.auth.stream_tokens import ALGORITHM, AUDIENCE, TYPE, StreamTokens
from shared.errors import ConfigurationError, Unauthorized
from tests.support.credentials import ALICE, BOB, SECRET, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sse import SSE, Frame, Severed

HELLO = {"input": "hello", "model": "demo/echo"}


def token(secret: str = SECRET, typ: str = TYPE, **changes: Any) -> str:
    claims = {"aud": AUDIENCE, "sub": "alice", "sid": "s1", "exp": int(time.time()) + 60, **changes}
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, secret, ALGORITHM, headers={"typ": typ})


def test_token_names_its_principal() -> None:
    """What was issued is its principal's, for its session alone."""
    tokens = StreamTokens((SECRET,), 60)
    assert tokens.principal(tokens.issue("alice", "s1"), "s1") == "alice"
    with pytest.raises(Unauthorized):
        tokens.principal(tokens.issue("alice", "s1"), "s2")


BAD = {
    "expired": token(exp=int(time.time()) - 1), "no end": token(exp=None), "no session": token(sid=None),
    "no principal": token(sub=None), "no audience": token(aud=None), "other audience": token(aud="holdfast"),
    "other type": token(typ="JWT"), "other secret": token("some other secret of more than 32 chars"),
    "unsigned": jwt.encode({"aud": AUDIENCE, "sub": "alice", "sid": "s1", "exp": 2**33}, "", "none"),
    "other algorithm": jwt.encode({"aud": AUDIENCE, "sub": "alice", "sid": "s1", "exp": 2**33}, SECRET, "HS512",
                                  headers={"typ": TYPE}),
    "nonsense": "x", "no text": "\ud800é", "empty": "", "an API key": ALICE,
}  # fmt: skip


@pytest.mark.parametrize("given", BAD.values(), ids=BAD.keys())
def test_nobodys_token(given: str) -> None:
    """Whatever is wrong with a token, its bearer is nobody."""
    tokens = StreamTokens((SECRET,), 60)
    assert tokens.principal(token(), "s1") == "alice"
    with pytest.raises(Unauthorized):
        tokens.principal(given, "s1")


def test_secret_is_replaced_by_another() -> None:
    """While one secret replaces another, tokens of both count; then those of the old one do not."""
    old, new = SECRET, "the next secret, which is long enough, too"
    before = StreamTokens((old,), 60).issue("alice", "s1")
    both = StreamTokens((new, old), 60)
    assert both.principal(before, "s1") == "alice"
    assert StreamTokens((old, new), 60).principal(both.issue("alice", "s1"), "s1") == "alice"
    with pytest.raises(Unauthorized):
        StreamTokens((new,), 60).principal(before, "s1")


@pytest.mark.parametrize("secrets", [(), ("short",), (SECRET, "short")])
def test_secret_must_be_given_and_long(secrets: tuple[str, ...]) -> None:
    """Nothing is made up in the place of a secret: nodes would not know each other's tokens."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_TOKEN_SECRET"):
        StreamTokens(secrets, 60)


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, **settings_of_keys()) as node, live_worker(redis_url):
        yield node


@pytest.fixture
async def http(node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's, whose session `s1` is there; so is her `s2`."""
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as client:
        for sid in ("s1", "s2"):
            assert (await client.post("/v1/sessions", json={"id": sid, **HELLO})).status_code == 201
        yield client


async def issued(http: httpx.AsyncClient) -> str:
    return str((await http.post("/v1/sessions/s1/token")).json()["stream_token"])


async def status(node: LiveNode, path: str, headers: dict[str, str] | None = None) -> int:
    async with SSE(node.url, path, headers) as stream:
        return stream.status


async def test_where_tokens_come_from(node: LiveNode, http: httpx.AsyncClient) -> None:
    """Answers to new sessions and turns bring one, a call renews it, and each of them opens the stream."""
    created = (await http.post("/v1/sessions", json={"id": "s3", **HELLO})).json()["stream_token"]
    renewed = (await http.post("/v1/sessions/s3/token")).json()
    assert renewed["expires_in_s"] == 300
    next_one = (await http.post("/v1/sessions/s3/messages", json={"input": "x", "interrupt": True})).json()
    for each in (created, renewed["stream_token"], next_one["stream_token"]):
        assert await status(node, f"/v1/sessions/s3/events?token={each}") == 200


async def test_token_is_for_its_session(node: LiveNode, http: httpx.AsyncClient) -> None:
    """It opens the stream of its session, also with a cursor, and of no other session of the same principal."""
    given = await issued(http)
    assert await status(node, f"/v1/sessions/s1/events?after=0-0&token={given}") == 200
    assert await status(node, f"/v1/sessions/s2/events?token={given}") == 401
    assert await status(node, f"/api/chat/stream?token={given}", {"Last-Event-ID": "s1/0-0"}) == 200
    assert await status(node, f"/api/chat/stream?token={given}", {"Last-Event-ID": "s2/0-0"}) == 401
    assert await status(node, f"/api/chat/stream?message=hi&token={given}") == 401
    assert await status(node, f"/api/chat/stream?message=hi&session=s2&token={given}") == 401


async def test_token_over_websocket(node: LiveNode, http: httpx.AsyncClient) -> None:
    """The same over a WebSocket, where it may act, too; what it is answered with brings no further token."""
    given, base = await issued(http), node.url.replace("http", "ws")
    async with connect(f"{base}/v1/sessions/s1/ws?token={given}") as socket:
        await socket.send('{"type":"message","ref":1,"input":"more","interrupt":true}')
        replies = [text async for text in _until(socket, '"reply"')]
    assert "eyJ" not in replies[-1]
    async with connect(f"{base}/ws/chat?session=s1&token={given}") as socket:
        assert "id" in str(await socket.recv())
    for path in ("v1/sessions/s2/ws?", "ws/chat?session=s2&", "ws/chat?"):
        async with connect(f"{base}/{path}token={given}") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "unauthorized")


async def _until(socket: Any, word: str) -> AsyncIterator[str]:
    async for text in socket:
        yield str(text)
        if word in text:
            return


async def test_token_is_no_key_and_key_is_no_token(node: LiveNode, http: httpx.AsyncClient) -> None:
    """A token in a header is nobody's, and so is a key in the URL; a token cannot ask for the next one."""
    given = await issued(http)
    async with httpx.AsyncClient(base_url=node.url) as stranger:
        for headers in (bearer(given), {"x-api-key": given}):
            assert (await stranger.get("/v1/sessions/s1", headers=headers)).status_code == 401
        for method, path in (("GET", ""), ("POST", "/token"), ("POST", "/stop"), ("DELETE", "")):
            path = f"/v1/sessions/s1{path}?token={given}"
            assert (await stranger.request(method, path)).status_code == 401
        assert (await stranger.get(f"/v1/sessions?token={given}")).status_code == 401
    assert await status(node, f"/v1/sessions/s1/events?token={ALICE}") == 401


async def test_wrong_header_is_not_made_good_by_a_token(node: LiveNode, http: httpx.AsyncClient) -> None:
    """Where a header is given it counts: the token is for those who cannot give one."""
    given = await issued(http)
    assert await status(node, f"/v1/sessions/s1/events?token={given}", bearer("nobody")) == 401
    assert await status(node, f"/v1/sessions/s1/events?token={given}", bearer(BOB)) == 404


HEADERS: list[list[tuple[str, str]]] = [
    [], [("Authorization", "")], [("Authorization", "Bearer")],
    [("Authorization", f"Basic {ALICE}")], [("Authorization", ALICE)], [("Authorization", f"Bearer {ALICE}x")],
    [("Authorization", f"Bearer {ALICE} {ALICE}")], [("Authorization", f"Bearer {'x' * 9000}")], [("x-api-key", "")],
    [("Authorization", f"Bearer {ALICE}"), ("Authorization", f"Bearer {ALICE}")],
    [("Authorization", f"Bearer {BOB}"), ("Authorization", f"Bearer {ALICE}")],
    [("x-api-key", ALICE), ("x-api-key", BOB)], [("Authorization", "Bearer nobody"), ("x-api-key", ALICE)],
    [("api-key", ALICE)], [("Cookie", f"token={ALICE}")],
]  # fmt: skip


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
async def test_nobodys_headers(node: LiveNode, headers: list[tuple[str, str]]) -> None:
    """No credential, another scheme, two at once: 401, with how to do it better, in the shape of all errors."""
    async with httpx.AsyncClient(base_url=node.url) as client:
        response = await client.get("/v1/sessions", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("headers", [bearer(ALICE), {"x-api-key": ALICE}, {"Authorization": f"bearer  {ALICE}"}])
async def test_headers_of_sdks(node: LiveNode, headers: dict[str, str]) -> None:
    """Both headers that SDKs send are known."""
    async with httpx.AsyncClient(base_url=node.url) as client:
        assert (await client.get("/v1/sessions", headers=headers)).status_code == 200


async def test_health_and_page_ask_nobody(node: LiveNode) -> None:
    """Health, the documents and the page itself are for everybody: there is nothing of anybody's in them."""
    async with httpx.AsyncClient(base_url=node.url) as client:
        for path in ("/livez", "/readyz", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path


async def test_expired_token_over_http(redis_url: str) -> None:
    """An expired token is refused, and the answer says what to do about it."""
    tokens = StreamTokens((SECRET,), -1)
    async with live_node(redis_url, **settings_of_keys()) as node:
        async with SSE(node.url, f"/v1/sessions/s1/events?token={tokens.issue('alice', 's1')}") as stream:
            assert stream.status == 401
        assert b"/token" in stream.body


async def _all(stream: SSE) -> list[Frame]:
    return [frame async for frame in stream.frames()]


async def test_old_stream_is_cut(redis_url: str) -> None:
    """With a longest time, a stream that was let in long ago is cut without an end: its client must show again that it
    may."""
    changes = settings_of_keys(stream_max_s=0.05, keepalive_s=0.05)
    async with live_node(redis_url, **changes) as node, live_worker(redis_url):
        async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as http:
            slow = {"id": "s1", "input": "x", "options": {"tokens": 10_000, "rate": 5}}
            assert (await http.post("/v1/sessions", json=slow)).status_code == 201
        async with SSE(node.url, "/v1/sessions/s1/events", bearer(ALICE)) as stream:
            with pytest.raises(Severed):
                await asyncio.wait_for(_all(stream), 20)


async def test_no_token_without_authentication(redis_url: str) -> None:
    """Where nobody is asked who they are there is no token, and none is needed; one that is given does no harm."""
    async with live_node(redis_url) as node, httpx.AsyncClient(base_url=node.url) as http:
        created = await http.post("/v1/sessions", json={"id": "s1", **HELLO})
        assert created.json()["stream_token"] is None
        assert (await http.post("/v1/sessions/s1/token")).json() == {"stream_token": None, "expires_in_s": None}
        async with SSE(node.url, "/v1/sessions/s1/events?token=whatever") as stream:
            assert stream.status == 200
