"""The admin page in Chromium: what a person on call sees and does."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect

from tests.support.browser import browser
from tests.support.credentials import ALICE, BOB, bearer, environment_of_keys
from tests.support.redis_server import redis_server
from tests.support.system import System, create, system

ROWS = "#sessions-table tbody tr"
SLOW = {"tokens": 100_000, "rate": 40}
REFUSED = "the server responded with a status of 40"
"""A browser's own words for a request that was refused: a key is wanted, or is not an admin's."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_redis_url: str) -> AsyncIterator[System]:
    """Alice is an admin, Bob is not."""
    environment = {**environment_of_keys(), "HOLDFAST_ADMIN": "alice", "HOLDFAST_PIPELINES": "tests.support.stuck"}
    async with system(module_redis_url, environment=environment) as started:
        yield started


class Watched:
    """A page, and what it must not do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.asked: list[str] = []
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data":
            self.hosts.add(parts.netloc)
            self.asked.append(parts.path)

    async def enter(self, url: str, key: str = ALICE) -> None:
        await self.page.goto(f"{url}/admin")
        await self.page.fill("#key", key)
        await self.page.press("#key", "Enter")


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """Afterwards: no error in the console but refusals, and nothing was asked of another host."""
    async with browser() as context:
        watched = Watched(await context.new_page())
        yield watched
        assert [error for error in watched.errors if REFUSED not in error] == []
        assert len(watched.hosts) == 1


@pytest.fixture
async def bob(running: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, headers=bearer(BOB)) as client:
        yield client


async def started(bob: httpx.AsyncClient, sid: str) -> str:
    response = await bob.post("/v1/sessions", json={"id": sid, "input": "hello kelp", "options": SLOW})
    assert response.status_code == 201
    return sid


async def test_a_session_appears_is_watched_and_stopped(
    running: System, bob: httpx.AsyncClient, watched: Watched
) -> None:
    """A session that begins is there by itself; its events come as they are said; stopping it takes a second click, and
    then it is over and leaves the list."""
    page = watched.page
    await watched.enter(running.url)
    await expect(page.locator("#workers-table tbody tr")).to_have_count(1)
    await expect(page.locator("#tile-live strong")).to_have_text("0")
    sid = await started(bob, "watched")
    row = page.locator(f'{ROWS}[data-name="{sid}"]')
    await expect(row).to_contain_text("running")
    await expect(row).to_contain_text("bob")
    await expect(page.locator("#tile-live strong")).to_have_text("1")

    await row.locator("a").click()
    events = page.locator("#events")
    await expect(events.locator('[data-type="message"]')).to_contain_text("user: hello kelp")
    live = events.locator('[data-type="caught_up"] ~ [data-type="text.delta"]')
    await expect(live.locator(".times")).to_contain_text("×")
    await expect(page.locator("#facts")).to_contain_text("1 on this node")

    await page.click("#stop-it")
    await page.click("#sure-no")
    await expect(page.locator("#facts")).to_contain_text("running")
    await page.click("#stop-it")
    await page.click("#sure-yes")
    await expect(events.locator('[data-type="generation.cancelled"]')).to_contain_text("by operator")
    await expect(page.locator("#facts")).to_contain_text("cancelled")
    await expect(page.locator("#stop-it")).to_be_hidden()
    await expect(row).to_have_count(0)


async def test_rates_are_made_of_what_workers_say(running: System, bob: httpx.AsyncClient, watched: Watched) -> None:
    """While a model speaks there are events a second; its begin is a turn; one that fails alarms."""
    page = watched.page
    await watched.enter(running.url)
    await expect(page.locator("#tile-turns strong")).to_have_text("0", timeout=20_000)
    sid = await started(bob, "speaks")
    await bob.post("/v1/sessions", json={"input": "x", "model": "openai/none"})
    await expect(page.locator("#tile-events strong")).to_have_text(re.compile(r"^\d\d+$"), timeout=20_000)
    await expect(page.locator("#tile-turns strong")).to_have_text("2", timeout=20_000)
    await expect(page.locator("#tile-failures strong")).to_have_text("1")
    await expect(page.locator("#tile-failures.alarm")).to_have_count(1)
    path = await page.locator("#tile-events .line").get_attribute("d")
    assert path is not None
    assert path.startswith("M")
    await bob.post(f"/v1/sessions/{sid}/stop")


async def test_the_key_is_kept_in_the_tab_alone(running: System, watched: Watched) -> None:
    """Who is no admin is told so; an admin's key is asked for once, survives a reload, and can be forgotten."""
    page = watched.page
    await watched.enter(running.url, BOB)
    await expect(page.locator("#door-note")).to_have_text("This key is not an admin's.")
    await page.fill("#key", "ключ")
    await page.press("#key", "Enter")
    await expect(page.locator("#door-note")).to_have_text("This is no key.")
    await watched.enter(running.url)
    await expect(page.locator("#board")).to_be_visible()
    await page.reload()
    await expect(page.locator("#board")).to_be_visible()
    assert await page.evaluate("localStorage.length + document.cookie.length") == 0
    await page.click("#leave")
    await expect(page.locator("#door")).to_be_visible()
    await page.reload()
    await expect(page.locator("#door")).to_be_visible()


async def test_nothing_is_asked_while_nobody_looks(running: System, watched: Watched) -> None:
    """A page in the background asks nothing; back in front it asks at once."""
    page = watched.page
    await watched.enter(running.url)
    await expect(page.locator("#board")).to_be_visible()
    hide = """hidden => {
        const get = () => hidden ? 'hidden' : 'visible';
        Object.defineProperty(document, 'visibilityState', {configurable: true, get});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    async with page.expect_response("**/overview"):
        pass
    await page.evaluate(hide, True)
    before = len(watched.asked)
    await page.wait_for_timeout(5_000)
    assert watched.asked[before:] == []
    async with page.expect_request("**/admin/api/overview"):
        await page.evaluate(hide, False)

    answering = asyncio.Event()

    async def later(route: Route) -> None:
        await answering.wait()
        await route.continue_()

    await page.route("**/overview", later)
    async with page.expect_request("**/overview"):
        pass
    await page.evaluate(hide, True)  # in the middle of a round
    answering.set()
    before = len(watched.asked)
    await page.wait_for_timeout(5_000)
    assert watched.asked[before:] == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_cut_off(
    running: System, bob: httpx.AsyncClient, watched: Watched, width: int, scheme: str
) -> None:
    """Neither the lists nor one session are wider than the window, with the longest id and in both colour schemes."""
    sid = await started(bob, f"{scheme}-{width}-".ljust(64, "x"))
    page = watched.page
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 800})
    await watched.enter(running.url)
    await expect(page.locator(f'{ROWS}[data-name="{sid}"]')).to_be_visible()
    too_wide = """() => [...document.querySelectorAll('body *')].filter((element) =>
        element.checkVisibility() && !element.closest('svg, .away, #filter input, td.id a')
        && element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.outerHTML.slice(0, 80))"""
    assert await page.evaluate(too_wide) == []
    await page.evaluate("id => { location.hash = id }", sid)
    await expect(page.locator("#stop-it")).to_be_visible()
    await expect(page.locator("#events li").nth(2)).to_be_visible()
    assert await page.evaluate(too_wide) == []
    title = page.locator("#detail-title")
    assert await title.inner_text() == sid
    assert await title.evaluate("element => element.scrollWidth <= element.clientWidth"), (
        "who copies the id sees all of it"
    )
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await bob.post(f"/v1/sessions/{sid}/stop")


@pytest.mark.parametrize("width", [1280, 390])
async def test_what_a_node_has_to_complain_of_is_text_and_fits(running: System, watched: Watched, width: int) -> None:
    """A node without Redis answers with an error: its words are shown, whatever they are, and make nothing wider."""
    page = watched.page
    await page.set_viewport_size({"width": width, "height": 800})
    await watched.enter(running.url)
    await expect(page.locator("#board")).to_be_visible()
    words = "Redis at redis-0.example.internal:6379 cannot be reached: <img src=x onerror=alert(1)>" + "x" * 80
    body = json.dumps({"error": {"code": "redis_unavailable", "message": words}})

    async def broken(route: Route) -> None:
        await route.fulfill(status=503, content_type="application/json", body=body)

    await page.route("**/admin/api/**", broken)
    await expect(page.locator("#status")).to_contain_text("cannot be reached: <img", timeout=20_000)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.locator("img").count() == 0
    await page.goto("about:blank")
    watched.errors = [error for error in watched.errors if "status of 503" not in error]


CONTRAST = """() => {
    const channels = (text) => {
        const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
        pen.fillStyle = text;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, ground) => [0, 1, 2].map((n) => top[n] * top[3] + ground[n] * (1 - top[3]));
    const light = (colour) => colour.map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
    const low = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.textContent.trim() || !element.checkVisibility()) continue;
        const grounds = [];
        for (let each = element; each; each = each.parentElement) grounds.push(getComputedStyle(each).backgroundColor);
        const ground = grounds.reverse().reduce((below, text) => over(channels(text), below), [255, 255, 255]);
        const [a, b] = [light(ground), light(over(channels(getComputedStyle(element).color), ground))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) low.push(`${texts.currentNode.textContent}: ${ratio}`);
    }
    return low;
}"""


async def test_a_long_session_that_is_over_is_said_to_be(
    running: System, bob: httpx.AsyncClient, watched: Watched
) -> None:
    """Its rows are bounded, the newest are kept; nothing is `live` any more. All text can be read in both themes."""
    response = await bob.post("/v1/sessions", json={"id": "long", "input": "hello", "pipeline": "many-steps"})
    assert response.status_code == 201
    page = watched.page
    await watched.enter(running.url)
    await page.evaluate("location.hash = 'long'")
    await expect(page.locator("#stream-state")).to_have_text("live")
    await expect(page.locator("#events")).to_contain_text("step 399")
    assert await page.locator("#events li").count() <= 300
    await page.evaluate("document.querySelector('#sessions-table td.quiet-for')?.classList.add('warn')")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert await page.evaluate(CONTRAST) == []
    assert (await bob.post("/v1/sessions/long/stop", json={"wait_s": 10})).status_code == 200
    await expect(page.locator("#stream-state")).to_have_text(re.compile("^over"))


async def test_what_is_no_longer_so_is_said_to_be_old() -> None:
    """Redis is lost: the page says of when its numbers are, and nothing is `live`; one that is opened then says that
    there is nothing yet. Without a worker it says so on top. Once Redis is back, so is the page."""
    with redis_server("--appendonly", "yes") as redis:
        settings = {"HOLDFAST_ADMIN": "anonymous"}
        async with system(redis.url, workers=0, environment=settings) as alone, browser() as context:
            await create(alone.url, id="kelp")
            page, late = await context.new_page(), await context.new_page()
            await page.goto(f"{alone.url}/admin#kelp")
            await expect(page.locator("#status")).to_have_text("no worker is alive: nobody answers")
            await expect(page.locator("#stream-state")).to_have_text("live")
            redis.kill()
            await expect(page.locator("#status")).to_contain_text("; as of ", timeout=20_000)
            await expect(page.locator("#board[data-stale]")).to_have_count(1)
            await expect(page.locator("#stream-state")).not_to_have_text("live", timeout=20_000)
            await late.goto(f"{alone.url}/admin")
            await expect(late.locator("#nothing-yet")).to_be_visible(timeout=20_000)
            redis.start()
            await expect(page.locator("#board[data-stale]")).to_have_count(0, timeout=20_000)
            await expect(late.locator("#board")).to_be_visible(timeout=20_000)
            await expect(late.locator("#nothing-yet")).to_be_hidden()
