"""`useChat` of the AI SDK in Chromium: a page with nothing else on it, for each major version of the SDK."""

import asyncio
import json
import subprocess
from typing import Any

from playwright.async_api import BrowserContext, Page, Route

from tests.support.tools import NODE_MODULES, node

SOURCE = NODE_MODULES.with_name("usechat.js")
REACT = {5: "ai-sdk-react5", 6: "ai-sdk-react6", 7: "@ai-sdk/react"}
"""The package of each version."""
PATH = "/usechat-of-the-tests"
_bundles: dict[int, str] = {}


def bundle(version: int) -> str:
    """The page's script, made once."""
    if version not in _bundles:
        built_by = f"require('esbuild').buildSync({json.dumps(_options(version))})"
        program = f"process.stdout.write({built_by}.outputFiles[0].text)"
        built = subprocess.run([node(), "-e", program], check=True, cwd=NODE_MODULES.parent, stdout=subprocess.PIPE)
        _bundles[version] = built.stdout.decode().replace("</script", "<\\/script")
    return _bundles[version]


def _options(version: int) -> dict[str, Any]:
    return {
        "entryPoints": [str(SOURCE)],
        "bundle": True,
        "write": False,
        "define": {"process.env.NODE_ENV": '"production"'},
        "alias": {"@ai-sdk/react": REACT[version]} if version != 7 else {},
    }


class ChatPage:
    """One chat on one page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.gets: list[int] = []
        """Statuses of what reconnects were answered with."""
        self.posts = 0
        page.on("response", lambda response: self.gets.append(response.status) if "/stream" in response.url else None)
        page.on("request", lambda request: self._count(request.method))

    def _count(self, method: str) -> None:
        self.posts += method == "POST"

    async def ask(self, text: str, **body: Any) -> None:
        """Send, and wait for nothing."""
        await self.page.evaluate(
            "([text, body]) => { window.chat.sendMessage({ text }, { body }).catch(() => {}); }", [text, body]
        )

    async def call(self, method: str) -> None:
        """Call a method of useChat's, and wait for nothing."""
        await self.page.evaluate("method => { Promise.resolve(window.chat[method]()).catch(() => {}); }", method)

    async def until(self, status: str) -> None:
        await self.page.wait_for_function("status => window.chat.status === status", arg=status)

    async def until_said(self, chars: int) -> None:
        """The last answer has so many characters."""
        await self.page.wait_for_function(f"chars => ({_TEXT})(window.chat.messages.at(-1)).length >= chars", arg=chars)

    async def until_over(self) -> None:
        """It was busy, and is ready."""
        await self.page.wait_for_function("() => window.statuses.length > 1 && window.chat.status === 'ready'")

    async def visible(self) -> None:
        """As when the user comes back to the tab."""
        await self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    async def reload(self) -> None:
        self.gets.clear()
        await self.page.reload()
        await self.settled()

    async def settled(self) -> None:
        """The page is there, and what it asked for by itself has been answered."""
        await self.page.wait_for_function("() => window.chat")
        async with asyncio.timeout(30):
            while "resume" in self.page.url and not self.gets:
                await asyncio.sleep(0.005)
        if self.gets == [204]:
            await self.until("ready")

    async def error(self) -> str | None:
        text: str | None = await self.page.evaluate("window.chat.error?.message ?? null")
        return text

    async def statuses(self) -> list[str]:
        found: list[str] = await self.page.evaluate("window.statuses")
        return found

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.page.evaluate("JSON.parse(JSON.stringify(window.chat.messages))")
        return found

    async def data(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.page.evaluate("window.data")
        return found


_TEXT = "message => (message?.parts ?? []).filter(part => part.type === 'text').map(part => part.text).join('')"


def text_of(message: dict[str, Any]) -> str:
    return "".join([part["text"] for part in message["parts"] if part["type"] == "text"])


async def open_chat(context: BrowserContext, base: str, version: int, chat: str, *flags: str) -> ChatPage:
    """On a page of the node's own origin."""
    html = f'<!doctype html><meta charset="utf-8"><div id="root"></div><script>{bundle(version)}</script>'

    async def fulfil(route: Route) -> None:
        await route.fulfill(body=html, content_type="text/html")

    page = await context.new_page()
    opened = ChatPage(page)
    await page.route(f"**{PATH}*", fulfil)
    await page.goto(f"{base}{PATH}?chat={chat}{''.join(f'&{flag}' for flag in flags)}")
    await opened.settled()
    return opened
