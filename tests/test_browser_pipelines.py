"""The shipped pipelines in Chromium: steps, sources and questions, also after a refresh."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext

from tests.support.browser import ANSWER, browser, ended, raw_text
from tests.support.system import System, system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_redis_url: str) -> AsyncIterator[System]:
    async with system(module_redis_url) as started:
        yield started


@pytest.fixture
async def chromium() -> AsyncIterator[BrowserContext]:
    async with browser() as context:
        yield context


async def test_research_shows_its_steps_and_sources(running: System, chromium: BrowserContext) -> None:
    """Steps turn from running to done, the sources are named, the answer cites them; all of it survives a refresh."""
    page = await chromium.new_page()
    await page.goto(running.url)
    await page.click("#ideas [data-pipeline=research]")
    running_step = page.locator('.steps li[data-state="running"]')
    await running_step.wait_for()
    await ended(page)
    for _ in range(2):
        steps = await page.locator('.steps li[data-state="done"]').all_inner_texts()
        assert any("Found" in step and "source" in step for step in steps), steps
        assert await page.locator(".source").count() >= 3
        assert "[1]" in await raw_text(page)
        assert await running_step.count() == 0
        await page.reload()
        await ended(page)


async def test_trip_asks_and_goes_on_with_the_answer(running: System, chromium: BrowserContext) -> None:
    """A choice is clicked, a second question is answered in words after a refresh; the answer uses both."""
    page = await chromium.new_page()
    await page.goto(running.url)
    await page.click("#ideas [data-pipeline=trip]")
    await page.locator(".choices button", has_text="A week").first.wait_for()
    await page.reload()
    await page.locator(".choices button", has_text="A weekend").click()
    blank = page.locator(".blank input")
    await blank.wait_for()
    await page.reload()
    await blank.fill("tide pools")
    await blank.press("Enter")
    await ended(page)
    assert "A weekend" in await raw_text(page)
    assert "tide pools" in await raw_text(page)
    assert await page.locator(".question").count() == 0
    assert await page.locator(ANSWER).count() == 1


async def test_another_tab_sees_the_answer_that_was_given(running: System, chromium: BrowserContext) -> None:
    """The question closes in every tab as soon as one of them answers it."""
    one = await chromium.new_page()
    await one.goto(running.url)
    await one.click("#ideas [data-pipeline=trip]")
    await one.locator(".choices button").first.wait_for()
    two = await chromium.new_page()
    await two.goto(one.url)
    await two.locator(".choices button", has_text="Two weeks").click()
    await one.locator(".blank input").wait_for()
    assert await one.locator(".choices button").count() == 0
