"""Connections at the edges: handshakes that are too large, clients that are slow, herds, and odd parameters."""

import asyncio
import fcntl
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.server import Http, Socket
from shared.events import encode
from shared.log import Log
from tests.support import sessions
from tests.support.inprocess import LiveNode, live_node
from tests.support.sessions import SID
from tests.support.sockets import Client, session, ws_path
from tests.support.sse import SSE, events_path, read_all
from tests.support.ws import WS

WITHIN_S = 20
HERD = 200
FAR = "1999999999999999-1"
"""A cursor that is ahead of any log."""
BLOCK = "x" * 30_000
SIOCOUTQNSD = 0x894B
"""Asks Linux how much a socket holds that was not sent yet. Python has no name for it."""
HELD = 256 << 10
"""Bytes: far more than a connection may hold before its client takes them, far less than a system would."""


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running:
        yield running


# -- handshakes


HANDSHAKES = {
    "a long query": ("/ws/chat?x=" + "a" * 9_000, []),
    "a long header": (ws_path(SID), ["Authorization: Bearer " + "b" * 8_190]),
    "many headers": ("/ws/chat", [f"X-{n}: 1" for n in range(130)]),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_a_handshake_that_is_too_large_is_answered(node: LiveNode, name: str) -> None:
    """431, and the connection ends: its client does not wait for ever."""
    path, headers = HANDSHAKES[name]
    lines = [
        f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers,
    ]  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rsplit(":", 1)[1]))
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    writer.close()
    assert answer.split(b"\r\n")[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert answer.count(b"HTTP/1.1") == 1


# -- slow clients


async def test_the_system_takes_little_that_it_has_not_sent(node: LiveNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection that is accepted says so to the system."""
    made, options = Http.connection_made, []

    def noted(self: Http, transport: asyncio.Transport) -> None:
        accepted = transport.get_extra_info("socket")
        options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))
        made(self, transport)

    monkeypatch.setattr(Http, "connection_made", noted)
    async with Client(node.url, "/ws/chat") as client:
        await client.ping()
    async with SSE(node.url, events_path(SID)):
        pass
    assert options == [16 << 10] * 2


async def test_little_is_kept_for_a_client_that_takes_nothing(
    node: LiveNode, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not megabytes in the system, behind which a ping would come too late for one that is slow, and lives."""
    held = await sessions.started(log)
    for seq in range(2, 402):
        await log.append(SID, held.token, held.epoch, seq, [("data", encode({"name": "n", "value": BLOCK}))])
    pause, kept = Socket.pause_writing, asyncio.get_running_loop().create_future()

    def noted(self: Socket) -> None:
        pause(self)
        if not kept.done():
            kept.set_result(unsent(self.transport))

    monkeypatch.setattr(Socket, "pause_writing", noted)
    async with WS(node.url, ws_path(SID)), asyncio.timeout(WITHIN_S):
        assert await kept < HELD


def unsent(transport: asyncio.BaseTransport) -> int:
    """Bytes that the system has been given, and has not sent."""
    file = transport.get_extra_info("socket").fileno()
    return int.from_bytes(fcntl.ioctl(file, SIOCOUTQNSD, b"\0" * 4), sys.byteorder)


# -- herds


async def test_a_herd_in_a_gap_looks_once(node: LiveNode, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failover all readers of a session may be ahead of its log: they share what has to be found out."""
    await sessions.finished(log, *["w"] * 2000)
    asked: Counter[str] = Counter()
    for verb in ("read", "last_event", "events"):
        monkeypatch.setattr(node.node.log, verb, counted(asked, verb, getattr(node.node.log, verb)))
    told = await asyncio.gather(*(read_all(node.url, SID, FAR) for _ in range(HERD)))
    assert {tuple(frame.type for frame in frames) for frames in told} == {("gap", "generation.completed")}
    assert max(asked.values()) < HERD / 4, asked
    assert set(asked) == {"read", "last_event", "events"}


def counted(asked: Counter[str], verb: str, real: Any) -> Any:
    async def ask(*args: Any, **kwargs: Any) -> Any:
        asked[verb] += 1
        return await real(*args, **kwargs)

    return ask


# -- odd parameters


@pytest.mark.parametrize(("merge", "deltas"), [("false", 5), ("0", 5), ("true", 1), ("1", 1)])
async def test_merge_is_said_as_over_sse(node: LiveNode, log: Log, merge: str, deltas: int) -> None:
    """Every word for yes and no means the same on both transports."""
    await sessions.finished(log, *"abcde")
    over_sse = [each for each in await read_all(node.url, SID, merge=merge) if each.type == "text.delta"]
    async with session(node.url, SID, merge=merge) as reader:
        await reader.event("caught_up")
    assert len(reader.of("text.delta")) == len(over_sse) == deltas
    assert reader.text_said == "abcde"


async def test_merge_that_is_neither_yes_nor_no_is_refused(node: LiveNode, log: Log) -> None:
    """4400, and not taken for one of the two."""
    await sessions.finished(log, "a")
    async with session(node.url, SID, merge="maybe") as reader:
        assert await reader.closed() == (4400, "invalid_request")


@pytest.mark.parametrize("ref", ["true", "false", "1.0", "1e2", "[1]"])
async def test_a_ref_is_not_echoed_as_another(node: LiveNode, log: Log, ref: str) -> None:
    """What is neither text nor an integer is refused: an answer to 1 would be taken for that of another command."""
    await sessions.finished(log, "a")
    async with session(node.url, SID) as speaker:
        await speaker.text(f'{{"type":"ping","ref":{ref}}}')
        error = await speaker.answer(None)
    assert (error["type"], error["data"]["code"]) == ("error", "invalid_request")


BODIES: dict[str, dict[str, str]] = {"message": {"input": "x"}, "stop": {}, "answer": {"question": "q", "text": "x"}}


@pytest.mark.parametrize("type_", BODIES)
async def test_a_refused_name_is_not_echoed_whole(node: LiveNode, log: Log, type_: str) -> None:
    """However large the frame was, the refusal is small, and says where it was wrong."""
    await sessions.finished(log, "a")
    async with session(node.url, SID) as speaker:
        await speaker.text(json.dumps({"type": type_, **BODIES[type_], "k" * 500_000: 1}))
        error = await speaker.event("error")
    assert error["data"]["code"] == "invalid_request"
    assert error["data"]["message"].startswith("kkk")
    assert len(json.dumps(error)) < 1000
