"""Looking: once a second, or once for all who ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from redis.exceptions import RedisError

from shared.tasks import cancel
from shared.telemetry import get_logger

_log = get_logger(__name__)

PERIOD_S = 1.0


T = TypeVar("T")


class Shared(Generic[T]):
    """Work that is under way once: whoever wants its result meanwhile gets the same."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Raises what the work raises. A caller that is cancelled leaves the work alone."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(self._over)
        return await asyncio.shield(self._task)

    async def aclose(self) -> None:
        if self._task is not None:
            await cancel([self._task])

    def _over(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # whoever waited has it


class Watch:
    """Looks once a second, for as long as somebody uses what it is for."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        """`look` may raise RedisError: the next one may succeed."""
        self._look = look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on. Called again, it does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await cancel([task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self._look()
            except (RedisError, OSError) as error:
                _log.debug("could not ask where Redis is", error=str(error))
