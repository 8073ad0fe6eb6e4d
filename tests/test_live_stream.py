"""Connections that are handed over to their streams: what becomes of them when the stream ends, and of what a client
does meanwhile. Real sockets, byte by byte."""

import asyncio
import gc
import signal
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from api.delivery import Delivery
from api.live_stream import LiveStream
from api.server import Http
from shared import keys
from shared.events import Event, encode
from shared.ids import EventId
from shared.log import Log
from tests.support.inprocess import LiveNode, live_node
from tests.support.sessions import HELLO, deltas, finish, next_turn, say, started, terminal
from tests.support.sse import SSE, Frame, Severed, events_path, parse
from tests.support.system import system

WITHIN_S = 20.0
CROWD, CLIENTS = 200, 30
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Connection:
    """HTTP/1.1 by hand: several requests, or parts of them, over one connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def ask(self, sid: str, *headers: str, version: str = "1.1", times: int = 1, along: bytes = b"") -> None:
        """`along` is sent right behind it."""
        lines = [f"GET {events_path(sid)} HTTP/{version}", "Host: localhost", *headers]
        self.writer.write(("\r\n".join(lines).encode() + b"\r\n\r\n") * times + along)

    async def head(self) -> str:
        """Of the next response."""
        async with asyncio.timeout(WITHIN_S):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def frames(self, until: str = "") -> list[Frame]:
        """Of the body, to its clean end, or to the first of type `until`."""
        got: list[Frame] = []
        async with asyncio.timeout(WITHIN_S):
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                data = (await self._reader.readexactly(size + 2))[:-2]
                got += [parse(block) for block in data.split(b"\n\n") if b"data: " in block]
                if until and any(frame.type == until for frame in got):
                    return got
            assert await self._reader.readexactly(2) == b"\r\n"
        return got

    async def rest(self) -> bytes:
        """All that comes until the other end closes."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.read()


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, quiet_check_s=0.2) as running:
        yield running


def port_of(node: LiveNode) -> int:
    return int(node.url.rpartition(":")[2])


async def until(condition: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0)


async def waiting(node: LiveNode, count: int = 1) -> None:
    """Until so many readers are in the audience of a feed."""
    await until(lambda: sum(len(feed.audience) for feed in node.node.hub._feeds.values()) == count)


# -- one connection, several requests


async def test_a_connection_serves_further_requests_after_a_stream(node: LiveNode, log: Log) -> None:
    """A stream, another request, and a stream again over one connection; nothing of either is left in the node."""
    held = await started(log)
    async with Connection(port_of(node)) as client:
        client.ask("s1")
        assert "200 OK" in await client.head()
        await client.frames("caught_up")
        await say(log, held, 2, "a")
        await finish(log, held, 3)
        assert [frame.type for frame in await client.frames()] == ["text.delta", "generation.completed"]
        client.writer.write(LIVEZ)
        head = await client.head()
        assert "200 OK" in head
        await client._reader.readexactly(int(head.lower().partition("content-length: ")[2].split()[0]))
        client.ask("s1")
        assert "200 OK" in await client.head()
        assert (await client.frames())[-1].type == "generation.completed"
        assert [type(one) for one in node.server.server_state.connections] == [Http]
        assert not node.node.hub.readers
    await until(lambda: not node.server.server_state.connections)


@pytest.mark.parametrize(
    ("headers", "along", "meanwhile"),
    [
        pytest.param([], b"", LIVEZ, id="a request during the stream"),
        pytest.param(["Content-Length: 44"], b"", LIVEZ, id="a body that looks like a request"),
        pytest.param(["Content-Length: 44"], LIVEZ[:20], b"", id="a part of a body"),
        pytest.param([], LIVEZ[:20], b"", id="a part of a request"),
        pytest.param(["Connection: close"], b"", b"", id="a client that wants no more"),
    ],
)
async def test_what_is_left_on_a_connection_is_no_request(
    node: LiveNode, log: Log, headers: list[str], along: bytes, meanwhile: bytes
) -> None:
    """Bytes beside the request, before or during its stream: it gets its stream to the clean end, then the connection
    is closed, and nothing that comes over it later is taken for a request."""
    held = await started(log)
    async with Connection(port_of(node)) as client:
        client.ask("s1", *headers, along=along)
        assert "200 OK" in await client.head()
        await client.frames("caught_up")
        await waiting(node)
        client.writer.write(meanwhile)
        await say(log, held, 2, "a")
        assert [frame.type for frame in await client.frames("text.delta")] == ["text.delta"]
        await finish(log, held, 3)
        assert [frame.type for frame in await client.frames()] == ["generation.completed"]
        client.writer.write(LIVEZ[-24:] if along else LIVEZ)
        assert await client.rest() == b""


# -- what is published at once


async def test_readers_get_each_event_once_however_it_is_published(node: LiveNode, log: Log, redis: Any) -> None:
    """Twice the same, a part of it known, and more than one write holds; in order, each once, to everybody."""
    held = await started(log)
    crowd = [await SSE(node.url, events_path("s1", merge=merge)).open() for merge in (0, 1)]
    streams = [one.frames() for one in crowd]
    for frames in streams:
        await _until(frames, "caught_up")
    await waiting(node, 2)
    live, known = keys.live("s1"), [Event(EventId(held.epoch, 2), "text.delta", encode({"text": "2"})).frame]
    await say(log, held, 2, "2")
    await redis.publish(live, known[0])
    await redis.publish(live, known[0] + Event(EventId(held.epoch, 3), *_delta("3")).frame)
    await redis.publish(live, Event(EventId(held.epoch, 4), *_delta("4" * 10_000)).frame)
    await redis.publish(live, Event(EventId(held.epoch, 5), *_delta("5")).frame)
    for frames in streams:
        got = [await anext(frames) for _ in range(4)]
        assert [frame.id for frame in got] == [f"{held.epoch}-{seq}" for seq in range(2, 6)]
        assert [frame.data["text"][0] for frame in got] == list("2345")
    for one in crowd:
        one.kill()


def _delta(text: str) -> tuple[str, bytes]:
    return "text.delta", encode({"text": text})


async def test_a_terminal_in_the_middle_ends_those_who_do_not_follow(node: LiveNode, log: Log, redis: Any) -> None:
    """An interrupted turn: its end and the next message come as one. Who follows gets both, and what comes then."""
    held = await started(log)
    async with SSE(node.url, events_path("s1")) as one, SSE(node.url, events_path("s1", follow=1)) as two:
        streams = [one.frames(), two.frames()]
        for frames in streams:
            await _until(frames, "caught_up")
        await waiting(node, 2)
        over, type_ = Event(EventId(held.epoch, 2), *terminal("g1")), "message"
        data = {"prev": str(over.id), "generation": "g2", **HELLO}
        turn = Event(EventId(held.epoch + 1, 1), type_, encode(data))
        await redis.publish(keys.live("s1"), over.frame + turn.frame)
        await redis.publish(keys.live("s1"), Event(EventId(held.epoch + 1, 2), *deltas("more")[0]).frame)
        assert [frame.id async for frame in streams[0]] == [str(over.id)]
        got = [await anext(streams[1]) for _ in range(3)]
    assert [frame.id for frame in got] == [str(over.id), str(turn.id), f"{held.epoch + 1}-2"]


async def _until(frames: AsyncIterator[Frame], type_: str) -> None:
    async for frame in frames:
        if frame.type == type_:
            return
    raise AssertionError(f"no {type_}")


async def test_who_follows_waits_again_after_each_turn(node: LiveNode, log: Log) -> None:
    """The next turn comes over the same stream: it is in the audience before and after the terminal."""
    held = await started(log)
    async with SSE(node.url, events_path("s1", follow=1)) as stream:
        frames = stream.frames()
        await _until(frames, "caught_up")
        await waiting(node)
        await finish(log, held, 2)
        await _until(frames, "generation.completed")
        await waiting(node)
        await next_turn(log)
        assert (await anext(frames)).type == "message"
        await waiting(node)


# -- clients that go


def reached(stage: str, node: LiveNode) -> bool:
    """All clients have got so far, or, on the way from request to stream, some of them."""
    connections, readers = node.server.server_state.connections, node.node.hub.readers
    match stage:
        case "asked":
            return len(connections) == CLIENTS
        case "begun":
            return bool(readers)
        case "waiting":
            return sum(reader.listener is not None for reader in readers) == CLIENTS
        case "ended":
            return (
                sum(isinstance(one, Http) and one.timeout_keep_alive_task is not None for one in connections) == CLIENTS
            )
    return sum(isinstance(one, LiveStream) and one._paused for one in connections) == CLIENTS


def kept(*types: type) -> int:
    return sum(isinstance(one, types) for one in gc.get_objects())


@pytest.mark.parametrize("stage", ["asked", "begun", "waiting", "full", "ended"])
async def test_clients_that_vanish_leave_nothing(redis_url: str, log: Log, stage: str) -> None:
    """By a reset before the head, before the first event, among those who wait, full, and after the end: no reader,
    stream, task or connection is counted, and no object of theirs is kept, not even in a circle that the collector
    would find."""
    async with live_node(redis_url) as node:
        held = await started(log)
        if stage == "ended":
            await finish(log, held, 2)
        if stage == "full":
            for first in range(2, 602, 100):
                await say(log, held, first, *(["x" * 10_000] * 100))
        state, hub = node.server.server_state, node.node.hub
        for round_ in range(3):  # the first one warms up
            clients = [_asked(port_of(node)) for _ in range(CLIENTS)]
            await until(lambda: reached(stage, node))
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            await until(lambda: not (hub.readers or hub.streams._open or state.connections or state.tasks))
            if not round_:
                gc.collect()
                gc.disable()
        try:
            await until(lambda: not kept(LiveStream, Delivery, Http))
        finally:
            gc.enable()


def _asked(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {events_path('s1')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


# -- processes


@pytest.mark.parametrize(("version", "times"), [("1.0", 1), ("1.1", 2)])
async def test_no_request_holds_the_node_up(redis_url: str, log: Log, version: str, times: int) -> None:
    """Of an old client, or with a second one right behind it, so that the connection cannot be handed over: each is
    served live, in order, and others meanwhile."""
    async with system(redis_url, workers=0) as running:
        held = await started(log)
        async with Connection(running.nodes[0].port) as client, Connection(running.nodes[0].port) as other:
            client.ask("s1", version=version, times=times)
            await client.head()
            await client.frames("caught_up")
            other.writer.write(LIVEZ)
            assert "200 OK" in await other.head()
            await say(log, held, 2, "a")
            assert (await client.frames("text.delta"))[-1].id == f"{held.epoch}-2"
            await finish(log, held, 3)
            assert [frame.id for frame in await client.frames()] == [f"{held.epoch}-3"]
            for _ in range(times - 1):
                await client.head()
                assert (await client.frames())[-1].id == f"{held.epoch}-3"
            if version == "1.0":
                assert await client.rest() == b""


async def test_a_node_that_leaves_cuts_all_that_wait(redis_url: str, log: Log) -> None:
    """SIGTERM with readers in audiences, and one client that is full: each is cut, none sees a clean end, and the
    process exits by itself."""
    async with system(redis_url, workers=0) as running:
        node = running.nodes[0]
        held = await started(log)
        await say(log, held, 2, *(["x" * 10_000] * 50))
        full = _asked(node.port)
        cursor = {"Last-Event-ID": f"{held.epoch}-51"}
        crowd = [await SSE(node.url, events_path("s1"), cursor).open() for _ in range(CROWD)]
        streams = [one.frames() for one in crowd]
        for frames in streams:
            await _until(frames, "caught_up")
        node.signal(signal.SIGTERM)
        ends = await asyncio.gather(*(anext(frames) for frames in streams), return_exceptions=True)
        assert {type(end) for end in ends} == {Severed}
        assert await node.ended() == 0
        full.close()
        for one in crowd:
            one.kill()


async def test_streams_that_are_old_are_cut_also_where_nothing_runs_for_them(redis_url: str, log: Log) -> None:
    """Whoever was let in long ago comes back with new credentials: out of the audience, by a cut."""
    async with live_node(redis_url, stream_max_s=0.1, keepalive_s=0.1) as node:
        await started(log)
        async with SSE(node.url, events_path("s1")) as stream:
            with pytest.raises(Severed):
                await _until(stream.frames(), "never")
        await until(lambda: not node.node.hub.readers)
