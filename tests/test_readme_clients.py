"""README.md's code for other programs: the page's client, the SDKs, and the Python client, as it stands there."""

import ast
import asyncio
import gc
import io
import json
import re
import subprocess
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import langgraph_sdk
import openai
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Route

from shared.ids import new_session_id
from tests.support.browser import browser
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.readme import block
from tests.support.tools import NODE_MODULES
from tests.support.tools import node as node_program
from worker.providers.demo import lorem

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
    # a client that is made in the line that uses it is never closed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IN_THE_PAGE = block("js", "holdfast.follow")
BY_OPENAI, BY_ANTHROPIC, BY_LANGGRAPH = block("python", "openai.OpenAI").splitlines()
BY_USE_CHAT, BY_AG_UI = block("ts", "useChat").splitlines()
FROM_PYTHON = block("python", "shared.client")

ADDRESS = "http://127.0.0.1:8000"
SECONDS = 30
SAID = "".join(lorem(120))
"""By demo/lorem, where nothing else is asked for."""
MESSAGES = '[{"id": "u1", "role": "user", "content": "Hello"}]'
"""Where the README leaves them out: […]."""
PAGE = """
import { createElement } from "react";
import { createRoot } from "react-dom/client";
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";

const id = new URLSearchParams(location.search).get("id");
function Page() {
  window.chat = %s;
  return createElement("pre", null, window.chat.status);
}
createRoot(document.getElementById("root")).render(createElement(Page));
"""
SHOWN = "() => (chat.messages[1]?.parts ?? []).map((part) => part.text ?? '').join('')"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(module_redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(module_redis_url) as running, live_worker(module_redis_url):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[BrowserContext]:
    async with browser() as context:
        yield context


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    """What is left unclosed goes in the test that left it."""
    yield
    gc.collect()


def _told(code: str, node: LiveNode) -> str:
    """At the node's address, with what the README leaves out."""
    return code.replace(ADDRESS, node.url).replace("[…]", MESSAGES)


async def test_the_client_of_the_page_follows_to_the_end(node: LiveNode, chromium: BrowserContext) -> None:
    """As a module of a page: all that was said is in what it logs."""
    page = await chromium.new_page()
    logged: asyncio.Queue[ConsoleMessage] = asyncio.Queue()
    page.on("console", logged.put_nowait)
    await page.goto(f"{node.url}/docs")
    await page.add_script_tag(type="module", content=IN_THE_PAGE)
    text, kind = "", ""
    async with asyncio.timeout(SECONDS):
        while kind != "generation.completed":
            kind, data = await _arguments(await logged.get())
            text += data["text"] if kind == "text.delta" else ""
    assert text == SAID


async def _arguments(message: ConsoleMessage) -> tuple[str, dict[str, Any]]:
    """The event's type and its data; empty where something else was logged."""
    if len(message.args) != 2:
        return "", {}
    kind, data = [await argument.json_value() for argument in message.args]
    return kind, data


def _evaluated(code: str, **names: Any) -> Any:
    return eval(code, {"openai": openai, "anthropic": anthropic, "langgraph_sdk": langgraph_sdk, **names})


async def test_the_line_for_openai_streams_a_response(node: LiveNode) -> None:
    """Kept in the background, and told event by event."""

    def read() -> list[Any]:
        return list(_evaluated(_told(BY_OPENAI, node)))

    events = await asyncio.to_thread(read)
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == SAID
    assert events[-1].response.background


async def test_the_line_for_anthropic_gives_a_message(node: LiveNode) -> None:
    """All of it at once."""
    message = await asyncio.to_thread(_evaluated, _told(BY_ANTHROPIC, node))
    assert (message.content[0].text, message.stop_reason) == (SAID, "end_turn")


async def test_the_line_for_langgraph_streams_a_run(node: LiveNode) -> None:
    """In a thread that the same client made."""
    made = BY_LANGGRAPH.partition(".runs")[0]
    thread = await _evaluated(_told(made, node)).threads.create()
    parts = [part async for part in _evaluated(_told(BY_LANGGRAPH, node), thread=thread)]
    values = [part.data for part in parts if part.event == "values"]
    assert values[-1]["messages"][-1]["content"] == SAID


async def test_the_line_for_ag_ui_runs_an_agent(node: LiveNode) -> None:
    """The new message is the answer."""
    code = f'import {{ HttpAgent }} from "@ag-ui/client"; const threadId = "{new_session_id()}", runId = "r1";'
    code += f"console.log(JSON.stringify(await {_told(BY_AG_UI, node)}))"
    command = (node_program(), "--input-type=module", "-e", code)
    process = await asyncio.create_subprocess_exec(*command, cwd=NODE_MODULES.parent, stdout=PIPE)
    async with asyncio.timeout(SECONDS):
        said, _ = await process.communicate()
    assert [message["content"] for message in json.loads(said)["newMessages"]] == [SAID]


async def test_the_line_for_use_chat_asks_and_its_comment_stops(node: LiveNode, chromium: BrowserContext) -> None:
    """The model is the transport's; an answer that is stopped ends early."""
    call, _, stop = BY_USE_CHAT.partition(" // stop: ")
    page, chat = await chromium.new_page(), new_session_id()
    await _show(page, f"{node.url}/its-page?id={chat}", await asyncio.to_thread(_bundled, PAGE % call.strip()))
    await page.evaluate("() => { chat.sendMessage({ text: 'Hello' }) }")
    await page.wait_for_function(f"() => ({SHOWN})().length > 20")
    method, path = stop.strip().split()
    async with httpx.AsyncClient(base_url=node.url) as client:
        answer = await client.request(method, path.replace("{id}", chat))
    assert answer.is_success
    await page.wait_for_function("() => chat.status === 'ready'")
    shown = await page.evaluate(SHOWN)
    assert shown
    assert SAID.startswith(shown)
    assert shown != SAID


def _bundled(source: str) -> str:
    options = {
        "stdin": {"contents": source, "resolveDir": str(NODE_MODULES.parent)},
        "bundle": True,
        "write": False,
        "define": {"process.env.NODE_ENV": '"production"'},
    }
    program = f"process.stdout.write(require('esbuild').buildSync({json.dumps(options)}).outputFiles[0].text)"
    built = subprocess.run(
        [node_program(), "-e", program], check=True, cwd=NODE_MODULES.parent, stdout=PIPE, timeout=60
    )
    return built.stdout.decode().replace("</script", "<\\/script")


async def _show(page: Page, url: str, script: str) -> None:
    """A page with this script on it, of the origin of `url`."""
    html = f'<!doctype html><meta charset="utf-8"><div id="root"></div><script>{script}</script>'

    async def fulfil(route: Route) -> None:
        await route.fulfill(body=html, content_type="text/html")

    await page.route(f"{url.partition('?')[0]}*", fulfil)
    await page.goto(url)
    await page.wait_for_function("() => window.chat?.status === 'ready'")


async def test_the_python_client_reads_and_asks_again(node: LiveNode) -> None:
    """It prints the answer, and the one to the next question; the rest of a session that was read is nothing."""
    printed = io.StringIO()
    names: dict[str, Any] = {"print": lambda *said, **more: print(*said, **more, file=printed)}
    code = f"async def main():\n{textwrap.indent(_told(FROM_PYTHON, node), '    ')}"
    code = re.sub(
        r"^( *)(later = .*\n)", r"\1\2\1rest = [event async for event in later.events()]\n", code, flags=re.MULTILINE
    )
    code += "    return rest\n"
    exec(compile(ast.parse(code), "README.md", "exec"), names)
    async with asyncio.timeout(SECONDS):
        assert await names["main"]() == []
    assert printed.getvalue() == f"{SAID}{SAID}\n"
    assert re.search(r"AsyncClient\(.*# Client: the same without async", FROM_PYTHON)
