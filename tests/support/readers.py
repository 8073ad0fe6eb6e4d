"""Readers without a transport: deliveries of a hub whose messages a test may lose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from api import delivery, outputs
from api.hub import Hub
from shared.directory import Directory
from shared.events import Event
from shared.ids import START, EventId
from shared.log import Log
from shared.settings import Settings
from tests.support.sessions import SID

WITHIN_S = 10.0


def settings(redis_url: str, **changes: Any) -> Settings:
    quick = {"quiet_check_s": 0.02, "heal_wait_s": 0.05, "lease_s": 60.0, "retention_s": 60.0, "tombstone_s": 60.0}
    return Settings(redis_url=redis_url, **{**quick, **changes})


@contextlib.asynccontextmanager
async def hub(redis_url: str, redis: Any, **changes: Any) -> AsyncIterator[Hub]:
    """A hub as a node has it, with its own subscription."""
    told = settings(redis_url, **changes)
    async with Hub(told, Log(redis, told.retention), Directory(redis)).running() as running:
        yield running


class Client:
    """What one reader got: everything in order, in `outputs`; events in `events`."""

    def __init__(self, of: Hub, cursor: EventId = START, *, follow: bool = False, sid: str = SID) -> None:
        self.delivery = delivery.Delivery(of, sid, "anonymous", cursor, follow=follow, merge=False)
        self.outputs: list[outputs.Output] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for output in self.delivery.outputs():
            self.outputs.append(output)
            self._news.set()

    @property
    def events(self) -> list[Event]:
        return [event for o in self.outputs if isinstance(o, outputs.Events) for event in o.events]

    @property
    def gaps(self) -> list[outputs.Gap]:
        return [output for output in self.outputs if isinstance(output, outputs.Gap)]

    @property
    def over(self) -> bool:
        return self._task.done()

    async def until(self, kind: type[outputs.Output]) -> None:
        """Wait for an output of this kind, from now on or before."""
        async with asyncio.timeout(WITHIN_S):
            while not any(isinstance(output, kind) for output in self.outputs):
                await self._more()

    async def until_events(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.events) < count:
                await self._more()

    async def until_over(self) -> "Client":
        async with asyncio.timeout(WITHIN_S):
            await self._task
        return self

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def leave(self) -> None:
        await cancelled(self._task)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel until they are over: `wait_for` of Python 3.11, which redis-py uses, may swallow a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)


@contextlib.asynccontextmanager
async def client(of: Hub, cursor: EventId = START, *, follow: bool = False) -> AsyncIterator[Client]:
    reader = Client(of, cursor, follow=follow)
    try:
        yield reader
    finally:
        await reader.leave()
