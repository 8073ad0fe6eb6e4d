"""The page in Chromium: what a person sees while refreshing, coming back, and losing the node."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext

from tests.support.browser import ANSWER, ask, browser, ended, raw_text, said_at_least, say
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
    """Three reloads mid-answer: in the end not a character is missing or repeated."""
    page = await chromium.new_page()
    await page.goto(running.url)
    await ask(page, "hello", tokens=200, rate=40, seed=5)
    for chars in (100, 400, 800):
        await said_at_least(page, chars)
        await page.reload()
    await ended(page)
    assert await raw_text(page) == "".join(lorem(200, 5))
    assert await page.locator(ANSWER).count() == 1


async def test_reopened_after_the_end_shows_the_whole_conversation(running: System, chromium: BrowserContext) -> None:
    """Two turns, the page closed during the second: opened again, both questions and both answers are there."""
    page = await chromium.new_page()
    await page.goto(running.url)
    await ask(page, "first question", tokens=30, rate=0, seed=1)
    await ended(page)
    await say(page, "second question")
    await page.locator(ANSWER).nth(1).wait_for()
    address = page.url
    await page.close()
    again = await chromium.new_page()
    await again.goto(address)
    await ended(again, n=1)
    expected = "".join(lorem(30, 1))
    assert [await raw_text(again, n) for n in (0, 1)] == [expected, expected]
    asked = await again.locator('[data-role="user"]').all_inner_texts()
    assert ["first question" in asked[0], "second question" in asked[1], len(asked)] == [True, True, 2]


async def test_the_page_goes_on_when_its_node_is_killed(running: System, chromium: BrowserContext) -> None:
    """kill -9 of the node mid-answer with another one behind the same address: the page goes on by itself."""
    first, second = running.nodes
    async with proxy(first.port) as address:
        page = await chromium.new_page()
        await page.goto(address.url)
        await ask(page, "hello", tokens=200, rate=40, seed=9)
        await said_at_least(page, 300)
        address.target_port = second.port
        await first.kill()
        await ended(page)
        assert await raw_text(page) == "".join(lorem(200, 9))
        assert await page.locator(ANSWER).count() == 1, "resumed, not replayed"
    first.start()
    await first.ready()


async def test_stop_keeps_what_was_said(running: System, chromium: BrowserContext) -> None:
    """The stop button ends the answer early; what was said stays, also after a reload."""
    page = await chromium.new_page()
    await page.goto(running.url)
    await ask(page, "hello", tokens=500, rate=40, seed=2)
    await said_at_least(page, 200)
    await page.click("#stop")
    await ended(page, "cancelled")
    said = await raw_text(page)
    await page.reload()
    await ended(page, "cancelled")
    assert await raw_text(page) == said
    assert "".join(lorem(500, 2)).startswith(said)
    assert said
