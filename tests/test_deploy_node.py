"""An API node that leaves, and clients that do not read or are no longer there."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import psutil
import pytest

from shared.log import Log
from tests.bench.crowd import crowd, open_files
from tests.support.inprocess import live_node
from tests.support.proxy import proxy
from tests.support.redis_server import redis_server
from tests.support.sessions import say, started
from tests.support.sockets import session
from tests.support.sse import SSE, Frame, Severed, events_path
from tests.support.system import System, system

WITHIN_S = 20
DRAIN_S = 1.0
LEAVES_S = 6.0
"""On top of the drain time: what uvicorn and Redis are given, and a busy machine."""
DEAF, EVENTS, WORDS = 500, 10_000, "kelp " * 40
BATCH = 1000
"""Events that come at once: much more than is to be on the way to a client."""
EACH = 128 << 10
"""Bytes by which a node may grow for one that does not read: a write that is under way."""


async def until_live(coming: AsyncIterator[Frame]) -> None:
    while (await anext(coming)).type != "caught_up":
        pass


# -- leaving


async def test_a_node_leaves_in_time_with_open_streams(redis_url: str, log: Log) -> None:
    """SIGTERM with readers on SSE and WebSocket and an idle connection: status 0 within the drain time and a bound; no
    stream ends as if it were over."""
    await started(log)
    environment = {"HOLDFAST_DRAIN_S": str(DRAIN_S)}
    async with system(redis_url, workers=0, environment=environment) as running, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(SSE(running.url, events_path("s1"))) for _ in range(20)]
        coming = [stream.frames() for stream in streams]
        sockets = [await stack.enter_async_context(session(running.url, "s1")) for _ in range(20)]
        _, idle = await asyncio.open_connection("127.0.0.1", running.nodes[0].port)
        for frames in coming:
            await until_live(frames)
        for reader in sockets:
            await reader.event("caught_up")
        running.nodes[0].signal(signal.SIGTERM)
        assert await running.nodes[0].ended(DRAIN_S + LEAVES_S) == 0
        idle.close()
        for frames in coming:
            with pytest.raises(Severed):
                await anext(frames)
        assert {await reader.closed() for reader in sockets} == {(1012, "")}


async def test_a_second_signal_ends_the_wait(redis_url: str, log: Log) -> None:
    """A node with a minute to drain leaves at once when it is told again, and still in order."""
    await started(log)
    environment = {"HOLDFAST_DRAIN_S": "60"}
    async with system(redis_url, workers=0, environment=environment) as running, crowd(running.url, ["s1"], 20):
        running.nodes[0].signal(signal.SIGTERM)
        await refuses(running.nodes[0].port)
        running.nodes[0].signal(signal.SIGTERM)
        assert await running.nodes[0].ended(LEAVES_S) == 0


async def test_a_command_that_cannot_be_finished_is_answered() -> None:
    """Redis does not answer, and the node must go: who asked is told to come back, as for all that passes."""
    with redis_server() as away:
        async with system(away.url, workers=0) as running, httpx.AsyncClient(base_url=running.url) as client:
            await client.get("/livez")
            away.pause()
            asking = asyncio.create_task(client.post("/v1/sessions", json={"input": "hello"}, timeout=WITHIN_S))
            await asyncio.sleep(0.2)  # it has arrived by then, or the connection is closed before it is heard
            running.nodes[0].signal(signal.SIGTERM)
            answer = await asking
            away.resume()
            assert await running.nodes[0].ended(LEAVES_S) == 0
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert answer.headers["retry-after"] == "1"


async def refuses(port: int) -> None:
    """Until nobody listens there."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.01)


# -- clients that do not read


@pytest.fixture
def many_files() -> Iterator[None]:
    with open_files():
        yield


@pytest.fixture
async def process(redis_url: str, many_files: None) -> AsyncIterator[System]:
    async with system(redis_url, workers=0) as running:
        yield running


async def test_readers_that_never_read_cost_no_memory(process: System, log: Log) -> None:
    """500 streams of one session that nobody reads, while 10,000 events pass: the node holds a cursor for each and
    what is on the way to it, and the reader beside them has everything."""
    held = await started(log)
    node = psutil.Process(process.nodes[0].pid)
    with contextlib.ExitStack() as deaf:
        for _ in range(DEAF):
            await _unread(deaf.enter_context(socket.socket()), process.nodes[0].port)
        async with SSE(process.url, events_path("s1")) as stream:
            coming = stream.frames()
            await until_live(coming)
            before = node.memory_info().rss
            reading = asyncio.create_task(_texts(coming, EVENTS))
            for n in range(0, EVENTS, BATCH):
                await say(log, held, n + 2, *[WORDS] * BATCH)
            async with asyncio.timeout(60):
                assert await reading == WORDS * EVENTS
            grown = node.memory_info().rss - before
    assert grown <= DEAF * EACH, f"{grown / DEAF:.0f} bytes for each"


async def _unread(sock: socket.socket, port: int) -> None:
    """Ask for the stream, and take nothing but the head of it. The buffers of the network are small: what is not read
    waits in the node."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, f"GET {events_path('s1')} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(sock, 1)


async def _texts(coming: AsyncIterator[Frame], events: int) -> str:
    """What is said, until so much has come."""
    text = ""
    while len(text) < len(WORDS) * events:
        frame = await anext(coming)
        text += frame.data["text"] if frame.type == "text.delta" else ""
    return text


async def test_a_client_that_takes_nothing_any_more_is_dropped(redis_url: str, log: Log) -> None:
    """Nothing arrives from it, nothing is taken, and nobody says so: after the send timeout its connection is gone, and
    nothing of it stays."""
    held = await started(log)
    async with (
        live_node(redis_url, send_timeout_s=1) as node,
        proxy(int(node.url.rsplit(":", 1)[1])) as network,
        SSE(network.url, events_path("s1")) as stream,
    ):
        await until_live(stream.frames())
        assert len(node.node.hub.readers) == 1
        network.pause()
        seq = 2
        async with asyncio.timeout(WITHIN_S):
            while node.node.hub.readers:
                await say(log, held, seq, "x" * 100_000)
                seq += 1
                await asyncio.sleep(0.01)
