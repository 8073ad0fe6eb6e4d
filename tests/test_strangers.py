"""Another principal's session, over every transport: answered as a session that does not exist, word for word."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.auth.stream_tokens import StreamTokens
from shared import keys
from tests.support.credentials import ALICE, BOB, SECRET, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sse import SSE

FOREIGN, UNKNOWN = "alices-own", "nobodys-id"
"""As long as each other, so that answers may be compared by their bytes."""
ASKED = {"id": FOREIGN, "input": "trip", "pipeline": "trip"}


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    """With Alice's session, whose generation waits for an answer."""
    async with live_node(redis_url, **settings_of_keys()) as node, live_worker(redis_url):
        async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as alice:
            assert (await alice.post("/v1/sessions", json=ASKED)).status_code == 201
        async with SSE(node.url, f"/v1/sessions/{FOREIGN}/events", bearer(ALICE)) as stream:
            async for frame in stream.frames():
                if frame.type == "question":
                    break
        yield node


@dataclass(frozen=True)
class Seen:
    """All that a stranger can see of an answer."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, response: httpx.Response, sid: str) -> "Seen":
        error = response.json()["error"]
        headers = [(n, v) for n, v in response.headers.items() if n != "date"]
        return cls(response.status_code, error["code"], error["message"].replace(sid, "*"), tuple(sorted(headers)))


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/sessions/{sid}", None),
    ("GET", "/v1/sessions/{sid}/events", None),
    ("GET", "/v1/sessions/{sid}/events?after=1-1", None),
    ("GET", "/v1/sessions/{sid}/events?follow=1", None),
    ("POST", "/v1/sessions/{sid}/messages", {"input": "x"}),
    ("POST", "/v1/sessions/{sid}/messages", {"input": "x", "interrupt": True}),
    ("POST", "/v1/sessions/{sid}/stop", {}),
    ("POST", "/v1/sessions/{sid}/stop", {"generation": "g1", "wait_s": 0}),
    ("POST", "/v1/sessions/{sid}/answer", {"question": "q1", "text": "x"}),
    ("POST", "/v1/sessions/{sid}/token", None),
    ("DELETE", "/v1/sessions/{sid}", None),
    ("GET", "/api/chat/stream?message=x&session={sid}", None),
    ("GET", "/api/chat/stream?after={sid}/1-1", None),
    ("POST", "/api/chat/stream", {"message": "x", "session": "{sid}"}),
    ("POST", "/api/chat/stream?after={sid}/0-0", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=lambda value: str(value)[:60])
async def test_foreign_is_as_unknown(node: LiveNode, method: str, path: str, body: Any) -> None:
    """Status, code, words and headers are those of a session that does not exist."""
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(BOB)) as bob:
        seen = []
        for sid in (FOREIGN, UNKNOWN):
            text = None if body is None else json.dumps(body).replace("{sid}", sid)
            headers = {"content-type": "application/json"}
            response = await bob.request(method, path.replace("{sid}", sid), content=text, headers=headers)
            seen.append(Seen.of(response, sid))
    assert (seen[0].status, seen[0].code) == (404, "session_not_found")
    assert seen[0] == seen[1]


async def test_every_call_about_a_session_is_tried(node: LiveNode) -> None:
    """What the OpenAPI document knows with a session in its path is in the table above."""
    async with httpx.AsyncClient(base_url=node.url) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    documented = {(m.upper(), p) for p, operations in paths.items() if "{sid}" in p for m in operations}
    assert documented == {(m, p.partition("?")[0]) for m, p, _ in CALLS if p.startswith("/v1")}


SOCKETS = ["/v1/sessions/{sid}/ws", "/v1/sessions/{sid}/ws?after=1-1", "/ws/chat?session={sid}"]


async def said_over_socket(node: LiveNode, path: str, sid: str) -> tuple[list[str], int | None, str | None]:
    """Every frame a stranger gets who sends commands at once, and how the socket is closed."""
    url = node.url.replace("http", "ws") + path.replace("{sid}", sid)
    frames: list[str] = []
    async with connect(url, additional_headers=bearer(BOB)) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send('{"type":"stop","ref":1}')
            await socket.send("STOP")
            while True:
                frames.append(str(await socket.recv()).replace(sid, "*"))
    return frames, socket.close_code, socket.close_reason


@pytest.mark.parametrize("path", SOCKETS)
async def test_sockets(node: LiveNode, path: str) -> None:
    """Over a WebSocket it is a close with the code of a session that does not exist; commands sent at once do
    nothing, and are answered as for such a session, if at all."""
    for sid in (FOREIGN, UNKNOWN):
        frames, code, reason = await said_over_socket(node, path, sid)
        assert (code, reason) == (4404, "session_not_found"), sid
        for frame in map(json.loads, frames):
            error = frame.get("data", frame)
            assert (frame["type"], error["code"]) in {("error", "session_not_found"), ("error", "invalid_json")}, frame


async def test_nothing_happened_to_it(node: LiveNode) -> None:
    """After all of that the session waits for its answer as before, and its owner can give it."""
    for method, path, body in CALLS:
        await test_foreign_is_as_unknown(node, method, path, body)
    for path in SOCKETS:
        await test_sockets(node, path)
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as alice:
        shown = (await alice.get(f"/v1/sessions/{FOREIGN}")).json()
        assert (shown["state"], shown["generation"]) == ("waiting", "g1")
        question = shown["messages"][-1]["question"]["id"]
        answer = {"question": question, "text": "Porto"}
        assert (await alice.post(f"/v1/sessions/{FOREIGN}/answer", json=answer)).status_code == 202


async def test_tokens_of_a_stranger(node: LiveNode) -> None:
    """A token that names the session, but is of another principal, opens nothing: whose it is is asked all the same."""
    given = StreamTokens((SECRET,), 60).issue("bob", FOREIGN)
    async with SSE(node.url, f"/v1/sessions/{FOREIGN}/events?token={given}") as stream:
        assert stream.status == 404
    url = f"{node.url.replace('http', 'ws')}/v1/sessions/{FOREIGN}/ws?token={given}"
    async with connect(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4404


async def test_lists_are_ones_own(node: LiveNode, redis: Any) -> None:
    """A list has the caller's sessions alone, whatever is asked of it, and even where a foreign one got into it."""
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(BOB)) as bob:
        mine = (await bob.post("/v1/sessions", json={"input": "x", "model": "demo/echo"})).json()["id"]
        await redis.zadd(keys.owned("bob"), {FOREIGN: 9_999_999_999_998})
        for query in ("", "?state=waiting", "?limit=200", "?cursor=9999999999999.0"):
            found = {each["id"] for each in (await bob.get(f"/v1/sessions{query}")).json()["sessions"]}
            assert found <= {mine}, query


async def test_foreign_id_is_taken(node: LiveNode) -> None:
    """All that can be learned of a foreign session is that its id is taken, by creating one; nothing of it changes.
    Ids that the server makes cannot be guessed."""
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(BOB)) as bob:
        for headers in ({}, {"Idempotency-Key": "k"}):
            taken = await bob.post("/v1/sessions", json={"id": FOREIGN, "input": "x"}, headers=headers)
            assert (taken.status_code, taken.json()["error"]["code"]) == (422, "session_exists")
        made = {(await bob.post("/v1/sessions", json={"input": "x"})).json()["id"] for _ in range(5)}
    assert min(map(len, made)) >= 22


async def test_same_key_is_another_session_of_another_principal(node: LiveNode) -> None:
    """An Idempotency-Key is its principal's: what one of them began is not what the other is answered with."""
    made = []
    for key in (ALICE, BOB):
        async with httpx.AsyncClient(base_url=node.url, headers={**bearer(key), "Idempotency-Key": "same"}) as http:
            body = {"input": "hello", "model": "demo/echo"}
            made.append([(await http.post("/v1/sessions", json=body)).json()["id"] for _ in range(2)])
    assert made[0][0] == made[0][1] != made[1][0] == made[1][1]


async def status_of(node: LiveNode, headers: dict[str, str]) -> int:
    async with SSE(node.url, f"/v1/sessions/{FOREIGN}/events", headers) as stream:
        return stream.status


async def test_readers_of_two_principals_at_once(node: LiveNode) -> None:
    """Joining a feed that is warm gives a stranger nothing: the owner reads on, the stranger is refused."""
    async with SSE(node.url, f"/v1/sessions/{FOREIGN}/events", bearer(ALICE)) as owner:
        assert owner.status == 200
        assert await asyncio.gather(*(status_of(node, bearer(BOB)) for _ in range(20))) == [404] * 20
        assert await status_of(node, bearer(ALICE)) == 200


async def test_own_session_is_there(redis_url: str) -> None:
    """The owner reads their own session, by all credentials there are: strangers are told apart, not everybody."""
    async with live_node(redis_url, **settings_of_keys()) as node, live_worker(redis_url):
        async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as alice:
            body = {"id": "s1", "input": "hello", "model": "demo/echo"}
            given = (await alice.post("/v1/sessions", json=body)).json()["stream_token"]
        async with SSE(node.url, f"/v1/sessions/s1/events?token={given}") as stream:
            frames = [frame async for frame in stream.frames()]
    assert frames[-1].type == "generation.completed"
