"""Interrupting in Chromium: one types while it answers, and sending cuts the answer off."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect

from shared.log import Log
from tests.support.browser import ANSWER, ask, browser, connect_by, ended, raw_text, said_at_least, say
from tests.support.inprocess import LiveNode, live_node, live_worker
from worker.providers.demo import lorem

TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url):
        yield running


@pytest.fixture
async def page(node: LiveNode) -> AsyncIterator[Page]:
    async with browser() as context:
        opened = await context.new_page()
        await opened.goto(node.url)
        yield opened


async def _shown(page: Page) -> list[str]:
    """Everything in the conversation as a person reads it, without what hovering brings up."""
    texts: list[str] = await page.locator("#thread .message").all_inner_texts()
    return texts


@TRANSPORTS
async def test_sending_while_it_answers_interrupts_the_answer(page: Page, log: Log, transport: str) -> None:
    """What was said stays, marked; the next answer comes below; a reload shows the same. One end per generation."""
    await connect_by(page, transport)
    await ask(page, "first", tokens=2000, rate=60, seed=3)
    await said_at_least(page, 200)
    await page.click("#model")
    await page.fill("#settings [name=tokens]", "30")
    await page.keyboard.press("Escape")
    await say(page, "second")
    await ended(page, "completed", 1)
    cut_off = page.locator(ANSWER).first
    assert await cut_off.get_attribute("data-state") == "cancelled"
    assert await cut_off.locator(".stopped").inner_text() == "Interrupted"
    said = await raw_text(page, 0)
    assert len(said) >= 200
    assert "".join(lorem(2000, 3)).startswith(said)
    assert await raw_text(page, 1) == "".join(lorem(30, 3))
    shown = await _shown(page)
    assert [shown[0], shown[2]] == ["first", "second"]
    await page.reload()
    await ended(page, "completed", 1)
    assert await _shown(page) == shown
    assert await raw_text(page, 0) == said
    events = await log.events(page.url.partition("#")[2])
    assert [event.type for event in events if event.terminal] == ["generation.cancelled", "generation.completed"]


@TRANSPORTS
async def test_what_the_buttons_do_is_said_while_it_answers(page: Page, transport: str) -> None:
    """Nothing written: the button stops. Something written: another one sends, and says that this interrupts."""
    await connect_by(page, transport)
    await ask(page, "hello", tokens=2000, rate=60, seed=3)
    await said_at_least(page, 50)
    stop, send = page.locator("#stop"), page.locator("#send")
    await expect(send).to_be_hidden()
    await expect(stop).to_be_visible()
    await page.fill("#input", "wait")
    await expect(send).to_have_accessible_name("Interrupt and send")
    await expect(page.locator("#hint")).to_have_text("Sending interrupts the answer")
    await expect(stop).to_be_visible()
    await page.keyboard.press("Escape")
    await ended(page, "cancelled")
    await expect(send).to_have_accessible_name("Send")
    await expect(stop).to_be_hidden()
    assert await page.input_value("#input") == "wait", "stopping sends nothing"
    assert await page.locator(ANSWER).count() == 1


async def test_an_answer_can_be_interrupted_again_and_again(page: Page, log: Log) -> None:
    """Five turns over one socket, each cut off by the next: all of them stay, in order."""
    await connect_by(page, "websocket")
    await ask(page, "turn 0", tokens=2000, rate=60, seed=0)
    for n in range(1, 5):
        await said_at_least(page, 30)
        await say(page, f"turn {n}")
        await page.locator(f'{ANSWER}[data-generation="g{n + 1}"]').wait_for()
    await said_at_least(page, 30)
    await page.click("#stop")
    await ended(page, "cancelled", 4)
    asked = [
        event.value["content"] for event in await log.events(page.url.partition("#")[2]) if event.type == "message"
    ]
    assert asked == [f"turn {n}" for n in range(5)]
    assert await page.locator('[data-role="user"]').all_inner_texts() == asked
    assert await page.locator(f'{ANSWER}[data-state="cancelled"]').count() == 5


@TRANSPORTS
async def test_while_a_question_is_open_sending_answers_it(page: Page, transport: str) -> None:
    """What is typed goes to the question, not into a new turn; the card closes, and the pipeline uses the answer."""
    await connect_by(page, transport)
    await page.click("#ideas [data-pipeline=trip]")
    await page.locator(".choices button").first.wait_for()
    await page.fill("#input", "A week")
    await expect(page.locator("#send")).to_have_accessible_name("Answer")
    await page.press("#input", "Enter")
    await page.locator(".blank input").wait_for()
    assert await page.locator(".answered li strong").all_inner_texts() == ["A week"]
    await say(page, "whales")
    await ended(page)
    assert "whales" in await raw_text(page)
    assert await page.locator('[data-role="user"]').count() == 1


async def test_a_message_that_cannot_be_sent_comes_back(page: Page, node: LiveNode) -> None:
    """Refused over the socket: the text is in the input again, with the reason above it."""
    await connect_by(page, "websocket")
    await ask(page, "hello", tokens=5, rate=0, seed=3)
    await ended(page)
    long = "x" * (node.node.settings.max_input_chars + 1)
    await say(page, long)
    await page.locator("#notice:not([hidden])").wait_for()
    assert await page.input_value("#input") == long
    assert await page.locator('[data-role="user"]').count() == 1
    await say(page, "shorter")
    await ended(page, n=1)


async def test_the_transport_is_remembered_and_changed_in_the_middle(page: Page) -> None:
    """Switched mid-answer, the answer goes on from the same place over the other one; a reload keeps the choice."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    await ask(page, "hello", tokens=300, rate=60, seed=6)
    await said_at_least(page, 100)
    assert sockets == []
    await connect_by(page, "websocket")
    await said_at_least(page, 400)
    await connect_by(page, "sse")
    await said_at_least(page, 600)
    await connect_by(page, "websocket")
    await ended(page)
    assert await raw_text(page) == "".join(lorem(300, 6))
    assert len(sockets) == 2
    await page.reload()
    await ended(page)
    assert len(sockets) == 3
