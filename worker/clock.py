"""A limit of time that stands still while the user is waited for."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Clock:
    """Calls `on_over` once, when `limit_s` have gone by outside of all pauses. Runs from the start until `close`.

    It cancels nobody itself: a single cancellation may be swallowed (see shared/tasks.py), so whoever waits for the end
    must be the one that sees to it.
    """

    def __init__(self, limit_s: float, on_over: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._left_s = limit_s
        """As of the last time the clock was set going."""
        self._on_over = on_over
        self._pauses = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        """Meaningful while the clock runs."""
        self._since = 0.0
        self._go()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses may overlap: time goes on when the last one is over."""
        self._halt()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._go()

    def close(self) -> None:
        self._halt()
        self._closed = True

    def _go(self) -> None:
        if not self._pauses and not self._closed and self._timer is None:
            self._since = self._loop.time()
            self._timer = self._loop.call_later(self._left_s, self._on_over)

    def _halt(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left_s = max(0.0, self._left_s - (self._loop.time() - self._since))


tool_clock: ContextVar[Clock | None] = ContextVar("tool_clock", default=None)
"""The limit of the tool call at hand, also in the tasks and threads it starts."""
