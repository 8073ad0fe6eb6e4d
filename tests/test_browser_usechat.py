"""React's `useChat` in Chromium, of three versions of the AI SDK: what a user sees of reloads, stops and cuts."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext

from shared.ids import new_session_id
from tests.support.browser import browser
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.proxy import Proxy, proxy
from tests.support.redis_server import RedisServer
from tests.support.usechat import ChatPage, open_chat, text_of
from worker.providers.demo import lorem

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = """n => {
  const ids = window.data.filter(part => part.type === "data-question").map(part => part.id);
  return new Set(ids).size === n && ids.at(-1);
}"""
"""The n-th question's id, once it was asked."""
EVERY_VERSION = pytest.mark.parametrize("version", [5, 6, 7])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(_server: RedisServer) -> AsyncIterator[LiveNode]:
    async with live_node(_server.url) as running, live_worker(_server.url):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[BrowserContext]:
    async with browser() as context:
        yield context


@pytest_asyncio.fixture(loop_scope="module")
async def address(node: LiveNode) -> AsyncIterator[Proxy]:
    async with proxy(int(node.url.rpartition(":")[2])) as running:
        yield running


async def ask(chat: ChatPage, *, tokens: int, rate: int) -> str:
    """Ask demo/lorem; gives what it will have said."""
    await chat.ask("hello", model="demo/lorem", options={"tokens": tokens, "rate": rate, "seed": 5})
    return "".join(lorem(tokens, 5))


@EVERY_VERSION
async def test_an_answer_arrives_word_by_word(node: LiveNode, chromium: BrowserContext, version: int) -> None:
    """Submitted, streaming, ready; then the next one, with a new message of each side."""
    chat = await open_chat(chromium, node.url, version, new_session_id())
    whole = await ask(chat, tokens=40, rate=0)
    await chat.until_over()
    assert [text_of(message) for message in await chat.messages()] == ["hello", whole]
    assert (await chat.statuses())[:2] == ["ready", "submitted"]
    await chat.ask("again", model="demo/echo", options={"rate": 0})
    await chat.page.wait_for_function("() => window.chat.messages.length === 4 && window.chat.status === 'ready'")
    assert [text_of(message) for message in await chat.messages()] == ["hello", whole, "again", "again"]
    assert chat.posts == 2


@EVERY_VERSION
@pytest.mark.parametrize("kept", [(), ("keep",)], ids=["forgotten", "kept"])
async def test_reloaded_during_an_answer_the_message_is_there_once_and_whole(
    node: LiveNode, chromium: BrowserContext, version: int, kept: tuple[str, ...]
) -> None:
    """Twice; whether the app has kept the partial message or not. At the end there is nothing more to resume: 204."""
    chat = await open_chat(chromium, node.url, version, new_session_id(), "resume", *kept)
    whole = await ask(chat, tokens=320, rate=80)
    for chars in (100, 200):
        await chat.until_said(chars)
        await chat.reload()
    await chat.until_said(len(whole))
    await chat.until("ready")
    said = [text_of(message) for message in await chat.messages() if message["role"] == "assistant"]
    assert said == [whole]
    assert (await chat.messages())[0]["role"] == ("user" if kept else "assistant")
    assert (chat.posts, chat.gets) == (1, [200])
    await chat.reload()
    await chat.page.wait_for_function("() => window.chat.status === 'ready'")
    if kept:
        assert [text_of(message) for message in await chat.messages()] == ["hello", whole]


@EVERY_VERSION
async def test_a_connection_that_is_severed_is_an_error_and_not_the_end(
    node: LiveNode, address: Proxy, chromium: BrowserContext, version: int
) -> None:
    """Half an answer is not taken for a whole one; a reload has it all."""
    chat = await open_chat(chromium, address.url, version, new_session_id(), "resume")
    whole = await ask(chat, tokens=150, rate=80)
    await chat.until_said(100)
    await address.cut()
    await chat.until("error")
    assert await chat.error() == "network error"
    assert (await chat.statuses())[-2:] == ["streaming", "error"]
    await chat.reload()
    await chat.until_said(len(whole))
    assert [text_of(message) for message in await chat.messages()] == [whole]


async def test_back_in_the_foreground_it_resumes_by_itself(
    node: LiveNode, address: Proxy, chromium: BrowserContext
) -> None:
    """ai@7 alone: the hooks before it append the replay to what they have."""
    chat = await open_chat(chromium, address.url, 7, new_session_id(), "resume")
    whole = await ask(chat, tokens=150, rate=80)
    await chat.until_said(100)
    await address.cut()
    await chat.until("error")
    await chat.visible()
    await chat.until_said(len(whole))
    await chat.until("ready")
    assert [text_of(message) for message in await chat.messages()] == ["hello", whole]


@EVERY_VERSION
async def test_stopped_by_the_endpoint_what_was_said_stays(
    node: LiveNode, chromium: BrowserContext, version: int
) -> None:
    """The page is ready again, without an error, and shows the beginning of the answer."""
    sid = new_session_id()
    chat = await open_chat(chromium, node.url, version, sid)
    whole = await ask(chat, tokens=2000, rate=60)
    await chat.until_said(60)
    stopped = "sid => fetch(`/api/chat/${sid}/stop`, { method: 'POST' }).then(response => response.json())"
    assert await chat.page.evaluate(stopped, sid) == {"success": True}
    await chat.until_over()
    said = text_of((await chat.messages())[-1])
    assert len(said) >= 60
    assert whole.startswith(said)
    assert said != whole
    assert await chat.error() is None


@EVERY_VERSION
async def test_an_error_is_shown(node: LiveNode, chromium: BrowserContext, version: int) -> None:
    """In plain words: of a refusal, and of a generation that failed."""
    chat = await open_chat(chromium, node.url, version, new_session_id())
    await chat.ask("hello", model="nobody/x")
    await chat.until("error")
    assert (await chat.error() or "").startswith("unknown model 'nobody/x'; a model is provider/name")
    await chat.ask("hello", model="demo/lorem", options={"tokens": -1})
    await chat.page.wait_for_function("() => window.chat.error?.message.startsWith('tokens must be')")
    assert (await chat.statuses())[-1] == "error"


@EVERY_VERSION
async def test_a_pipeline_shows_its_progress_and_asks(node: LiveNode, chromium: BrowserContext, version: int) -> None:
    """Progress goes to `onData`; a question is a part of the message, and then has its answer."""
    sid = new_session_id()
    chat = await open_chat(chromium, node.url, version, sid)
    await chat.ask("to the sea", model="demo/echo", pipeline="trip")
    for n, answer in enumerate(("A week", "whales"), 1):
        question = await chat.page.wait_for_function(ASKED, arg=n)
        async with httpx.AsyncClient(base_url=node.url) as client:
            body = {"question": await question.json_value(), "text": answer}
            assert (await client.post(f"/v1/sessions/{sid}/answer", json=body)).status_code == 202
    await chat.until_over()
    message = (await chat.messages())[-1]
    answers = [part["data"]["answer"] for part in message["parts"] if part["type"] == "data-question"]
    assert answers == ["A week", "whales"]
    assert "whales" in text_of(message)
    shown = [part["data"]["text"] for part in await chat.data() if part["type"] == "data-status"]
    assert [shown[0], shown[-1]] == ["Reading your wish…", "Planned"]
    assert "data-status" not in {part["type"] for part in message["parts"]}
