"""Failures of clients, seen in other systems: streams that end or fall silent, and browsers out of connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.support.browser import ANSWER, ask, browser, ended, raw_text
from tests.support.follower import follower
from tests.support.inprocess import LiveNode, live_node, live_worker
from worker.providers.demo import lorem

WITHIN_S = 20.0
README = Path(__file__).parents[1] / "README.md"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def _chunk(event_id: str, kind: str, data: str) -> bytes:
    block = f"id: {event_id}\nevent: {kind}\ndata: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(block), block)


class Script:
    """A server that gives one answer after the other, and then leaves it open unless it ends it."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: asyncio.Queue[str] = asyncio.Queue(maxsize=8)
        """The cursor of each request; empty: none."""
        self._answers = iter(answers)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                cursor = next((line.partition(": ")[2] for line in head.split("\r\n") if "last-event-id" in line), "")
                self.asked.put_nowait(cursor)
                writer.write(HEAD + next(self._answers))
        writer.close()


@contextlib.asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Script]:
    script = Script(*answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(WITHIN_S):
        try:
            yield script
        finally:
            server.close()


SAYS_A = _chunk("5-1", "text.delta", '{"text":"a"}')
SAYS_B = _chunk("5-2", "text.delta", '{"text":"b"}')
OVER = _chunk("5-3", "generation.completed", '{"generation":"g1","finish_reason":"stop"}')


async def test_a_clean_end_without_a_terminal_is_resumed() -> None:
    """A proxy or a server that leaves may end a stream in order: only the terminal says that the answer is whole."""
    async with scripted(SAYS_A + END, SAYS_B + OVER + END) as server:
        async with follower(server.url, "s1", transport="sse", follow=False, eager=True) as reader:
            assert await reader.over() is None
        assert [server.asked.get_nowait(), server.asked.get_nowait()] == ["", "5-1"]
    assert reader.text == "ab"
    assert reader.states == ["connecting", "live", "reconnecting", "live", "done"]


async def test_a_stream_that_falls_silent_is_replaced() -> None:
    """Nothing for 30 s, not even a keep-alive, as after a sleep: the follower asks anew, after the last id it has."""
    async with (
        scripted(SAYS_A, SAYS_B + OVER + END) as server,
        follower(server.url, "s1", transport="sse", follow=False, clock=True) as reader,
    ):
        assert await server.asked.get() == ""
        await reader.until(lambda: bool(reader.ids))
        await reader.call("tick", 29_000)
        assert reader.states == ["connecting", "live"]
        await reader.call("tick", 2_000)
        await reader.until(lambda: "reconnecting" in reader.states)
        await reader.call("tick", 1_000)
        assert await server.asked.get() == "5-1"
        assert await reader.over() is None
        assert reader.text == "ab"


# -- a browser has six connections to a server


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url):
        yield running


@pytest.fixture
async def page(node: LiveNode) -> AsyncIterator[Page]:
    async with browser() as context:
        yield await _opened(context, node)


async def _opened(context: BrowserContext, node: LiveNode) -> Page:
    page = await context.new_page()
    await page.goto(node.url)
    return page


async def _streams(node: LiveNode, count: int) -> None:
    """Until the node has so many."""
    async with asyncio.timeout(WITHIN_S):
        while len(node.node.hub.readers) != count:
            await asyncio.sleep(0.02)


async def _seen(page: Page, state: str) -> None:
    """As a browser does when the tab goes to the back or comes to the front."""
    await page.evaluate(
        """state => {
          Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )


async def test_a_tab_follows_one_session_however_many_it_has_shown(node: LiveNode, page: Page) -> None:
    """Eight conversations in one tab, more than a browser has connections: each is whole, and one stream is open."""
    for seed in range(8):
        await page.click("#new")
        await ask(page, "hello", tokens=5, rate=0, seed=seed)
        await ended(page)
        assert await raw_text(page) == "".join(lorem(5, seed))
    await _streams(node, 1)


async def test_a_hidden_tab_with_nothing_to_wait_for_gives_its_connection_back(node: LiveNode, page: Page) -> None:
    """While an answer is being written it keeps it; after the end it does not; looked at again, it follows again."""
    await ask(page, "hello", tokens=100, rate=20, seed=3)
    await _streams(node, 1)
    await _seen(page, "hidden")
    assert len(node.node.hub.readers) == 1
    await ended(page)
    await _streams(node, 0)
    assert await raw_text(page) == "".join(lorem(100, 3))
    await _seen(page, "visible")
    await _streams(node, 1)


async def _held_up(page: Page, path: str) -> tuple[asyncio.Event, asyncio.Event]:
    """The next request like that waits. First event: it is there; second: let it go on."""
    asked, released = asyncio.Event(), asyncio.Event()

    async def once_released(route: Route) -> None:
        asked.set()
        await released.wait()
        await route.continue_()

    await page.route(path, once_released, times=1)
    return asked, released


async def test_a_tab_that_is_hidden_before_its_answer_begins_is_told_of_it(node: LiveNode, page: Page) -> None:
    """Nothing has come yet, neither of the first turn nor of the next one: what was asked for is waited for."""
    for turn, path in enumerate(("**/events*", "**/messages")):
        asked, released = await _held_up(page, path)
        await ask(page, "hello", tokens=20, rate=20, seed=3)
        async with asyncio.timeout(WITHIN_S):
            await asked.wait()
        await _seen(page, "hidden")
        released.set()
        await expect(page.locator(ANSWER)).to_have_count(turn + 1, timeout=60_000)
        await ended(page)
        assert await raw_text(page) == "".join(lorem(20, 3))
        await _streams(node, 0)
        await _seen(page, "visible")
        await _streams(node, 1)


async def test_a_conversation_opened_in_the_background_keeps_no_connection(node: LiveNode, page: Page) -> None:
    """It is shown once somebody looks, and followed again."""
    await ask(page, "hello", tokens=5, rate=0, seed=3)
    await ended(page)
    behind = await page.context.new_page()
    await behind.add_init_script(
        'Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true })'
    )
    await page.close()
    await _streams(node, 0)
    await behind.goto(page.url)
    await ended(behind)
    await _streams(node, 0)
    assert await raw_text(behind) == "".join(lorem(5, 3))
    await _seen(behind, "visible")
    await _streams(node, 1)


async def test_a_tab_that_is_hidden_while_it_loads_sees_the_answer_to_its_end(node: LiveNode, page: Page) -> None:
    """Whether there is something to wait for is known once the log is here."""
    await ask(page, "hello", tokens=60, rate=20, seed=3)
    await _streams(node, 1)
    asked, released = await _held_up(page, "**/events*")
    await page.reload()
    async with asyncio.timeout(WITHIN_S):
        await asked.wait()
    await _seen(page, "hidden")
    released.set()
    await ended(page)
    assert await raw_text(page) == "".join(lorem(60, 3))
    await _streams(node, 0)


def test_the_six_connections_of_a_browser_are_documented() -> None:
    """And the two ways out: HTTP/2 at the proxy, or a WebSocket."""
    (told,) = [part for part in README.read_text().split("\n\n") if "six connections" in part]
    assert "HTTP/2" in told
    assert "websocket" in told
