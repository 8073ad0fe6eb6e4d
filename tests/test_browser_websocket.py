"""The page over WebSocket in Chromium: reloads, a killed node, two tabs on one session."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext

from tests.support.browser import ANSWER, ask, browser, connect_by, ended, raw_text, said_at_least
from tests.support.proxy import proxy
from tests.support.system import System, system
from worker.providers.demo import lorem


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_redis_url: str) -> AsyncIterator[System]:
    async with system(module_redis_url, nodes=2, workers=1) as started:
        yield started


@pytest.fixture
async def chromium() -> AsyncIterator[BrowserContext]:
    async with browser() as context:
        yield context


async def test_reload_during_an_answer_continues_it(running: System, chromium: BrowserContext) -> None:
    """Three reloads mid-answer: in the end not a character is missing or repeated, and no event came by SSE."""
    page = await chromium.new_page()
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
    await page.goto(running.url)
    await connect_by(page, "websocket")
    await ask(page, "hello", tokens=200, rate=40, seed=5)
    for chars in (100, 400, 800):
        await said_at_least(page, chars)
        await page.reload()
    await ended(page)
    assert await raw_text(page) == "".join(lorem(200, 5))
    assert await page.locator(ANSWER).count() == 1
    assert streams == []


async def test_the_page_goes_on_when_its_node_is_killed(running: System, chromium: BrowserContext) -> None:
    """kill -9 of the node mid-answer with another one behind the same address: the next socket goes on from there."""
    first, second = running.nodes
    async with proxy(first.port) as address:
        page = await chromium.new_page()
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        await page.goto(address.url)
        await connect_by(page, "websocket")
        await ask(page, "hello", tokens=200, rate=40, seed=9)
        await said_at_least(page, 300)
        address.target_port = second.port
        await first.kill()
        await ended(page)
        assert await raw_text(page) == "".join(lorem(200, 9))
        assert await page.locator(ANSWER).count() == 1
        assert "after=" not in sockets[0]
        assert all("after=" in url for url in sockets[1:]), "resumed, not replayed"
        assert len(sockets) > 1
    first.start()
    await first.ready()


async def test_two_tabs_see_the_same_and_either_may_stop(running: System, chromium: BrowserContext) -> None:
    """One asks over WebSocket, the other watches it on another node and stops it: both show the same cut-off text."""
    first, second = running.nodes
    one = await chromium.new_page()
    await one.goto(first.url)
    await connect_by(one, "websocket")
    await ask(one, "hello", tokens=2000, rate=60, seed=2)
    await said_at_least(one, 100)
    two = await chromium.new_page()
    await two.goto(second.url)
    await connect_by(two, "websocket")
    await two.goto(f"{second.url}/#{one.url.partition('#')[2]}")
    await said_at_least(two, 300)
    await two.click("#stop")
    for tab in (one, two):
        await ended(tab, "cancelled")
    said = await raw_text(one)
    assert await raw_text(two) == said
    assert "".join(lorem(2000, 2)).startswith(said)
    assert len(said) >= 300


async def test_the_first_answer_to_a_question_wins_in_every_tab(running: System, chromium: BrowserContext) -> None:
    """One tab answers, the other sees what was answered and is not asked any more."""
    one = await chromium.new_page()
    await one.goto(running.url)
    await connect_by(one, "websocket")
    await one.click("#ideas [data-pipeline=trip]")
    await one.locator(".choices button").first.wait_for()
    two = await chromium.new_page()
    await two.goto(one.url)
    await two.locator(".choices button", has_text="Two weeks").click()
    for tab in (one, two):
        await tab.locator(".blank input").wait_for()
        assert await tab.locator(".choices button").count() == 0
        assert await tab.locator(".answered li strong").all_inner_texts() == ["Two weeks"]
