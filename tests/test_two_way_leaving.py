"""A node that leaves, and clients that do: nobody is held up, everybody is told, and nothing is called an error."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect
from structlog.testing import capture_logs
from websockets.frames import Opcode

from api.duplex import Closed, close
from api.websocket import SessionSocket
from shared.log import Log
from tests.conformance.transports import CHAT
from tests.support import sessions
from tests.support.inprocess import LiveNode, live_node
from tests.support.sessions import SID
from tests.support.sockets import Client, Raw, command, frame, session, ws_path
from tests.support.sse import SSE

WS_CHAT = "/ws/chat"
WITHIN_S = 20
LONG_S = 60.0
"""Longer than a test waits."""


@pytest.fixture
async def node(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveNode]:
    """One that gives its clients long to go, and sends all of them away at once."""
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    async with live_node(redis_url, drain_s=LONG_S) as running:
        yield running


async def drained(node: LiveNode) -> None:
    async with asyncio.timeout(WITHIN_S):
        await node.node.hub.drained()
    assert not node.node.hub.readers


# -- the node goes


async def test_asking_that_is_broken_off_is_answered(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By GET as by POST: 503, come back. It may have been carried out: a repeat with its key finds out."""
    under_way = asyncio.Semaphore(0)
    async with live_node(redis_url) as node:
        create = node.node.log.create

        async def never_ends(*args: Any) -> None:
            await create(*args)
            under_way.release()
            await asyncio.Event().wait()

        monkeypatch.setattr(node.node.log, "create", never_ends)
        body = json.dumps({"message": "hello"}).encode()
        streams = [SSE(node.url, f"{CHAT}?message=hello"), SSE(node.url, CHAT, post=body)]
        opening = [asyncio.create_task(stream.open()) for stream in streams]
        for _ in streams:
            await under_way.acquire()
    for stream in await asyncio.gather(*opening):
        stream.kill()
        assert (stream.status, json.loads(stream.body)["error"]["code"]) == (503, "draining")
        assert stream.headers["retry-after"] == "1"


async def test_a_socket_that_said_nothing_yet_is_sent_elsewhere(node: LiveNode) -> None:
    """1012, as one that follows a session; and so is one that comes only then."""
    async with Client(node.url, WS_CHAT) as silent:
        await silent.ping()
        await drained(node)
        assert await silent.closed() == (1012, "")
    async with Client(node.url, WS_CHAT) as late:
        assert await late.closed() == (1012, "")


async def test_a_socket_that_said_nothing_must_show_again_who_it_is(redis_url: str) -> None:
    """Where streams are cut after a while, this one is too: 1013."""
    async with live_node(redis_url, stream_max_s=0.05, keepalive_s=0.05) as node, Client(node.url, WS_CHAT) as silent:
        assert await silent.closed() == (1013, "")


async def test_a_stop_that_waits_does_not_hold_up_the_node(node: LiveNode, log: Log) -> None:
    """It is answered with what is known: the generation is stopping. One that comes later does not wait at all."""
    await sessions.started(log)
    path = f"/v1/sessions/{SID}/stop"
    async with httpx.AsyncClient(base_url=node.url, timeout=WITHIN_S) as client, session(node.url, SID) as speaker:
        await speaker.event("caught_up")
        over_http = asyncio.create_task(client.post(path, json={"wait_s": 30}))
        await speaker.send(type="stop", ref=1, wait_s=30)
        async with asyncio.timeout(WITHIN_S):
            while len(node.node.hub.readers) < 3:
                await asyncio.sleep(0.005)
        await drained(node)
        told = [(await over_http).json(), (await speaker.answer(1))["data"]]
        assert await speaker.closed() == (1012, "")
        told.append((await client.post(path, json={"wait_s": 30})).json())
    assert [(each["generation"], each["state"]) for each in told] == [("g1", "stopping")] * 3


# -- the client goes


class Complaints:
    """Errors and warnings of this process, whoever writes them: the node, the server, the loop."""

    def __init__(self, own: list[Any], others: pytest.LogCaptureFixture) -> None:
        self._own, self._others = own, others

    def __call__(self) -> list[str]:
        own = [str(entry) for entry in self._own if entry["log_level"] in ("warning", "error", "critical")]
        return own + [each.getMessage() for each in self._others.records if each.levelno >= logging.WARNING]


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[Complaints]:
    with capture_logs() as own:
        yield Complaints(own, caplog)


@pytest.mark.parametrize("after", range(8))
async def test_a_client_that_vanishes_is_no_error(redis_url: str, log: Log, complaints: Complaints, after: int) -> None:
    """While the log streams to it, and a command of its is being carried out: what it said is done, and that is all."""
    await sessions.finished(log, *["kelp " * 400] * 300)
    async with live_node(redis_url, keepalive_s=0.05) as node:
        for n in range(5):
            client = await session(node.url, SID, merge=0).open()
            await client.send(type="message", input=f"{n}", interrupt=True)
            await client.send(type="ping")
            for _ in range(after * 4):
                await asyncio.sleep(0)
            client.kill()
            await client.closed()
        await nobody(node)
    assert complaints() == []


async def test_what_is_said_to_one_who_was_closed_is_no_error(redis_url: str, log: Log, complaints: Complaints) -> None:
    """The node itself closes over a frame that is too large, while a stop waits and the log goes on."""
    held = await sessions.started(log)
    async with live_node(redis_url, max_body_bytes=5000) as node, Raw(node.url, ws_path(SID)) as raw:
        await raw.write(command(type="stop", ref=1, wait_s=20))
        async with asyncio.timeout(WITHIN_S):
            while len(node.node.hub.readers) < 2:
                await asyncio.sleep(0.005)
        await raw.write(frame(Opcode.TEXT, b"x" * 6000))
        assert await raw.close_code() == 1009
        await sessions.say(log, held, 2, "a", "b")
        await sessions.finish(log, held, 4)
        await nobody(node)
    assert complaints() == []


async def test_whoever_speaks_to_one_that_is_gone_learns_the_same(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, replies and the close come from different tasks: the second to notice is no worse off than the first."""
    await sessions.finished(log, "a")
    heard: list[tuple[SessionSocket, WebSocket]] = []
    hear = SessionSocket.hear

    async def noted(self: SessionSocket, text: str) -> None:
        heard.append((self, self._socket))
        await hear(self, text)

    monkeypatch.setattr(SessionSocket, "hear", noted)
    async with live_node(redis_url) as node:
        async with session(node.url, SID) as speaker:
            await speaker.call("ping")
        await nobody(node)
        ((side, socket),) = heard
        for _ in range(3):
            with pytest.raises(WebSocketDisconnect):
                await side.say("there?")
            await close(socket, Closed(1012))


async def nobody(node: LiveNode) -> None:
    async with asyncio.timeout(WITHIN_S):
        while node.node.hub.readers:
            await asyncio.sleep(0.005)
