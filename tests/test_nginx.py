"""The nginx of `deploy/`, in front of real nodes: it adds no delay, hides no end, and loses nothing with a node."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from shared import keys
from shared.log import Log
from tests.bench.crowd import crowd
from tests.support import tools
from tests.support.inprocess import LiveNode, live_node
from tests.support.nginx import Nginx, configured, nginx
from tests.support.ports import free_port
from tests.support.proxy import proxy
from tests.support.sessions import claim, create, finish, say, started
from tests.support.sse import SSE, Frame, Severed, events_path, read_all, text_of
from tests.support.swallowing import Swallowing, swallowing
from tests.support.system import Node, system
from tests.support.ws import WS, Closed

WITHIN_S = 20
ECHO = {"model": "demo/echo", "input": "hello"}
MUCH = 256 << 20
"""Bytes: more than all sockets on the way hold."""
SECRET = "5ecret-t0ken"


def port_of(node: LiveNode) -> int:
    return urlsplit(node.url).port or 0


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, keepalive_s=0.3) as running:
        yield running


@pytest.fixture
async def front(node: LiveNode) -> AsyncIterator[Nginx]:
    async with nginx([port_of(node)]) as running:
        yield running


def test_the_configuration_is_accepted(tmp_path: Path) -> None:
    """nginx takes the deployed file, and has nothing to remark."""
    conf = tmp_path / "nginx.conf"
    conf.write_text(configured([free_port(), free_port()], free_port(), tmp_path))
    told = subprocess.run(
        [tools.nginx(), "-t", "-p", tmp_path, "-c", conf, "-e", "stderr"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "[" not in told.stderr, told.stderr


# -- streams


async def test_sse_arrives_event_by_event(front: Nginx, log: Log) -> None:
    """Each event is said only after the one before it was read: whoever collects them waits for ever."""
    held = await started(log)
    async with asyncio.timeout(WITHIN_S), SSE(front.url, events_path("s1")) as stream:
        coming = stream.frames()
        for seq in range(2, 12):
            await say(log, held, seq, f"word {seq}")
            while (frame := await anext(coming)).type != "text.delta":
                pass
            assert frame.data["text"] == f"word {seq}"


async def test_a_websocket_arrives_event_by_event(front: Nginx, log: Log) -> None:
    """The same over WebSocket, with a command and its reply in between."""
    held = await started(log)
    async with asyncio.timeout(WITHIN_S), WS(front.url, "/v1/sessions/s1/ws") as socket:
        for seq in range(2, 12):
            await say(log, held, seq, f"word {seq}")
            assert (await socket.until("text.delta"))[-1]["data"]["text"] == f"word {seq}"
            await socket.send(type="ping", ref=seq)
            assert (await socket.until("pong"))[-1]["ref"] == seq


@pytest.mark.parametrize("path", ["/v1/sessions/s1/events", "/api/chat/stream?message=Hello"])
async def test_a_stream_is_not_collected_whatever_its_node_says(path: str) -> None:
    """Also without the header by which nodes ask for it, and of a type that others would compress."""
    gate = asyncio.Semaphore(0)

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(10):
            await gate.acquire()
            writer.write(b"5\r\ndata%d\r\n" % n)
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN_S), nginx([server.sockets[0].getsockname()[1]]) as front:
        gate.release()
        async with SSE(front.url, path, {"Accept-Encoding": "gzip"}) as stream:
            async for chunk in stream.chunks():
                assert chunk == b"data%d" % (stream.raw.count(b"data") - 1)
                gate.release()
        assert stream.raw == b"".join(b"data%d" % n for n in range(10))


async def test_a_client_that_does_not_read_is_not_read_for() -> None:
    """nginx takes a little from the node, and no more until the client does: what it took would be lost with it, and
    clients would fill its memory and disk."""
    taken = 0
    wrote = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while taken < MUCH:
                writer.write(bytes(65536))
                await writer.drain()
                taken += 65536
                wrote.set()
        writer.transport.abort()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    async with (
        server,
        nginx([server.sockets[0].getsockname()[1]]) as front,
        asyncio.timeout(WITHIN_S),
        SSE(front.url, "/v1/sessions/s1/events"),
    ):
        with contextlib.suppress(TimeoutError):
            while True:
                await asyncio.wait_for(wrote.wait(), 1)
                wrote.clear()
    assert 0 < taken < MUCH


async def test_a_cut_of_the_nodes_is_a_cut_for_the_client(node: LiveNode, front: Nginx, log: Log) -> None:
    """A stream that its node aborts never ends cleanly: clients take that for the end of the answer."""
    held = await started(log)
    await say(log, held, 2, "Once ")
    async with asyncio.timeout(WITHIN_S), SSE(front.url, events_path("s1")) as stream:
        coming = stream.frames()
        seen = await until_live(coming)
        for reader in list(node.node.hub.readers):
            reader.kick()
        with pytest.raises(Severed):
            await anext(coming)
    assert text_of(seen) == "Once "


async def until_live(coming: AsyncIterator[Frame]) -> list[Frame]:
    """Up to where the replay is over."""
    seen = [await anext(coming)]
    while seen[-1].type != "caught_up":
        seen.append(await anext(coming))
    return seen


async def test_the_end_of_a_stream_is_clean(front: Nginx, log: Log) -> None:
    """After the terminal it ends as it should, and whoever comes again is told to stay away."""
    held = await started(log)
    await say(log, held, 2, "Once ")
    await finish(log, held, 3)
    async with asyncio.timeout(WITHIN_S):
        frames = await read_all(front.url, "s1")
        assert frames[-1].type == "generation.completed"
        assert await read_all(front.url, "s1", frames[-1].id) == []


async def test_close_codes_pass(node: LiveNode, front: Nginx, log: Log) -> None:
    """A client learns whether to come back: 1013 for a socket that was cut, 4404 for a session that is not there."""
    await started(log)
    async with asyncio.timeout(WITHIN_S), WS(front.url, "/v1/sessions/s1/ws") as socket:
        await socket.until("caught_up")
        for reader in list(node.node.hub.readers):
            reader.kick()
        with pytest.raises(Closed) as cut:
            await socket.until("never")
    async with WS(front.url, "/v1/sessions/unknown/ws") as socket:
        with pytest.raises(Closed) as unknown:
            await socket.get()
    assert (cut.value.code, unknown.value.code, unknown.value.reason) == (1013, 4404, "session_not_found")


async def test_a_quiet_stream_stays(redis_url: str, log: Log) -> None:
    """Keep-alives carry streams over the time after which nginx gives up a node that says nothing (here 3 s)."""
    held = await started(log)
    async with (
        live_node(redis_url, keepalive_s=0.5) as node,
        nginx([port_of(node)], {"proxy_read_timeout 60s": "proxy_read_timeout 3s"}) as front,
        asyncio.timeout(WITHIN_S),
        SSE(front.url, events_path("s1")) as stream,
        WS(front.url, "/v1/sessions/s1/ws") as socket,
    ):
        chunks = stream.chunks()
        for _ in range(8):
            while b": ka\n" not in await anext(chunks):
                pass
            await socket.until("keep_alive")
        await say(log, held, 2, "still here")
        while b"still here" not in await anext(chunks):
            pass
        assert (await socket.until("text.delta"))[-1]["data"]["text"] == "still here"


async def test_a_node_that_falls_silent_is_given_up(node: LiveNode, log: Log) -> None:
    """The way to the node is gone and nobody was told: the client is cut after that time, and not left hanging."""
    await started(log)
    async with (
        proxy(port_of(node)) as way,
        nginx([way.port], {"proxy_read_timeout 60s": "proxy_read_timeout 1s"}) as front,
        asyncio.timeout(WITHIN_S),
        SSE(front.url, events_path("s1")) as stream,
    ):
        coming = stream.frames()
        await until_live(coming)
        way.pause()
        with pytest.raises(Severed):
            await anext(coming)


# -- nodes that are gone


async def test_readers_and_requests_survive_the_loss_of_a_node(redis_url: str, log: Log) -> None:
    """kill -9 of one of two nodes: its reader goes on at the other one, and no request of a hundred is refused."""
    held = await started(log)
    await say(log, held, 2, "Once ")
    async with system(redis_url, nodes=2, workers=0) as running, nginx([n.port for n in running.nodes]) as front:
        async with asyncio.timeout(WITHIN_S), SSE(front.url, events_path("s1")) as stream:
            coming = stream.frames()
            seen = await until_live(coming)
            await serving(running.nodes, front).kill()
            with pytest.raises(Severed):
                await anext(coming)
        await say(log, held, 3, "upon ")
        await finish(log, held, 4)
        cursor = [frame.id for frame in seen if frame.id][-1]
        rest = await read_all(front.url, "s1", cursor)
        assert text_of(seen + rest) == "Once upon "
        async with httpx.AsyncClient(base_url=front.url) as client:
            answers = await asyncio.gather(*(client.post("/v1/sessions", json=ECHO) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {201}


def serving(nodes: list[Node], front: Nginx) -> Node:
    """The node that has a stream of nginx's."""
    ours = {c.raddr.port for c in psutil.Process(front.child.pid).children()[0].net_connections("tcp") if c.raddr}
    return next(node for node in nodes if node.port in ours)


async def test_no_request_is_refused_while_a_node_dies(redis_url: str) -> None:
    """Requests under way at the moment of kill -9 are given to the other node: each is answered, each session there
    once."""
    async with (
        system(redis_url, nodes=2, workers=0) as running,
        nginx([n.port for n in running.nodes]) as front,
        httpx.AsyncClient(base_url=front.url, timeout=WITHIN_S) as client,
    ):

        async def ask() -> list[httpx.Response]:
            return [await client.post("/v1/sessions", json=ECHO) for _ in range(20)]

        asking = [asyncio.create_task(ask()) for _ in range(10)]
        while len(front.accesses) < 50:
            await asyncio.sleep(0.01)
        running.nodes[0].signal(signal.SIGKILL)
        answers = [answer for group in await asyncio.gather(*asking) for answer in group]
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 200
        assert await sessions_in(redis_url) == 200


async def sessions_in(redis_url: str) -> int:
    async with Redis.from_url(redis_url) as client:
        return len([key async for key in client.scan_iter(keys.session("*"))])


@pytest.fixture
async def lossy(redis_url: str) -> AsyncIterator[tuple[Nginx, Swallowing]]:
    """Two nodes; the answers of one get lost on the way to nginx."""
    async with (
        live_node(redis_url) as one,
        live_node(redis_url) as other,
        swallowing(port_of(one)) as way,
        nginx([way.port, port_of(other)]) as front,
    ):
        yield front, way


async def until_swallowed(way: Swallowing, ask: Any) -> list[httpx.Response]:
    """Ask until one of the answers was lost; gives all that came."""
    answers: list[httpx.Response] = []
    async with asyncio.timeout(WITHIN_S):
        while not way.swallowed:
            answers.append(await ask(len(answers)))
    return answers


async def test_a_session_whose_answer_was_lost_is_made_once(
    lossy: tuple[Nginx, Swallowing], redis_url: str, log: Log
) -> None:
    """A node made it and died before it answered: the next one is asked the same, and finds it."""
    front, way = lossy
    async with httpx.AsyncClient(base_url=front.url) as client:
        answers = await until_swallowed(way, lambda _: client.post("/v1/sessions", json=ECHO))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == len(answers) == await sessions_in(redis_url)
    last = answers[-1].json()
    assert [event.type for event in await log.events(last["id"])] == ["message"]
    assert last["generation"] == "g1"


async def test_a_turn_whose_answer_was_lost_is_opened_once(lossy: tuple[Nginx, Swallowing], log: Log) -> None:
    """The same with the next message: neither refused because it runs already, nor said twice."""
    front, way = lossy

    async def ask(number: int) -> httpx.Response:
        sid = f"turn{number}"
        await create(log, sid)
        await finish(log, await claim(log, sid), 2, sid)
        return await client.post(f"/v1/sessions/{sid}/messages", json={"input": "again"})

    async with httpx.AsyncClient(base_url=front.url) as client:
        answers = await until_swallowed(way, ask)
    assert {answer.status_code for answer in answers} == {201}
    said = [event for event in await log.events(f"turn{len(answers) - 1}") if event.type == "message"]
    assert [event.value["generation"] for event in said] == ["g1", "g2"]
    assert answers[-1].json()["generation"] == "g2"


async def test_a_chat_whose_beginning_was_lost_is_begun_once(
    lossy: tuple[Nginx, Swallowing], redis_url: str, log: Log
) -> None:
    """Also a GET that starts something: it bears no key of its own."""
    front, way = lossy
    begun = []
    async with asyncio.timeout(WITHIN_S):
        while not way.swallowed:
            async with SSE(front.url, "/api/chat/stream?message=Hello") as stream:
                assert stream.status == 200
                begun.append(stream.headers["holdfast-session"])
    assert way.swallowed[0].startswith(b"GET /api/chat/stream")
    assert len(set(begun)) == len(begun) == await sessions_in(redis_url)


async def test_a_leaving_node_is_given_nothing_new(redis_url: str, log: Log) -> None:
    """While it still sends its readers away, requests and new streams go to the other node, and none is turned away:
    also those on connections that nginx has open to it."""
    await started(log)
    async with (
        system(redis_url, nodes=2, workers=0, environment={"HOLDFAST_DRAIN_S": "8"}) as running,
        nginx([n.port for n in running.nodes]) as front,
        httpx.AsyncClient(base_url=front.url) as client,
    ):
        await asyncio.gather(*(client.get("/v1/sessions/s1") for _ in range(20)))  # nginx keeps the connections
        async with crowd(running.nodes[0].url, ["s1"], 20):  # who keep it there for some seconds
            before = len(front.accesses)
            running.nodes[0].signal(signal.SIGTERM)
            await refuses(running.nodes[0].port)
            for _ in range(20):
                async with asyncio.timeout(WITHIN_S), SSE(front.url, events_path("s1")) as stream:
                    await until_live(stream.frames())
                assert (await client.post("/v1/sessions", json=ECHO)).status_code == 201
            assert running.nodes[0].running, "it left before anything could be asked of it"
        await logged_requests(front, before + 40)
        assert not [line for line in front.accesses[before:] if line.endswith(f":{running.nodes[0].port} 200")]
        assert not [line for line in front.accesses[before:] if line.endswith(f":{running.nodes[0].port} 201")]


async def logged_requests(front: Nginx, count: int) -> None:
    """Until nginx has written down so many: it does when one is over."""
    async with asyncio.timeout(WITHIN_S):
        while len(front.accesses) < count:
            await asyncio.sleep(0.01)


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


# -- what clients and strangers see


async def test_errors_are_the_nodes_own(front: Nginx) -> None:
    """Status and body as a node says them, also for a body that is too large for it."""
    async with httpx.AsyncClient(base_url=front.url) as client:
        answers = [
            await client.get("/v1/sessions/unknown"),
            await client.get("/v1/sessions/unknown/events", headers={"Last-Event-ID": "x"}),
            await client.post("/v1/sessions", content=b"{", headers={"Content-Type": "application/json"}),
            await client.post("/v1/sessions", json={"input": "x" * (1 << 21)}),
            await client.post("/v1/sessions", json={"input": "x" * (5 << 20)}),
            await client.get("/metrics"),
        ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (404, "session_not_found"),
        (400, "invalid_last_event_id"),
        (400, "invalid_json"),
        (413, "body_too_large"),
        (413, "body_too_large"),
        (404, "not_found"),
    ]


async def test_without_any_node_clients_are_told_to_come_back() -> None:
    """503 with a time, in the form of all errors."""
    async with nginx([free_port(), free_port()]) as front, httpx.AsyncClient(base_url=front.url) as client:
        answer = await client.get("/v1/sessions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node")
    assert answer.headers["retry-after"] == "1"


async def test_a_node_without_redis_is_no_dead_node(redis_url: str) -> None:
    """It says 503 to a command; a stream right after that is served, for 502 and 503 are final to an EventSource."""
    async with (
        live_node(f"redis://127.0.0.1:{free_port()}/0", redis_timeout_s=1) as node,
        nginx([port_of(node), port_of(node)]) as front,
        httpx.AsyncClient(base_url=front.url) as client,
    ):
        answers = [await client.post("/v1/sessions", json=ECHO) for _ in range(3)]
        assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(503, "redis_unavailable")}
        assert (await client.get("/livez")).status_code == 200


OF_ADMINS = [
    "/admin",
    "/admin/",
    "/admin/api/overview",
    "/%61dmin/api/sessions",
    "//admin/api",
    "/x/../admin/api/workers",
]


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1", "//metrics", "/%6detrics", "/x/../metrics", *OF_ADMINS])
async def test_metrics_and_admins_are_not_for_the_outside(path: str) -> None:
    """However the path is written: the node is not asked at all."""
    asked: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    async with server, nginx([server.sockets[0].getsockname()[1]]) as front, SSE(front.url, path) as answer:
        assert answer.status == 404
    assert asked == []


async def test_tokens_are_in_no_log(node: LiveNode, log: Log) -> None:
    """Neither of requests that were served nor of such that failed, on one node or on all of them."""
    await started(log)
    path = events_path("s1", token=SECRET)
    async with nginx([free_port(), port_of(node)]) as front, httpx.AsyncClient(base_url=front.url) as client:
        for _ in range(4):
            async with SSE(front.url, path) as stream:
                assert stream.status == 200
        assert (await client.get(f"/v1/sessions/s1?token={SECRET}")).status_code == 200
        await logged_requests(front, 5)
        logged = [*front.accesses, (front.place / "error.log").read_text()]
    async with nginx([free_port()]) as front, httpx.AsyncClient(base_url=front.url) as client:
        assert (await client.get(path)).status_code == 503
        await logged_requests(front, 1)
        logged += [*front.accesses, (front.place / "error.log").read_text()]
    assert sum("/v1/sessions/s1/events" in line for line in logged) == 5
    assert not [line for line in logged if SECRET in line]
