"""Ending tasks for certain."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

AGAIN_S = 1.0
"""`asyncio.wait_for` of Python 3.11 may swallow a cancellation that meets the end of what it waits for (gh-81839), and
redis-py uses it for every command: a task that goes on is cancelled once more. Later, so as not to disturb a task that
is cleaning up."""


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result, or TimeoutError: also where the work swallows a cancellation, which `asyncio.timeout` would miss."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError(f"no answer within {seconds:g} s")
        return task.result()
    finally:
        await cancel([task])


async def cancel(tasks: Iterable[asyncio.Task[Any]], within_s: float | None = None, again_s: float = AGAIN_S) -> bool:
    """Cancel tasks and wait until they are over; False if some are not, in time. Their errors stay theirs."""
    running = {task for task in tasks if not task.done()}
    loop = asyncio.get_running_loop()
    deadline = None if within_s is None else loop.time() + within_s
    while running:
        for task in running:
            task.cancel()
        left = again_s if deadline is None else min(again_s, deadline - loop.time())
        if left <= 0:
            return False
        _, running = await asyncio.wait(running, timeout=left)
    return True
