"""A `Chat` of the AI SDK in Node, of any of its versions, over HTTP or its WebSocket transport."""

import asyncio
import contextlib
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.support.tools import NODE_MODULES, node

DRIVER = NODE_MODULES.with_name("ui_chat.mjs")
LINE_BYTES = 1 << 24
WITHIN_S = 30


@dataclass(frozen=True)
class Shown:
    """What the chat has when a call is over."""

    status: str
    error: str | None
    disconnected: bool
    """The SDK takes the last end for a lost connection, which can be resumed."""
    messages: list[dict[str, Any]]

    @property
    def texts(self) -> list[str]:
        return [text_of(message) for message in self.messages]


def text_of(message: dict[str, Any]) -> str:
    return "".join([part["text"] for part in message["parts"] if part["type"] == "text"])


class UiChat:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._calls: dict[int, asyncio.Future[Shown]] = {}

    def begin(self, method: str, *given: object) -> asyncio.Future[Shown]:
        """Call a method; the future has what is shown when it is over."""
        assert self._process.stdin is not None
        number = len(self._calls)
        self._calls[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps([number, method, *given]).encode() + b"\n")
        return self._calls[number]

    async def call(self, method: str, *given: object) -> Shown:
        async with asyncio.timeout(WITHIN_S):
            return await self.begin(method, *given)

    async def read(self) -> None:
        """Ends with the process."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            self._calls[told.pop("reply")].set_result(Shown(**told))


@contextlib.asynccontextmanager
async def ui_chat(base: str, chat: str, version: int = 7, kind: str = "http", query: str = "") -> AsyncIterator[UiChat]:
    """`query`: of reconnects."""
    command = [node(), str(DRIVER), str(version), kind, base, chat]
    environment = {**os.environ, "UI_CHAT_QUERY": query}
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES, env=environment)
    running = UiChat(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        process.kill()
        await process.wait()
        await reading
