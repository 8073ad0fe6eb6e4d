"""A look that is taken once a second for as long as somebody uses what it is for."""

import asyncio
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from shared.tasks import cancel
from shared.telemetry import get_logger

_log = get_logger(__name__)

PERIOD_S = 1.0


class Watch:
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
