"""The description of the HTTP contract at `/docs`, in Chromium."""

from urllib.parse import urlsplit

from tests.support.browser import browser
from tests.support.inprocess import live_node


async def test_docs_need_nobody_else(redis_url: str) -> None:
    """The page shows each call, and asks nobody but the node for anything."""
    async with live_node(redis_url) as node, browser() as chromium:
        page = await chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{node.url}/docs")
        await page.locator(".opblock-summary-path").first.wait_for()
        shown = await page.locator(".opblock-summary-path").all_inner_texts()
        served = urlsplit(node.url).netloc
        assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {served}
    assert any("events" in path for path in shown)
