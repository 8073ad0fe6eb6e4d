"""The idle watchdog: an upstream that says nothing for too long has failed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

from worker.providers.errors import Code, ProviderError

T = TypeVar("T")


async def watched(items: AsyncIterator[T], idle_timeout_s: float) -> AsyncGenerator[T, None]:
    """The same items. Raises ProviderError `idle_timeout` when the next takes longer than `idle_timeout_s`.

    Only waiting for an item counts: a consumer may take its time with one. Does not close `items`.
    """
    watchdog = Watchdog(idle_timeout_s)
    try:
        while True:
            try:
                item = await watchdog.next(items)
            except StopAsyncIteration:
                return
            yield item
    finally:
        watchdog.close()


class Watchdog:
    """One timer for a whole stream, set again only when it fires: an item costs a timestamp and no task.

    Bites by cancelling the task that waits, as `asyncio.timeout` does, and takes that cancellation back. One
    by somebody else passes through, also when it comes at the same time.
    """

    def __init__(self, idle_timeout_s: float) -> None:
        self._idle_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[Any] | None = None
        """Set only while an item is awaited."""
        self._since = 0.0
        """Meaningful only while an item is awaited."""
        self._bitten = False

    async def next(self, items: AsyncIterator[T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._waiting, self._since = task, self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._idle_s, self._look)
        try:
            return await anext(items)
        except BaseException:  # what is under way may turn the cancellation into an error of its own
            if self._bitten and task.uncancel() <= cancelling:
                message = f"the provider said nothing for {self._idle_s:g} s"
                raise ProviderError(Code.IDLE_TIMEOUT, message) from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Bite, or look again when this wait would be over. Not waiting: the next wait sets the timer."""
        self._timer = None
        if self._waiting is None:
            return
        due = self._since + self._idle_s
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self._bitten = True
            self._waiting.cancel()
