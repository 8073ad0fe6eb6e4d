"""Chromium, driven by Playwright, on the page of a node."""

import contextlib
from collections.abc import AsyncIterator

from playwright.async_api import BrowserContext, Page, async_playwright

from tests.support.tools import chromium

ANSWER = '[data-role="assistant"]'


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[BrowserContext]:
    """A fresh profile. Errors of the page's scripts fail the test that opened it."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = await running.new_context()
        try:
            yield context
        finally:
            await running.close()


async def ask(page: Page, text: str, *, tokens: int, rate: int, seed: int) -> None:
    """Type a message to demo/lorem and send it, with the length and the pace set in the page's own form."""
    await page.click("#model")
    for name, value in (("tokens", tokens), ("rate", rate), ("seed", seed)):
        await page.fill(f"#settings [name={name}]", str(value))
    await page.keyboard.press("Escape")
    await say(page, text)


async def connect_by(page: Page, transport: str) -> None:
    """Choose `sse` or `websocket` in the page's own form."""
    await page.click("#model")
    await page.check(f"#settings [name=transport][value={transport}]")
    await page.keyboard.press("Escape")


async def say(page: Page, text: str) -> None:
    await page.fill("#input", text)
    await page.press("#input", "Enter")


async def raw_text(page: Page, n: int = -1) -> str:
    """The text of the n-th answer, exactly as it came."""
    text: str = await page.locator(ANSWER).nth(n).evaluate("element => element.rawText")
    return text


async def said_at_least(page: Page, chars: int) -> None:
    """Wait until the answer under way has that many characters."""
    grown = "([answer, chars]) => (document.querySelector(answer)?.rawText ?? '').length >= chars"
    await page.wait_for_function(grown, arg=[f"{ANSWER}:last-of-type", chars])


async def ended(page: Page, state: str = "completed", n: int = -1) -> None:
    await page.locator(ANSWER).nth(n).and_(page.locator(f'[data-state="{state}"]')).wait_for(timeout=60_000)
