"""A page that knows nothing but `new EventSource(url)`, in Chromium."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import BrowserContext

from tests.support.browser import browser
from tests.support.proxy import proxy
from tests.support.system import System, system

PAGE = """<!doctype html><title>bare</title><script>
  text = "";
  source = new EventSource("/api/chat/stream?message=Hello&model=demo/lorem");
  source.addEventListener("text.delta", ({ data }) => { text += JSON.parse(data).text; });
</script>"""
CLOSED = 2
ASKING = "/api/chat/stream"


@pytest.fixture
async def running(redis_url: str) -> AsyncIterator[System]:
    async with system(redis_url, nodes=2, workers=1) as started:
        yield started


@pytest.fixture
async def chromium() -> AsyncIterator[BrowserContext]:
    async with browser() as context:
        yield context


async def test_a_bare_event_source_survives_its_node(running: System, chromium: BrowserContext) -> None:
    """The node killed mid-answer: the whole text, from one generation; then it is closed and asks no more."""
    first, second = running.nodes
    asked: list[str] = []
    answered: list[int] = []
    async with proxy(first.port) as address:
        page = await chromium.new_page()
        page.on("request", lambda request: asked.append(request.url) if ASKING in request.url else None)
        page.on("response", lambda response: answered.append(response.status) if ASKING in response.url else None)
        await page.route("**/bare", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        await page.goto(f"{address.url}/bare")
        await page.wait_for_function("text.length > 100")
        address.target_port = second.port
        await first.kill()
        await page.wait_for_function(f"source.readyState === {CLOSED}", timeout=60_000)
        text = await page.evaluate("text")
        requests = len(asked)
        await asyncio.sleep(2)  # twice as long as an EventSource waits before it asks again
        assert len(asked) == requests
    async with httpx.AsyncClient(base_url=second.url) as client:
        sessions = (await client.get("/v1/sessions")).json()["sessions"]
        assert [(one["generation"], one["state"]) for one in sessions] == [("g1", "completed")]
        shown = (await client.get(f"/v1/sessions/{sessions[0]['id']}")).json()
    assert shown["attempt"] == 1
    assert text == shown["messages"][-1]["content"] != ""
    assert answered == [200, 200, 204], "the first node, the other one, and: nothing more to come"
