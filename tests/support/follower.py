"""The page's Follower outside of a page: in Node, over real sockets."""

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.support.tools import node

DRIVER = Path(__file__).with_name("follower.mjs")
MODULE = Path(__file__).parents[2] / "api" / "web" / "holdfast.js"
LINE_BYTES = 1 << 24
WITHIN_S = 60


class Refused(Exception):
    """A command was rejected; `code` is that of the HoldfastError, or the name of another error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Follower:
    """One `holdfast.follow(…)`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._calls = 0
        self._changed = asyncio.Condition()
        self.events: list[dict[str, Any]] = []
        """As they were handed out: `{type, data, id?}`."""
        self.states: list[str] = []
        self.asked: list[str] = []
        """URLs of requests and sockets."""
        self._replies: dict[int, dict[str, Any]] = {}
        self._over: dict[str, Any] | None = None

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events if event.get("id")]

    @property
    def text(self) -> str:
        return "".join([event["data"]["text"] for event in self.events if event["type"] == "text.delta"])

    def count(self, kind: str) -> int:
        return sum(event["type"] == kind for event in self.events)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the follower's output brings about."""
        async with asyncio.timeout(WITHIN_S), self._changed:
            await self._changed.wait_for(holds)

    async def call(self, method: str, *given: object) -> Any:
        """Call a method; gives what it resolves to. Raises Refused."""
        return await self.reply(self.begin(method, *given))

    def begin(self, method: str, *given: object) -> int:
        """Call a method; its outcome is asked for with `reply`. `call("abort", name)` aborts `{"signal": name}`."""
        assert self._process.stdin is not None
        self._calls += 1
        self._process.stdin.write(json.dumps([self._calls, method, *given]).encode() + b"\n")
        return self._calls

    async def reply(self, call: int) -> Any:
        await self.until(lambda: call in self._replies)
        outcome = self._replies[call]
        if "error" in outcome:
            raise Refused(**outcome["error"])
        return outcome.get("value")

    async def over(self) -> str | None:
        """Wait for the end of the following; gives the code of its error, if it had one."""
        await self.until(lambda: self._over is not None)
        assert self._over is not None
        return self._over["error"]["code"] if "error" in self._over else None

    async def read(self) -> None:
        """Ends with the process."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._take(json.loads(line))
            async with self._changed:
                self._changed.notify_all()

    def _take(self, what: dict[str, Any]) -> None:
        if "event" in what:
            self.events.append(what["event"])
        elif "state" in what:
            self.states.append(what["state"])
        elif "asked" in what:
            self.asked.append(what["asked"])
        elif "reply" in what:
            self._replies[what["reply"]] = what
        else:
            self._over = what


@contextlib.asynccontextmanager
async def follower(base: str, session: str, **options: Any) -> AsyncIterator[Follower]:
    """Follow until the block ends.

    `options` are those of `follow`. Besides: `headers` of the client; `eager`: reconnect without waiting; `clock`: no
    timer runs but by `call("tick", ms)`; `closed`: closed in the tick it began in; `tokens`: its client's
    headers are known `later` or `never`; `spoil`: its consumer closes it at the first event and throws.
    """
    process = await asyncio.create_subprocess_exec(
        node(), str(DRIVER), str(MODULE), base, session, json.dumps(options), stdin=PIPE, stdout=PIPE, limit=LINE_BYTES
    )
    running = Follower(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        process.kill()
        await process.wait()
        await reading
