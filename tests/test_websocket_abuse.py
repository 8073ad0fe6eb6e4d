"""What a client may do to a WebSocket: each thing has its close code or its error frame, and costs the node nothing."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from websockets.frames import Opcode

from api.server import server_config
from shared.log import Log
from tests.support import inprocess, sessions
from tests.support.inprocess import LiveNode, live_node
from tests.support.proxy import proxy
from tests.support.sessions import SID
from tests.support.sockets import Client, Raw, command, frame, session, ws_path
from tests.support.system import System, system

LIMIT = 20_000
"""Bytes of a frame, on the nodes of these tests."""
ALLOWED = 30 << 20
"""Bytes by which a node may grow, whatever is done to it."""
COMMANDS = 20_000
PINGS = 400_000
FRAGMENTS = 500_000
DEAF, EVENTS = 300, 10_000
WRITE = 1 << 16
"""Bytes of a write, about, where a reader is behind."""
STORM = 500
PATHS = [ws_path(SID), f"/ws/chat?session={SID}"]


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, max_body_bytes=LIMIT) as running:
        yield running


@pytest.fixture
async def process(redis_url: str) -> AsyncIterator[System]:
    async with system(redis_url, nodes=1, workers=0) as running:
        yield running


# -- frames that are none


HALVES = frame(Opcode.TEXT, b"x" * LIMIT, fin=False) + frame(Opcode.CONT, b"x")
BROKEN = {
    "too large": (frame(Opcode.TEXT, b"x" * (LIMIT + 1)), 1009),
    "too large, says its head": (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
    "too large in fragments": (HALVES, 1009),
    "binary": (frame(Opcode.BINARY, b"{}"), 1003),
    "binary in fragments": (frame(Opcode.BINARY, b"{", fin=False) + frame(Opcode.CONT, b"}"), 1003),
    "no UTF-8": (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
    "a surrogate in UTF-8": (frame(Opcode.TEXT, b'"\xed\xa0\x80"'), 1007),
    "no UTF-8 over fragments": (frame(Opcode.TEXT, b"\xf0\x9f", fin=False) + frame(Opcode.CONT, b"x"), 1007),
    "not masked": (b"\x81\x02{}", 1002),
    "of no known kind": (b"\x83\x80\0\0\0\0", 1002),
    "a fragment of nothing": (frame(Opcode.CONT, b"x"), 1002),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_frame_closes_the_socket(node: LiveNode, log: Log, path: str, name: str) -> None:
    """With the code that says what was wrong with it; the next socket is served."""
    await sessions.started(log)
    data, code = BROKEN[name]
    async with Raw(node.url, path) as raw:
        await raw.write(data)
        assert await raw.close_code() == code
    await _served(node.url)


@pytest.mark.parametrize("path", PATHS)
async def test_a_frame_as_large_as_is_allowed_is_heard(node: LiveNode, log: Log, path: str) -> None:
    """Whole, or in many fragments."""
    await sessions.started(log)
    text = b"STOP".ljust(LIMIT) if "chat" in path else b'{"type":"ping"}'.ljust(LIMIT)
    async with Raw(node.url, path) as raw:
        await raw.write(frame(Opcode.TEXT, text))
        pieces = [text[n : n + 7] for n in range(0, LIMIT, 7)]
        await raw.write(frame(Opcode.TEXT, b"", fin=False))
        for piece in pieces:
            await raw.write(frame(Opcode.CONT, piece, fin=False))
        await raw.write(frame(Opcode.CONT, b"") + frame(Opcode.PING, b"end"))
        while (came := await raw.frame()) != (Opcode.PONG, b"end"):
            assert came[0] != Opcode.CLOSE
    await _served(node.url)


# -- JSON that is hard to bear


HARD = {
    "nested lists": ("[" * 9_000 + "]" * 9_000, "invalid_json"),
    "nested objects": ('{"a":' * 3_000 + "1" + "}" * 3_000, "invalid_json"),
    "nested options": (
        '{"type":"message","input":"x","interrupt":true,"options":{"a":' + "[" * 150 + "]" * 150 + "}}",
        "",
    ),
    "a lone surrogate": ('{"type":"message","input":"\\ud800"}', "invalid_json"),
    "a lone surrogate as key": ('{"type":"message","input":"x","key":"\\udc00"}', "invalid_json"),
    "a large integer as ref": ('{"type":"ping","ref":' + "9" * 4_000 + "}", ""),
    "a huge integer as ref": ('{"type":"ping","ref":' + "9" * 15_000 + "}", "invalid_json"),
    "a large integer as time": ('{"type":"stop","wait_s":' + "9" * 4_000 + "}", "invalid_request"),
    "a huge float": ('{"type":"stop","wait_s":1e999}', "invalid_request"),
    "not a number": ('{"type":"stop","wait_s":NaN}', "invalid_request"),
    "infinity": ('{"type":"stop","wait_s":Infinity}', "invalid_request"),
    "a huge integer as time": ('{"type":"stop","wait_s":' + "9" * 15_000 + "}", "invalid_json"),
    "a negative time": ('{"type":"stop","wait_s":-1}', "invalid_request"),
    "a NUL": ('{"type":"\\u0000"}', "unknown_type"),
    "a type with line ends": ('{"type":"a\\r\\nb"}', "unknown_type"),
    "one name many times": ("{" + ",".join(['"type":"ping"'] * 1_000) + "}", ""),
    "many names": ("{" + ",".join(f'"a{n}":1' for n in range(1_500)) + ',"type":"stop"}', "invalid_request"),
    "a BOM": ('\ufeff{"type":"ping"}', "invalid_json"),
}


@pytest.mark.parametrize("name", HARD)
async def test_json_that_is_hard_to_bear_is_borne(node: LiveNode, log: Log, name: str) -> None:
    """An error frame, or what was asked for; and the socket lives."""
    await sessions.started(log)
    text, code = HARD[name]
    async with session(node.url, SID) as speaker:
        await speaker.event("caught_up")
        await speaker.text(text)
        came = await speaker.first(lambda frame: frame["type"] in ("error", "reply", "pong"))
        assert (came["data"]["code"] if came["type"] == "error" else "") == code
        assert (await speaker.call("ping"))["type"] == "pong"


async def test_a_chat_bears_any_text(node: LiveNode, log: Log) -> None:
    """Empty, blank, full of NULs: an error frame or a turn; and the socket lives."""
    await sessions.started(log)
    async with Client(node.url, f"/ws/chat?session={SID}") as speaker:
        await speaker.event("caught_up")
        await speaker.text("")
        assert (await speaker.event("error"))["code"] == "invalid_request"
        for n, text in enumerate((" ", "\0" * 9, "\u2028\r\n", "stop", '{"type":"stop"}'), 1):
            await speaker.text(text)
            await speaker.event("session", n)
    said = [event.value["content"] for event in await log.events(SID) if event.type == "message"]
    assert said == ["hello", " ", "\0" * 9, "\u2028\r\n", "stop", '{"type":"stop"}']


# -- floods, on a node that is a process: its memory is looked at


class Memory:
    """What a process holds, from now on."""

    def __init__(self, running: System) -> None:
        self._process = psutil.Process(running.nodes[0].pid)
        self._before = self._process.memory_info().rss

    @property
    def grown(self) -> int:
        return int(self._process.memory_info().rss) - self._before


@contextlib.asynccontextmanager
async def _flooding(raw: Raw, *pieces: bytes) -> AsyncIterator[asyncio.Task[None]]:
    """Send all of it; entered once it is sent, or once nothing more of it is taken."""

    async def send() -> None:
        for piece in pieces:
            await raw.write(piece)

    sending = asyncio.create_task(send())
    taken = -1
    while not sending.done() and taken != raw.sent:
        taken = raw.sent
        await asyncio.wait({sending}, timeout=0.5)
    try:
        yield sending
    finally:
        sending.cancel()
        await asyncio.wait({sending})
        if not sending.cancelled():
            sending.result()


async def _served(url: str) -> None:
    """Somebody else is."""
    async with session(url, SID) as speaker:
        await speaker.event("caught_up")
        assert (await speaker.call("ping"))["type"] == "pong"


@pytest.mark.parametrize("what", ["pings", "mistakes"])
async def test_a_flood_of_commands_waits_in_its_client(process: System, log: Log, what: str) -> None:
    """Twenty thousand without reading a reply: not taken, others are served; and each is replied to, once it reads."""
    await sessions.started(log)
    await _served(process.url)
    memory = Memory(process)
    refs = [f"{n} {'r' * 180}" for n in range(COMMANDS)]
    each = [command(type="ping" if what == "pings" else "no", ref=ref, pad="x" * 5_000) for ref in refs]
    async with Raw(process.url, ws_path(SID)) as raw, _flooding(raw, b"".join(each)) as sending:
        assert not sending.done(), "all of it was taken"
        await _served(process.url)
        assert memory.grown < ALLOWED
        replied: list[str] = []
        async with asyncio.timeout(60):
            while len(replied) < COMMANDS:
                came = json.loads(await raw.text_frame())
                replied += [came["ref"]] if "ref" in came else []
        assert replied == refs
    assert memory.grown < ALLOWED


@pytest.mark.parametrize("before", [0, 100, 400, 700, 1000], ids="after {} pings".format)
async def test_a_flood_of_protocol_pings_waits_in_its_client(process: System, log: Log, before: int) -> None:
    """Their answers do not pile up for one who reads none, also where a command comes in between."""
    await sessions.started(log)
    await _served(process.url)
    memory = Memory(process)
    ping = frame(Opcode.PING, b"p" * 125)
    flood = (ping * before + command(type="ping") + ping * 2000, ping * PINGS)
    async with Raw(process.url, ws_path(SID)) as raw, _flooding(raw, *flood) as sending:
        await _served(process.url)
        assert memory.grown < ALLOWED
        assert not sending.done(), "all of it was taken"


async def test_a_message_in_endless_fragments_costs_no_more_than_a_whole_one(process: System, log: Log) -> None:
    """Hundreds of thousands of one byte, and as many of none: not kept one by one."""
    await sessions.started(log)
    await _served(process.url)
    memory = Memory(process)
    one, none = frame(Opcode.CONT, b"x", fin=False), frame(Opcode.CONT, b"", fin=False)
    async with Raw(process.url, ws_path(SID)) as raw:
        await raw.write(frame(Opcode.TEXT, b"x", fin=False))
        for piece in (one * FRAGMENTS, none * FRAGMENTS):
            await raw.write(piece)
        await raw.write(frame(Opcode.PING, b"end"))
        async with asyncio.timeout(60):
            while (await raw.frame())[0] != Opcode.PONG:
                pass
        await _served(process.url)
        assert memory.grown < FRAGMENTS * 20


async def test_sockets_that_never_read_cost_no_memory(redis_url: str, log: Log) -> None:
    """Three hundred while ten thousand events pass: each costs one write at the most, and others get everything."""
    held = await sessions.started(log)
    async with system(redis_url, nodes=1, workers=0) as process, contextlib.AsyncExitStack() as stack:
        for _ in range(DEAF):
            await stack.enter_async_context(Raw(process.url, ws_path(SID)))
        async with session(process.url, SID) as reader:
            await reader.event("caught_up")
            memory = Memory(process)
            for n in range(0, EVENTS, 100):
                await sessions.say(log, held, n + 2, *["kelp " * 40] * 100)
            await reader.first(lambda frame: frame.get("id") == f"{held.epoch}-{EVENTS + 1}")
            assert reader.text_said == "kelp " * 40 * EVENTS
        await _served(process.url)
        assert memory.grown < ALLOWED + DEAF * WRITE * 3, "more than a write, twice, and what waits before it"


# -- clients that vanish


@pytest.fixture
def pinging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes ping often, and wait shortly."""
    often = functools.partial(server_config, ws_ping_interval=0.2, ws_ping_timeout=0.2)
    monkeypatch.setattr(inprocess, "server_config", often)


@pytest.mark.usefixtures("pinging")
async def test_a_client_that_vanishes_is_let_go(redis_url: str, log: Log) -> None:
    """Nothing arrives from it any more, and nobody says so: its socket ends, and nothing of it stays."""
    held = await sessions.started(log)
    async with (
        live_node(redis_url) as node,
        proxy(int(node.url.rsplit(":", 1)[1])) as network,
        session(network.url, SID) as reader,
    ):
        await reader.event("caught_up")
        assert len(node.node.hub.readers) == 1
        network.pause()
        await sessions.say(log, held, 2, "a")
        await _nobody(node)


async def _nobody(node: LiveNode) -> None:
    async with asyncio.timeout(20):
        while node.node.hub.readers:
            await asyncio.sleep(0.01)


async def test_a_storm_of_connections_leaves_nothing_behind(node: LiveNode, log: Log) -> None:
    """Five hundred that come and go at any moment: no reader, no task, no stream that counts, no error unheard."""
    held = await sessions.started(log)
    await _served(node.url)
    await _nobody(node)
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    before = len(asyncio.all_tasks())

    async def come_and_go(n: int) -> None:
        path = (*PATHS, "/ws/chat", ws_path("unknown"))[n % 4]
        async with Client(node.url, path) as client:
            for _ in range(n % 23):
                await asyncio.sleep(0)
            with contextlib.suppress(Exception):
                await client.text("STOP" if "chat" in path else '{"type":"stop","wait_s":0.01}')
            if n % 5 == 0:
                await client.close()

    for start in range(0, STORM, 50):
        await asyncio.gather(*(come_and_go(n) for n in range(start, start + 50)))
        if start < 500:
            await sessions.say(log, held, 2 + start // 50, "a")
    await _nobody(node)
    async with asyncio.timeout(20):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)
    feeds = node.node.hub._feeds.values()
    assert [feed.readers for feed in feeds if feed.readers] == []
    assert not node.node.hub.streams._open
    assert unheard == []
    await _served(node.url)
