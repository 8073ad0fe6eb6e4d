"""Who may use a chat of the AI SDK's: its owner, by key, or by a stream token of that one chat; and how sockets end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node
from tests.support.ws import WS, Closed

ASKED = [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]
PATH = "/api/chat/ws"


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, **settings_of_keys()) as running:
        yield running


async def call(node: LiveNode, method: str, path: str, key: str | None, body: Any = None) -> httpx.Response:
    """The head of the answer is enough."""
    headers = {} if key is None else bearer(key)
    async with (
        httpx.AsyncClient(base_url=node.url, headers=headers) as client,
        client.stream(method, path, json=body) as response,
    ):
        if "event-stream" not in response.headers.get("content-type", ""):
            await response.aread()
        return response


async def asked(node: LiveNode, key: str | None, **more: str) -> httpx.Response:
    return await call(node, "POST", "/api/chat", key, {"id": "c1", "messages": ASKED, **more})


def frame(kind: str, chat: str = "c1") -> dict[str, Any]:
    more = {"messages": ASKED, "trigger": "submit-message"} if kind == "send" else {}
    return {"type": kind, "requestId": "r1", "id": chat, "headers": {}, "body": {}, **more}


async def test_nobody_is_let_in_without_a_key(node: LiveNode) -> None:
    """401, in plain text like every refusal."""
    response = await asked(node, None)
    assert (response.status_code, response.headers["holdfast-error"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert (await call(node, "GET", "/api/chat/c1/stream", None)).status_code == 401


async def test_a_chat_of_somebody_else_is_as_unknown(node: LiveNode) -> None:
    """There is nothing to resume, nothing to stop, and nothing is said in it."""
    assert (await asked(node, ALICE)).status_code == 200
    assert (await call(node, "GET", "/api/chat/c1/stream", ALICE)).status_code == 200
    assert (await call(node, "GET", "/api/chat/c1/stream", BOB)).status_code == 204
    assert (await call(node, "POST", "/api/chat/c1/stop", BOB)).status_code == 404
    for refused in (await asked(node, BOB), await asked(node, BOB, pipeline="trip")):
        assert (refused.status_code, refused.headers["holdfast-error"]) == (404, "session_not_found")
    async with WS(node.url, PATH, bearer(BOB)) as socket, asyncio.timeout(20):
        await socket.send(**frame("resume"))
        assert await socket.get() == {"type": "no-active", "requestId": "r1"}
        await socket.send(**frame("send"))
        assert (await socket.get())["type"] == "error"
    view = await node.node.log.view("c1")
    assert view is not None
    assert (view.state, view.stop, view.generation) == ("queued", "", "g1")


async def test_a_stream_token_is_for_its_chat_alone(node: LiveNode) -> None:
    """A page has no headers for a socket: `?token=` lets it in for the chat that `?chat=` names."""
    assert (await asked(node, ALICE)).status_code == 200
    token = (await call(node, "POST", "/v1/sessions/c1/token", ALICE)).json()["stream_token"]
    async with WS(node.url, f"{PATH}?chat=c1&token={token}") as socket, asyncio.timeout(20):
        await socket.send(**frame("resume"))
        assert await socket.get() == {"type": "start", "requestId": "r1"}
        await socket.send(**{**frame("send", "c2"), "requestId": "r2"})
        refused = await socket.get()
        assert (refused["type"], refused["requestId"]) == ("error", "r2")
        await socket.send(**{**frame("resume", "c2"), "requestId": "r3"})
        assert (await socket.get())["type"] == "error"
    for query in (f"?token={token}", f"?chat=c2&token={token}", "?chat=c1"):
        async with WS(node.url, PATH + query) as socket, asyncio.timeout(20):
            with pytest.raises(Closed) as closed:
                await socket.get()
            assert closed.value.code == 4401
    async with (
        httpx.AsyncClient(base_url=node.url) as client,
        client.stream("GET", f"/api/chat/c1/stream?token={token}") as response,
    ):
        assert response.status_code == 200


async def test_a_page_of_a_foreign_origin_gets_no_socket(node: LiveNode) -> None:
    """Whatever it knows."""
    async with WS(node.url, PATH, {**bearer(ALICE), "Origin": "https://evil.example"}) as socket, asyncio.timeout(20):
        with pytest.raises(Closed) as closed:
            await socket.get()
        assert closed.value.code == 4403


async def test_a_node_that_leaves_closes_its_sockets_so_that_they_come_back(node: LiveNode) -> None:
    """1012, with streams on it and without: for the transport the connection is lost, and can be resumed."""
    async with WS(node.url, PATH, bearer(ALICE)) as busy, WS(node.url, PATH, bearer(ALICE)) as idle:
        async with asyncio.timeout(20):
            await busy.send(**frame("send"))
            assert (await busy.get())["type"] == "start"
            await idle.send(type="resume", requestId="r0", id="nobodys", headers={}, body={})
            assert (await idle.get())["type"] == "no-active"
            node.node.hub.drain()
            for socket in (busy, idle):
                with pytest.raises(Closed) as closed:
                    await socket.until("nothing that it says")
                assert closed.value.code == 1012


async def test_streams_of_a_socket_count_as_streams(redis_url: str) -> None:
    """A socket is one, and each stream on it another: beyond the limit the request is refused, not the socket."""
    async with (
        live_node(redis_url, **settings_of_keys(open_streams=2)) as node,
        WS(node.url, PATH, bearer(ALICE)) as socket,
        asyncio.timeout(20),
    ):
        await socket.send(**frame("send"))
        assert (await socket.get())["type"] == "start"
        await socket.send(**{**frame("send", "c2"), "requestId": "r2"})
        refused = await socket.get()
        assert (refused["type"], refused["errorText"]) == ("error", "2 streams are open")
        assert await node.node.log.view("c2") is None
